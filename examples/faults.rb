# frozen_string_literal: true

# What real machines do once a month, whenever it is wanted: a transfer that hangs, an IOMMU fault, a failure in the
# middle of a batch. After each the channel is used again.
#
#   ruby -Ilib examples/faults.rb

require "dma"

device = DMA::Device.open(:sim, clock: :manual)
channel = device.channel(0)
buffer = DMA::Buffer.new(4096)

device.sim.inject(:hang)
begin
  channel.submit(source: buffer, destination: 0).wait(timeout: 0.001)
rescue DMA::TimeoutError => e
  puts "hang: #{e.class}"
end

device.sim.inject(:iommu_fault)
begin
  channel.submit(source: 0, destination: buffer).wait
rescue DMA::FaultError => e
  puts "IOMMU fault: the device wanted to #{e.access} memory, and #{e.transfer.bytes} bytes were moved"
end

device.sim.inject(:bus_error, descriptor: 1)
batch = Array.new(4) { |n| channel.enqueue(source: buffer, destination: n * 4096, fence: n == 2) }
channel.kick.drain
puts "batch with a fence at 2: #{batch.map(&:status).join(", ")}"

puts "and then: #{channel.submit(source: buffer, destination: 0).wait.status}"
puts device.stats[:statuses].map { |status, count| "#{count} #{status}" }.join(", ")
