# frozen_string_literal: true

RSpec.describe "the engine contract" do
  %i[free manual].product([true, false]).each do |clock, iommu|
    context "of a simulated device with a #{clock} clock and #{iommu ? "an" : "no"} IOMMU" do
      let(:open_device) { DMA::Device.open(:sim, clock: clock, iommu: iommu, memory: 4 << 20) }

      it_behaves_like "a DMA engine", faults: true
    end
  end

  context "of a simulated device that takes aligned addresses and lengths only" do
    let(:open_device) { DMA::Device.open(:sim, alignment: 64, max_segments: 4, ring_size: 8, memory: 4 << 20) }

    it_behaves_like "a DMA engine", faults: true

    it "refuses what is not aligned, with the limit, and copies Strings and other memory for read_dma and write_dma" do
      open_device.then do |device|
        buffer = DMA::Buffer.new(256)
        channel = device.channel
        expect do
          channel.submit(source: buffer, destination: 32)
        end.to raise_error(DMA::AlignmentError, /multiples of 64/)
        expect { channel.submit(source: buffer, destination: 0, length: 63) }.to raise_error(DMA::AlignmentError, /64/)
        expect do
          channel.submit(source: buffer.slice(32, 64), destination: 0)
        end.to raise_error(DMA::AlignmentError, /align/)
        expect { channel.submit(source: 0, destination: 32, length: 64) }.to raise_error(DMA::AlignmentError)
        expect { device.write_dma("x") }.to raise_error(DMA::AlignmentError)
        expect { device.read_dma(65) }.to raise_error(DMA::AlignmentError)
        buffer.slice(32, 128).set_string(sample(128))
        device.write_dma(buffer.slice(32, 128)).wait
        expect(device.read_dma(128, into: buffer.slice(96, 128)).get_string).to eq sample(128)
        expect(channel.room).to eq channel.capacity
      end
    end
  end

  { pci: { iommu: false, arbitration: :round_robin, cpu_load: 0.3, clock: :manual, channels: 2 },
    pcie: { cpu_load: 0.3 } }.each do |name, options|
    context "of a simulated device with a #{name} controller on its bus" do
      let(:open_device) { DMA::Device.open(:sim, bus: name, controller: name, memory: 4 << 20, **options) }

      it_behaves_like "a DMA engine", faults: true
    end
  end

  context "of a simulated device with a page of memory, one channel, and time for few transfers" do
    let(:open_device) { DMA::Device.open(:sim, memory: 4096, channels: 1, ring_size: 8) }

    it_behaves_like "a DMA engine", effort: :few
  end

  %i[free manual].each do |clock|
    context "of a simulated device behind 8237 controllers, with a #{clock} clock" do
      let(:open_device) { DMA::Device.open(:sim, controller: :isa, clock: clock, memory: 4 << 20) }

      it_behaves_like "a DMA engine", faults: true
    end
  end

  %i[uring threads].each do |engine|
    context "of a regular file through #{engine}" do
      let(:open_device) { DMA::Device.open(scratch_file("device.bin", "\0" * (1 << 20)), engine: engine) }

      it_behaves_like "a DMA engine"
    end
  end
end
