# frozen_string_literal: true

# Memory without an IOMMU: its size, where it is free, and what a device does not reach or not say.
RSpec.describe DMA::Sim, "without an IOMMU" do
  # What the lowest addresses are kept for, of 64 MiB.
  zone = 16 << 20

  include Support::PhysicalMemory

  let(:sim) { machine }
  let(:device) { sim.device(memory: 1 << 20) }

  describe "ram:" do
    it "gives pages from all of it but the lowest quarter, up to 16 MiB, and others with another seed" do
      memory = DMA::Buffer.new(8 << 20)
      runs = [7, 7, 8].map { |seed| machine(seed: seed).device.map(memory).segments }
      expect(runs[0]).to eq runs[1]
      expect(runs[0]).not_to eq runs[2]
      expect(runs[0].sum(&:last)).to eq 8 << 20
      expect(runs.flatten(1).map(&:first)).to all be_between(zone, (64 << 20) - 4096)
      expect(machine(ram: 4 << 20).device.map(DMA::Buffer.new(4096)).address).to be_between(1 << 20, 4 << 20)
    end

    it "has memory of the machine's own where nothing is mapped, which keeps what devices write" do
      [4096 + 3, zone + (5 << 20), (64 << 20) - 10].each do |address|
        expect(peek(device, address, 10)).to eq "\0" * 10
        expect(poke(device, address, "0123456789")).to eq :complete
        expect(peek(device, address - 2, 12)).to eq "\0\x000123456789"
      end
      expect(poke(device, (64 << 20) - 10, "0123456789a")).to eq :bus_write_error
      expect(peek(device, 64 << 20, 1)).to eq :bus_read_error
    end

    it "has that also in the rest of a page whose first bytes are mapped, and nothing of the process" do
      memory = buffer("secret" * 1000)
      mapping = device.map(memory.slice(0, 100))
      page = mapping.address - (mapping.address % 4096)
      expect(peek(device, mapping.address, 100)).to eq ("secret" * 1000)[0, 100]
      expect(peek(device, page + 100, 3996)).to eq "\0" * 3996
      poke(device, page + 90, "x" * 20)
      expect(memory.get_string(0, 6000)).to eq "#{("secret" * 1000)[0, 90]}#{"x" * 10}#{("secret" * 1000)[100..]}"
    end

    it "leaves in a page what was there when its mapping ends, and gives it to the next one first" do
      first = buffer("a" * 8192)
      address, = device.map(first, &:segments).map(&:first)
      expect(peek(device, address, 4)).to eq "aaaa"
      first.set_string("b" * 8192)
      expect(peek(device, address, 4)).to eq "aaaa"
      second = buffer("c" * 8192)
      mapping = device.map(second)
      expect(mapping.address).to eq address
      expect(poke(device, address + 1, "stale")).to eq :complete
      expect(second.get_string(0, 8)).to eq "cstalecc"
      expect(first.get_string(0, 8)).to eq "bbbbbbbb"
    end

    it "is an error once it is full, with a way out, and is not any more when mappings end" do
      small = machine(ram: 1 << 20)
      dev = small.device(ring_size: 4, max_segments: 4)
      mapping = dev.map(DMA::Buffer.new(768 << 10))
      expect { dev.map(DMA::Buffer.new(1)) }.to raise_error(Errno::ENOSPC, /no page .* is free.*ram:/)
      expect { dev.channel.submit(source: 0, destination: DMA::Buffer.new(1)).wait }
        .to raise_error(DMA::TransferError, /the device has no address for this memory; let transfers end/)
      mapping.unmap
      more = dev.map(DMA::Buffer.new(1 << 20, lock: false), exception: false)
      expect(more.error.message).to match(/the last 64 of its 256 pages/)
      expect(more.inspect).to end_with("failed: Errno::ENOSPC>")
      expect(dev.map(DMA::Buffer.new(1)).size).to eq 1
    end

    it "moves whatever a transfer is of, in pieces, byte for byte, on either clock" do
      %i[free manual].each do |clock|
        dev = described_class.new(clock: clock, iommu: false, ram: 32 << 20).device(memory: 4 << 20)
        data = sample((3 << 20) + 5)
        dev.write_dma(data, at: 77).wait
        expect(dev.read_dma(data.bytesize, at: 77)).to eq data
      end
    end

    it "is refused where it cannot be" do
      expect { machine(ram: 5000) }.to raise_error(ArgumentError, /ram: 5000 bytes are no whole pages/)
      expect { machine(ram: 1 << 48) }.to raise_error(Errno::ENOMEM, /ram: #{1 << 48}; give the machine less/)
      expect { machine(iommu: true) }.to raise_error(ArgumentError, /give iommu: false/)
    end

    it "is not there where it is not asked for: what was unmapped is a bus error" do
      dev = described_class.new(clock: :manual, iommu: false).device
      address = dev.map(buffer("abc"), &:address)
      expect(peek(dev, address, 1)).to eq :bus_read_error
      expect(poke(dev, address, "x")).to eq :bus_write_error
    end
  end

  describe "fragmentation:" do
    let(:sim) { described_class.new(clock: :manual, iommu: false, fragmentation: 0.5, seed: 3) }
    let(:data) { sample(1 << 20) }

    it "has nothing in one piece that is large, and says how large the largest is" do
      expect { device.map(buffer(data), contiguous: true) }.to raise_error(Errno::ENOMEM) { |error|
        expect(error.message).to match(/cannot map 1048576 bytes .* need 256 free pages/)
        pages, bytes = error.message.match(/largest run in reach has (\d+) pages \((\d+) bytes\)/).captures.map(&:to_i)
        expect([pages.between?(8, 30), bytes]).to eq [true, pages * 4096]
        expect(error.message).to include("leave contiguous: out").and include("scatter-gather")
        expect(device.map(DMA::Buffer.new(bytes), contiguous: true).segments.size).to eq 1
      }
    end

    it "has scatter-gather, which gathers every byte, and descriptors where nothing is fragmented" do
      [0.5, 0.95].each do |fragmentation|
        dev = described_class.new(clock: :manual, iommu: false, fragmentation: fragmentation).device(memory: 2 << 20)
        mapping = dev.map(buffer(data), type: :streaming, direction: :to_device)
        expect(mapping.segments.size).to be > 100
        expect(dev.channel.submit(source: mapping, destination: 9).wait.status).to eq :complete
        expect(dev.read_dma(1 << 20, at: 9)).to eq data
      end
    end

    it "has nothing at all where others occupy all of it" do
      full = described_class.new(iommu: false, fragmentation: 1).device
      expect { full.map(DMA::Buffer.new(1)) }.to raise_error(Errno::ENOSPC, /no page of physical memory/)
    end
  end

  describe "contiguous:" do
    it "is one segment of a memory that has room, and moves every byte" do
      data = sample(300_000)
      mapping = device.map(buffer(data), contiguous: true)
      expect(mapping.segments).to eq [[mapping.address, 300_000]]
      device.channel.submit(source: mapping, destination: 0).wait
      expect(device.pio_read(300_000)).to eq data
    end

    it "is what every mapping behind an IOMMU is, and there is room without ram:" do
      [described_class.new, described_class.new(iommu: false)].each do |sim|
        expect(sim.device.map(DMA::Buffer.new(1 << 20), contiguous: true).segments.size).to eq 1
      end
    end

    it "is refused for memory that is mapped in pieces" do
      memory = DMA::Buffer.new(1 << 20)
      device.map(memory) do
        expect { device.map(memory, contiguous: true) }.to raise_error(Errno::ENOMEM, /mapped already, in pieces/)
      end
    end
  end

  describe "a device that does not reach all of it (address_bits:)" do
    let(:device) { sim.device(memory: 1 << 20, address_bits: 24) }
    let(:data) { sample(10_000) }
    let(:memory) { buffer(data) }

    def map(type: :streaming, direction: :bidirectional)
      device.map(memory, type: type, direction: direction)
    end

    it "has a buffer's transfers bounced, byte for byte, and the CPU's words for it counted" do
      near = sim.device(memory: 1 << 20)
      data = sample(4000)
      words = [near, device].map do |dev|
        before = sim.stats[:cpu_operations]
        dev.channel.submit(source: buffer(data), destination: 3).wait
        back = DMA::Buffer.new(4000)
        dev.channel.submit(source: 3, destination: back).wait
        expect(back.get_string).to eq data
        sim.stats[:cpu_operations] - before
      end
      # What a device writes to is copied twice: before, so that nothing of others is in the slot, and after.
      expect([near, device].map { |dev| dev.stats[:bounced_bytes] }).to eq [0, 12_000]
      expect(words[1] - words[0]).to eq 12_000 / 8
    end

    it "finds a streaming mapping in slots that it reaches, in one direction as in both" do
      %i[to_device from_device bidirectional].each do |direction|
        mapping = map(direction: direction)
        expect(mapping.segments.map(&:first)).to all be < zone
        expect(peek(device, mapping.address, 10_000)).to eq data
        mapping.unmap
      end
      expect(memory.get_string).to eq data
    end

    it "sees what the CPU writes once that is synced, the range and no more" do
      mapping = map(direction: :to_device)
      memory.set_string("z" * 10_000)
      expect(peek(device, mapping.address, 10_000)).to eq data
      mapping.sync_for_device(4000, 300)
      expect(peek(device, mapping.address, 10_000)).to eq data[0, 4000] + ("z" * 300) + data[4300..]
      poke(device, mapping.address, "never seen")
      mapping.sync_for_cpu.unmap
      expect(memory.get_string).to eq "z" * 10_000
      expect(device.stats[:bounced_bytes]).to eq 10_300
    end

    it "is seen once what it wrote is synced, the range and no more, or unmapped; what it did not write stays" do
      mapping = map(direction: :from_device)
      poke(device, mapping.address + 4090, "w" * 20)
      expect(memory.get_string).to eq data
      mapping.sync_for_cpu(4090, 10)
      expect(memory.get_string).to eq data[0, 4090] + ("w" * 10) + data[4100..]
      mapping.unmap
      expect(memory.get_string).to eq data[0, 4090] + ("w" * 20) + data[4110..]
      expect(device.stats[:bounced_bytes]).to eq 20_010
    end

    it "leaves nothing of a slot's last user in the next one's memory" do
      map.unmap
      other = DMA::Buffer.new(10_000)
      device.map(other, type: :streaming, direction: :from_device) { |mapping| poke(device, mapping.address, "new") }
      expect(other.get_string).to eq "new#{"\0" * 9997}"
    end

    it "has coherent memory placed in reach, unless it is elsewhere already" do
      mapping = map(type: :coherent)
      expect(mapping.segments.map(&:first)).to all be < zone
      poke(device, mapping.address, "at once")
      expect(memory.get_string(0, 7)).to eq "at once"
      expect(device.stats[:bounced_bytes]).to eq 0
      mapping.unmap
      sim.device.map(memory) do
        refused = /more address bits uses the same memory.*streaming/
        expect { map(type: :coherent) }.to raise_error(Errno::ENOSPC, refused)
        expect(map.size).to eq 10_000
      end
    end

    it "bounces those pages only that it does not reach" do
      device = sim.device(memory: 4096, address_bits: 25)
      mapping = device.map(DMA::Buffer.new(4 << 20), type: :streaming)
      expect(mapping.segments.map(&:first)).to all be < 1 << 25
      expect(device.stats[:bounced_bytes]).to be_between(2 << 20, 3 << 20)
    end

    it "is told when no slot is left, and gets one when a mapping ends" do
      small = machine(ram: 4 << 20)
      device = small.device(memory: 4096, address_bits: 20, ring_size: 4, max_segments: 4)
      mapping = device.map(DMA::Buffer.new(1000 << 10), type: :streaming)
      expect { device.map(DMA::Buffer.new(100 << 10), type: :streaming) }
        .to raise_error(Errno::ENOSPC,
                        /the 1044480 bytes of bounce buffers for them, .*, only 20480 are free; let/)
      expect(small.device.map(DMA::Buffer.new(100 << 10), type: :streaming).size).to eq 100 << 10
      mapping.unmap
      expect(device.map(DMA::Buffer.new(100 << 10), type: :streaming).size).to eq 100 << 10
    end

    it "copies what the CPU sees, and leaves that in a cache which does not follow devices" do
      sim = machine(coherent: false)
      near, far = [48, 24].map { |bits| sim.device(memory: 1 << 20, address_bits: bits) }
      cached = near.map(memory, type: :streaming)
      memory.set_string("dirty", 100)
      mapping = far.map(memory, type: :streaming)
      expect(peek(far, mapping.address + 95, 15)).to eq "#{data[95, 5]}dirty#{data[105, 5]}"
      poke(far, mapping.address + 200, "written")
      mapping.sync_for_cpu(200, 7)
      mapping.sync_for_cpu(210, 1)
      expect(memory.get_string(190, 30)).to eq "#{data[190, 10]}written#{data[207, 13]}"
      mapping.unmap
      expect(memory.get_string(90, 120)).to eq "#{data[90, 10]}dirty#{data[105, 95]}written#{data[207, 3]}"
      cached.sync_for_device
      expect(peek(near, cached.address + 100, 5)).to eq "dirty"
    end

    it "leaves what the CPU has of the lines around it in its cache, also where the device is to write" do
      sim = machine(coherent: false)
      near, far = [48, 24].map { |bits| sim.device(memory: 1 << 20, address_bits: bits) }
      cached = near.map(memory, type: :streaming, direction: :to_device)
      memory.set_string("before")
      mapping = far.map(memory.slice(10, 20), type: :streaming, direction: :from_device)
      memory.set_string("after", 30)
      poke(far, mapping.address, "w" * 20)
      mapping.sync_for_cpu
      memory.set_string("-", 6)
      mapping.unmap
      expect(memory.get_string(0, 40)).to eq "before-#{data[7, 3]}#{"w" * 20}after#{data[35, 5]}"
      cached.unmap
      expect(memory.get_string(0, 40)).to eq "before-#{data[7, 3]}#{"w" * 20}after#{data[35, 5]}"
    end

    it "copies nothing where the memory is in another machine's cache" do
      other = described_class.new(clock: :manual, coherent: false)
      cached = other.device(memory: 1 << 20).map(memory, type: :streaming)
      far = machine(coherent: false).device(memory: 1 << 20, address_bits: 24)
      expect { far.map(memory, type: :streaming) }.to raise_error(DMA::BusyError, /another simulated machine/)
      expect(other.cache.lines(memory).map { |line| line[:valid] }).to all be false
      expect([far.stats[:bounced_bytes], cached.size]).to eq [0, 10_000]
    end

    it "with 8237s bounces as ever, and maps in one piece below 16 MiB" do
      card = sim.device(controller: :isa)
      card.write_dma(data, at: 5).wait
      expect(card.read_dma(10_000, at: 5)).to eq data
      mapping = card.map(memory)
      expect([mapping.segments.size, mapping.address < zone]).to eq [1, true]
      expect(card.stats[:bounced_bytes]).to eq 20_000
      card.channel.submit(source: mapping, destination: 77).wait
      expect([card.pio_read(10_000, at: 77), card.stats[:bounced_bytes]]).to eq [data, 20_000]
    end
  end

  describe "misaligned: :truncate" do
    let(:device) { sim.device(memory: 1 << 16, alignment: 64, misaligned: :truncate) }

    it "drops the low bits of addresses, in the device and in memory, and nobody is told" do
      expect(device.capabilities).to include(alignment: 1, memory_alignment: 1, strict: false)
      expect(device.write_dma("abcdefgh", at: 133).wait.status).to eq :complete
      expect(device.pio_read(16, at: 128)).to eq "abcdefgh#{"\0" * 8}"
      data = sample(1000)
      address = device.map(buffer(data)).address
      expect(peek(device, address + 70, 100)).to eq data[64, 100]
      expect(poke(device, address + 127, "wrong place")).to eq :complete
      expect(peek(device, address + 64, 20)).to eq "wrong place#{data[75, 9]}"
    end

    it "does so in every piece of a longer transfer" do
      memory = buffer(sample(9000))
      expect(device.channel.submit(source: memory.slice(64, 8900), destination: 64 + 9).wait.status).to eq :complete
      expect(device.pio_read(4032, at: 64)).to eq memory.get_string(64, 4032)
    end

    it "is for devices with an alignment" do
      expect { sim.device(misaligned: :truncate) }.to raise_error(ArgumentError, /the alignment:, which is 1/)
    end

    it "is refused by default" do
      strict = sim.device(memory: 1 << 16, alignment: 64)
      expect { strict.write_dma("a" * 64, at: 133) }.to raise_error(DMA::AlignmentError)
    end
  end
end
