# frozen_string_literal: true

require_relative "../../examples/edu_driver"

# Transfers of this device last 100 ms each: they are few.
RSpec.describe "QEMU's edu device" do
  address = Support::Guest::EDU

  before { bind(address, "vfio-pci") }

  context "with the driver of this library" do
    let(:open_device) { DMA::Device.open(address) }

    it_behaves_like "a DMA engine", effort: :few
  end

  # What a driver of the device does, whoever wrote it.
  shared_examples "a driver of edu" do
    it "moves bytes both ways, with interrupts, and no others" do
      edu.write_dma("." * 4096)
      wait.call
      edu.write_dma("in the midst", at: 1000)
      wait.call
      expect(edu.read_dma(4096)).to eq "#{"." * 1000}in the midst#{"." * 3084}"
      expect(edu.read_dma(14, at: 999)).to eq ".in the midst."
    end

    it "reaches the last byte of the device's 4 KiB, and refuses the one behind it" do
      edu.write_dma("z", at: 4095)
      wait.call
      expect(edu.read_dma(1, at: 4095)).to eq "z"
      expect { edu.write_dma("zz", at: 4095) }.to raise_error(ArgumentError, /outside the device's 4096 bytes/)
      expect { edu.read_dma(1, at: 4096) }.to raise_error(ArgumentError, /outside the device's 4096 bytes/)
    end
  end

  context "with the driver of this library, by" do
    %i[msi intx].each do |kind|
      context "#{kind} interrupts" do
        let(:edu) { DMA::Device.open(address, interrupts: kind) }
        let(:wait) { -> { edu.wait_completion(timeout: 5) } }

        after { edu.close }

        it_behaves_like "a driver of edu"

        it "uses that kind, and loses none" do
          edu.write_dma("abc").wait(timeout: 5)
          expect(edu.capabilities[:interrupts]).to eq kind
          expect(edu.stats).to include(completed: 1, lost_interrupts: 0)
        end
      end
    end
  end

  context "with the driver in examples/edu_driver.rb" do
    let(:edu) { EduDriver.new(address) }
    let(:wait) { -> {} }

    after { edu.close }

    it_behaves_like "a driver of edu"
  end

  it "is driven by the example as a program" do
    output, status = Open3.capture2e(RbConfig.ruby, "-w", "-Ilib", "examples/edu_driver.rb", address)
    expect([output, status]).to match(["written by a driver in Ruby\n", be_success])
  end

  it "says what it is" do
    DMA::Device.open(address) do |device|
      expect(device.capabilities).to include(
        engine: :vfio, driver: :edu, size: 4096, channels: 1, vendor: 0x1234, device: 0x11e8,
        operations: %i[read write], bars: [1 << 20, 0, 0, 0, 0, 0], interrupts: :msi, iommu_group: iommu_group(address)
      )
    end
  end

  it "gives a transfer up that the device cannot make, because it is no bus master, and works when it is one again" do
    DMA::Device.open(address) do |device|
      device.write_dma("before").wait
      config = device.registers(:config)
      command = config.read16(4)
      config.write16(4, command & ~4)
      buffer = DMA::Buffer.new(4096).tap { |memory| memory.clear(0xee) }
      transfer = device.channel.submit(source: 0, destination: buffer)
      expect { transfer.wait(timeout: 0.3) }.to raise_error(DMA::TimeoutError)
      expect([transfer.status, buffer.get_string]).to eq [:timed_out, "\xee".b * 4096]
      config.write16(4, command)
      expect(device.read_dma(6, timeout: 5)).to eq "before"
      expect(buffer.free).to be_freed
    end
  end

  # Writes to the device's registers by hand, as a driver with a bug would; returns when it is done.
  def transfer(registers, source, destination, direction)
    { 0x80 => source, 0x88 => destination, 0x90 => 64 }.each { |offset, value| registers.write64(offset, value) }
    registers.write32(0x98, 1 | direction)
    registers.poll(0x98, mask: 1, value: 0, interval: 0.01, timeout: 5)
  end

  it "cannot write where nothing is mapped any more, nor where it may only read" do
    DMA::Device.open(address, driver: false, address_bits: 28) do |device|
      device.bus_master = true
      registers = device.registers
      memory = DMA::Buffer.new(4096).tap { |buffer| buffer.clear(0x11) }
      from = device.map(memory, type: :streaming, direction: :to_device)
      transfer(registers, from.address, 0x40000, 0)
      memory.clear(0xee)
      transfer(registers, 0x40000, from.address, 2)
      expect(memory.get_string).to eq "\xee".b * 4096
      gone = from.address
      from.unmap
      transfer(registers, 0x40000, gone, 2)
      expect(memory.get_string).to eq "\xee".b * 4096
      device.map(memory) do |mapping|
        transfer(registers, 0x40000, mapping.address, 2)
        expect(memory.get_string).to eq(("\x11".b * 64) + ("\xee".b * 4032))
      end
    end
  end

  it "is refused memory that it may not reach before it is told of it" do
    DMA::Device.open(address) do |device|
      memory = DMA::Buffer.new(4096)
      mapping = device.map(memory, type: :streaming, direction: :to_device)
      expect { device.read_dma(64, into: mapping) }.to raise_error(DMA::MisuseError, /lets the device read the memory/)
      mapping.unmap
      expect { device.write_dma(mapping) }.to raise_error(DMA::MisuseError, /taken away/)
      expect(device.stats[:submitted]).to eq 0
    end
  end

  it "gives up what is not over when the time for all is up" do
    DMA::Device.open(address) do |device|
      transfers = Array.new(4) { device.write_dma("x") }
      # The one that the device has in hand ends by itself, in time or not, and then the next may be in hand.
      expect { device.wait_completion(timeout: 0.05) }.to raise_error(DMA::TimeoutError, /[1-4] transfers? .* not over/)
      expect(transfers.last.status).to eq :aborted
    end
  end

  it "is given bus addresses of 28 bits, all of them in turn, and says when there are no more" do
    DMA::Device.open(address) do |device|
      buffers = Array.new(3) { DMA::Buffer.new(100 << 20, lock: false, huge: :auto) }
      buffers.first(2).each { |buffer| device.write_dma(buffer.slice(0, 64)).wait(timeout: 5) }
      kept = buffers.first(2).map { |buffer| device.map(buffer) }
      expect(kept.map { |mapping| mapping.address + mapping.size }).to all be <= 1 << 28
      expect do
        device.map(buffers.last)
      end.to raise_error(Errno::ENOSPC, /below 0x10000000: the largest free range has \d+/)
      kept.each(&:unmap)
      device.map(buffers.last, &:unmap)
    end
  end
end
