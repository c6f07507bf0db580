# frozen_string_literal: true

require "fiddle"

RSpec.describe DMA::Ring do
  let(:ring) { described_class.new(4) }

  # The bytes of all slots, as they lie in memory.
  def slots(ring)
    Fiddle::Pointer.new(ring.address)[0, 40 * ring.size]
  end

  def add(number, **options)
    ring.add_transfer(0x1000 * number, 0x10 * number, number, **options)
  end

  it "holds one less than it has slots, and says where head and tail are" do
    expect([ring.size, ring.capacity, ring.pending, ring.head, ring.tail]).to eq [4, 3, 0, 0, 0]
    expect([ring.empty?, ring.full?]).to eq [true, false]
    expect([add(1), add(2), add(3)]).to eq [0, 1, 2]
    expect([ring.pending, ring.head, ring.tail, ring.full?, ring.empty?]).to eq [3, 0, 3, true, false]
    expect(ring.inspect).to eq "#<DMA::Ring 3/3>"
    expect(ring.to_a.map(&:source)).to eq [0x1000, 0x2000, 0x3000]
  end

  it "has descriptors of 40 bytes in memory, little-endian, as a device fetches them" do
    add(3, direction: :from_device, interrupt: true, fence: true)
    expect(ring.address % 4096).to eq 0
    expect(slots(ring)[0, 40].unpack("Q<Q<L<L<Q<L<")).to eq [0x3000, 0x30, 3, 0x02 | 0x04 | 0x08, 0, 0]
    expect(slots(ring)[40..]).to eq "\0" * 120
    expect(ring[0].to_a).to eq [0x3000, 0x30, 3, 0x0e, 0, :pending, 0]
    expect(add(1)).to eq 1
    expect(add(1, direction: :within)).to eq 2
    expect([ring[1].flags, ring[2].flags]).to eq [0x01, 0x03]
  end

  it "raises 'Descriptor ring full' and leaves every slot as it was" do
    3.times { |n| add(n + 1) }
    before = slots(ring)
    expect { add(9) }.to raise_error(DMA::RingFullError, /\ADescriptor ring full.*3 of 3 are taken/)
    expect([slots(ring), ring.pending, ring.tail]).to eq [before, 3, 3]
    ring.complete(1)
    before = slots(ring)
    expect { add(9) }.to raise_error(DMA::RingFullError)
    expect(slots(ring)).to eq before
  end

  it "takes off what has ended in order, and never past one that has not" do
    3.times { |n| add(n + 1) }
    expect { ring.complete(1, :poisoned) }.to raise_error(ArgumentError, /poisoned/)
    ring.complete(1, :data_poison)
    ring.complete(2)
    expect(ring.process_completions).to eq 0
    expect([ring.head, ring.pending]).to eq [0, 3]
    ring.complete(0)
    seen = []
    expect(ring.process_completions { |descriptor| seen << descriptor }).to eq 3
    expect(seen.map { |one| [one.index, one.length, one.status] })
      .to eq [[0, 1, :complete], [1, 2, :data_poison], [2, 3, :complete]]
    expect([ring.head, ring.tail, ring.empty?]).to eq [3, 3, true]
  end

  it "goes round, for ever, whatever the order in which a device ends" do
    random = Random.new(3)
    added = 0
    taken = []
    rounds(500).times do
      (added += 1) && add(added) until ring.full?
      waiting = ring.to_a.select { |one| one.status == :pending }
      waiting.sample(random.rand(1..3), random: random).each { |one| ring.complete(one.index) }
      ring.process_completions { |one| taken << one.length }
    end
    expect(taken).to eq (1..taken.size).to_a
    expect([added - taken.size, taken.size]).to match [ring.pending, be >= rounds(500)]
  end

  it "refuses sizes that hold nothing, slots that it has not, and statuses that end nothing" do
    [0, 1].each { |size| expect { described_class.new(size) }.to raise_error(ArgumentError, /at least 2/) }
    expect { described_class.new(-1) }.to raise_error(ArgumentError)
    expect { described_class.new(nil) }.to raise_error(ArgumentError)
    expect { ring[4] }.to raise_error(ArgumentError, /outside a descriptor ring of 4/)
    expect { ring.complete(0) }.to raise_error(ArgumentError, /no pending descriptor/)
    add(1)
    expect { ring.complete(0, :pending) }.to raise_error(ArgumentError)
    expect { ring.complete(0, :nonsense) }.to raise_error(ArgumentError, /nonsense/)
    expect { ring.complete(1) }.to raise_error(ArgumentError)
    expect(ring.complete(0)).to equal ring
    expect { ring.complete(0) }.to raise_error(ArgumentError)
    expect { add(1, direction: :up) }.to raise_error(ArgumentError, /:within/)
    expect { ring.add_transfer(DMA::Buffer.new(1), 0, 1) }.to raise_error(TypeError, /map it first/)
    expect { ring.add_transfer(-1, 0, 1) }.to raise_error(ArgumentError)
    expect { ring.add_transfer(0, 0, 1 << 32) }.to raise_error(ArgumentError, /2\*\*32/)
    expect(ring.pending).to eq 1
  end

  describe "submitted to a channel" do
    let(:device) { DMA::Device.open(:sim, clock: :manual, memory: 1 << 20) }
    let(:channel) { device.channel }
    let(:buffer) { guarded(sample(9000)) }
    let(:mapping) { device.map(buffer) }

    after { device.close }

    it "moves exactly its bytes through exactly its bus addresses, and has its statuses written back" do
      ring.add_transfer(mapping.address + 10, 0x100, 300)
      ring.add_transfer(mapping, 0x1000, 8)
      transfer = nil
      trace = device.sim.trace { transfer = channel.submit(ring).wait }
      expect([transfer.status, transfer.bytes, transfer.size]).to eq [:complete, 308, 308]
      moved = trace.select { |event| event.what == :to_device }.map { |event| [event.address, event.length] }
      expect(moved).to eq [[mapping.address + 10, 256], [mapping.address + 266, 44], [mapping.address, 8]]
      expect(trace.count { |event| event.what == :fetch }).to eq 3 # the channel's own, and the two
      expect(device.read_dma(300, at: 0x100)).to eq sample(9000)[10, 300]
      expect(device.read_dma(8, at: 0x1000)).to eq sample(9000)[0, 8]
      expect(device.read_dma(0x100)).to eq "\0" * 0x100
      expect(ring.to_a.map(&:status)).to eq %i[complete complete]
      expect(ring.process_completions).to eq 2
      expect([buffer.get_string, guards_whole?]).to eq [sample(9000), true]
    end

    it "carries each descriptor out once, however often it is submitted" do
      rounds(20).times do |n|
        ring.add_transfer(mapping.address + n, 64 * n, 64)
        expect(channel.submit(ring).wait.bytes).to eq 64
        ring.process_completions if n % 3 == 2
        expect(device.read_dma(64, at: 64 * n)).to eq sample(9000)[n, 64]
      end
      expect(channel.stats).to include(failed: 0, bytes: rounds(20) * 128)
    end

    it "is refused while it is under way, without anything to do, and by what fetches no descriptors" do
      expect { channel.submit(ring) }.to raise_error(ArgumentError, /no descriptor of the ring is pending/)
      expect { channel.enqueue(ring) }.to raise_error(TypeError, /Ring/)
      ring.add_transfer(mapping, 0, 64)
      transfer = channel.submit(ring)
      expect { channel.submit(ring) }.to raise_error(DMA::BusyError, /under way|submitted/)
      expect(transfer.wait.status).to eq :complete
      expect { channel.submit(ring) }.to raise_error(ArgumentError, /pending/)
      DMA::Device.open(scratch_file("file", "x")) do |file|
        ring.add_transfer(0, 0, 1)
        expect { file.channel.submit(ring) }.to raise_error(DMA::UnsupportedError, /fetches no descriptors/)
      end
    end

    it "stops at the first failure, and says of each descriptor what came of it" do
      ring.add_transfer(mapping, 0, 64)
      ring.add_transfer(1 << 40, 64, 64)
      ring.add_transfer(mapping, 128, 64)
      transfer = channel.submit(ring)
      expect { transfer.wait }.to raise_error(DMA::FaultError) { |e| expect(e.address).to eq 1 << 40 }
      expect(transfer.bytes).to eq 64
      expect(ring.to_a.map(&:status)).to eq %i[complete iommu_fault not_attempted]
      expect(device.read_dma(192)).to eq sample(9000)[0, 64] + ("\0" * 128)
    end

    it "is let alone once its transfer was cancelled, and can be submitted again" do
      machine = DMA::Sim.new(clock: :manual)
      busy = machine.device(memory: 1 << 20)
      mapped = busy.map(buffer)
      busy.write_dma(buffer)
      2.times { |n| ring.add_transfer(mapped, 64 * n, 64) }
      expect(busy.channel.submit(ring).cancel.status).to eq :aborted
      again = busy.channel.submit(ring)
      seen = []
      machine.step(8) && ring.process_completions { |descriptor| seen << descriptor.status } until again.done?
      expect([again.status, seen]).to eq [:complete, %i[complete complete]]
    end

    it "goes from one device to another, also where the first is gone" do
      rounds(10).times do
        DMA::Device.open(:sim, memory: 4096) do |other|
          other.map(buffer) { |mapped| ring.add_transfer(mapped, 0, 64) && other.channel.submit(ring).wait }
          expect(other.read_dma(64)).to eq sample(9000)[0, 64]
          ring.process_completions
        end
        GC.start
      end
    end

    it "lives as long as its transfer, whoever forgets it" do
      transfer = Thread.new do
        own = described_class.new(4)
        own.add_transfer(device.map(DMA::Buffer.new(64)), 0, 64)
        channel.submit(own)
      end.value
      GC.start
      transfer.wait rescue nil # rubocop:disable Style/RescueModifier -- the mapping may be gone, the ring is not
      expect(transfer.status).to eq(:complete).or eq(:iommu_fault)
    end

    it "is described by configure_transfer with real values" do
      configuration = device.configure_transfer(buffer, 0x2000, 9000)
      expect(configuration.keys).to eq %i[descriptor_ring source_phys dest_phys byte_count flags]
      expect(configuration[:flags].keys).to eq %i[interrupt_on_completion scatter_gather coherent]
      expect(configuration[:flags]).to eq(interrupt_on_completion: true, scatter_gather: false, coherent: true)
      own = configuration[:descriptor_ring]
      expect(own.to_a.map { |one| [one.source, one.destination, one.length, one.flags] })
        .to eq [[configuration[:source_phys], 0x2000, 9000, 0x05]]
      expect(configuration).to include(dest_phys: 0x2000, byte_count: 9000, source_phys: own.mappings.first.address)
      expect(device.read_dma(9000, at: 0x2000)).to eq "\0" * 9000
      expect(channel.submit(own).wait.bytes).to eq 9000
      expect(device.read_dma(9000, at: 0x2000)).to eq sample(9000)
    end

    it "is described for memory that the CPU and the device see alike, whatever the machine" do
      [{ coherent: false }, { iommu: false, ram: 64 << 20 }].each do |options|
        narrow = DMA::Sim.new(clock: :manual, **options).device(memory: 1 << 16, address_bits: 24)
        there = narrow.configure_transfer(buffer, 0, 9000)
        buffer.set_string("later")
        narrow.channel.submit(there[:descriptor_ring]).wait
        expect(narrow.pio_read(9000)).to eq "later#{sample(9000)[5..]}"
        back = narrow.configure_transfer(0, memory = DMA::Buffer.new(9000), 9000)
        memory.get_string
        narrow.channel.submit(back[:descriptor_ring]).wait
        expect(memory.get_string).to eq buffer.get_string
        expect([there, back].map { |one| one[:flags][:coherent] }).to eq [true, true]
      end
    end

    it "says where the memory of a mapping is to be synced" do
      device = DMA::Sim.new(clock: :manual, coherent: false).device
      kinds = %i[coherent streaming].map { |type| device.map(DMA::Buffer.new(100), type: type) }
      expect(kinds.map { |one| device.configure_transfer(one, 0, 100)[:flags][:coherent] }).to eq [true, false]
    end

    it "is described for the way from the device and within it, and for mapped memory" do
      device.write_dma(sample(100)).wait
      back = device.configure_transfer(0, mapping, 100)
      expect([back[:source_phys], back[:dest_phys]]).to eq [0, mapping.address]
      channel.submit(back[:descriptor_ring]).wait
      expect(buffer.get_string(0, 101)).to eq sample(100) + sample(9000)[100]
      within = device.configure_transfer(0, 0x500, 100)
      expect(within[:descriptor_ring][0].flags & 3).to eq 3
      channel.submit(within[:descriptor_ring]).wait
      expect(device.read_dma(100, at: 0x500)).to eq sample(100)
      expect { device.configure_transfer(buffer, buffer, 10) }.to raise_error(ArgumentError, /both/)
      expect { device.configure_transfer(buffer, 0, 9001) }.to raise_error(ArgumentError, /9001/)
      expect { device.configure_transfer(buffer, 0, 0) }.to raise_error(ArgumentError)
      expect { device.configure_transfer(mapping, 0, 9001) }.to raise_error(ArgumentError, /9001/)
    end

    it "has a descriptor for each piece where memory is scattered" do
      DMA::Device.open(:sim, iommu: false, memory: 1 << 20) do |scattered|
        configuration = scattered.configure_transfer(buffer, 0, 9000)
        own = configuration[:descriptor_ring]
        expect(own.pending).to be > 1
        expect(configuration[:flags][:scatter_gather]).to be true
        expect(own.to_a.map { |one| [one.source, one.length] }).to eq own.mappings.first.segments
        expect(own.to_a.map { |one| one.flags & 0x04 }.sum).to eq 0x04
        expect(scattered.channel.submit(own).wait.bytes).to eq 9000
        expect(scattered.read_dma(9000)).to eq sample(9000)
      end
    end
  end
end
