# frozen_string_literal: true

# How much does the size of a read matter? The same file by reads of several sizes, timed by the standard library's
# Benchmark.
#
#   ruby -Ilib examples/chunk_sizes.rb [FILE]

require "dma"
require "benchmark"
require_relative "sample"

def drain(path, size)
  DMA::File.open(path, "rb") do |file|
    total = 0
    while (chunk = file.read(size))
      total += chunk.bytesize
    end
    [total, file.stats[:requests]]
  end
end

Sample.open(8 << 20) do |path|
  [4 << 10, 64 << 10, 1 << 20].each do |size|
    total = requests = nil
    times = Benchmark.measure { total, requests = drain(path, size) }
    puts format("%<size>7d bytes a read: %<total>d bytes, %<requests>d requests, %<real>.4f s, %<cpu>.4f s of CPU",
                size: size, total: total, requests: requests, real: times.real, cpu: times.total)
  end
end
