# frozen_string_literal: true

require "fiddle"

RSpec.describe DMA::Device do
  let(:device) { described_class.open(:sim, memory: 8 << 20) }

  after { device.close }

  describe ".open" do
    it "closes after its block, whatever ends that, and returns its value" do
      kept = []
      expect(described_class.open(:sim) { |dev| (kept << dev) && :value }).to eq :value
      expect { described_class.open(:sim) { |dev| (kept << dev) && raise(KeyError) } }.to raise_error(KeyError)
      expect(described_class.open(:sim) { |dev| break kept << dev }.size).to eq 3
      expect(kept).to all be_closed
      expect(device).not_to be_closed
      expect(described_class.new(:sim)).to be_a(described_class)
    end

    it "gives options to the machine and to the device" do
      described_class.open(:sim, clock: :manual, iommu: false, seed: 9, memory: 8192, channels: 2, ring_size: 4,
                                 alignment: 8, address_bits: 40, max_segments: 3) do |dev|
        expect([dev.sim.clock, dev.sim.iommu?, dev.sim.seed]).to eq [:manual, false, 9]
        expect(dev.capabilities).to include(
          engine: :sim, size: 8192, channels: 2, ring_size: 4, capacity: 3, alignment: 8, memory_alignment: 8,
          strict: true, address_bits: 40, max_segments: 3, iommu: false, clock: :manual, operations: %i[read write copy]
        )
      end
    end

    it "refuses options that nobody knows, and values out of range, with the range" do
      expect { described_class.open(:sim, colour: 1) }.to raise_error(ArgumentError, /colour/)
      expect { described_class.open(:sim, clock: :fast) }.to raise_error(ArgumentError, /:free, :manual/)
      expect { described_class.open(:sim, iommu: 1) }.to raise_error(ArgumentError, /iommu/)
      expect { described_class.open(:sim, seed: -1) }.to raise_error(ArgumentError, /seed/)
      expect { described_class.open(:sim, ring_size: 1) }.to raise_error(ArgumentError, /2\.\.65536/)
      expect { described_class.open(:sim, channels: 0) }.to raise_error(ArgumentError, /1\.\.256/)
      expect { described_class.open(:sim, alignment: 3) }.to raise_error(DMA::AlignmentError, /power of two/)
      expect { described_class.open(:sim, address_bits: 49) }.to raise_error(ArgumentError, /16\.\.48/)
      expect { described_class.open(:sim, memory: 0) }.to raise_error(ArgumentError, /memory/)
      expect { described_class.open(scratch_file("f", "x"), seed: 1) }.to raise_error(ArgumentError, /Sim\.attach/)
    end

    it "says what it cannot drive, and what is not there" do
      expect { described_class.open("ffff:ff:1f.7") }.to raise_error(Errno::ENODEV, /ffff:ff:1f\.7.*DMA::Device\.list/)
      expect { described_class.open("ffff:ff:1f.7", direct: false) }.to raise_error(ArgumentError, /direct/)
      File.mkfifo(fifo = scratch_file("fifo"))
      expect { described_class.open(fifo) }.to raise_error(DMA::UnsupportedError, /neither a regular file nor a device/)
      expect { described_class.open(scratch) }.to raise_error(Errno::EISDIR, /#{scratch}/)
      expect { described_class.open(File.join(scratch, "none")) }.to raise_error(Errno::ENOENT, /none/)
      expect { described_class.open(nil) }.to raise_error(TypeError)
      expect { described_class.open(:sims) }.to raise_error(TypeError, /:sims is no device.*:sim/)
    end
  end

  describe ".list" do
    it "names every PCI function, and says of each that it is ready, or what to do about it" do
      list = described_class.list
      addresses = Dir.glob("/sys/bus/pci/devices/*").map { |path| File.basename(path) }
      expect(list.map { |function| function[:address] }).to eq addresses.sort
      list.each do |function|
        expect(function.keys).to eq %i[address vendor device class driver iommu_group ready missing remedy]
        expect(function.values_at(:missing, :remedy).map(&:nil?)).to eq [function[:ready]] * 2
      end
    end
  end

  it "has interrupts to wait for only where it is a PCI function, and one bank of registers elsewhere" do
    expect { device.wait_interrupt(0, timeout: 0) }.to raise_error(DMA::UnsupportedError, /no interrupts to wait for/)
    expect { device.registers(:config) }.to raise_error(ArgumentError, /one bank of registers, number 0/)
    expect { device.registers(1) }.to raise_error(ArgumentError, /number 0/)
  end

  describe "#write_dma and #read_dma" do
    let(:bytes) { sample(3000) }

    # Writes it, and checks what came to lie in the device.
    def expect_written(data, expected = bytes)
      device.write_dma("\xFF".b * 4096, at: 0).wait
      transfer = device.write_dma(data, at: 100)
      expect(transfer.wait.bytes).to eq expected.bytesize
      expect(device.read_dma(4096)).to eq "#{"\xFF".b * 100}#{expected}#{"\xFF".b * (3996 - expected.bytesize)}"
    end

    it "write a String, which may be changed at once, and is left as it is" do
      string = bytes.dup
      device.sim.inject(:hang)
      hung = device.write_dma("")
      transfer = device.write_dma(string, at: 5)
      string.replace("other")
      hung.wait
      device.reset
      device.sim.clear_faults
      expect(transfer.status).to eq(:aborted).or eq(:complete)
      frozen = bytes.dup.freeze
      expect_written(frozen)
      expect_written("grün — ✓", "grün — ✓".b)
      expect_written("x" * 3000, "x" * 3000)
    end

    it "write a buffer, a slice of one, and mapped memory, and leave them as they are" do
      whole = guarded(bytes)
      expect_written(whole)
      expect_written(whole.slice(500, 700), bytes[500, 700])
      device.map(whole, type: :streaming, direction: :to_device) { |mapping| expect_written(mapping) }
      expect(whole.get_string).to eq bytes
      expect(guards_whole?).to be true
    end

    it "write an IO::Buffer: a view of a buffer in place, any other by a copy" do
      view = DMA::Buffer.new(3000).tap { |buffer| buffer.set_string(bytes) }.view
      expect_written(view)
      own = IO::Buffer.new(3000)
      own.set_string(bytes)
      expect_written(own)
      expect(own.get_string).to eq bytes
    end

    it "read a String of exactly the bytes asked for, in binary, each a new one" do
      device.write_dma(bytes, at: 7).wait
      first = device.read_dma(3000, at: 7)
      second = device.read_dma(2999, at: 8)
      expect([first, second]).to eq [bytes, bytes[1..]]
      expect([first.encoding, first.frozen?]).to eq [Encoding::BINARY, false]
      first << "more"
      expect(device.read_dma(3000, at: 7)).to eq bytes
    end

    it "read into a buffer, a slice, mapped memory and an IO::Buffer, which comes back, and no byte beside it" do
      device.write_dma(bytes).wait
      target = guarded(3000)
      expect(device.read_dma(into: target)).to equal target
      expect(target.get_string).to eq bytes
      target.clear
      part = target.slice(1000, 500)
      expect(device.read_dma(200, at: 5, into: part)).to equal part
      expect(target.get_string).to eq "#{"\0" * 1000}#{bytes[5, 200]}#{"\0" * 1800}"
      device.map(target, type: :streaming, direction: :from_device) { |mapping| device.read_dma(into: mapping) }
      expect(target.get_string).to eq bytes
      expect(guards_whole?).to be true
      [IO::Buffer.new(3000), DMA::Buffer.new(3000).view].each do |io_buffer|
        expect(device.read_dma(3000, into: io_buffer)).to equal io_buffer
        expect(io_buffer.get_string).to eq bytes
      end
    end

    it "refuse what is no memory, no size, too large a size, or outside the device" do
      expect { device.write_dma(5) }.to raise_error(StandardError)
      expect { device.write_dma(nil) }.to raise_error(TypeError, /NilClass/)
      expect { device.write_dma("x", at: -1) }.to raise_error(ArgumentError, /at must be/)
      expect { device.write_dma("x", at: 8 << 20) }.to raise_error(ArgumentError, /outside the device's 8388608 bytes/)
      expect { device.read_dma }.to raise_error(ArgumentError, /size/)
      expect { device.read_dma(-1) }.to raise_error(ArgumentError, /size/)
      expect { device.read_dma(1.5) }.to raise_error(ArgumentError, /size/)
      expect { device.read_dma((8 << 20) + 1) }.to raise_error(ArgumentError, /outside/)
      expect { device.read_dma(11, into: DMA::Buffer.new(10)) }.to raise_error(ArgumentError, /11 bytes are more than/)
      expect { device.read_dma(1, channel: 9) }.to raise_error(ArgumentError, /channel 9/)
      expect(device.stats[:submitted]).to eq 0
    end

    it "keep the order in which they were called on a channel" do
      rounds(50).times do |round|
        3.times { |n| device.write_dma(((3 * round) + n).chr * 2000, at: 10) }
        expect(device.read_dma(2000, at: 10)).to eq(((3 * round) + 2).chr * 2000)
      end
      device.wait_completion
    end

    it "move many megabytes at once" do
      unstressed do
        large = sample(8 << 20)
        device.write_dma(large).wait
        expect(device.read_dma(8 << 20) == large).to be true
      end
    end
  end

  describe "#wait_completion" do
    it "waits for everything on all channels" do
      transfers = Array.new(8) { |n| device.write_dma("x" * 10_000, at: 10_000 * n, channel: n % 4) }
      expect(device.wait_completion).to equal device
      expect(transfers.map(&:done?)).to all be(true)
      expect(device.wait_completion).to equal device
    end

    it "raises for the first failure and names all of them, once" do
      device.sim.inject(:poison, descriptor: 1)
      device.sim.inject(:bus_error, descriptor: 2)
      transfers = Array.new(5) { |n| device.write_dma("x", at: n) }
      expect { device.wait_completion }.to raise_error(DMA::TransferError, /data poison.*; 1 more failed/) { |e|
        expect(e.failures).to eq transfers.values_at(1, 2)
        expect([e.transfer, e.status]).to eq [transfers[1], :data_poison]
      }
      expect(device.wait_completion).to equal device
    end

    it "raises FaultError where the IOMMU let nothing through" do
      device.sim.inject(:iommu_fault)
      device.write_dma("x")
      expect { device.wait_completion }.to raise_error(DMA::FaultError) { |e| expect(e.access).to eq :read }
    end

    it "does not raise for what somebody was told of already" do
      device.sim.inject(:poison, count: 2, probability: 1.0)
      expect { device.write_dma("x").wait }.to raise_error(DMA::TransferError)
      device.write_dma("x").on_complete { nil }
      expect(device.wait_completion).to equal device
    end

    it "gives up what is not over in time" do
      device.sim.inject(:hang)
      transfer = device.write_dma("x")
      expect { device.wait_completion(timeout: 0.01) }.to raise_error(DMA::TimeoutError, /1 transfer on channel 0/)
      expect(transfer.status).to eq :timed_out
      device.sim.clear_faults
      expect(device.write_dma("y").wait.status).to eq :complete
    end
  end

  it "refuses everything once closed, also its registers, and may be closed again" do
    registers = device.registers
    mapping = device.map(DMA::Buffer.new(100))
    expect(device.close).to be_nil
    calls = [-> { device.write_dma("x") }, -> { device.read_dma(1) }, -> { device.channel }, -> { device.registers },
             -> { registers.read32(0) }, -> { registers.write32(0x14, 1) }, -> { device.reset },
             -> { device.map(DMA::Buffer.new(1)) }, -> { device.wait_completion }]
    calls.each { |call| expect(&call).to raise_error(DMA::ClosedError, /sim device 0 was closed/) }
    expect(mapping.unmap).to be_unmapped
    expect([device.close, device.inspect]).to eq [nil, "#<DMA::Device sim device 0 closed>"]
  end

  it "may be used by many threads, also while one resets it" do
    threads = Array.new(6) do |id|
      Thread.new do
        rounds(50).times do |n|
          device.write_dma("#{id}#{n}", at: 100 * id, channel: n % 4).wait
          device.read_dma(10, at: 100 * id, channel: n % 4)
        rescue DMA::TransferError => e
          raise unless e.status == :aborted
        end
      end
    end
    rounds(20).times { device.reset }
    threads.each { |thread| expect(thread.join(60)).to eq thread }
    device.channel.process_completions
    expect(device.stats).to include(outstanding: 0)
    expect(device.write_dma("after", at: 0).wait.status).to eq :complete
  end

  it "survives the collection of devices, channels and transfers in flight" do
    rounds(20).times do |n|
      dev = described_class.open(:sim, memory: 1 << 20)
      dev.sim.inject(:hang) if n.odd?
      4.times do |index|
        dev.channel(index).submit(source: DMA::Buffer.new(100_000), destination: 0).on_complete do
          dev
        end
      end
      dev.map(DMA::Buffer.new(100))
      dev = nil # -- garbage from here on
      GC.start
    end
    expect(device.write_dma("x").wait.status).to eq :complete
  end

  it "opens more devices one after the other than there are descriptors for at once" do
    expect(in_ruby(<<~'RUBY')).to eq("closed\n")
      Process.setrlimit(:NOFILE, 128)
      100.times { DMA::Device.open(:sim) { |dev| dev.write_dma("x").wait } }
      100.times { DMA::Device.open($LOADED_FEATURES.last) { |dev| dev.read_dma(1) } }
      puts "closed"
    RUBY
  end

  it "works inside Ractors" do
    expect(in_ruby(<<~'RUBY')).to eq("abc\n" * 3)
      Warning[:experimental] = false
      ractors = Array.new(3) do
        Ractor.new do
          DMA::Device.open(:sim) do |dev|
            dev.write_dma("abc")
            dev.wait_completion
            dev.read_dma(3)
          end
        end
      end
      puts ractors.map(&:take)
    RUBY
  end

  it "copies much within the device as if it had been held in between, and answers meanwhile" do
    bytes = sample(3_500_000)
    [[0, 4_000_000], [1000, 0], [0, 1000], [0, 3_000_000], [3_000_000, 0]].each do |from, to|
      device.write_dma(bytes, at: from)
      copy = device.channel.submit(source: from, destination: to, length: bytes.size)
      expect(device.registers.read32(0)).to eq 0x444d4131
      expect([copy.wait.bytes, device.read_dma(bytes.size, at: to)]).to eq [bytes.size, bytes]
    end
  end

  it "survives compaction between and during transfers" do
    buffer = guarded(sample(5000))
    calls = 0
    rounds(3).times do
      transfer = device.write_dma(buffer).on_complete { calls += 1 }
      GC.verify_compaction_references(toward: :empty, double_heap: true)
      transfer.wait
      expect(device.read_dma(5000)).to eq sample(5000)
    end
    expect(calls).to eq rounds(3)
  end
end
