# frozen_string_literal: true

# What do small reads cost? The first asks the kernel for more than it needs, the next are served from that. A large
# read takes what is left and goes to the file for the rest. `stats` counts the requests.
#
#   ruby -Ilib examples/small_reads.rb [FILE]

require "dma"
require_relative "sample"

Sample.open(12 << 20) do |path|
  file = DMA::File.open(path, "rb")

  [1, 100, 10 << 20].each do |count|
    before = file.stats[:requests]
    bytes = file.read(count)
    puts "read(#{count}): #{bytes ? bytes.bytesize : 0} bytes, #{file.stats[:requests] - before} requests"
  end
  puts "position #{file.pos}"

  file.close
end
