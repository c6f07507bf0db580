# frozen_string_literal: true

# A driver in Ruby for one channel of the simulated device: everything through its registers.
#
#   ruby -Ilib examples/register_driver.rb

require "dma"

# Moves bytes by programming source, destination and count, and polling the status.
class RegisterDriver
  SOURCE = 0x00
  DESTINATION = 0x08
  COUNT = 0x10
  CONTROL = 0x14 # and STATUS in the upper half of the same word
  TO_DEVICE = 0x0001
  FROM_DEVICE = 0x0002
  START = 0x0100
  BUSY = 0x0001 << 16
  ERROR = 0x0004 << 16

  def initialize(device, channel)
    @registers = device.registers
    @base = 0x100 + (0x40 * channel)
  end

  def move(source, destination, count, direction)
    @registers.write64(@base + SOURCE, source)
    @registers.write64(@base + DESTINATION, destination)
    @registers.write32(@base + COUNT, count)
    @registers.write16(@base + CONTROL, direction | START)
    status = @registers.poll(@base + CONTROL, mask: BUSY, value: 0, timeout: 1)
    raise format("status 0x%04x", status >> 16) if status.anybits?(ERROR)
  end
end

DMA::Device.open(:sim) do |device|
  driver = RegisterDriver.new(device, 0)
  buffer = DMA::Buffer.new(4096)
  buffer.set_string("through the registers")
  mapping = device.map(buffer)
  driver.move(mapping.address, 0x1000, 4096, RegisterDriver::TO_DEVICE)
  buffer.clear
  driver.move(0x1000, mapping.address, 4096, RegisterDriver::FROM_DEVICE)
  puts buffer.get_string(0, 21)

  mapping.unmap
  begin
    driver.move(0x1000, buffer.address, 4096, RegisterDriver::FROM_DEVICE)
  rescue RuntimeError => e
    fault = device.stats[:faults].last
    puts "#{e.message}: no #{fault[:access]} at an address that is not mapped"
  end
end
