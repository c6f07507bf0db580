# frozen_string_literal: true

# How long does a thread that is in the middle of a large read take to answer Timeout, Thread#raise and Thread#kill?
#
#   ruby -Ilib benchmark/interrupt.rb [--size 1G] [--count 25] [--directory DIR]
#
# Each sample reads the whole file, which is not in the page cache, and is interrupted at a random moment early in it.
# The clock runs from the interruption (for Timeout: from the moment that it asked for) to the end of the read, what
# it leaves behind included. Samples whose read was over before are drawn again. Besides the wait for the disk this
# measures the machine: how soon a woken thread runs; the readers take turns, so that they meet the same.

require "optparse"
require "timeout"
require_relative "support"

options = { size: "1G", count: 25, directory: Dir.tmpdir }
OptionParser.new do |parser|
  parser.on("--size SIZE", "of the file: 256M, 1G") { |text| options[:size] = text }
  parser.on("--count N", Integer, "samples of each kind") { |n| options[:count] = n }
  parser.on("--directory DIR", "where the file is made") { |path| options[:directory] = path }
end.parse!

# Raised into the reader.
class Interruption < StandardError; end

READERS = {
  "DMA.read" => ->(path) { DMA.read(path).free },
  "DMA::File#each_chunk" => lambda do |path|
    DMA::File.open(path, "rb") { |file| file.each_chunk { |buffer, _| buffer.size } }
  end,
  "DMA::File#read" => ->(path) { DMA::File.open(path, "rb") { |file| file.read(file.size).clear } },
  "IO#read" => ->(path) { File.open(path, "rb") { |file| file.read(file.size).clear } },
  "IO#read(1 MiB, buffer)" => lambda do |path|
    File.open(path, "rb") { |file| String.new.tap { |buffer| nil while file.read(1 << 20, buffer) } }
  end
}.freeze

def now
  Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

# Reads in a thread, and interrupts it after `delay` seconds; nil when it was not reading any more.
def in_thread(reader, path, delay)
  done = false
  thread = Thread.new do
    reader.call(path)
    done = true
  rescue Interruption
    nil
  end
  sleep delay
  start = now
  yield thread
  thread.join
  now - start unless done
end

INTERRUPTIONS = {
  "Timeout.timeout" => lambda do |reader, path, delay|
    start = now
    Timeout.timeout(delay) { reader.call(path) }
    nil
  rescue Timeout::Error
    now - start - delay
  end,
  "Thread#raise" => ->(reader, path, delay) { in_thread(reader, path, delay) { |thread| thread.raise(Interruption) } },
  "Thread#kill" => ->(reader, path, delay) { in_thread(reader, path, delay, &:kill) }
}.freeze

def sample(interruption, reader, path, random)
  20.times do
    Support.prepare(path, :cold)
    seconds = interruption.call(reader, path, 0.01 + random.rand(0.04))
    return seconds if seconds
  end
  raise "the file is read before it can be interrupted: take a larger one (--size)"
end

size = Support.bytes(options[:size])
Warning[:experimental] = false
puts Support.machine, "#{size} bytes in #{options[:directory]}, #{options[:count]} samples of each kind", ""
random = Random.new(0)
results = INTERRUPTIONS.keys.product(READERS.keys).to_h { |pair| [pair, []] }
Support.with_file(options[:directory], size) do |path|
  options[:count].times do
    results.keys.shuffle(random: random).each do |how, what|
      results[[how, what]] << sample(INTERRUPTIONS[how], READERS[what], path, random)
    end
  end
end
rows = results.map do |(how, what), seconds|
  [how, what, *[Support.median(seconds), seconds.max].map { |value| format("%.1f", value * 1e3) }]
end
Support.table(["interruption", "read", "median ms", "worst ms"], rows)
