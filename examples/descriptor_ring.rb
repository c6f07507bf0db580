# frozen_string_literal: true

# What a driver does below `submit`: memory gets bus addresses, descriptors go into a ring, the device fetches them
# from it and writes their statuses back. The trace shows each step on the simulated bus: four fetches and statuses for
# three descriptors, for the channel has a ring of its own, in which one descriptor that moves nothing leads to the
# first of these; its status, the last, is that of them all.
#
#   ruby -Ilib examples/descriptor_ring.rb

require "dma"

# Without an IOMMU the pages of a buffer lie anywhere, and each piece needs a descriptor of its own.
machine = DMA::Sim.new(clock: :manual, iommu: false, seed: 7)
device = machine.device
buffer = DMA::Buffer.new(3 * DMA::PAGE_SIZE)
buffer.set_string(Random.new(1).bytes(buffer.size))

device.map(buffer, type: :streaming, direction: :to_device) do |mapping|
  ring = DMA::Ring.new(8)
  offset = 0
  mapping.segments.each do |address, length|
    ring.add_transfer(address, 0x1000 + offset, length, direction: :to_device)
    offset += length
  end
  puts ring.inspect

  trace = machine.trace { device.channel(0).submit(ring).wait }
  trace.each do |event|
    next if event.what == :to_device

    puts "cycle #{event.cycle}: #{event.what} 0x#{event.address.to_s(16)} #{event.status}"
  end
  ring.process_completions do |descriptor|
    puts "slot #{descriptor.index}: #{descriptor.length} bytes #{descriptor.status}"
  end
end
puts device.read_dma(buffer.size, at: 0x1000) == buffer.get_string ? "equal" : "different"
