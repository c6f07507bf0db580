# frozen_string_literal: true

# What does the simulated machine do, in its own time, and does it follow the formulas of docs/machine.md?
#
#   ruby -Ilib benchmark/machine.rb [--only GROUP,...] [--quick] [--csv FILE] [--svg FILE]
#
# Groups:
#   modes       throughput and stalls of the CPU in burst mode, cycle stealing and transparent, by the CPU's load
#   interrupts  how long completions wait for their interrupt's handler, and what the handlers leave of the CPU
#   pio         programmed I/O beside DMA by size, and from which size on DMA takes less
#   payload     PCI Express 3.0 x16 by the payload of its packets, with descriptors and channels that take turns
#   fairness    three masters of a bus under each arbitration
#   memory      one to eight devices on links, and the memory that they share with a CPU
#   speed       the simulation in real time beside memcpy; the only figures that are not the same in each run
#
# Each curve has beside it what it should follow: a formula of docs/machine.md, which is worked out here with nothing of
# the machine in it but the parameters of its bus, or bounds. In the chart marks are what was measured and dashed lines
# what they should follow; the tables end with the largest deviation, relative or, of percentages, in points.

require "fileutils"
require "optparse"
require_relative "support"
%w[panel bus modes interrupts pio payload fairness memory speed report chart].each do |file|
  require_relative "machine/#{file}"
end

GROUPS = {
  "modes" => Machine::Modes, "interrupts" => Machine::Interrupts, "pio" => Machine::Pio, "payload" => Machine::Payload,
  "fairness" => Machine::Fairness, "memory" => Machine::Memory, "speed" => Machine::Speed
}.freeze

options = { only: GROUPS.keys, quick: false, csv: "tmp/benchmark/machine.csv", svg: "tmp/benchmark/machine.svg" }
OptionParser.new do |parser|
  parser.on("--only GROUP,...", Array, GROUPS.keys.join(", ")) { |keys| options[:only] = keys }
  parser.on("--quick", "fewer points, shorter runs, no real time") { options[:quick] = true }
  parser.on("--csv FILE", "default #{options[:csv]}") { |path| options[:csv] = path }
  parser.on("--svg FILE", "default #{options[:svg]}") { |path| options[:svg] = path }
end.parse!
unknown = options[:only] - GROUPS.keys
abort "benchmark/machine.rb: no group #{unknown.join(", ")}; there are #{GROUPS.keys.join(", ")}" if unknown.any?

$stdout.sync = true
FileUtils.mkdir_p(options.values_at(:csv, :svg).map { |path| File.dirname(path) })
puts Support.machine, ""

panels = []
options[:only].each do |key|
  group = GROUPS.fetch(key)
  puts "## #{group::TITLE}", "", group::NOTE, ""
  group.groups(options[:quick]) do |panel|
    Machine::Report.table(panel)
    panels << panel
  end
end
Machine::Report.csv(panels, options[:csv])
File.write(options[:svg], Machine::Chart.new(panels, GROUPS).svg)
puts "#{options[:csv]} has these figures, #{options[:svg]} is their chart"
