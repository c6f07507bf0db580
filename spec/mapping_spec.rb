# frozen_string_literal: true

require "fiddle"

RSpec.describe DMA::Mapping do
  let(:device) { DMA::Device.open(:sim, memory: 1 << 20) }
  let(:buffer) { DMA::Buffer.new(8192, lock: false).tap { |buffer| buffer.set_string(sample(8192)) } }

  after { device.close }

  # A transfer by the registers of channel 3, as a driver would do it, and the status that it ended with.
  def transfer_by_registers(source:, destination:, length:, direction:)
    registers = device.registers
    base = 0x100 + (3 * 0x40)
    registers.write64(base, source)
    registers.write64(base + 8, destination)
    registers.write32(base + 0x10, length)
    registers.write16(base + 0x14, direction | 0x100)
    registers.poll(base + 0x14, mask: 1 << 16, value: 0, timeout: 60) >> 24
  end

  complete = 1
  iommu_fault = 8

  it "is what the device reaches memory by, as long as it lives" do
    mapping = device.map(buffer)
    expect(mapping.segments).to eq [[mapping.address, 8192]]
    expect([mapping.size, mapping.buffer, mapping.device]).to eq [8192, buffer, device]
    expect([mapping.type, mapping.direction, mapping.unmapped?]).to eq [:coherent, :bidirectional, false]
    at = mapping.address
    status = transfer_by_registers(source: at + 100, destination: 0, length: 5000, direction: 1)
    expect([status, device.read_dma(5000)]).to eq [complete, sample(8192)[100, 5000]]
    buffer.clear
    expect(transfer_by_registers(source: 0, destination: at + 3000, length: 5000, direction: 2)).to eq complete
    expect(buffer.get_string).to eq "#{"\0" * 3000}#{sample(8192)[100, 5000]}#{"\0" * 192}"
    expect(device.stats).to include(mappings: be_positive, iommu_faults: 0)
  end

  it "stays until a transfer of it has ended, though nobody else keeps it" do
    machine = DMA::Sim.new(clock: :manual)
    one = machine.device(memory: 8192)
    one.pio_write(sample(8192))
    elements = ->(places) { places.map { |at| { source: at, destination: one.map(buffer.slice(at, 9)) } } }
    buffer.clear
    transfers = [[0], [100, 300], [200]].map { |places| Thread.new { one.channel.submit(elements.call(places)) }.value }
    3.times { GC.start }
    machine.run_until_idle
    expect(transfers.map(&:status)).to eq [:complete] * 3
    expect([0, 100, 200, 300].map { |at| buffer.get_string(at, 9) == sample(8192)[at, 9] }).to all be true
  end

  it "leaves its memory to the buffer once it is taken away, which gives it back when it is freed" do
    memory = DMA::Buffer.new(8 << 20, lock: false)
    at = memory.address
    mapping = device.map(memory).unmap
    memory.free
    ranges = File.foreach("/proc/self/maps").map { |line| Range.new(*line[/\S+/].split("-").map(&:hex), true) }
    expect([mapping.unmapped?, ranges.any? { |range| range.cover?(at) }]).to eq [true, false]
  end

  it "leaves nothing at its address once it is taken away: a fault, and memory untouched" do
    mapping = device.map(buffer)
    at = mapping.address
    expect(mapping.unmap).to equal mapping
    expect(mapping.unmap).to be_unmapped
    expect(transfer_by_registers(source: 0, destination: at, length: 8192, direction: 2)).to eq iommu_fault
    expect(transfer_by_registers(source: at + 4096, destination: 0, length: 10, direction: 1)).to eq iommu_fault
    expect(buffer.get_string).to eq sample(8192)
    expect(device.stats).to include(iommu_faults: 2, faults: [{ address: at, access: :write },
                                                              { address: at + 4096, access: :read }])
    expect(device.registers.read64(0x100 + (3 * 0x40) + 0x30)).to eq at + 4096
    calls = [-> { mapping.address }, -> { mapping.segments }, -> { mapping.sync_for_cpu }, lambda {
                                                                                             mapping.sync_for_device
                                                                                           },
             -> { device.write_dma(mapping) }, -> { device.read_dma(into: mapping) }]
    calls.each { |call| expect(&call).to raise_error(DMA::MisuseError, /taken away/) }
    expect(mapping.inspect).to match(/unmapped/)
  end

  it "lets go of addresses that a ring of configure_transfer has: a fault, and memory untouched" do
    mapping = device.map(buffer)
    ring = device.configure_transfer(0x4000, mapping, 8192)[:descriptor_ring]
    mapping.unmap
    transfer = device.channel.submit(ring)
    at = ring[0].destination
    expect { transfer.wait }.to raise_error(DMA::FaultError) { |e| expect([e.address, e.access]).to eq [at, :write] }
    expect([transfer.status, transfer.fault]).to eq [:iommu_fault, [at, :write]]
    expect(device.stats[:faults]).to eq [{ address: at, access: :write }]
    expect(buffer.get_string).to eq sample(8192)
  end

  it "moves up to its last byte, and not one past it" do
    mapping = device.map(buffer.slice(0, 5000))
    at = mapping.address
    expect(transfer_by_registers(source: 0, destination: at, length: 5001, direction: 2)).to eq iommu_fault
    expect(device.stats[:faults].last).to eq(address: at + 5000, access: :write)
    expect(buffer.get_string(5000)).to eq sample(8192)[5000..]
    expect(transfer_by_registers(source: at - 1, destination: 0, length: 1, direction: 1)).to eq iommu_fault
  end

  it "lets bytes through in its direction only" do
    to = device.map(buffer, type: :streaming, direction: :to_device)
    from = device.map(buffer, type: :streaming, direction: :from_device)
    expect(transfer_by_registers(source: 0, destination: to.address, length: 10, direction: 2)).to eq iommu_fault
    expect(transfer_by_registers(source: from.address, destination: 0, length: 10, direction: 1)).to eq iommu_fault
    expect(device.stats[:faults].map { |fault| fault[:access] }).to eq %i[write read]
    expect(buffer.get_string).to eq sample(8192)
    expect { device.read_dma(into: to) }.to raise_error(DMA::MisuseError, /lets the device read/)
    expect { device.write_dma(from) }.to raise_error(DMA::MisuseError, /lets the device write/)
    expect(device.write_dma(to).wait.bytes).to eq 8192
    expect(device.read_dma(into: from)).to equal from
  end

  it "has a type and a direction that go together" do
    expect { device.map(buffer, type: :warm) }.to raise_error(ArgumentError, /:coherent, :streaming, :consistent/)
    expect { device.map(buffer, direction: :up) }.to raise_error(ArgumentError, /:to_device, :from_device/)
    expect { device.map(buffer, type: :consistent, direction: :to_device) }.to raise_error(ArgumentError, /both/)
    mapping = device.map(buffer, type: :consistent)
    expect([mapping.type, mapping.direction]).to eq %i[consistent bidirectional]
    expect(mapping.sync_for_device.sync_for_cpu(100, 8092)).to equal mapping
    expect { mapping.sync_for_cpu(100, 8093) }.to raise_error(ArgumentError, /8192/)
    expect { mapping.sync_for_device(8193) }.to raise_error(ArgumentError)
    expect { device.map(buffer, 8193) }.to raise_error(ArgumentError, /8192/)
    expect { device.map(DMA::Buffer.new(0)) }.to raise_error(ArgumentError)
  end

  it "ends with its block, whatever ends that" do
    kept = []
    expect(device.map(buffer) { |mapping| (kept << mapping) && 7 }).to eq 7
    expect { device.map(buffer) { |mapping| (kept << mapping) && raise(KeyError) } }.to raise_error(KeyError)
    expect(kept).to all be_unmapped
    expect(buffer.free).to be_freed
  end

  it "keeps the memory from being freed" do
    mapping = device.map(buffer)
    expect { buffer.free }.to raise_error(DMA::BusyError)
    mapping.unmap
    expect(buffer.free).to be_freed
    expect { device.map(buffer) }.to raise_error(DMA::ClosedError)
  end

  it "has a handle that no other one has" do
    handles = Array.new(rounds(100)) { device.map(buffer, &:handle) }
    expect(handles.uniq).to eq handles
  end

  it "takes memory that exists already, by address and size" do
    pointer = Fiddle::Pointer.malloc(6000, Fiddle::RUBY_FREE)
    pointer[0, 6000] = sample(6000)
    device.map(pointer.to_i, 6000) do |mapping|
      expect(mapping.address % 4096).to eq pointer.to_i % 4096
      status = transfer_by_registers(source: mapping.address, destination: 0, length: 6000, direction: 1)
      expect([status, device.read_dma(6000)]).to eq [complete, sample(6000)]
    end
    device.map(pointer) { |mapping| expect([mapping.size, mapping.direction]).to eq [6000, :bidirectional] }
    expect { device.map(pointer.to_i) }.to raise_error(ArgumentError, /size/)
    expect { device.map("a String") }.to raise_error(TypeError, /String/)
    expect(pointer[0, 6000]).to eq sample(6000)
  end

  # What a process of its own has locked, in KiB, each time that the code says `note`.
  def locked(code)
    in_ruby(<<~RUBY).split.map(&:to_i)
      NOTES = []
      def note
        NOTES << File.read("/proc/self/status")[/^VmLck:\\s*(\\d+)/, 1].to_i
      end
      device = DMA::Device.open(:sim, memory: 4096)
      memory = DMA::Buffer.new(40 * 4096, lock: false)
      #{code}
      puts NOTES
    RUBY
  end

  it "locks its pages as long as it lives, and those of several until the last" do
    notes = locked(<<~RUBY)
      note
      first = device.map(memory.slice(0, 30 * 4096))
      note
      second = device.map(memory.slice((20 * 4096) + 5, (19 * 4096) + 1))
      note
      first.unmap
      note
      second.unmap
      note
    RUBY
    expect(notes.map { |note| (note - notes.first) / 4 }).to eq [0, 30, 40, 20, 0]
  end

  it "leaves pages locked that belong to a locked buffer, though it came to them by a pointer" do
    notes = locked(<<~RUBY)
      buffer = DMA::Buffer.new(8192, lock: true)
      note
      device.map(buffer.address, 8192).unmap
      note
    RUBY
    expect(notes).to eq [8, 8]
  end

  it "lets go of its pages and its addresses when it is collected" do
    pages, mappings = locked(<<~RUBY)
      100.times { |n| Thread.new { device.map(memory.slice(4096 * (n % 40), 4096)) }.join }
      GC.start
      note
      NOTES << device.stats[:mappings]
    RUBY
    expect([pages, mappings]).to match [be <= 12, be <= 3]
  end

  it "is refused past the limit of locked memory, with the figures" do
    output = unprivileged(<<~RUBY)
      device = DMA::Device.open(:sim, memory: 4096)
      begin
        device.map(DMA::Buffer.new(1 << 20, lock: false))
      rescue DMA::LockLimitError => e
        puts e.message
      end
      puts device.stats[:mappings]
      puts device.map(DMA::Buffer.new(4096, lock: false)).size
    RUBY
    expect(output).to match(/1048576.*65536.*\n0\n4096\n/m)
  end

  describe "without an IOMMU" do
    def scattered(seed)
      DMA::Device.open(:sim, iommu: false, seed: seed, memory: 2 << 20) do |dev|
        dev.map(DMA::Buffer.new(1 << 20, lock: false)) { |mapping| yield dev, mapping }
      end
    end

    it "has pieces that lie apart, cover all of it, and are the same for the same seed" do
      segments = scattered(5) { |_, mapping| mapping.segments }
      expect(segments.sum(&:last)).to eq 1 << 20
      expect(segments.size).to be > 200
      expect(segments.map(&:first).uniq.size).to eq segments.size
      expect(scattered(5) { |_, mapping| mapping.segments }).to eq segments
      expect(scattered(6) { |_, mapping| mapping.segments }).not_to eq segments
    end

    it "is reached piece by piece, and nothing is behind the first" do
      scattered(5) do |dev, mapping|
        mapping.buffer.set_string(unstressed { sample(1 << 20) })
        expect(dev.write_dma(mapping).wait.bytes).to eq 1 << 20
        expect(dev.read_dma(1 << 20) == mapping.buffer.get_string).to be true
        ring = dev.configure_transfer(mapping, 0, 1 << 20)[:descriptor_ring]
        expect(ring.to_a.map { |one| [one.source, one.length] }).to eq mapping.segments
      end
    end
  end

  it "has the memory's own address where a file reaches it, and serves transfers of the file" do
    DMA::Device.open(scratch_file("file", "\0" * 16_384)) do |file|
      mapping = file.map(buffer.slice(100, 5000))
      expect([mapping.address, mapping.segments]).to eq [buffer.address + 100, [[buffer.address + 100, 5000]]]
      expect { buffer.free }.to raise_error(DMA::BusyError)
      file.write_dma(mapping, at: 4000).wait
      expect(file.read_dma(5002, at: 3999)).to eq "\0#{sample(8192)[100, 5000]}\0"
      expect { file.map(DMA::Buffer.new(0)) }.to raise_error(ArgumentError, /one byte/)
      expect { file.configure_transfer(buffer, 0, 10) }.to raise_error(DMA::UnsupportedError, /fetches no descriptors/)
      mapping.unmap
    end
    expect(buffer.free).to be_freed
  end

  it "is found by its bus address, as drivers of the kernel find it" do
    others = [DMA::Device.open(:sim).map(buffer), device.map(DMA::Buffer.new(64))]
    mapping = device.map(buffer, type: :streaming, direction: :to_device)
    at = mapping.address
    expect([device.sync_for_device(at), device.sync_for_cpu(at + 8191, 1), device.sync_for_cpu(at, 9000)]).to all be_nil
    later = device.map(buffer)
    expect { device.unmap(at + 1) }.to raise_error(DMA::MisuseError, /nothing is mapped at .*#{(at + 1).to_s(16)}/)
    [at, later.address].each { |address| expect(device.unmap(address, 8192, direction: :to_device)).to be_nil }
    expect([mapping, later, *others].map(&:unmapped?)).to eq [true, true, false, false]
    expect { device.unmap(at) }.to raise_error(DMA::MisuseError, /never mapped, or has been unmapped/)
    expect { device.sync_for_cpu(at) }.to raise_error(DMA::MisuseError)
    expect { device.unmap("here") }.to raise_error(ArgumentError)
  end

  it "is the one of that size and direction, of several at one address" do
    DMA::Device.open(scratch_file("file", "x")) do |file|
      large = file.map(buffer)
      small = file.map(buffer.slice(0, 64), type: :streaming, direction: :to_device)
      file.unmap(large.address, 8192)
      expect([large, small].map(&:unmapped?)).to eq [true, false]
      large = file.map(buffer)
      file.unmap(small.address, direction: :to_device)
      expect([large, small].map(&:unmapped?)).to eq [false, true]
    end
  end

  it "is for transfers of its device, whoever has that open, and of no other" do
    other = device.sim.device
    [other, DMA::Device.open(:sim)].each do |stranger|
      mapping = stranger.map(buffer)
      expect { device.write_dma(mapping) }.to raise_error(DMA::MisuseError, /is of #{stranger.name}.* give the buffer/)
      expect { device.read_dma(into: mapping) }.to raise_error(DMA::MisuseError)
      expect(stranger.write_dma(mapping).wait.status).to eq :complete
    end
    DMA::Sim.attach("/mapped")
    one, same = Array.new(2) { DMA::Device.open("/mapped") }
    expect(same.write_dma(one.map(buffer)).wait.status).to eq :complete
  ensure
    DMA::Sim.detach("/mapped")
  end

  it "ends with its device, and lets go of the memory" do
    buffer = DMA::Buffer.new(4096)
    mapping = DMA::Device.open(:sim) { |device| device.map(buffer) }
    expect(mapping).to be_unmapped
    expect { mapping.sync_for_device }.to raise_error(DMA::MisuseError, /device closed/)
    expect(buffer.free).to be_freed
  end
end
