# frozen_string_literal: true

# How fast is the simulated machine, and what does it cost? Throughput in both directions beside memcpy of the same
# blocks, with the queue kept full, in batches and one at a time; descriptors per second from Ruby and from Rust; the
# CPU time of the thread that waits for a large transfer; the latency of a small one beside a hand-off and a copy.
#
#   ruby -Ilib benchmark/transfer.rb [--rounds 9] [--quick]
#
# "Stream" moves blocks that lie one behind the other in up to 64 MiB, "again" one block again and again, which stays
# in the cache of whoever copies it. All contenders of a row take turns; the first round is discarded, the rest give
# medians.

require "optparse"
require_relative "support"

ROUNDS = { "rounds" => 9, "quick" => false }.tap do |options|
  OptionParser.new do |parser|
    parser.on("--rounds N", Integer) { |rounds| options["rounds"] = rounds }
    parser.on("--quick") { options["quick"] = true }
  end.parse!
end.freeze
SIZES = [64, 512, 4096, 65_536, 1 << 20, 16 << 20, 64 << 20].freeze
BATCHES = [1, 8, 32, 128].freeze
# What a stream runs through, and in how many blocks at the most.
SPAN = 64 << 20
DISTINCT = 1024
# Bytes of a measurement, and how many blocks at the most.
BYTES = ROUNDS["quick"] ? 64 << 20 : 512 << 20
BLOCKS = ROUNDS["quick"] ? 2000 : 10_000
# With a full queue: descriptors outstanding, one by one or in lists.
DEPTH = 128
LIST = 32

def now
  Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

def seconds
  started = now
  yield
  now - started
end

# Medians of all contenders, which take turns; the first round does not count.
def interleave(contenders)
  results = contenders.transform_values { [] }
  ROUNDS["rounds"].succ.times do |round|
    contenders.each do |name, measure|
      GC.start
      value = measure.call
      results[name] << value unless round.zero?
    end
  end
  results.transform_values { |values| Support.median(values) }
end

# Blocks, moved in each way.
class Blocks
  def initialize(device, size, direction, distinct = 1)
    @channel = device.channel(0)
    @size = size
    @count = (BYTES / size).clamp(4, BLOCKS)
    memory = DMA::Buffer.new(size * distinct, lock: false).clear(1)
    other = DMA::Buffer.new(size * distinct, lock: false).clear(2)
    @copies = Array.new(distinct) { |n| [other, memory].map { |buffer| buffer.slice(n * size, size) } }
    @copies.each(&:reverse!) unless direction == :to_device
    @operands = Array.new(distinct) do |n|
      ends = [memory.slice(n * size, size), n * size]
      %i[source destination].zip(direction == :to_device ? ends : ends.reverse).to_h
    end
  end

  attr_reader :count, :size

  def memcpy
    @count.times do |n|
      to, from = @copies[n % @copies.size]
      to.copy(from)
    end
  end

  def full
    keep_full(DEPTH, @count) { |n| @channel.submit(**operand(n)) }
  end

  def lists
    keep_full(DEPTH / LIST, @count.fdiv(LIST).ceil) do |list|
      @channel.submit(Array.new([LIST, @count - (list * LIST)].min) { |n| operand((list * LIST) + n) })
    end
  end

  def batches(batch)
    done = 0
    while done < @count
      queue = Array.new([batch, @count - done].min) { |n| @channel.enqueue(**operand(done + n)) }
      @channel.kick
      queue.reverse_each(&:wait)
      done += queue.size
    end
  end

  def single
    @count.times { |n| @channel.submit(**operand(n)).wait }
  end

  private

  def operand(number)
    @operands[number % @operands.size]
  end

  def keep_full(depth, count)
    queue = []
    count.times do |n|
      queue.shift.wait if queue.size == depth
      queue << yield(n)
    end
    queue.each(&:wait)
  end
end

