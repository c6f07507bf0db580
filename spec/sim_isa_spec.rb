# frozen_string_literal: true

# The two 8237 of an AT: as a textbook programs them, through their ports, and as the driver does.
RSpec.describe DMA::Sim, "controller: :isa" do
  let(:sim) { described_class.new(clock: :manual, bus: :isa, seed: 3) }
  let(:dev) { sim.device(controller: :isa, memory: 1 << 20) }
  let(:ports) { dev.registers }

  # Ports of each channel: address, count, page; those of its controller: mask, mode, clear flip-flop.
  let(:channels) do
    narrow = [0x87, 0x83, 0x81, 0x82].each_with_index.map { |page, n| [2 * n, (2 * n) + 1, page, 0x0a, 0x0b, 0x0c] }
    wide = [0x8f, 0x8b, 0x89, 0x8a].each_with_index.map do |page, n|
      [0xc0 + (4 * n), 0xc2 + (4 * n), page, 0xd4, 0xd6, 0xd8]
    end
    narrow + wide
  end

  # Modes.
  let(:single) { 0x40 }
  let(:block) { 0x80 }
  let(:to_memory) { 0x04 }
  let(:from_memory) { 0x08 }
  let(:autoinitialize) { 0x10 }
  let(:decrement) { 0x20 }

  after { dev.close }

  # The low byte, then the high one.
  def write_word(port, value)
    ports.write8(port, value & 0xff)
    ports.write8(port, (value >> 8) & 0xff)
  end

  # The textbook's sequence.
  def program(channel, mode, address, transfers)
    at, count, page, mask, modes, flip_flop = channels[channel]
    number = channel % 4
    ports.write8(mask, 4 | number)
    ports.write8(flip_flop, 0)
    ports.write8(modes, mode | number)
    write_word(at, channel < 4 ? address : address >> 1)
    ports.write8(page, address >> 16)
    write_word(count, transfers - 1)
    ports.write8(mask, number)
  end

  # The card asks, and everything happens: how many cycles that took.
  def ask(channel, control, address, count)
    card = 0x300 + (0x10 * channel)
    ports.write32(card, address)
    ports.write32(card + 4, count)
    ports.write32(card + 8, 0x10 | control)
    sim.run_until_idle
  end

  def to_device(channel, address, count, control = 0)
    ask(channel, 0x01 | control, address, count)
  end

  def from_device(channel, address, count, control = 0)
    ask(channel, 0x02 | control, address, count)
  end

  def status(channel)
    ports.read32(0x30c + (0x10 * channel))
  end

  def count(channel)
    ports.write8(channels[channel][5], 0)
    ports.read8(channels[channel][1]) | (ports.read8(channels[channel][1]) << 8)
  end

  # Memory that the controllers reach as long as the example runs, and its address.
  def mapped(bytes)
    buffer = DMA::Buffer.new(bytes.bytesize).tap { |memory| memory.set_string(bytes) }
    @mapping = dev.map(buffer)
    [buffer, @mapping.address]
  end

  [1, 3, 5, 7].each do |channel|
    it "moves a block by channel #{channel}, programmed through its ports, and nothing beside it" do
      width = channel < 4 ? 1 : 2
      buffer, address = mapped("\xee".b * 8192)
      dev.pio_write(sample(4096), at: 0)
      program(channel, block | to_memory, address + 1000, 2000 / width)
      from_device(channel, 96, 2000)
      expect(buffer.get_string).to eq(("\xee".b * 1000) + sample(4096)[96, 2000] + ("\xee".b * 5192))
      expect([status(channel), count(channel)]).to eq [0x0a, 0xffff]

      buffer.set_string(sample(8192, 5))
      program(channel, single | from_memory, address, 500 / width)
      to_device(channel, 5000, 500)
      expect(dev.pio_read(520, at: 4990)).to eq(("\0".b * 10) + sample(8192, 5)[0, 500] + ("\0".b * 10))
    end
  end

  it "gives memory addresses below 16 MiB that pass no 64 KiB, or begin at them" do
    [1, 4096, 65_536, 200_000].each do |size|
      dev.map(DMA::Buffer.new(size)) do |mapping|
        first = mapping.address
        last = first + size - 1
        expect(mapping.segments).to eq [[first, size]]
        expect(last).to be < 1 << 24
        expect(size > 65_536 ? first % 65_536 : (first / 65_536) - (last / 65_536)).to eq 0
      end
    end
  end

  { 2 => 1 << 16, 6 => 1 << 17 }.each do |channel, page|
    it "wraps at the end of a page of #{page >> 10} KiB on channel #{channel}" do
      buffer, address = mapped("\xee".b * (1 << 18))
      base = (address + page - 1) / page * page
      dev.pio_write(sample(512), at: 0)
      program(channel, block | to_memory, base + page - 256, channel < 4 ? 512 : 256)
      from_device(channel, 0, 512)
      expected = "\xee".b * (1 << 18)
      expected[base - address + page - 256, 256] = sample(512)[0, 256]
      expected[base - address, 256] = sample(512)[256, 256]
      expect(buffer.get_string).to eq expected
    end
  end

  it "stops at the terminal count, whatever the card asks for, and the status tells it once" do
    _, address = mapped("x" * 4096)
    program(1, single | from_memory, address, 100)
    to_device(1, 0, 300)
    expect(dev.pio_read(101, at: 0)).to eq "#{"x" * 100}\0"
    expect([status(1), ports.read32(0x314)]).to eq [0x0a, 200]
    expect(Array.new(2) { ports.read8(0x08) & 0x0f }).to eq [2, 0]
    to_device(1, 0, 10)
    expect(status(1)).to eq 0x01
  end

  it "begins anew at the terminal count where it is autoinitialized" do
    _, address = mapped(sample(100))
    program(3, single | from_memory | autoinitialize, address, 100)
    to_device(3, 0, 350, 0x04)
    expect(dev.pio_read(350, at: 0)).to eq (sample(100) * 4)[0, 350]
    expect([count(3), dev.stats[:terminal_counts]]).to eq [49, 3]
  end

  it "goes downwards" do
    buffer, address = mapped("\xee".b * 300)
    dev.pio_write(sample(100), at: 0)
    program(0, block | to_memory | decrement, address + 199, 100)
    from_device(0, 0, 100)
    expect(buffer.get_string).to eq(("\xee".b * 100) + sample(100).reverse + ("\xee".b * 100))
  end

  it "copies memory to memory, and fills it from an address that is held" do
    buffer, address = mapped(sample(4096))
    ports.write8(0x08, 0x01)
    program(0, block | from_memory, address, 300)
    program(1, block | to_memory, address + 2000, 300)
    ports.write8(0x09, 0x04)
    expect(sim.run_until_idle).to eq 2 * 8 * 300
    expected = sample(4096).tap { |bytes| bytes[2000, 300] = bytes[0, 300] }
    expect([buffer.get_string, ports.read8(0x0d)]).to eq [expected, expected.getbyte(299)]

    ports.write8(0x08, 0x03)
    program(0, block | from_memory, address + 7, 1)
    program(1, block | to_memory, address + 1000, 500)
    ports.write8(0x09, 0x04)
    sim.run_until_idle
    expected[1000, 500] = expected[7] * 500
    expect(buffer.get_string).to eq expected
  end

  it "serves channels 0 to 3 through channel 4 of the other controller, and them only" do
    _, address = mapped("x" * 4096)
    ports.write8(0xd4, 0x04)
    program(1, block | from_memory, address, 100)
    expect([to_device(1, 0, 100), status(1)]).to eq [0, 0x01]
    program(5, block | from_memory, address, 50)
    to_device(5, 200, 100)
    expect(status(5)).to eq 0x0a
    ports.write8(0xd4, 0x00)
    sim.run_until_idle
    expect(status(1)).to eq 0x0a
  end

  it "serves the lowest channel first, or each in turn where priority rotates" do
    _, address = mapped("x" * 64)
    served = [0x00, 0x10].map do |command|
      ports.write8(0x08, command)
      4.times { |channel| program(channel, single | from_memory, address, 3) }
      # All ask before the first is served.
      cards = 3.downto(0).map { |channel| 0x300 + (0x10 * channel) }
      cards.each do |card|
        ports.write32(card + 4, 3)
        ports.write32(card + 8, 0x11)
      end
      sim.trace { sim.run_until_idle }.select { |event| event.what == :to_device }.map(&:channel)
    end
    expect(served).to eq [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], [0, 1, 2, 3] * 3]
  end

  it "takes four clocks of the controller for a single transfer, three in a block, fewer where timing is compressed" do
    _, address = mapped("x" * 4096)
    cycles = [0x00, 0x08].product([single, block]).map do |command, mode|
      ports.write8(0x08, command)
      program(1, mode | from_memory, address, 200)
      to_device(1, 0, 200)
    end
    expect(cycles).to eq [8 * 200, 2 + (6 * 200), 6 * 200, 2 + (4 * 200)]
  end

  it "has registers as the data sheet says: flip-flop, masks, modes, what is read, what a master clear clears" do
    [0x34, 0x12].each { |byte| ports.write8(0x00, byte) }
    expect([ports.read8(0x00), ports.read8(0x00)]).to eq [0x34, 0x12]
    ports.write8(0x00, 0x56)
    ports.write8(0x0c, 0)
    expect(ports.read8(0x00)).to eq 0x56
    ports.write8(0x0d, 0)
    expect(ports.read8(0x00)).to eq 0x56
    expect([ports.read8(0x0a), ports.read8(0x10), ports.read16(0x80)]).to eq [0xff, 0xff, 0]
    ports.write16(0x82, 0x1234)
    expect([ports.read8(0x82), ports.read8(0x83), ports.size]).to eq [0x34, 0x12, 0x400]
  end

  describe "the driver" do
    it "moves any memory, in pieces of 64 KiB through an area below 16 MiB, and tells what it cost" do
      data = sample(300_000)
      dev.write_dma(data, at: 100).wait
      expect(dev.stats).to include(bounced_bytes: 300_000, programmings: 5, terminal_counts: 5, mappings: 1)
      expect(dev.stats[:port_writes]).to be_between(60, 70)
      expect(dev.read_dma(300_000, at: 100, channel: 2)).to eq data
      expect(dev.stats).to include(bounced_bytes: 600_000, programmings: 10, bytes: 600_000)
    end

    it "does not bounce what is mapped, and moves words by channels 5 to 7, in pieces of 128 KiB" do
      buffer, = mapped(sample(300_000))
      dev.channel(6).submit(source: buffer, destination: 0).wait
      expect(dev.stats).to include(bounced_bytes: 0, programmings: be_between(3, 4))
      buffer.set_string("\0".b * 300_000)
      expect(dev.read_dma(300_000, into: buffer, channel: 7).get_string).to eq sample(300_000)
      expect(dev.stats[:bounced_bytes]).to eq 0
      expect { dev.channel(6).submit(source: buffer, destination: 1, length: 2) }.to raise_error(DMA::AlignmentError)
      expect { dev.write_dma("odd", channel: 6) }.to raise_error(DMA::AlignmentError, /multiples of 2/)
    end

    it "says what there is, and refuses what there is not" do
      expect(dev.capabilities).to include(channels: 8, address_bits: 24, iommu: false, alignment: 1,
                                          word_channels: [5, 6, 7], operations: %i[read write])
      expect { dev.channel(4) }.to raise_error(ArgumentError, /cascade/)
      { channels: 2, alignment: 4, max_segments: 1 }.each do |name, value|
        expect { sim.device(controller: :isa, name => value) }
          .to raise_error(ArgumentError, /#{name}: #{value} .* 8 channels.*leave #{name}: out/)
      end
      expect { dev.map(DMA::Buffer.new(16 << 20, lock: false)) }
        .to raise_error(Errno::ENOSPC, /map 16777216 bytes .* 24 address bits: it reaches 16773120 .*map less/)
      expect { sim.device(controller: :isa, mode: :transparent) }.to raise_error(ArgumentError, /single mode/)
      expect { sim.device(controller: :isb) }.to raise_error(ArgumentError, /:isa/)
    end

    it "leaves a CPU the bus between single transfers, and not in demand mode" do
      stalls = %i[burst cycle_stealing].to_h do |mode|
        sim = described_class.new(clock: :manual, bus: :isa, cpu_load: 0.5)
        sim.device(controller: :isa, mode: mode).write_dma("x" * 4096).wait
        sim.step
        [mode, sim.stats[:cpu_stall_cycles]]
      end
      expect(stalls[:burst]).to be > 10 * stalls[:cycle_stealing]
    end

    it "ends as the faults of the machine say, and works again after a reset" do
      sim.inject(:bus_error, address: 70_000)
      failed = dev.write_dma("x" * 100_000)
      expect { failed.wait }.to raise_error(DMA::TransferError, /bus read error/)
      expect([failed.bytes, dev.pio_read(2, at: 69_999)]).to eq [70_000, "x\0"]
      sim.inject(:link_down)
      expect { dev.write_dma("x").wait }.to raise_error(DMA::TransferError, /link down/)
      expect(ports.read8(0x08)).to eq 0xff
      expect(dev.reset.write_dma("y").wait.status).to eq :complete
    end

    it "goes on when the CPU has time for the interrupt of each piece" do
      bytes = sample(150_000, 5)
      cycles, slow = [{}, { entry: 1_000_000, exit: 500_000, deferred: 0 }].map do |cost|
        sim = described_class.new(clock: :manual, bus: :isa, seed: 3, interrupt_cost: cost)
        device = sim.device(controller: :isa)
        device.write_dma(bytes).wait
        expect(device.pio_read(150_000, width: 8)).to eq bytes
        expect(sim.stats[:interrupts]).to eq 3
        sim.cycles - (sim.bus[:beat] * 75_000) # programmed I/O comes on top
      end
      # Three pieces, each of which waits a millisecond, 8,000 cycles; and the CPU leaves the handler before the next.
      expect(slow - cycles).to be_between(3 * 8000, 3 * 12_000)
    end

    it "refuses a ring, for it fetches no descriptors" do
      ring = DMA::Ring.new(2).tap { |one| one.add_transfer(0, 8, 8, direction: :within) }
      expect { sim.device(controller: :isa).channel.submit(ring) }
        .to raise_error(DMA::UnsupportedError, /8237s, which fetch no descriptors/)
    end

    it "interrupts for each piece, and coalesces none" do
      expect { sim.device(controller: :isa, coalesce: :adaptive) }.to raise_error(ArgumentError, /coalesce/)
    end

    it "aborts what waits for its interrupt, and goes on with the next" do
      sim = described_class.new(clock: :manual, bus: :isa, interrupt_cost: { entry: 1_000_000_000 })
      device = sim.device(controller: :isa)
      first = device.write_dma("a" * 1000)
      sim.step(100_000)
      first.cancel
      device.write_dma("b" * 500, at: 100).wait
      expect(first.status).to eq :aborted
      expect(device.pio_read(500, at: 100)).to eq "b" * 500
    end

    it "is written down in a trace, with terminal counts" do
      events = sim.trace { dev.write_dma("x" * 300, channel: 3).wait }
      expect(events.map { |event| [event.channel, event.what, event.length] })
        .to eq [[3, :to_device, 256], [3, :to_device, 44], [3, :terminal_count, 0], [3, :interrupt, 0]]
    end
  end
end
