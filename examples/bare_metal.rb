# frozen_string_literal: true

# What the programs in bugs/ drive their devices with: registers and memory, and nothing that keeps a driver from its
# mistakes. DMA::Registers has the registers.

require "dma"

module BareMetal
  TO_DEVICE = 0x01
  FROM_DEVICE = 0x02
  # Codes of statuses; others are errors.
  PENDING = 0
  COMPLETE = 1

  # Begins a transfer by the registers of a device's first channel. One of the addresses is a bus address.
  def self.start(device, from, to, count, direction)
    registers = device.registers
    registers.write64(0x100, from)
    registers.write64(0x108, to)
    registers.write32(0x110, count)
    registers.write16(0x114, direction | 0x100)
  end

  # Has the sound card on channel 1 of the 8237 write so many bytes to memory, from `address` on.
  def self.record(device, address, count)
    ports = device.registers
    ports.write8(0x0a, 0x04 | 1)                # mask the channel
    ports.write8(0x0c, 0)                       # the low byte comes first
    ports.write8(0x0b, 0x44 | 1)                # single transfers, upwards, to memory
    [address, address >> 8].each { |byte| ports.write8(0x02, byte & 0xff) }
    ports.write8(0x83, (address >> 16) & 0xff)  # the page: eight bits, and no more
    [count - 1, (count - 1) >> 8].each { |byte| ports.write8(0x03, byte & 0xff) }
    ports.write8(0x0a, 1)                       # the mask away
    ports.write32(0x310, 0)                     # the card: from where in its memory, how many, go
    ports.write32(0x314, count)
    ports.write32(0x318, 0x12)
    device.sim.run_until_idle
  end

  # A descriptor ring in memory, and the registers of the channel that fetches from it.
  class Ring
    SLOT = 40
    SOURCE = 0
    LENGTH = 16

    attr_reader :size

    def initialize(device, size)
      @size = size
      @slots = DMA::Buffer.new(size * SLOT)
      @slots.clear
      @mapping = device.map(@slots)
      @registers = device.registers
      @registers.write64(0x120, @mapping.address)
      @registers.write32(0x128, size)
    end

    # A whole descriptor: source, destination, length, flags, next, status.
    def put(slot, from, to, length, direction)
      @slots.set_values(%i[u64 u64 u32 u32 u64 u32], slot * SLOT, [from, to, length, direction, 0, PENDING])
    end

    def source(slot, address)
      @slots.set_value(:u64, (slot * SLOT) + SOURCE, address)
    end

    def length(slot, bytes)
      @slots.set_value(:u32, (slot * SLOT) + LENGTH, bytes)
    end

    # What the device has written of how a descriptor ended.
    def status(slot)
      @slots.get_value(:u32, (slot * SLOT) + 32)
    end

    # Descriptors before slot `tail` are there.
    def doorbell(tail)
      @registers.write32(0x12c, tail)
    end

    # The slot that the device fetches next.
    def head
      @registers.read32(0x11c)
    end

    def after(slot)
      (slot + 1) % size
    end
  end

  # The ring of a network card into which packets of three bytes have come, one into each slot but the last.
  class Inbox < Ring
    def initialize(packets)
      device = DMA::Sim.new(clock: :manual).device
      super(device, packets.size + 1)
      device.pio_write(packets.join)
      @memory = DMA::Buffer.new(4096)
      mapping = device.map(@memory)
      packets.each_index { |slot| put(slot, 3 * slot, mapping.address + (3 * slot), 3, FROM_DEVICE) }
      doorbell(packets.size)
      device.sim.run_until_idle
    end

    # The bytes in memory to which the descriptor in a slot leads.
    def packet(slot)
      @memory.get_string(3 * slot, 3)
    end
  end
end
