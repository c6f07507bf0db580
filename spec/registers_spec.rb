# frozen_string_literal: true

RSpec.describe DMA::Registers do
  let(:device) { DMA::Device.open(:sim, clock: :manual, channels: 2, memory: 65_536) }
  let(:registers) { device.registers }
  let(:sim) { device.sim }
  let(:buffer) { DMA::Buffer.new(4096).tap { |buffer| buffer.set_string(sample(4096)) } }
  let(:mapping) { device.map(buffer) }

  after { device.close }

  # Registers of channel 1.
  source = 0x140
  destination = 0x148
  count = 0x150
  control = 0x154
  status = 0x156
  position = 0x158
  to_device = 1
  from_device = 2
  interrupt = 4
  start = 0x100
  abort = 0x200
  busy = 1
  done = 2
  error = 4

  define_method(:set_up) do |from: mapping.address, to: 0x1000, bytes: 4096, flags: to_device|
    registers.write64(source, from)
    registers.write64(destination, to)
    registers.write32(count, bytes)
    registers.write16(control, flags | start)
  end

  # The error code of the transfer that the registers describe, once it is over.
  define_method(:run) do |**options|
    set_up(**options)
    sim.run_until_idle
    expect(registers.read16(status) & 0xff).to eq(registers.read16(status) >> 8 == 1 ? done : error)
    registers.read16(status) >> 8
  end

  it "says what the device is" do
    expect(registers.read32(0x00)).to eq 0x444d4131
    expect(registers.read32(0x04)).to eq 2
    expect(registers.read64(0x08)).to eq 65_536
    expect([registers.read32(0x08), registers.read16(0x0a), registers.read8(0x0a)]).to eq [65_536, 1, 1]
    expect(registers.read32(0x10)).to eq 1
    expect(registers.size).to eq 0x180
    expect(device.registers).to equal registers
  end

  it "carries a transfer out as a driver would, and shows how far it is" do
    set_up
    expect(registers.read16(status)).to eq busy
    expect([registers.read32(count), registers.read32(position)]).to eq [4096, 0]
    sim.step(1 + (256 / 8) + (256 / 8))
    expect([registers.read32(count), registers.read32(position)]).to eq [4096 - 512, 512]
    expect(registers.read16(status)).to eq busy
    expect(registers.poll(control, mask: busy << 16, value: 0) >> 16).to eq done | (1 << 8)
    expect([registers.read32(count), registers.read32(position)]).to eq [0, 4096]
    expect(device.read_dma(4096, at: 0x1000)).to eq sample(4096)
    buffer.clear
    expect(run(from: 0x1000, to: mapping.address + 96, bytes: 4000, flags: from_device)).to eq 1
    expect(buffer.get_string).to eq "#{"\0" * 96}#{sample(4096)[0, 4000]}"
    expect(run(from: 0x1000, to: 0x1010, bytes: 4000, flags: to_device | from_device)).to eq 1
    expect(device.read_dma(4000, at: 0x1010)).to eq sample(4096)[0, 4000]
  end

  it "raises the interrupt of the channel where it is asked to" do
    trace = sim.trace { run }
    expect(trace.map(&:what)).to include(:status).and exclude_interrupts
    expect(sim.trace { run(flags: to_device | interrupt) }.map(&:what)).to end_with(:status, :interrupt)
  end

  def exclude_interrupts
    satisfy { |events| !events.include?(:interrupt) }
  end

  it "says with a code what was wrong" do
    code = %i[pending complete aborted timed_out not_attempted bad_source bad_destination bad_length iommu_fault
              bus_read_error bus_write_error data_poison descriptor_error link_down].each_with_index.to_h
    expect(run(to: 65_536 - 4095)).to eq code[:bad_destination]
    expect(run(from: 65_536, to: mapping.address, flags: from_device)).to eq code[:bad_source]
    expect(run(bytes: 0)).to eq code[:bad_length]
    expect(run(flags: 0)).to eq code[:descriptor_error]
    expect(run(from: 1 << 40)).to eq code[:iommu_fault]
    expect(registers.read64(0x170)).to eq 1 << 40
    { bus_error: :bus_read_error, poison: :data_poison, iommu_fault: :iommu_fault }.each do |kind, name|
      sim.inject(kind)
      expect(run).to eq code[name]
    end
    expect(device.read_dma(4096, at: 0x1000)).to eq "\0" * 4096
    expect(run).to eq code[:complete]
  end

  it "aborts what it began, and resets" do
    sim.inject(:hang)
    set_up
    sim.run_until_idle
    expect(registers.read16(status)).to eq busy
    registers.write16(control, abort)
    expect(registers.read16(status)).to eq error | (2 << 8)
    expect(run).to eq 1
    registers.write32(0x14, 1)
    expect(run).to eq 1
  end

  it "answers with all ones while the link is down, until the device is reset" do
    sim.inject(:link_down)
    set_up
    sim.run_until_idle
    expect([registers.read8(0), registers.read16(0), registers.read32(0)]).to eq [0xff, 0xffff, 0xffff_ffff]
    expect(registers.read64(8)).to eq (2**64) - 1
    expect(registers.read32(0x10)).to eq 0
    registers.write32(0x14, 1)
    expect([registers.read32(0x10), registers.read32(0)]).to eq [1, 0x444d4131]
    expect(run).to eq 1
  end

  it "holds 8, 16, 32 and 64 bits, little-endian, each at its own width" do
    expect(registers.write64(source, 0x8877_6655_4433_2211)).to eq 0x8877_6655_4433_2211
    expect(Array.new(8) { |n| registers.read8(source + n) }).to eq [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]
    registers.write8(source + 7, 0xff)
    registers.write16(source + 4, 0xabcd)
    registers.write32(source, 0)
    expect(registers.read64(source)).to eq 0xff77_abcd_0000_0000
  end

  it "refuses values that do not fit, other addresses than multiples of the width, and what lies outside" do
    expect { registers.write8(source, 256) }.to raise_error(RangeError, /256 does not fit .* 8 bits/)
    expect { registers.write16(source, 1 << 16) }.to raise_error(RangeError)
    expect { registers.write32(source, 1 << 32) }.to raise_error(RangeError)
    expect { registers.write64(source, 1 << 64) }.to raise_error(RangeError)
    expect { registers.write32(source, -1) }.to raise_error(RangeError, /-1/)
    expect { registers.write32(source, "1") }.to raise_error(TypeError)
    expect { registers.read16(1) }.to raise_error(DMA::AlignmentError, /multiple of 2/)
    expect { registers.read32(2) }.to raise_error(DMA::AlignmentError, /multiple of 4/)
    expect { registers.write64(4, 0) }.to raise_error(DMA::AlignmentError, /multiple of 8/)
    expect { registers.read8(0x180) }.to raise_error(ArgumentError, /outside the 0x180 bytes/)
    expect { registers.read64(0x17c) }.to raise_error(ArgumentError, /outside/)
    expect { registers.read32(-4) }.to raise_error(ArgumentError)
    expect { registers.read32((2**64) - 4) }.to raise_error(StandardError)
    expect(registers.read64(source)).to eq 0
  end

  describe "#poll" do
    it "steps a machine with a manual clock, and gives up at once when that has nothing left to do" do
      set_up
      expect(registers.poll(control, mask: done << 16, value: done << 16) >> 16).to eq done | (1 << 8)
      expect { registers.poll(control, mask: error << 16, value: error << 16) }
        .to raise_error(DMA::TimeoutError, /0x154 is 0x\h+, and its bits 0x40000 did not become 0x40000 by .*nothing/)
    end

    it "counts its timeout in simulated time" do
      before = sim.cycles
      expect { registers.poll(0, mask: 1, value: 0, timeout: 3600) }
        .to raise_error(DMA::TimeoutError, /register 0x0 is 0x444d4131, and its bits 0x1 .* become 0x0 within 3600 s/)
      expect(sim.cycles - before).to be_within(1000).of(3_600_000_000_000)
      set_up
      expect { registers.poll(control, mask: busy << 16, value: 0, timeout: 1e-7) }.to raise_error(DMA::TimeoutError)
      expect(registers.read16(status)).to eq busy
      expect(registers.poll(control, mask: busy << 16, value: 0, timeout: 1) >> 24).to eq 1
    end

    it "returns at once what is there already" do
      before = sim.cycles
      expect(registers.poll(0, mask: 0xff, value: 0x31)).to eq 0x444d4131
      expect(sim.cycles).to eq before
    end

    it "lets other threads run on a machine with a free clock, and can be interrupted" do
      DMA::Device.open(:sim) do |free|
        counted = 0
        thread = Thread.new { free.registers.poll(0, mask: 1, value: 0, interval: 0.0001) }
        thread.report_on_exception = false
        rounds(100).times { counted += 1 }
        expect { free.registers.poll(0, mask: 1, value: 0, timeout: 0.01) }.to raise_error(DMA::TimeoutError)
        expect([counted, thread.alive?]).to eq [rounds(100), true]
        thread.raise(KeyError)
        expect { thread.join(60) }.to raise_error(KeyError)
      end
    end
  end

  it "starts many transfers, each of which arrives" do
    rounds(100).times do |n|
      buffer.set_string(sample(64, n))
      expect(run(to: 64 * n, bytes: 64)).to eq 1
      expect(device.read_dma(64, at: 64 * n)).to eq sample(64, n)
    end
  end

  it "fetches what a chained descriptor leads to, and then the next of the ring" do
    fields = %i[u64 u64 u32 u32 u64 u32]
    ring = DMA::Buffer.new(4096)
    descriptors = device.map(ring)
    at = descriptors.address
    ring.set_values(fields, 0, [mapping.address, 0, 100, to_device | 0x10, at + 400, 0])
    ring.set_values(fields, 40, [mapping.address + 300, 300, 100, to_device, at + 400, 0])
    ring.set_values(fields, 400, [mapping.address + 1000, 1000, 100, to_device, 0, 0])
    registers.write64(0x160, at)
    registers.write32(0x168, 4)
    fetched = sim.trace { registers.write32(0x16c, 2) && sim.run_until_idle }.select { |event| event.what == :fetch }
    expect(fetched.map { |event| event.address - at }).to eq [0, 400, 40]
    expect([0, 40, 400].map { |slot| ring.get_value(:u32, slot + 32) }).to eq [1, 1, 1]
    expect([0, 300, 1000].map { |place| device.read_dma(100, at: place) == sample(4096)[place, 100] }).to all be(true)
  end

  it "are none of a file" do
    DMA::Device.open(scratch_file("file", "x")) do |file|
      expect { file.registers }.to raise_error(DMA::UnsupportedError, /no registers/)
    end
  end
end
