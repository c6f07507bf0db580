# frozen_string_literal: true

# A program that drives channel 0 by its registers: it writes descriptors into a ring of its own, and rings a doorbell.
RSpec.describe "memory ordering" do
  let(:sim) { DMA::Sim.new(clock: :manual, ordering: :weak) }
  let(:device) { sim.device(memory: 1 << 20) }
  let(:registers) { device.registers }
  let(:ring) { DMA::Buffer.new(4096) }
  let(:data) { DMA::Buffer.new(256).tap { |buffer| buffer.clear("o".ord) } }
  let(:mappings) { [ring, data].map { |buffer| device.map(buffer) } }

  descriptor = %i[u64 u64 u32 u32 u64 u32]
  status = 32
  to_device = 1
  from_device = 2

  # Gives the channel the ring, from its first slot on.
  def begin_ring
    ring.clear
    DMA.write_barrier
    registers.write16(0x100 + 0x14, 0x400)
    registers.write64(0x100 + 0x20, mappings[0].address)
    registers.write32(0x100 + 0x28, 64)
  end

  # The doorbell: tells the channel of the first descriptor.
  def ring_doorbell
    registers.write32(0x100 + 0x2c, 1)
    sim.run_until_idle
  end

  # What the device has in its memory, by another channel's driver.
  def in_device
    device.read_dma(256, channel: 1)
  end

  it "lets a device see a descriptor before its data, unless there is a write barrier between them" do
    [false, true].each do |barrier|
      data.clear("o".ord)
      begin_ring
      data.clear("n".ord, 0, 64)
      DMA.write_barrier if barrier
      ring.set_values(descriptor, 0, [mappings[1].address, 0, 64, to_device, 0, 0])
      expect(data.get_string(0, 64)).to eq "n" * 64
      ring_doorbell
      expect(ring.get_value(:u32, status)).to eq 1
      expect(in_device[0, 64]).to eq (barrier ? "n" : "o") * 64
    end
  end

  it "lets the CPU see a status before the data, unless there is a read barrier between them" do
    device.write_dma("n" * 256, channel: 1).wait
    begin_ring
    ring.set_values(descriptor, 0, [0, mappings[1].address, 64, from_device, 0, 0])
    DMA.write_barrier
    expect(ring.get_value(:u32, status)).to eq 0
    ring_doorbell
    expect(ring.get_value(:u32, status)).to eq 1
    expect(data.get_string(0, 64)).to eq "o" * 64
    DMA.write_barrier
    expect(data.get_string(0, 64)).to eq "o" * 64
    DMA.read_barrier
    expect(data.get_string(0, 65)).to eq "#{"n" * 64}o"
  end

  it "has no descriptor for the device that is not written last, until a barrier, a microsecond or its room is over" do
    visible = lambda do |&work|
      begin_ring
      ring.set_values(descriptor, 0, [mappings[1].address, 0, 8, to_device, 0, 0])
      data.set_value(:U8, 255, 1)
      work.call
      ring_doorbell
      ring.get_value(:u32, status) == 1
    end
    expect(visible.call { nil }).to be false
    expect(visible.call { DMA.read_barrier }).to be false
    expect(visible.call { DMA.write_barrier }).to be true
    # It is fetched five cycles after the doorbell.
    expect(visible.call { sim.step(994) }).to be false
    expect(visible.call { sim.step(995) }).to be true
    expect(visible.call { 14.times { |line| ring.set_value(:U8, 64 * (line + 2), 0) } }).to be false
    expect(visible.call { 15.times { |line| ring.set_value(:U8, 64 * (line + 2), 0) } }).to be true
  end

  it "is what drivers of channels see to by themselves, for buffers and mappings, and so do syncs and unmap" do
    data.clear("n".ord)
    ring.set_value(:U8, 4000, 1)
    device.write_dma(mappings[1], channel: 1).wait
    expect(in_device).to eq "n" * 256
    device.write_dma("m" * 256, channel: 1).wait
    device.read_dma(into: mappings[1], channel: 1)
    expect(data.get_string).to eq "m" * 256
    begin_ring
    part = device.map(data.slice(0, 64), type: :streaming, direction: :to_device)
    data.clear("a".ord)
    ring.set_value(:U8, 4000, 1)
    part.sync_for_device
    ring.set_values(descriptor, 0, [mappings[1].address, 0, 256, to_device, 0, 0])
    ring_doorbell
    expect(in_device).to eq "a" * 256
    data.clear("b".ord)
    part.unmap
    mappings[1].unmap
    expect(data.view.get_string).to eq "b" * 256
  end

  it "keeps a ring that a driver writes, DMA::Ring, in order" do
    configuration = device.configure_transfer(mappings[1], 0, 256)
    data.clear("n".ord)
    ring.set_value(:U8, 4000, 1)
    device.channel(1).submit(configuration[:descriptor_ring]).wait
    expect(in_device).to eq "n" * 256
  end

  it "is strong where nothing else is said, and barriers do nothing then" do
    strong = DMA::Sim.new(clock: :manual).device
    mapping = strong.map(data)
    data.clear("n".ord)
    expect([DMA.write_barrier, DMA.read_barrier, data.view.get_string]).to eq [nil, nil, "n" * 256]
    registers = strong.registers
    registers.write64(0x100, mapping.address)
    registers.write32(0x110, 256)
    registers.write16(0x114, to_device | 0x100)
    strong.sim.run_until_idle
    expect(strong.read_dma(256)).to eq "n" * 256
  end

  it "lets nobody use memory in place past the store buffer, coherent or not" do
    mappings
    expect { data.view }.to raise_error(DMA::UnsupportedError, /with ordering: :strong, type: :coherent does/)
  end

  it "behind a cache that is not coherent needs flushes as well: a barrier alone does not help" do
    device = DMA::Sim.new(clock: :manual, ordering: :weak, coherent: false).device
    mapping = device.map(data, type: :streaming, direction: :to_device)
    data.clear("n".ord)
    DMA.write_barrier
    device.write_dma(mapping).wait
    expect(device.read_dma(256)).to eq "o" * 256
    device.write_dma(mapping.sync_for_device).wait
    expect(device.read_dma(256)).to eq "n" * 256
  end
end
