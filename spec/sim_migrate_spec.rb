# frozen_string_literal: true

require "tempfile"

# Pages that are mapped and not pinned: they move, and a device goes on with the address that it was told.
RSpec.describe DMA::Sim, "migrate" do
  include Support::PhysicalMemory

  let(:sim) { machine }
  let(:device) { sim.device(memory: 1 << 20) }
  let(:data) { sample(3 * 4096) }
  let(:memory) { buffer(data) }
  let(:mapping) { device.map(memory, pin: false) }

  def pages(mapping)
    mapping.segments.flat_map { |address, bytes| address.step(address + bytes - 1, 4096).to_a }
  end

  it "lets pages move, and the device is not told: it hits what lives at the old address" do
    old = mapping.segments
    expect(sim.migrate).to eq 3
    expect(mapping.segments).to eq old
    expect(peek(device, mapping.address, 10)).to eq data[0, 10]
    device.pio_write("n" * 9000, at: 0)
    expect(device.channel.submit(source: 0, destination: mapping, length: 9000).wait.status).to eq :complete
    expect(memory.get_string).to eq data
    expect(device.channel.submit(source: mapping, destination: 20_000).wait.status).to eq :complete
    expect(device.pio_read(3 * 4096, at: 20_000)).to eq ("n" * 9000) + data[9000..]
    expect(device.map(memory).segments.map(&:first) & old.map(&:first)).to be_empty
  end

  it "gives the old page to the next mapping, whose memory the device overwrites" do
    memory = buffer("mine")
    mapping = device.map(memory, pin: false)
    sim.migrate
    other = buffer("yours, not mine")
    theirs = device.map(other)
    expect(theirs.address).to be_within(4095).of(mapping.address)
    device.pio_write("oops")
    device.channel.submit(source: 0, destination: mapping).wait
    expect([memory.get_string, other.get_string]).to eq ["mine", "oopss, not mine"]
  end

  it "moves so many pages as are asked for, by the seed, and back to none that was just left" do
    runs = [7, 7, 8].map do |seed|
      sim = machine(seed: seed)
      device = sim.device
      mapping = device.map(memory, pin: false)
      old = pages(mapping)
      expect([sim.migrate(0), sim.migrate(2), sim.migrate(5)]).to eq [0, 2, 3]
      fresh = pages(device.map(memory))
      expect(fresh & old).to be_empty
      fresh
    end
    expect(runs.uniq.size).to eq 2
  end

  it "moves no page that another mapping or a transfer pins, and moves it after that" do
    mapping
    device.map(memory.slice(5000, 10)) { expect(sim.migrate).to eq 2 }
    transfer = device.channel.submit(source: memory, destination: 0)
    expect(sim.migrate).to eq 0
    transfer.wait
    expect(sim.migrate).to eq 3
    expect(device.pio_read(data.bytesize)).to eq data
  end

  it "leaves a transfer that is under way with what it has moved, and the rest where the memory was" do
    target = buffer("o" * 8192)
    mapping = device.map(target, pin: false, contiguous: true)
    device.pio_write("n" * 8192)
    transfer = device.channel.submit(source: 0, destination: mapping)
    sim.step(1) until target.get_string(512, 1) == "n"
    expect(sim.migrate).to eq 2
    moved = target.get_string.count("n")
    transfer.wait
    expect(moved).to be_between(513, 8191)
    expect(target.get_string).to eq ("n" * moved) + ("o" * (8192 - moved))
    expect(peek(device, mapping.address, 8192)).to eq "n" * 8192
    mapping.unmap
  end

  it "leaves a slot where it is, through which pages are bounced" do
    near = sim.device(memory: 1 << 20, address_bits: 24)
    mapping = near.map(memory, type: :streaming, pin: false)
    expect(sim.migrate).to eq 3
    poke(near, mapping.address, "still here")
    mapping.sync_for_cpu
    expect(memory.get_string(0, 10)).to eq "still here"
  end

  it "moves pages of 8237s' memory, and of a machine that has all that devices reach" do
    sim = described_class.new(clock: :manual, iommu: false)
    card = sim.device(controller: :isa)
    mapping = card.map(buffer("abc"), pin: false)
    expect(sim.migrate).to eq 1
    expect(status_of(card.channel.submit(source: mapping, destination: 0))).to eq :bus_read_error
  end

  it "is refused wherever memory is pinned" do
    mapped = ->(device) { device.map(memory, pin: false) }
    expect { mapped.call(described_class.new.device) }.to raise_error(ArgumentError, /iommu: false.*leave pin: out/)
    expect(described_class.new.migrate).to eq 0
    Tempfile.create do |file|
      DMA::Device.open(file.path) { |dev| expect { mapped.call(dev) }.to raise_error(ArgumentError, /pin: false/) }
    end
    expect { device.map(memory, pin: nil) }.to raise_error(ArgumentError, /pin: nil is neither true nor false/)
    expect { sim.migrate(-1) }.to raise_error(ArgumentError, /pages/)
  end
end
