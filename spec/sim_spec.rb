# frozen_string_literal: true

require "io/wait"

RSpec.describe DMA::Sim do
  let(:sim) { described_class.new(clock: :manual, seed: 1) }
  let(:device) { sim.device(memory: 1 << 20) }
  let(:buffer) { DMA::Buffer.new(4096).tap { |buffer| buffer.set_string(sample(4096)) } }

  def submit(**options)
    device.channel.submit(source: buffer, destination: 0, **options)
  end

  describe "with a manual clock" do
    it "lets nothing happen by itself" do
      transfer = submit
      rounds(50).times { expect(transfer).not_to be_done }
      expect([sim.cycles, device.channel.process_completions]).to eq [0, 0]
      expect(device.channel.to_io.wait_readable(0)).to be_nil
    end

    it "lets as much happen as the cycles that pass, and says how many it took" do
      transfer = submit # 5 to fetch, 512 to move, 1 to write back
      expect(sim.step(517)).to equal sim
      expect([transfer.done?, sim.cycles]).to eq [false, 517]
      expect(sim.step.cycles).to eq 518
      expect([transfer.done?, transfer.status]).to eq [true, :complete]
      expect(sim.step(1000).cycles).to eq 1518
      2.times { submit }
      expect(sim.run_until_idle).to eq 2 * 518
      expect(sim.run_until_idle).to eq 0
      expect(sim.step(0).cycles).to eq 1518 + (2 * 518)
    end

    it "is run by whoever waits, drains, reads, or waits for completion" do
      expect(submit.wait.status).to eq :complete
      transfers = [submit, device.channel(1).submit(source: buffer, destination: 0)]
      device.channel.drain
      expect(transfers.first.status).to eq :complete
      device.wait_completion
      expect(transfers.map(&:status)).to eq %i[complete complete]
      expect(device.read_dma(4096)).to eq sample(4096)
    end

    it "counts timeouts in simulated time" do
      expect { submit.wait(timeout: 5e-7) }.to raise_error(DMA::TimeoutError)
      expect(sim.cycles).to be_within(1).of(500)
      expect(submit.wait(timeout: 1e-6).status).to eq :complete
      expect { device.read_dma(4096, timeout: 1e-7) }.to raise_error(DMA::TimeoutError)
      submit
      expect { device.wait_completion(timeout: 1e-7) }.to raise_error(DMA::TimeoutError)
      submit
      expect { device.channel.drain(timeout: 1e-7) }.to raise_error(DMA::TimeoutError)
      expect(buffer.free).to be_freed
    end

    it "raises TimeoutError at once where there is nothing left to do" do
      sim.inject(:hang)
      expect { submit.wait }.to raise_error(DMA::TimeoutError, /will never end/)
      sim.inject(:hang)
      expect { device.read_dma(10) }.to raise_error(DMA::TimeoutError, /never end/)
      sim.inject(:hang)
      submit
      expect { device.wait_completion }.to raise_error(DMA::TimeoutError, /nothing left to do/)
      sim.inject(:hang)
      expect { submit.wait(timeout: 3600) }.to raise_error(DMA::TimeoutError, /3600/)
      expect(submit.wait.status).to eq :complete
    end

    it "lets other threads run, and is interrupted, while it works" do
      large = sim.device(memory: 64 << 20)
      memory = DMA::Buffer.new(64 << 20, lock: false)
      count = 0
      ticker = Thread.new { loop { (count += 1) && sleep(0.0001) } }
      [-> { large.write_dma(memory).wait }, -> { large.write_dma(memory) && sim.run_until_idle }].each do |work|
        Thread.pass until count.positive?
        count = 0
        expect { Timeout.timeout(0.02) { 100.times { work.call } } }.to raise_error(Timeout::Error)
        expect(count).to be_positive
        large.reset
      end
    ensure
      ticker&.kill
    end

    it "steps nobody but a machine of its kind" do
      free = described_class.new
      expect { free.step }.to raise_error(DMA::MisuseError, /clock: :manual/)
      expect { free.run_until_idle }.to raise_error(DMA::MisuseError)
      expect { sim.step(-1) }.to raise_error(ArgumentError, /cycles/)
      expect { described_class.new(channels: 3) }
        .to raise_error(ArgumentError, "unknown keyword: :channels; Sim#device has channels:")
      expect { sim.device(bus: :pci, buss: 1) }
        .to raise_error(ArgumentError, "unknown keywords: :bus, :buss; DMA::Sim.new has bus:")
      expect([free.clock, free.iommu?, free.seed, free.cycles]).to eq [:free, true, 0, 0]
      expect(sim.inspect).to include("manual")
    end
  end

  # What came of a random script of transfers with faults: the trace, and the memory of the device.
  def play(seed, count)
    machine = described_class.new(clock: :manual, seed: seed)
    dev = machine.device(memory: 65_536, channels: 2, ring_size: 16)
    random = Random.new(seed)
    memory = DMA::Buffer.new(8192, lock: false).tap { |part| part.set_string(sample(8192)) }
    { bus_error: 0.05, poison: 0.03, iommu_fault: 0.02, lost_interrupt: 0.05 }.each do |kind, probability|
      machine.inject(kind, probability: probability)
    end
    trace = machine.trace do
      count.times do
        step_of(dev, memory, random)
      end && dev.channel(0).drain && dev.channel(1).drain
    end
    [trace.to_s, trace.size, memory.get_string, machine.clear_faults && dev.read_dma(65_536)]
  end

  def step_of(dev, memory, random)
    channel = dev.channel(random.rand(2))
    length = random.rand(1..600)
    part = memory.slice(random.rand(8192 - length), length)
    at = random.rand(65_536 - length)
    ends = [{ source: part, destination: at }, { source: at, destination: part },
            { source: at, destination: random.rand(65_536 - length), length: length }][random.rand(3)]
    channel.submit(**ends, fence: random.rand(10).zero?)
  rescue DMA::RingFullError
    channel.drain
  end

  it "gives the same trace and the same memory for the same script, and others for others" do
    count = rounds(10_000)
    first = unstressed { play(42, count) }
    expect(unstressed { play(42, count) } == first).to be true
    expect(first[1]).to be > count
    expect(first[0].lines.size).to eq first[1]
    expect(unstressed { play(43, count) } == first).to be false
  end

  describe "#trace" do
    it "has a line for each thing that happens on the bus" do
      address = nil
      trace = sim.trace { device.map(buffer) { |mapping| address = mapping.address && submit.wait } }
      expect(address).not_to be_nil
      expect(trace.first.to_h).to include(cycle: 5, device: 0, channel: 0, what: :fetch, length: 40)
      expect(trace.map(&:what)).to eq [:fetch, *[:to_device] * 16, :status, :interrupt]
      expect(trace.select { |event| event.what == :to_device }.sum(&:length)).to eq 4096
      lines = trace.to_s.lines(chomp: true)
      expect([lines.size, trace.size, trace.count]).to eq [19, 19, 19]
      expect(lines[0]).to match(/\A5 0\.0 fetch 0x\h+ 40\z/)
      expect(lines[1]).to match(/\A37 0\.0 to_device 0x\h+ 256\z/)
      expect(lines[-2]).to match(/\A518 0\.0 status 0x\h+ complete\z/)
      expect(lines[-1]).to eq "518 0.0 interrupt"
      expect(trace.each).to be_an(Enumerator)
      expect(trace.to_a).to all(be_frozen)
    end

    it "ends with its block, also where that raises, and is empty where nothing happens" do
      expect { sim.trace { raise KeyError } }.to raise_error(KeyError)
      submit.wait
      expect(sim.trace { nil }.size).to eq 0
    end

    it "says what went wrong" do
      sim.inject(:iommu_fault)
      sim.inject(:lost_interrupt, descriptor: 1)
      sim.inject(:hang, descriptor: 2)
      text = sim.trace { 3.times { submit } && sim.run_until_idle }.to_s
      expect(text).to match(/status 0x\h+ iommu_fault read 0x\h+$/)
      expect(text).to match(/lost_interrupt$/)
      expect(text).to match(/hang$/)
    end
  end

  it "isolates its devices by the IOMMU, and shares the bus among them" do
    device
    other = sim.device(memory: 1 << 20)
    mapping = Array.new(50) { device.map(buffer) }.last
    ring = DMA::Ring.new(2)
    ring.add_transfer(mapping, 0, 64)
    expect { other.channel.submit(ring).wait }.to raise_error(DMA::FaultError, /#{mapping.address.to_s(16)}/)
    expect([other.stats[:iommu_faults], device.stats[:iommu_faults]]).to eq [1, 0]
    transfers = [device, other].map { |one| one.channel.submit(source: buffer, destination: 0) }
    trace = sim.trace { sim.run_until_idle }
    expect(transfers.map(&:status)).to eq %i[complete complete]
    expect(trace.map(&:device).each_slice(2).first(10)).to all match_array([0, 1])
    expect([device, other].map { |one| one.read_dma(4096) }).to eq [sample(4096)] * 2
    expect([device.name, other.name]).to eq ["sim device 0", "sim device 1"]
  end

  [{}, { iommu: false }].each do |options|
    it "splits what is longer than a device's descriptors, and refuses copies that are, with #{options}" do
      sim = described_class.new(clock: :manual, **options)
      device = sim.device(memory: 1 << 20, max_length: 1000, max_segments: 8)
      expect(device.capabilities[:max_length]).to eq 1000
      sim.inject(:bus_error, descriptor: 4)
      transfer = device.channel.submit(source: buffer, destination: 0)
      expect { transfer.wait }.to raise_error(DMA::TransferError)
      expect(transfer.bytes).to eq 4000
      expect(device.write_dma(buffer).wait.bytes).to eq 4096
      expect(device.read_dma(4097)).to eq "#{sample(4096)}\0"
      expect { device.channel.submit(source: 0, destination: 9, length: 1001) }.to raise_error(ArgumentError, /1000/)
      ring = device.configure_transfer(buffer, 0, 4096)[:descriptor_ring]
      expect(ring.to_a.map(&:length).max).to be <= 1000
    end
  end

  it "has devices with as much memory as they have addresses for, and no more than 64 MiB" do
    sizes = [16, 24, 26, 32].map { |bits| DMA::Sim.new.device(address_bits: bits).capabilities[:size] }
    expect(sizes).to eq [1 << 16, 1 << 24, 1 << 26, 1 << 26]
    expect(DMA::Sim.new.device.capabilities[:size]).to eq 64 << 20
    expect { DMA::Sim.new.device(address_bits: 2**40) }.to raise_error(ArgumentError, /address_bits/)
  end

  it "refuses a longest descriptor that cannot be" do
    expect { sim.device(max_length: 0) }.to raise_error(ArgumentError, /max_length: 0 is not 1 or more/)
    expect { sim.device(alignment: 64, max_length: 100) }.to raise_error(ArgumentError, /of the alignment, 64/)
    expect { sim.device(controller: :isa, max_length: 100) }.to raise_error(ArgumentError, /8237.* leave it out/)
  end

  it "has no memory in common with another machine, and each device has its own" do
    submit.wait
    expect(sim.device(memory: 4096).read_dma(4096)).to eq "\0" * 4096
  end
end
