# frozen_string_literal: true

# What happened on a simulated bus, as timing diagrams (SVG) and as dumps for GTKWave (VCD): two masters of a PCI bus,
# and a burst beside cycle stealing. They are written to a directory, where one is named.
#
#   ruby -Ilib examples/trace.rb [DIRECTORY]

require "dma"

# A device that reads memory and one that writes it want the bus at the same time, and have it in turn.
def two_masters
  machine = DMA::Sim.new(clock: :manual, bus: :pci)
  reader, writer = Array.new(2) { machine.device(channels: 1) }
  buffer = DMA::Buffer.new(4096)
  machine.trace do
    transfers = [reader.channel.submit(source: buffer.slice(0, 16), destination: 0),
                 writer.channel.submit(source: 0, destination: buffer.slice(16, 16))]
    machine.run_until_idle
    transfers.each(&:wait)
  end
end

# The same 128 bytes, one device after the other, beside a CPU that wants the bus for eight of ten cycles.
def modes
  machine = DMA::Sim.new(clock: :manual, cpu_load: 0.8)
  devices = %i[burst cycle_stealing].map { |mode| machine.device(channels: 1, mode: mode) }
  machine.trace { devices.each { |device| device.write_dma("x" * 128).wait } }
end

{ "pci" => two_masters, "modes" => modes }.each do |name, trace|
  files = { "#{name}.svg" => trace.to_svg, "#{name}.vcd" => trace.to_vcd }
  files.each { |file, text| File.write(File.join(ARGV[0], file), text) } if ARGV[0]
  puts "#{name}: #{trace.size} events, cycles #{trace.first.asked} to #{trace.map(&:cycle).max}"
end
