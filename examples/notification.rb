# frozen_string_literal: true

# How a program learns that a transfer has ended: it waits, looks, is called back, or has an event loop watch an IO.
#
#   ruby -Ilib examples/notification.rb

require "dma"
require "io/wait"

DMA::Device.open(:sim) do |device|
  channel = device.channel(0)
  buffer = DMA::Buffer.new(1 << 20)

  transfer = channel.submit(source: buffer, destination: 0)
  puts "waited: #{transfer.wait(timeout: 5).status}"

  channel.submit(source: buffer, destination: 0, interrupt: false)
  sleep 0.001 until channel.process_completions { |ended| puts "polled: #{ended.status}" }.positive?

  transfer = channel.submit(source: 0, destination: buffer)
  transfer.on_complete { |ended| puts "called back: #{ended.status}, #{ended.bytes} bytes" }
  channel.drain(timeout: 5)

  channel.submit(source: 0, destination: buffer, length: 4096)
  channel.to_io.wait_readable(5)
  channel.process_completions { |ended| puts "readable: #{ended.status}, #{ended.bytes} bytes" }
end
