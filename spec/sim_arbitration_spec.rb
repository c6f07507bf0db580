# frozen_string_literal: true

RSpec.describe DMA::Sim, "its masters" do
  def machine(**options)
    described_class.new(clock: :manual, bus: :pci, **options)
  end

  # Gives each channel of a device a transfer of so many bytes, and lets cycles pass; what each of them got.
  def shares(sim, lengths, cycles, **options)
    device = sim.device(channels: lengths.size, **options)
    lengths.each_with_index do |length, channel|
      # Short transfers have to follow each other.
      count = [(1 << 19) / length, 250].min
      buffer = DMA::Buffer.new(length)
      count.times { device.channel(channel).submit(source: buffer, destination: 0, length: length) }
    end
    sim.step(cycles)
    sim.stats[:masters].map { |master| master.slice(:grants, :cycles, :longest_wait) }
  end

  it "take turns, a transaction each, when nothing else is said: as many, however long they are" do
    long, short = shares(machine, [4096, 4], 8000)
    expect(long[:grants]).to be_within(1).of(short[:grants])
    expect(long[:cycles]).to be > 1.3 * short[:cycles]
    # Who waits does so for the other's transaction only: 29 data phases, and 3 clocks beside.
    expect([long, short].map { |master| master[:longest_wait] }).to eq [13, 32]
  end

  it "starve behind the first with a fixed priority" do
    first, second, third = shares(machine(arbitration: :fixed), [4096, 4096, 4096], 8000)
    expect(first[:longest_wait]).to eq 0
    expect(first[:cycles]).to be_within(32).of(8000)
    expect([second, third].map { |master| master[:grants] }).to eq [0, 0]
    expect([second, third].map { |master| master[:longest_wait] }).to eq [8000, 8000]
  end

  it "are told that they starve, where they wait for a transfer for too long" do
    errors = %i[fixed rotating].map do |arbitration|
      sim = machine(arbitration: arbitration)
      device = sim.device(channels: 2)
      250.times { device.write_dma("x" * 4096) }
      device.write_dma("y" * 4096, channel: 1).wait(timeout: 3e-5)
    rescue DMA::TimeoutError => e
      e.message
    end
    expect(errors[0]).to match(/longer than 0.00003 s.*asked for the bus since cycle 0, .*:fixed; give another/)
    expect(errors[1]).to match(/longer than 0.00003 s .*; wait longer/)
  end

  it "get as much time as each other in a round robin with a latency timer, and wait for it" do
    [64, 256].each do |latency|
      long, short = shares(machine(arbitration: :round_robin, latency_timer: latency), [4096, 4], 8000)
      expect(long[:cycles].fdiv(short[:cycles])).to be_within(0.15).of(1)
      # A descriptor is fetched in one piece, and the last fetch may begin before the timer runs out.
      expect(short[:longest_wait]).to be_between(latency - 16, latency + 13)
    end
  end

  it "of a device that is gone leave the others theirs" do
    sim = machine
    gone, stays = Array.new(2) { sim.device }
    [gone, stays].each { |device| device.write_dma("x" * 4096) }
    sim.step(100)
    gone.close
    GC.start
    stays.wait_completion
    expect(stays.read_dma(4096)).to eq "x" * 4096
  end

  it "each have a link on PCI Express, and wait for nobody as long as memory is fast enough" do
    alone, together = [1, 2].map do |count|
      sim = described_class.new(clock: :manual, bus: :pcie, memory_bandwidth: 1 << 40)
      devices = Array.new(count) { sim.device }
      devices.each { |device| device.write_dma("x" * (1 << 16)) }
      sim.run_until_idle
    end
    expect(together).to eq alone
  end

  it "share what memory gives in a second, however many there are" do
    rates = [1, 2, 4, 8].map do |count|
      sim = described_class.new(clock: :manual, bus: :pcie, memory_bandwidth: 25_600_000_000)
      devices = Array.new(count) { sim.device }
      devices.each { |device| device.write_dma("x" * (1 << 18)) }
      sim.run_until_idle
      count * (1 << 18) / sim.time / 1e9
    end
    link = 15.7538 * 256 / 280
    expect(rates[0]).to be_within(0.3).of(link)
    # Two links ask for more than there is.
    expect(rates[1..]).to all(be_within(1.5).of(25.6))
    expect(rates).to all(be <= 25.6)
  end

  it "take the same cycles whether anybody looks meanwhile or not, whatever a burst costs and whoever wants memory" do
    [[1, { cpu_load: 0.5 }], [2, {}], [3, { cpu_load: 0.3 }], [1, { memory_bandwidth: 12_800_000_000 }],
     [1, { bus: :pci, memory_bandwidth: 33_333_333 }], [1, { bus: { setup: 5 } }], [1, { bus: { overhead: 24 } }],
     [1, {}]].each do |count, options|
      sims = Array.new(2) { described_class.new(clock: :manual, bus: :pcie, **options) }
      devices = sims.map { |sim| Array.new(count) { sim.device } }
      devices.flatten.each { |device| device.write_dma("x" * (1 << 16)) }
      sims[0].run_until_idle
      sims[1].step(7) while sims[1].cycles + 7 <= sims[0].cycles
      sims[1].step(sims[0].cycles - sims[1].cycles)
      # Grants are those of longer bursts where nobody looks and nobody else wants memory.
      got = sims.map { |sim| sim.stats.merge(masters: sim.stats[:masters].map { |master| master.except(:grants) }) }
      expect(got[1]).to eq got[0]
    end
  end

  it "are slowed by a memory that is slower than their bus, all alike" do
    sim = machine(memory_bandwidth: 33_333_333)
    device = sim.device
    device.write_dma("x" * 29_000).wait
    # The descriptor and its status have 44 bytes.
    expect(29_044 / sim.time).to be_within(100_000).of(33_333_333)
  end

  it "take an address phase more on PCI where an address has more than 32 bits" do
    cycles = [32, 48].map do |bits|
      sim = machine(iommu: false)
      device = sim.device(controller: :pci, address_bits: bits)
      device.write_dma("x" * 4096).wait
      sim.cycles
    end
    # The descriptor, its status, and 36 transactions of 116 bytes in 12 bursts.
    expect(cycles[1] - cycles[0]).to be_between(36, 40)
  end

  it "fetch several descriptors at once where they prefetch, and move the same bytes in less time" do
    runs = [1, 4, 8].map do |prefetch|
      sim = machine
      device = sim.device(prefetch: prefetch)
      fetched = sim.trace do
        32.times { |n| device.channel(0).submit(source: guarded(n.chr * 64), destination: n * 64) }
        sim.run_until_idle
      end
      expect(device.read_dma(32 * 64)).to eq (0...32).map { |n| n.chr * 64 }.join
      [fetched.to_a.count { |event| event.what == :fetch }, sim.cycles]
    end
    expect(runs.map(&:first)).to eq [32, 8, 4]
    expect(runs.map(&:last)).to eq runs.map(&:last).sort.reverse
  end

  it "do not carry out what was cancelled after they prefetched it" do
    sim = machine
    device = sim.device(prefetch: 8)
    first, second, third = Array.new(3) do |n|
      device.channel(0).submit(source: guarded((n + 1).chr * 64), destination: n * 64)
    end
    sim.step(40)
    second.cancel
    sim.run_until_idle
    expect([first, second, third].map { |transfer| transfer.tap(&:done?).status }).to eq %i[complete aborted complete]
    expect(device.read_dma(192)).to eq ("\1" * 64) + ("\0" * 64) + ("\3" * 64)
  end

  it "are refused what cannot be, with what can" do
    { { arbitration: :lottery } => /:lottery is none of :fixed, :rotating, :round_robin/,
      { latency_timer: 8 } => /latency_timer: it is for arbitration: :round_robin/,
      { arbitration: :round_robin, latency_timer: 0 } => /1 or more/,
      { memory_bandwidth: 0 } => /1 or more/, { memory_bandwidth: -1 } => /memory_bandwidth/,
      { bus: { links: 1 } } => /links: 1 is neither true nor false/ }.each do |options, message|
      expect { machine(**options) }.to raise_error(ArgumentError, message)
    end
    expect { machine.device(controller: :vlb) }.to raise_error(ArgumentError, /:vlb is none of :ring, :pci, :pcie/)
    expect { machine.device(prefetch: 65) }.to raise_error(ArgumentError, /65 is not in 1..64/)
  end
end
