# frozen_string_literal: true

# How fast is a file read through DMA::File, and at what cost in CPU, beside the other ways to read it?
#
#   ruby -Ilib benchmark/read.rb [--size 1G] [--rounds 9] [--directory DIR] [--cache cold|warm] [--csv FILE]
#
# Each round runs every reader once, in an order of its own, so that a slow moment of the machine, and what the reader
# before has left, meet all alike. The first round is discarded, the rest give the medians. "Cold" is a file of which
# no page is in the page cache, "warm" one of which all are: mincore(2) makes sure before every single reading.
#
# Every Ruby reader looks at every byte: memchr(3), called through Fiddle without the GVL, searches the memory for a
# byte that does not occur. Giving the memory back is part of the work. fio cannot look at what it reads (its `verify`
# computes checksums, another amount of work): its rows are the time of reading alone, from its own report and without
# its start-up, and are to be held against the "bytes not looked at" row. Its buffers are 4 KiB pages, and huge ones
# where the system has some reserved; ours are huge pages where the kernel gives them.

require "json"
require "open3"
require "optparse"
require_relative "support"

BLOCK = 1 << 20
DEPTH = 8

options = { size: "1G", rounds: 9, directory: Dir.tmpdir, cache: %w[cold warm], csv: nil }
OptionParser.new do |parser|
  parser.on("--size SIZE", "of the file: 64M, 1G") { |text| options[:size] = text }
  parser.on("--rounds N", Integer, "that count") { |n| options[:rounds] = n }
  parser.on("--directory DIR", "where the file is made") { |path| options[:directory] = path }
  parser.on("--cache STATE", %w[cold warm], "only this one") { |state| options[:cache] = [state] }
  parser.on("--csv FILE", "every single measurement") { |path| options[:csv] = path }
end.parse!

# The ways to read. Each returns [seconds, CPU seconds].
module Readers
  module_function

  def binread(path)
    Support.measure do
      string = File.binread(path)
      Support.touch(string, string.bytesize)
      string.clear
    end
  end

  def io_read(path)
    Support.measure do
      File.open(path, "rb") do |file|
        buffer = String.new(capacity: BLOCK)
        Support.touch(buffer, buffer.bytesize) while file.read(BLOCK, buffer)
      end
    end
  end

  def map(path)
    Support.measure do
      map = Support.map(path)
      Support.touch(Support.address_of(map), map.size)
      map.free
    end
  end

  def dma_read(path, **how)
    Support.measure do
      buffer = DMA.read(path, **how)
      Support.touch(buffer.address, buffer.size)
      buffer.free
    end
  end

  def each_chunk(path, look: true, **how)
    Support.measure do
      DMA::File.open(path, "rb", depth: DEPTH, **how) do |file|
        file.each_chunk(BLOCK) { |buffer, _| Support.touch(buffer.address, buffer.size) if look }
      end
    end
  end

  # io_uring, one job. Returns nil and says so where that fails: fio's message is worth more than a guess.
  def fio(path, *how)
    command = ["fio", "--output-format=json", "--name=read", "--filename=#{path}", "--readonly", "--rw=read",
               "--ioengine=io_uring", "--bs=#{BLOCK}", "--iodepth=#{DEPTH}", "--invalidate=0", *how]
    output, errors, status = Open3.capture3(*command)
    raise "#{command.join(" ")}: #{errors}#{output}" unless status.success?

    job = JSON.parse(output[output.index("{")..])["jobs"].first
    # The report rounds its runtime to milliseconds; the bandwidth is exact.
    seconds = job["read"]["io_bytes"].fdiv(job["read"]["bw_bytes"])
    [seconds, seconds * (job["usr_cpu"] + job["sys_cpu"]) / 100]
  end
end

# Huge pages that are free, which fio's buffers need: it asks for as many as its depth and one more.
def huge_pages?
  meminfo = File.read("/proc/meminfo")
  free = meminfo[/^HugePages_Free:\s+(\d+)/, 1].to_i * meminfo[/^Hugepagesize:\s+(\d+)/, 1].to_i
  free << 10 > (DEPTH + 1) * BLOCK
end

FIO = begin
  Open3.capture2("fio", "--version").first.strip
