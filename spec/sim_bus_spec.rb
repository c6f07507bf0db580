# frozen_string_literal: true

# Time on the bus: what transfers cost on buses of several kinds, and who waits where the CPU wants the bus too.
RSpec.describe DMA::Sim, "bus" do
  let(:size) { 4096 }
  let(:data) { sample(size) }
  let(:buffer) { DMA::Buffer.new(size).tap { |buffer| buffer.set_string(data) } }

  def machine(**options)
    described_class.new(clock: :manual, **options)
  end

  # Moves the buffer to a new device of the machine and back, compares, and returns the statistics of the first half.
  def moved(sim, **options)
    device = sim.device(memory: 1 << 16, **options)
    expect(device.channel.submit(source: buffer, destination: 64).wait.status).to eq :complete
    stats = sim.stats
    expect(device.read_dma(size, at: 64)).to eq data
    stats
  end

  # Cycles of a descriptor, the bytes, and a status.
  def cycles(bus, unit: nil)
    [40, size, 4].sum do |bytes|
      parts = unit ? Array.new(-(-bytes / unit), unit) : [bytes]
      parts.sum { |part| transactions(bus, part) }
    end
  end

  def transactions(bus, bytes)
    count = bus[:payload] ? -(-bytes / bus[:payload]) : 1
    (count * bus[:setup]) + (-(-(bytes + (count * bus[:overhead])) / bus[:width]) * bus[:beat])
  end

  %i[ideal isa pci pcie].each do |name|
    it "#{name} takes for a transfer the cycles that follow from its width and its transactions" do
      sim = machine(bus: name)
      expect(moved(sim)).to include(cycles: cycles(sim.bus), dma_cycles: cycles(sim.bus), cpu_accesses: 0)
      expect(sim.time).to be_within(1e-12).of(sim.cycles.fdiv(sim.bus[:frequency]))
    end

    it "#{name} moves the same bytes, and lets time pass the same, with a CPU beside and in every mode" do
      %i[burst cycle_stealing transparent].each do |mode|
        runs = Array.new(2) do
          sim = machine(bus: name, cpu_load: 0.4)
          [moved(sim, mode: mode), sim.cycles]
        end
        expect(runs.uniq.size).to eq 1
      end
    end
  end

  it "may be any other, with a preset for what is not said" do
    sim = machine(bus: { preset: :pcie, payload: 64 })
    expect(sim.bus).to eq(width: 16, frequency: 984_615_384, beat: 1, setup: 0, payload: 64, overhead: 24, dual: 0,
                          read: 492, links: true)
    expect(moved(sim)[:cycles]).to eq cycles(sim.bus)
    wide = machine(bus: { width: 64, setup: 2, payload: 4096 })
    expect(wide.bus).to include(width: 64, frequency: 1_000_000_000, setup: 2, payload: 4096)
    expect(moved(wide)[:cycles]).to eq cycles(wide.bus)
  end

  describe "with a CPU that wants it half of the time" do
    let(:sim) { machine(cpu_load: 0.5) }

    it "stalls the CPU for a whole block in bursts, whose time is as without it" do
      stats = moved(sim)
      expect(stats[:dma_cycles]).to eq cycles(sim.bus)
      # The CPU computes for 8 cycles, then waits until the bytes are moved.
      expect(stats[:cpu_stall_cycles]).to be_between(512 - 16, 512 + 16)
      expect(stats[:cycles]).to be_between(cycles(sim.bus), cycles(sim.bus) + 40)
    end

    it "lets both go on where cycles are stolen: an access for each 8 words, and nobody waits" do
      stats = moved(sim, mode: :cycle_stealing)
      expect(stats[:cpu_stall_cycles]).to eq 0
      expect(stats[:cycles]).to be_within(24).of(2 * cycles(sim.bus))
    end

    it "makes who steals pay for the address of each word, where the bus has such" do
      pci = machine(bus: :pci, cpu_load: 0.1)
      expect(moved(pci, mode: :cycle_stealing)[:dma_cycles]).to eq cycles(pci.bus, unit: 4)
    end

    it "is not kept from the CPU by transparent transfers, which take 1 / (1 - load) of the time" do
      [0.25, 0.5, 0.75].each do |load|
        sim = machine(cpu_load: load)
        stats = moved(sim, mode: :transparent)
        expect(stats[:cpu_stall_cycles]).to eq 0
        expect(stats[:cycles]).to be_within(40).of(cycles(sim.bus) / (1 - stats[:cpu_load]))
      end
    end

    it "stalls the CPU for less of the time in each mode than in the one before" do
      stalls = %i[burst cycle_stealing transparent].map do |mode|
        stats = moved(machine(bus: :pci, cpu_load: 0.8), mode: mode)
        stats[:cpu_stall_cycles].fdiv(stats[:cycles])
      end
      expect(stalls).to eq stalls.sort.reverse.uniq
      expect(stalls.last).to eq 0
    end
  end

  it "never comes to a transparent transfer where the CPU leaves no room, and says so" do
    device = machine(cpu_load: 1).device(memory: size, mode: %i[transparent burst burst burst])
    device.sim.step(100)
    expect { device.channel.submit(source: buffer, destination: 0).wait }
      .to raise_error(DMA::TimeoutError, /nothing left.*asked for the bus since cycle 100.*no gap.*cpu_load:.*mode:/)
    expect { device.channel.submit(source: buffer, destination: 0).wait(timeout: 1e-6) }
      .to raise_error(DMA::TimeoutError, /0\.000001 s.*asked for the bus since cycle 100, and the CPU leaves no gap/)
    expect(device.channel(1).submit(source: buffer, destination: 0).wait.status).to eq :complete
    expect(buffer.get_string).to eq data
  end

  it "counts what the CPU does where nobody else does anything" do
    sim = machine(bus: :pcie, cpu_load: 0.2)
    sim.step(1_000_000)
    expect(sim.stats).to include(cycles: 1_000_000, dma_cycles: 0, cpu_stall_cycles: 0)
    expect(sim.stats[:cpu_cycles].fdiv(1_000_000)).to be_within(0.001).of(sim.stats[:cpu_load])
    expect(sim.stats[:cpu_load]).to be_within(0.02).of(0.2)
  end

  it "takes as long with a clock of its own as by hand, however the bytes are cut" do
    %i[ideal isa pci pcie].each do |name|
      cycles = %i[free manual].map do |clock|
        sim = described_class.new(clock: clock, bus: name)
        sim.device.write_dma("x" * 300_007).wait
        sim.cycles
      end
      expect(cycles.uniq.size).to eq 1
    end
  end

  it "is told of by statistics that only grow, and that change nothing" do
    random = Random.new(1)
    runs = [false, true].map do |looks|
      sim = machine(bus: :pci, cpu_load: 0.5)
      device = sim.device(memory: 1 << 16, mode: %i[burst cycle_stealing transparent burst])
      seen = Array.new(300) do |n|
        device.channel(n % 4).submit(source: buffer, destination: 0) if (n % 7).zero?
        sim.step(looks ? random.rand(1..500) : 0)
        sim.stats if looks
      end
      sim.run_until_idle
      [seen.compact, sim.stats[:dma_cycles]]
    end
    counts = runs.last.first.map { |stats| stats.values_at(:cycles, :dma_cycles, :cpu_accesses, :cpu_stall_cycles) }
    counts.each_cons(2) { |before, after| expect(before.zip(after)).to all(satisfy { |one, other| one <= other }) }
    expect(runs.map(&:last).uniq.size).to eq 1
  end

  it "never turns back, whatever is waited for" do
    sim = machine(bus: { frequency: 10**12, setup: 100_000 })
    transfer = sim.device.write_dma("x" * 4096)
    sim.step(1999)
    expect { transfer.wait(timeout: 0) }.to raise_error(DMA::TimeoutError)
    expect(sim.cycles).to be >= 1999
  end

  it "lets time pass for timeouts and intervals that are shorter than its cycles" do
    sim = machine(bus: :isa)
    registers = sim.device(memory: size).registers
    expect { registers.poll(0, mask: 1, value: 2, interval: 1e-9, timeout: 1e-6) }.to raise_error(DMA::TimeoutError)
    expect(sim.time).to be_within(2 / 8e6).of(1e-6)
  end

  it "counts what many transfers may take together in simulated time, whatever its clock" do
    %i[ideal pci isa].each do |bus|
      %i[device channel].each do |whose|
        device = machine(bus: bus).device(memory: size)
        device.write_dma(data).wait
        each = device.sim.time
        50.times { device.write_dma(data) }
        wait = { device: -> { device.wait_completion(timeout: 9.5 * each) },
                 channel: -> { device.channel.drain(timeout: 9.5 * each) } }
        expect(&wait[whose]).to raise_error(DMA::TimeoutError, /41 transfers/)
        expect(device.sim.time).to be_within(each / 4).of(10.5 * each)
      end
    end
  end

  it "runs by itself too, and DMA::Device.open takes its options" do
    DMA::Device.open(:sim, bus: :pci, cpu_load: 0.5, mode: :cycle_stealing) do |device|
      device.write_dma(data).wait
      expect(device.read_dma(size)).to eq data
      expect(device.sim.stats[:cpu_accesses]).to be_positive
    end
  end

  it "is of so many whole Hz and bytes a second, also where these are Floats" do
    sim = machine(bus: { preset: :pci, frequency: 6.6e7 }, memory_bandwidth: 1e9)
    expect(sim.bus[:frequency]).to eq(66_000_000).and be_an(Integer)
    same = machine(bus: { preset: :pci, frequency: 66_000_000 }, memory_bandwidth: 1_000_000_000)
    expect([sim, same].map { |one| moved(one)[:cycles] }.uniq.size).to eq 1
    [1.5, -1.0, 1e20, Float::NAN, Float::INFINITY, "1", nil, Complex(1, 1)].each do |value|
      expect { machine(bus: { frequency: value }) }
        .to raise_error(ArgumentError, /frequency: #{Regexp.escape(value.inspect)} .*Hz in 0\.\.2\*\*64 - 1; give/)
      next if value.nil?

      expect { machine(memory_bandwidth: value) }
        .to raise_error(ArgumentError, /memory_bandwidth: #{Regexp.escape(value.inspect)} .*bytes a second/)
    end
  end

  it "is named where the machine is inspected" do
    expect(machine(bus: :pci).inspect).to eq "#<DMA::Sim clock: manual bus: pci iommu: true seed: 0>"
    options = { coherent: false, cache_size: 64, ordering: :weak, cpus: 2, iommu: false, ram: 1 << 20,
                fragmentation: 0.5 }
    expect(machine(**options).inspect).to end_with "seed: 0 coherent: false cache_size: 64 ordering: weak cpus: 2 " \
                                                   "ram: 1048576 fragmentation: 0.5>"
    options = { cache_injection: false, invalidation: :lazy }
    expect(machine(**options).inspect).to end_with "seed: 0 cache_injection: false invalidation: lazy>"
    expect(machine(bus: { preset: :isa }).inspect).to include("bus: isa ")
    expect(machine(bus: { preset: :pci, frequency: 6.6e7 }).inspect).to include("bus: 32 bits, 66000000 Hz ")
  end

  it "refuses what cannot be, and says what can" do
    refused = { { bus: :vesa } => /:vesa.*:ideal, :isa, :pci, :pcie/, { bus: { preset: 1 } } => /1 is none of :ideal/,
                { bus: { depth: 1 } } => /\[:depth\].*:width/, { bus: { width: 0 } } => /width: 0 .*1\.\./,
                { bus: { beat: -1 } } => /beat/, { bus: { payload: 0 } } => /payload: 0/,
                { cpu_load: 1.1 } => /1\.1 is not in 0\.\.1/, { cpu_load: Float::NAN } => /NaN/,
                { cpu_load: "1" } => /"1"/ }
    refused.each { |options, message| expect { machine(**options) }.to raise_error(ArgumentError, message) }
    expect { machine.device(mode: :demand) }.to raise_error(ArgumentError, /:demand.*:burst, :cycle_stealing/)
    expect { machine.device(mode: [:burst]) }.to raise_error(ArgumentError, /1 for 4 channels/)
  end
end
