# frozen_string_literal: true

require "io/wait"

RSpec.describe "faults of a simulated machine" do
  let(:sim) { DMA::Sim.new(clock: :manual, seed: 1) }
  let(:device) { sim.device(memory: 65_536) }
  let(:channel) { device.channel }
  let(:buffer) { guarded(sample(1000)) }

  # The statuses of transfers to the device, one after the other, each with a place of its own.
  def statuses(count)
    transfers = Array.new(count) { |n| channel.submit(source: buffer, destination: 1000 * n) }
    channel.drain
    transfers.map(&:status)
  end

  { bus_error: :bus_read_error, poison: :data_poison, iommu_fault: :iommu_fault }.each do |kind, status|
    it "#{kind}: end a transfer as #{status}, with nothing moved" do
      sim.inject(kind, descriptor: 1)
      expect(statuses(3)).to eq [:complete, status, :complete]
      expect(device.read_dma(3000)).to eq sample(1000) + ("\0" * 1000) + sample(1000)
      expect([buffer.get_string, guards_whole?]).to eq [sample(1000), true]
    end
  end

  it "name what the device did to memory: reading from it, or writing to it" do
    sim.inject(:bus_error)
    read = channel.submit(source: 0, destination: buffer)
    channel.drain
    expect([read.status, buffer.get_string]).to eq [:bus_write_error, sample(1000)]
  end

  it "lost_interrupt: the transfer is carried out, and nobody is told" do
    sim.inject(:lost_interrupt)
    transfer = channel.submit(source: buffer, destination: 0)
    trace = sim.trace { sim.run_until_idle }
    expect(trace.map(&:what).last).to eq :lost_interrupt
    expect(channel.to_io.wait_readable(0)).to be_nil
    expect(transfer).to be_done
    expect([transfer.status, channel.stats[:interrupts]]).to eq [:complete, 0]
  end

  it "lost_interrupt: whoever waits finds out when nothing more happens, and counts it" do
    %i[ring isa].each do |controller|
      sim = DMA::Sim.new(clock: :manual)
      device = sim.device(controller: controller)
      sim.inject(:lost_interrupt)
      lost = device.write_dma("a" * 100)
      device.write_dma("b" * 10_000, channel: 1)
      expect(lost.wait.status).to eq :complete
      expect([device.channel.stats[:lost_interrupts], device.channel(1).stats[:lost_interrupts]]).to eq [1, 0]
      expect([device.stats[:lost_interrupts], sim.run_until_idle]).to eq [1, 0]
      expect([device.write_dma("c").wait.status, device.stats[:lost_interrupts]]).to eq [:complete, 1]
    end
  end

  it "lost_interrupt: at a timeout too, but not where the interrupt is held back or masked" do
    sim.inject(:lost_interrupt)
    expect(channel.submit(source: buffer, destination: 0).wait(timeout: 1).status).to eq :complete
    expect([sim.time, channel.stats[:lost_interrupts]]).to eq [1.0, 1]
    [{ coalesce: { time: 1e-3 } }, {}].each do |options|
      device = sim.device(**options)
      device.registers.write16(0x18, 0x4000) if options.empty?
      expect(device.write_dma("x").wait(timeout: 1e-4).status).to eq :complete
      expect(device.stats[:lost_interrupts]).to eq 0
    end
  end

  it "hang: the transfer and what comes behind it wait until it is given up" do
    sim.inject(:hang)
    hung, behind = Array.new(2) { |n| channel.submit(source: buffer, destination: 1000 * n) }
    sim.run_until_idle
    expect([hung, behind].map(&:done?)).to eq [false, false]
    hung.cancel
    expect([hung.status, behind.wait.status]).to eq %i[aborted complete]
    expect(device.read_dma(2000)).to eq ("\0" * 1000) + sample(1000)
  end

  it "link_down: nothing is reached until the device is reset" do
    sim.inject(:link_down, descriptor: 1)
    transfers = Array.new(3) { |n| channel.submit(source: buffer, destination: 1000 * n) }
    sim.run_until_idle
    expect(transfers.map(&:status)).to eq %i[complete link_down link_down]
    expect(device.registers.read32(0)).to eq 0xffff_ffff
    channel.reset
    expect { device.write_dma("x").wait }.to raise_error(DMA::TransferError, /link down/)
    expect(device.reset).to equal device
    expect(statuses(2)).to eq %i[complete complete]
    expect(device.read_dma(3000)).to eq (sample(1000) * 2) + ("\0" * 1000)
  end

  it "strike the next descriptor, where nothing else is said, once" do
    sim.inject(:poison)
    expect(statuses(3)).to eq %i[data_poison complete complete]
  end

  it "strike where they are told to, each counting for itself" do
    sim.inject(:poison, descriptor: 1)
    sim.inject(:bus_error, descriptor: 3)
    expect(statuses(5)).to eq %i[complete data_poison complete bus_read_error complete]
    sim.inject(:poison, descriptor: 1, count: 3)
    expect(statuses(5)).to eq %i[complete data_poison data_poison data_poison complete]
    sim.inject(:poison, channel: 2)
    expect(statuses(2)).to eq %i[complete complete]
    expect { device.channel(2).submit(source: buffer, destination: 0).wait }.to raise_error(DMA::TransferError)
    other = sim.device(memory: 4096)
    sim.inject(:poison, device: 1)
    expect(statuses(2)).to eq %i[complete complete]
    expect { other.write_dma("x").wait }.to raise_error(DMA::TransferError)
  end

  it "strike where an address is met, with the bytes before it moved, on either side" do
    at = 0
    device.map(buffer) { |mapping| at = mapping.address }
    sim.inject(:bus_error, address: 2300)
    transfer = channel.submit(source: buffer, destination: 2000)
    expect { transfer.wait }.to raise_error(DMA::TransferError, /300 of 1000 bytes/)
    expect([transfer.status, transfer.bytes]).to eq [:bus_read_error, 300]
    expect(device.read_dma(1000, at: 2000)).to eq sample(1000)[0, 300] + ("\0" * 700)
    expect(statuses(3)).to eq %i[complete complete complete]
    device.map(buffer) do |mapping|
      sim.inject(:iommu_fault, address: mapping.address + 555)
      ring = DMA::Ring.new(2).tap { |one| one.add_transfer(0, mapping, 1000) }
      failed = channel.submit(ring)
      expect { failed.wait }.to raise_error(DMA::FaultError) { |e| expect(e.address).to eq mapping.address + 555 }
      expect(failed.bytes).to eq 555
    end
    expect(at).to be_positive
  end

  it "strike with a probability, the same ones for the same seed, as often as allowed" do
    pattern = lambda do |seed|
      machine = DMA::Sim.new(clock: :manual, seed: seed)
      machine.inject(:poison, probability: 0.5)
      one = machine.device(memory: 4096)
      Array.new(rounds(100)) { one.write_dma("x") }.each { one.channel.drain }.map(&:status)
    end
    first = pattern.call(5)
    expect(first.tally.keys).to contain_exactly(:complete, :data_poison)
    expect(pattern.call(5)).to eq first
    expect(pattern.call(6)).not_to eq first
    sim.inject(:poison, probability: 1, count: 2)
    expect(statuses(4)).to eq %i[data_poison data_poison complete complete]
    sim.inject(:poison, probability: 0.0)
    expect(statuses(4)).to all eq(:complete)
  end

  it "are no more once they are cleared" do
    sim.inject(:poison, probability: 1.0)
    sim.inject(:hang, descriptor: 2)
    sim.inject(:bus_error, address: 0)
    expect(sim.clear_faults).to equal sim
    expect(statuses(5)).to all eq(:complete)
  end

  it "are refused where they make no sense" do
    expect { sim.inject(:fire) }.to raise_error(ArgumentError, /:bus_error, :poison, :iommu_fault/)
    expect { sim.inject(:hang, probability: 1.1) }.to raise_error(ArgumentError, /0\.\.1/)
    expect { sim.inject(:hang, probability: Float::NAN) }.to raise_error(ArgumentError)
    expect { sim.inject(:hang, count: 0) }.to raise_error(ArgumentError, /count/)
    expect { sim.inject(:hang, count: "x") }.to raise_error(ArgumentError, /count/)
    expect { sim.inject(:hang, descriptor: 1, address: 2) }.to raise_error(ArgumentError, /one of/)
    expect { sim.inject(:hang, address: 0) && sim.inject(:hang, channel: 0) }.to raise_error(ArgumentError, /no device/)
    sim.clear_faults
    { { device: 7 } => /device: 7.*device 0 with channels 0 to 3\z/, { channel: 99 } => /channel: 99 .* any device/,
      { address: 1 << 48 } => /below 0x1000000000000/ }.each do |place, reason|
      device
      expect { sim.inject(:hang, **place) }.to raise_error(ArgumentError, reason)
    end
    isa = sim.device(controller: :isa)
    expect { sim.inject(:hang, device: 1, channel: 4) }.to raise_error(ArgumentError, /device 1 with .* 3 and 5 to 7/)
    expect { sim.inject(:hang, device: 1, address: 1 << 30) }.to raise_error(ArgumentError, /device 1 reaches/)
    isa.close
    expect { sim.inject(:hang, descriptor: -1) }.to raise_error(StandardError)
    expect(statuses(3)).to all eq(:complete)
  end
end