def throughput(device)
  rows = %w[stream again].product(%i[to_device from_device], SIZES).map do |pattern, direction, size|
    blocks = Blocks.new(device, size, direction, pattern == "again" ? 1 : (SPAN / size).clamp(1, DISTINCT))
    times = interleave(%i[memcpy lists full single].to_h { |way| [way, -> { seconds { blocks.public_send(way) } }] }
              .merge(batches: -> { seconds { blocks.batches(LIST) } }))
    base = times.delete(:memcpy)
    speed = format("%.1f", blocks.count * size / base / 1e9)
    ratios = times.values_at(:lists, :full, :batches, :single).map { |time| format("%.2f", base / time) }
    [pattern, direction, size, *ratios, speed]
  end
  puts "Throughput, memcpy (DMA::Buffer#copy of the same blocks) = 1:", ""
  Support.table(["blocks", "direction", "bytes", "queue full, lists of #{LIST}", "queue full, one by one",
                 "batches of #{LIST}", "one at a time", "memcpy, GB/s"], rows)
end

# Descriptors of 64 bytes per second, from Rust.
def rust_rates
  command = %w[cargo run --quiet --release --package dma-core --example descriptors --] + BATCHES.map(&:to_s)
  output = IO.popen(command, chdir: File.expand_path("..", __dir__), &:read)
  abort "the Rust program failed" unless $?.success?
  output.lines.to_h { |line| line.split.map(&:to_i) }
end

def descriptors(device)
  blocks = Blocks.new(device, 64, :to_device)
  ways = BATCHES.to_h { |batch| [batch, -> { blocks.batches(batch) }] }.merge(copy: blocks.method(:memcpy))
  ruby = interleave(ways.transform_values { |way| -> { blocks.count / seconds { way.call } } })
  rust = Array.new(3) { rust_rates }
  rows = BATCHES.map do |batch|
    rates = [ruby[batch], Support.median(rust.map { |rate| rate[batch] })]
    [batch, *rates.map { |rate| format("%.2f", rate / ruby[:copy]) }, *rates.map(&:round)]
  end
  puts "Descriptors of 64 bytes per second, calls of DMA::Buffer#copy = 1:", ""
  Support.table(["batch", "from Ruby", "from Rust", "Ruby, per second", "Rust, per second"], rows)
end

def cpu_time
  DMA::Device.open(:sim, memory: 1 << 30) do |device|
    buffer = DMA::Buffer.new(1 << 30, lock: false).clear(1)
    shares = Array.new(3) do
      cpu = Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID)
      wall = seconds { device.channel(0).submit(source: buffer, destination: 0).wait }
      (Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID) - cpu) / wall
    end
    puts format("CPU time of the Ruby thread while 1 GiB is moved: %.2f %% of wall", Support.median(shares) * 100), ""
    buffer.free
  end
end

# 50th and 99th percentile of what the block takes, in microseconds.
def latency(step)
  times = Array.new(ROUNDS["quick"] ? 1000 : 10_000) { seconds { step.call } * 1e6 }.sort
  [times[times.size / 2], times[times.size * 99 / 100]]
end

# What takes a few microseconds in which nothing is moved far.
def small_steps(device, there, back)
  channel = device.channel(0)
  one = DMA::Buffer.new(64)
  from, to = Array.new(2) { IO::Buffer.new(64) }
  {
    "transfer, submit to wait" => -> { channel.submit(source: one, destination: 0).wait },
    "Queue to a Ruby thread and back" => -> { there.push(1) && back.pop },
    "IO::Buffer#copy" => -> { to.copy(from) }
  }
end

def latencies(device)
  there, back = Array.new(2) { Queue.new }
  echo = Thread.new { loop { back << there.pop } }
  figures = small_steps(device, there, back).transform_values { |step| latency(step) }
  echo.kill
  half, most = figures["Queue to a Ruby thread and back"]
  puts "Latency of 64 bytes:", ""
  Support.table(["", "p50, hand-off = 1", "p99, hand-off = 1", "p50, us", "p99, us"], figures.map do |name, (p50, p99)|
    [name, *[p50 / half, p99 / most, p50, p99].map { |value| format("%.2f", value) }]
  end)
end

Warning[:experimental] = false # IO::Buffer is
puts Support.machine, ""
DMA::Device.open(:sim, memory: SPAN) do |device|
  throughput(device)
  descriptors(device)
  latencies(device)
end
cpu_time