rescue Errno::ENOENT
  nil
end

def fio_readers(cache)
  return {} unless FIO

  direct = cache == :cold ? "--direct=1" : "--direct=0"
  readers = { "fio io_uring #{direct[2..]}, 4 KiB pages" => ->(path) { Readers.fio(path, direct) } }
  return readers unless huge_pages?

  readers.merge("fio io_uring #{direct[2..]}, huge pages" => ->(path) { Readers.fio(path, direct, "--iomem=mmaphuge") })
end

def dma_readers(cache)
  readers = {
    "DMA.read" => ->(path) { Readers.dma_read(path) },
    "DMA::File#each_chunk" => ->(path) { Readers.each_chunk(path) },
    "DMA::File#each_chunk, bytes not looked at" => ->(path) { Readers.each_chunk(path, look: false) }
  }
  return readers if cache == :cold

  buffered = {
    "DMA.read direct: false" => ->(path) { Readers.dma_read(path, direct: false) },
    "DMA::File#each_chunk direct: false" => ->(path) { Readers.each_chunk(path, direct: false) },
    "DMA::File#each_chunk direct: false, bytes not looked at" =>
      ->(path) { Readers.each_chunk(path, direct: false, look: false) }
  }
  readers.merge(buffered)
end

def readers(cache)
  {
    "File.binread" => Readers.method(:binread),
    "IO#read(n, buffer)" => Readers.method(:io_read),
    "IO::Buffer.map" => Readers.method(:map),
    **dma_readers(cache), **fio_readers(cache)
  }
end

def run(path, cache, rounds)
  readers = readers(cache).to_a
  results = readers.to_h { |name, _| [name, []] }
  order = Random.new(0)
  (rounds + 1).times do |round|
    readers.shuffle(random: order).each do |name, reader|
      Support.prepare(path, cache)
      result = reader.call(path)
      results[name] << result unless round.zero?
    end
  end
  results
end

HEADER = ["reader", "speed, File.binread = 1", "slowest..fastest", "speed, fio = 1", "CPU, File.binread = 1", "GB/s",
          "CPU s/GB"].freeze

def two(number)
  format("%.2f", number)
end

# Speeds and CPU of one reader, beside the medians of File.binread and of fio with 4 KiB pages (nil without fio).
def row(pairs, size, (base, base_cpu), fio)
  seconds, cpu = pairs.transpose
  wall, cpu = [seconds, cpu].map { |values| Support.median(values) }
  spread = seconds.minmax.reverse.map { |value| two(base / value) }.join("..")
  [two(base / wall), spread, fio ? two(fio.first / wall) : "-", two(cpu / base_cpu), two(size / wall / 1e9),
   format("%.3f", cpu * 1e9 / size)]
end

def report(results, size, cache)
  medians = results.transform_values { |pairs| pairs.transpose.map { |values| Support.median(values) } }
  fio = medians.find { |name, _| name.start_with?("fio") }&.last
  puts "#{cache.capitalize}:", ""
  Support.table(HEADER, results.map { |name, pairs| [name, *row(pairs, size, medians.fetch("File.binread"), fio)] })
end

Warning[:experimental] = false # IO::Buffer is, in the Ruby versions that there are
size = Support.bytes(options[:size])
puts Support.machine, FIO || "fio is not installed: its rows are left out"
puts format("%<part>d %% of a DMA::Buffer lie in huge pages", part: Support.huge * 100)
puts "no huge pages are reserved: fio's row with huge pages is left out" if FIO && !huge_pages?
puts "#{size} bytes in #{options[:directory]}, #{BLOCK} bytes a request, #{DEPTH} in flight, medians of " \
     "#{options[:rounds]}", ""
csv = options[:csv] && File.open(options[:csv], "w")
csv&.puts "cache,reader,seconds,cpu_seconds,bytes"
Support.with_file(options[:directory], size) do |path|
  options[:cache].map(&:to_sym).each do |cache|
    results = run(path, cache, options[:rounds])
    report(results, size, cache)
    results.each { |name, pairs| pairs.each { |pair| csv&.puts [cache, name.inspect, *pair, size].join(",") } }
  end
end
csv&.close
