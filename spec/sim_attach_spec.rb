# frozen_string_literal: true

require "dma_device"
require "pathname"

RSpec.describe "a simulated device at a path" do
  path = "/dev/custom_device"

  after { DMA::Sim.detach(path) }

  it "is opened by its path, by the name that hardware libraries have, and is in no file system" do
    machine = DMA::Sim.attach(path, clock: :manual, seed: 3, memory: 8192, channels: 1)
    expect(machine).to be_a(DMA::Sim)
    expect(File).not_to exist(path)
    expect(DmaDevice).to equal DMA::Device
    device = DmaDevice.new(path)
    expect([device.name, device.sim.clock, device.sim.seed, device.capabilities[:size]]).to eq [path, :manual, 3, 8192]
    machine.inject(:poison)
    expect { device.write_dma("x").wait }.to raise_error(DMA::TransferError)
    device.close
    pathname = DMA::Device.open(Pathname.new(path)) { |one| one.capabilities[:channels] }
    expect(pathname).to eq 1
  end

  it "keeps its memory between, and goes on for whoever has it open" do
    DMA::Sim.attach(path, memory: 8192)
    first = DMA::Device.open(path)
    second = DMA::Device.open(path)
    first.write_dma("written").wait
    expect(second.read_dma(7)).to eq "written"
    first.close
    expect(second.read_dma(7)).to eq "written"
    expect(second.channel.submit(source: 0, destination: 100, length: 7).wait.status).to eq :complete
    second.close
    DMA::Device.open(path) do |third|
      expect(third.read_dma(7, at: 100)).to eq "written"
      expect(third.stats).to include(outstanding: 0)
    end
  end

  it "gives up what is in flight with the last who has it open, and not before" do
    machine = DMA::Sim.attach(path)
    first, second = Array.new(2) { DMA::Device.open(path) }
    machine.inject(:hang)
    transfer = first.write_dma("x")
    first.close
    expect(transfer.status).to eq :pending
    second.close
    expect(transfer.status).to eq :aborted
    machine.clear_faults
    DMA::Device.open(path) { |third| expect(third.write_dma("y").wait.status).to eq :complete }
  end

  it "is waited for by everybody who has it open, each for its own" do
    DMA::Sim.attach(path)
    threads = Array.new(4) do |id|
      Thread.new do
        DMA::Device.open(path) do |device|
          rounds(40).times.all? do |n|
            device.write_dma("#{id}-#{n}", at: 100 * id)
            device.wait_completion
            device.read_dma("#{id}-#{n}".size, at: 100 * id) == "#{id}-#{n}"
          end
        end
      end
    end
    expect(threads.map(&:value)).to all be(true)
  end

  it "is replaced by another, and taken away; who has it open keeps it" do
    DMA::Sim.attach(path, memory: 4096)
    device = DMA::Device.open(path)
    device.write_dma("old").wait
    DMA::Sim.attach(path, memory: 8192)
    DMA::Device.open(path) { |other| expect([other.read_dma(3), other.capabilities[:size]]).to eq ["\0\0\0", 8192] }
    expect([DMA::Sim.detach(path), DMA::Sim.detach(path)]).to eq [true, false]
    expect { DMA::Device.open(path) }.to raise_error(Errno::ENOENT)
    expect(device.read_dma(3)).to eq "old"
    device.close
  end

  it "has the bus of its controller where none is given, and so has one that is opened by itself" do
    { ring: :ideal, pci: :pci, pcie: :pcie, isa: :isa }.each do |controller, bus|
      expect(DMA::Sim.attach(path, controller: controller).bus).to eq DMA::Sim.new(bus: bus).bus
      opened = DMA::Device.open(:sim, controller: controller) { |device| device.sim.bus }
      expect(opened).to eq DMA::Sim.new(bus: bus).bus
    end
    DMA::Device.open(:sim, controller: :isa, bus: :pci) { |device| expect(device.sim.bus).to include(width: 4) }
    expect { DMA::Device.open(:sim, controller: :vesa) }.to raise_error(ArgumentError, /controller: :vesa is none of/)
  end

  it "takes the options of the machine and of the device, and no others" do
    expect { DMA::Sim.attach(path, colour: 1) }.to raise_error(ArgumentError, /colour/)
    expect { DMA::Sim.attach(path, ring_size: 0) }.to raise_error(ArgumentError)
    expect(DMA::Sim.detach(path)).to be false
    DMA::Sim.attach(path)
    expect { DMA::Device.open(path, seed: 1) }.to raise_error(ArgumentError, /Sim\.attach/)
  end
end
