# frozen_string_literal: true

# What does the misuse checker cost? Calls and transfers with DMA.debug on, and on with a thousand mappings alive,
# beside the same while it was never switched on, and after it was switched off again.
#
#   ruby -Ilib benchmark/debug.rb [--rounds 9] [--quick]
#
# Each measurement is a process of its own, for what is hooked once stays hooked. They take turns; the first round is
# discarded, the rest give medians.

require "optparse"
require_relative "support"

OPTIONS = { "rounds" => 9, "quick" => false }.tap do |options|
  OptionParser.new do |parser|
    parser.on("--rounds N", Integer) { |rounds| options["rounds"] = rounds }
    parser.on("--quick") { options["quick"] = true }
  end.parse!
end.freeze
# How each mode is come into, by name; the first is what the others are compared with.
MODES = {
  "never on" => -> {},
  "off again" => -> { (DMA.debug = true) && DMA.debug = false },
  "on" => -> { DMA.debug = true },
  "on, 1000 mappings" => -> { DMA.debug = true }
}.freeze

# What is measured: each way does the same a number of times.
class Ways
  def initialize(mode)
    MODES.fetch(mode).call
    @device = DMA::Device.open(:sim, memory: 1 << 20)
    @memory = DMA::Buffer.new(1 << 20).clear(1)
    @small = @memory.slice(0, 64)
    @page = @memory.slice(0, 4096)
    @channel = @device.channel
    @others = Array.new(mode.end_with?("mappings") ? 1000 : 0) { map_other }
    @mapping = @device.map(DMA::Buffer.new(4096), type: :streaming, direction: :from_device)
  end

  def get_value(count)
    count.times { @page.get_value(:u32, 8) }
  end

  def get_string(count)
    count.times { @page.get_string }
  end

  def sync(count)
    (count / 2).times { @mapping.sync_for_cpu(0, 64).sync_for_device(0, 64) }
  end

  def map_and_unmap(count)
    count.times { @device.map(@page, &:itself) }
  end

  def transfer_of_64_bytes(count)
    count.times { @channel.submit(source: @small, destination: 0).wait }
  end

  def transfer_of_64_kib(count)
    part = @memory.slice(0, 64 << 10)
    count.times { @channel.submit(source: part, destination: 0).wait }
  end

  def lists_of_32_pages(count)
    list = Array.new(32) { |n| { source: @memory.slice(4096 * n, 4096), destination: 4096 * n } }
    (count / 32).times { @channel.submit(list).wait }
  end

  private

  def map_other
    @device.map(DMA::Buffer.new(4096, lock: false), type: :streaming, direction: :from_device)
  end
end

COUNTS = { get_value: 100_000, get_string: 50_000, sync: 20_000, map_and_unmap: 5000, transfer_of_64_bytes: 5000,
           transfer_of_64_kib: 2000, lists_of_32_pages: 5000 }.freeze

# Seconds of each way in a process of its own.
def times(mode)
  reader, writer = IO.pipe
  pid = fork do
    ways = Ways.new(mode)
    COUNTS.each do |way, count|
      count /= 10 if OPTIONS["quick"]
      writer.puts(Support.measure { ways.public_send(way, count) }.first / count)
    end
    writer.close
    exit!(0)
  end
  writer.close
  COUNTS.keys.zip(reader.readlines.map(&:to_f)).to_h.tap { Process.wait(pid) }
end

results = MODES.transform_values { [] }
OPTIONS["rounds"].succ.times do |round|
  MODES.each_key { |mode| times(mode).then { |seconds| results[mode] << seconds unless round.zero? } }
end
rows = COUNTS.keys.map do |way|
  seconds = results.transform_values { |measured| Support.median(measured.map { |one| one[way] }) }
  base = seconds.delete("never on")
  [way.to_s.tr("_", " "), *seconds.values.map { |time| format("%.2f", time / base) }, format("%.2f", base * 1e6)]
end
puts Support.machine, "", "The time that it takes, while the checker was never on = 1:", ""
Support.table(["", *MODES.keys.drop(1), "never on, us"], rows)
