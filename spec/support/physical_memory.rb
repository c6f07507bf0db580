# frozen_string_literal: true

module Support
  # A machine with physical memory of a fixed size, and what its devices find at a bus address that nobody told them.
  module PhysicalMemory
    def machine(**options)
      DMA::Sim.new(clock: :manual, iommu: false, ram: 64 << 20, seed: 7, **options)
    end

    def buffer(content)
      DMA::Buffer.new(content.bytesize).tap { |buffer| buffer.set_string(content) }
    end

    # What a device finds at a bus address: it reads it into its memory, and the CPU looks there.
    def peek(device, address, size)
      ring = DMA::Ring.new(2)
      ring.add_transfer(address, 0, size, direction: :to_device)
      status = status_of(device.channel.submit(ring))
      status == :complete ? device.pio_read(size) : status
    end

    # A device writes what it was not asked to write.
    def poke(device, address, content)
      device.pio_write(content)
      ring = DMA::Ring.new(2)
      ring.add_transfer(0, address, content.bytesize, direction: :from_device)
      status_of(device.channel.submit(ring))
    end

    def status_of(transfer)
      transfer.wait.status
    rescue DMA::TransferError => e
      e.transfer.status
    end
  end
end
