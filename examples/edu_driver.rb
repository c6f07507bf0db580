# frozen_string_literal: true

# A whole driver in Ruby, for QEMU's educational device (docs/specs/edu.rst): registers, interrupts and memory that the
# device reaches, and nothing of this library's own drivers. README.md beside it goes through it.
#
#   ruby -Ilib examples/edu_driver.rb 0000:00:06.0
require "dma"

# Moves bytes between memory and the device's buffer of 4 KiB.
class EduDriver
  ID = 0x00
  INTERRUPT_STATUS = 0x24
  INTERRUPT_ACKNOWLEDGE = 0x64
  SOURCE = 0x80
  DESTINATION = 0x88
  COUNT = 0x90
  COMMAND = 0x98

  RUN = 1
  FROM_DEVICE = 2
  INTERRUPT = 4

  BUFFER = 0x40000
  SIZE = 4096

  def initialize(address)
    @device = DMA::Device.open(address, driver: false, address_bits: 28)
    @registers = @device.registers(0)
    raise DMA::UnsupportedError, "#{address} is no edu device" unless @registers.read32(ID) & 0xffff == 0x00ed

    # What somebody began before goes nowhere until then.
    @registers.poll(COMMAND, mask: RUN, value: 0, interval: 0.01, timeout: 5)
    @device.bus_master = true
    @memory = DMA::Buffer.new(SIZE)
    @mapping = @device.map(@memory)
  end

  def write_dma(data, at: 0)
    check(data.bytesize, at)
    @memory.set_string(data)
    @mapping.sync_for_device(0, data.bytesize)
    run(source: @mapping.address, destination: BUFFER + at, count: data.bytesize, direction: 0)
  end

  def read_dma(size, at: 0)
    check(size, at)
    run(source: BUFFER + at, destination: @mapping.address, count: size, direction: FROM_DEVICE)
    @mapping.sync_for_cpu(0, size)
    @memory.get_string(0, size)
  end

  def close
    @device.close
  end

  private

  def check(size, offset)
    return if size.positive? && offset >= 0 && offset + size <= SIZE

    raise ArgumentError, "#{size} bytes at #{offset} are outside the device's #{SIZE} bytes"
  end

  def run(source:, destination:, count:, direction:)
    { SOURCE => source, DESTINATION => destination, COUNT => count }.each do |register, value|
      @registers.write64(register, value)
    end
    @registers.write32(COMMAND, RUN | direction | INTERRUPT)
    @device.wait_interrupt(0, timeout: 5)
    @registers.write32(INTERRUPT_ACKNOWLEDGE, @registers.read32(INTERRUPT_STATUS))
  end
end

if $PROGRAM_NAME == __FILE__
  driver = EduDriver.new(ARGV.fetch(0))
  driver.write_dma("written by a driver in Ruby", at: 100)
  puts driver.read_dma(27, at: 100)
  driver.close
end
