# frozen_string_literal: true

require "fiddle"
require "open3"

RSpec.describe DMA::Cache do
  include Support::Experimental

  let(:sim) { DMA::Sim.new(clock: :manual, coherent: false) }
  let(:device) { sim.device(memory: 1 << 20) }
  let(:buffer) { DMA::Buffer.new(256).tap { |buffer| buffer.clear("o".ord) } }

  # A mapping that is kept as long as the example.
  def map(type: :consistent, direction: :bidirectional, of: buffer)
    device.map(of, type: type, direction: direction).tap { |mapping| (@mappings ||= []) << mapping }
  end

  # Each line of the buffer: valid, dirty.
  def lines(of = buffer)
    sim.cache.lines(of).map { |line| line.values_at(:valid, :dirty) }
  end

  # The bytes that the device reads by way of a mapping.
  def device_sees(mapping)
    device.write_dma(mapping).wait
    device.read_dma(mapping.size)
  end

  def device_writes(mapping, bytes)
    device.write_dma(bytes).wait
    device.channel.submit(source: 0, destination: mapping, length: bytes.bytesize).wait
  end

  none = [false, false]
  clean = [true, false]
  dirty = [true, true]

  describe "its operations" do
    # The lines of the range afterwards, what memory has of what was written, and how many lines were written to it.
    {
      flush: [[none, none], "nnnn", 2],
      invalidate: [[none, none], "oooo", 0],
      write_back: [[clean, clean], "nnnn", 2],
      clean: [[clean, clean], "nnnn", 1]
    }.each do |operation, (after, in_memory, written)|
      it "#{operation}: are done to each line that the range touches, and to no other" do
        mapping = map
        buffer.set_string("nnnn", 60) # differs from memory
        buffer.set_string("oooo", 64) # does not
        buffer.get_string(128, 1)
        buffer.set_string("nnnn", 192)
        expect(lines).to eq [dirty, dirty, clean, dirty]
        expect(sim.cache.__send__(operation, buffer, 63, 2)).to equal sim.cache
        expect(lines).to eq [*after, clean, dirty]
        expect(device_sees(mapping)).to eq "#{"o" * 60}#{in_memory}#{"o" * 192}"
        expect(buffer.get_string).to eq "#{"o" * 60}#{in_memory}#{"o" * 128}nnnn#{"o" * 60}"
        expect(sim.stats[:cache][:write_backs]).to eq written
      end
    end

    it "take mappings, count from their start, and check the range" do
      buffer.clear
      mapping = map(of: buffer.slice(64, 128))
      buffer.clear(1)
      sim.cache.write_back(mapping, 64)
      expect(lines(mapping)).to eq [dirty, clean]
      addresses = sim.cache.lines(mapping, 10, 60).map { |line| line[:address] - buffer.address }
      expect(addresses).to eq [64, 128]
      expect { sim.cache.flush(mapping, 100, 29) }.to raise_error(ArgumentError, /128/)
      expect { sim.cache.lines(mapping, 129) }.to raise_error(ArgumentError, /128/)
      expect { sim.cache.flush("text") }.to raise_error(TypeError, /String is neither/)
    end

    it "leave what is in no cache alone, so that a program runs on every machine" do
      coherent = DMA::Sim.new(clock: :manual)
      buffer.clear("n".ord)
      %i[flush invalidate write_back clean].each { |operation| coherent.cache.__send__(operation, buffer) }
      expect(coherent.cache.lines(buffer).map { |line| line.values_at(:valid, :dirty) }).to eq [none] * 4
      expect(buffer.get_string).to eq "n" * 256
      expect(coherent.stats[:cache]).to be_nil
      expect(lines).to eq [none] * 4
    end
  end

  it "keeps what the CPU writes from the device until it is handed over, a range at a time" do
    mapping = map(type: :streaming, direction: :to_device)
    buffer.clear("n".ord)
    expect(device_sees(mapping)).to eq "o" * 256
    expect(mapping.sync_for_device(100, 20)).to equal mapping
    expect(device_sees(mapping)).to eq "#{"o" * 64}#{"n" * 64}#{"o" * 128}"
    mapping.sync_for_device
    expect(device_sees(mapping)).to eq "n" * 256
    expect(lines).to eq [clean] * 4
  end

  it "keeps what the device writes from the CPU until it is taken over, a range at a time" do
    mapping = map(type: :streaming, direction: :from_device)
    expect(buffer.get_string).to eq "o" * 256
    device_writes(mapping, "n" * 256)
    expect(buffer.get_string).to eq "o" * 256
    mapping.sync_for_cpu(100, 20)
    expect(buffer.get_string).to eq "#{"o" * 64}#{"n" * 64}#{"o" * 128}"
    mapping.sync_for_cpu
    expect(buffer.get_string).to eq "n" * 256
    expect(sim.stats[:cache]).to include(misses: 9, dma_misses: 4)
  end

  it "loses what the CPU has in a line that the device writes, and what the device has in one that the CPU does" do
    mapping = map(of: buffer.slice(32, 64))
    buffer.set_string("CPU", 0)
    device_writes(mapping, "n" * 64)
    mapping.sync_for_cpu
    expect(buffer.get_string).to eq "#{"o" * 32}#{"n" * 64}#{"o" * 160}"
    buffer.set_string("CPU", 0)
    device_writes(mapping, "m" * 64)
    sim.cache.write_back(buffer)
    sim.cache.invalidate(buffer)
    expect(buffer.get_string).to eq "CPU#{"o" * 29}#{"n" * 32}#{"m" * 32}#{"o" * 160}"
  end

  describe "the types of mappings" do
    it "coherent: needs no sync in either direction, and is not cached" do
      buffer.clear("a".ord)
      mapping = map(type: :coherent)
      expect(device_sees(mapping)).to eq "a" * 256
      buffer.clear("n".ord)
      expect([device_sees(mapping), lines]).to eq ["n" * 256, [none] * 4]
      device_writes(mapping, "m" * 256)
      expect(buffer.get_string).to eq "m" * 256
      expect(sim.stats[:cache]).to include(hits: 0, misses: 0, uncached: 8)
    end

    it "streaming: is for one direction, and is synced when it is mapped, when it is told to and when it is unmapped" do
      mapping = map(type: :consistent)
      buffer.clear("n".ord)
      to_device = map(type: :streaming, direction: :to_device)
      expect(device_sees(to_device)).to eq "n" * 256
      buffer.clear("a".ord)
      to_device.sync_for_cpu
      expect([buffer.get_string, device_sees(to_device)]).to eq ["a" * 256, "n" * 256]
      to_device.unmap
      expect(buffer.get_string).to eq "a" * 256
      from_device = map(type: :streaming, direction: :from_device)
      expect(buffer.get_string).to eq "n" * 256
      device_writes(from_device, "m" * 256)
      expect(buffer.get_string).to eq "n" * 256
      from_device.unmap
      expect(buffer.get_string).to eq "m" * 256
      mapping.unmap
    end

    it "consistent: is for both directions, and synced for each" do
      mapping = map(type: :consistent)
      buffer.clear("n".ord)
      expect(device_sees(mapping.sync_for_device)).to eq "n" * 256
      device_writes(mapping, "m" * 256)
      expect(buffer.get_string).to eq "n" * 256
      mapping.sync_for_cpu
      expect(buffer.get_string).to eq "m" * 256
      expect { map(type: :consistent, direction: :to_device) }.to raise_error(ArgumentError, /both directions/)
    end

    it "of a part of a buffer: the rest is cached as well, and is written when the last of them goes" do
      part = map(type: :coherent, of: buffer.slice(100, 10))
      buffer.clear("n".ord)
      expect(lines).to eq [dirty, none, dirty, dirty]
      part.unmap
      expect([lines, buffer.view.get_string]).to eq [[none] * 4, "n" * 256]
    end
  end

  it "is gone round by transfers of a buffer, which need no sync" do
    mapping = map
    buffer.clear("n".ord)
    buffer.slice(100, 70).then { |part| device.write_dma(part).wait }
    expect(device.read_dma(70)).to eq "n" * 70
    transfer = device.channel.submit(source: 0, destination: buffer.slice(10, 20))
    buffer.set_string("CPU", 0)
    buffer.set_string("CPU", 61)
    device.write_dma("m" * 70)
    transfer.wait
    expect(buffer.get_string).to eq "CPU#{"n" * 27}#{"n" * 31}CPU#{"n" * 192}"
    device.read_dma(into: buffer.slice(10, 20))
    expect(buffer.get_string(0, 40)).to eq "CPU#{"n" * 7}#{"m" * 20}#{"n" * 10}"
    mapping.unmap
    expect(buffer.view.get_string(0, 40)).to eq "CPU#{"n" * 7}#{"m" * 20}#{"n" * 10}"
  end

  it "is gone round by transfers of an 8237 as well, bounced or not" do
    isa = sim.device(controller: :isa)
    mapping = map
    buffer.clear("n".ord)
    isa.write_dma(buffer).wait
    expect(isa.read_dma(256)).to eq "n" * 256
    buffer.clear("a".ord)
    isa.read_dma(into: buffer)
    expect([buffer.get_string, isa.stats[:bounced_bytes]]).to eq ["n" * 256, 768]
    mapping.unmap
    isa.map(buffer, type: :streaming, direction: :to_device) do |low|
      buffer.clear("b".ord)
      isa.write_dma(low).wait
      expect(isa.read_dma(256)).to eq "n" * 256
      isa.write_dma(low.sync_for_device).wait
      expect(isa.read_dma(256)).to eq "b" * 256
    end
  end

  it "is what every method of a buffer sees" do
    map(type: :streaming, direction: :to_device)
    other = DMA::Buffer.new(256)
    buffer.clear("n".ord)
    memory = "o" * 256
    new = "n" * 256
    expect([buffer.get_string, buffer.get_string(3, 100)]).to eq [new, new[0, 100]]
    expect(buffer.slice(70, 9).get_string).to eq new[0, 9]
    expect([buffer.get_value(:u16, 63), buffer.get_values(%i[U8 U16], 2)]).to eq [0x6e6e, [0x6e, 0x6e6e]]
    expect([buffer.values(:U8), buffer.each_byte.to_a]).to eq [new.bytes, new.bytes]
    expect(buffer.hexdump).to start_with "0x00000000  6e 6e"
    io = IO::Buffer.new(256)
    expect([new, memory].map { |bytes| io.set_string(bytes) && (buffer <=> io) }).to eq [0, -1]
    expect([other.copy(buffer, 6, 100, 7), other.get_string]).to eq [100, "#{"\0" * 6}#{"n" * 100}#{"\0" * 150}"]
    expect([other <=> buffer, other.copy(buffer), other == buffer]).to eq [-1, 256, true]
    other.set_string("m" * 256)
    expect([buffer.copy(other, 10, 100), buffer.get_string(9, 102)]).to eq [100, "n#{"m" * 100}n"]
    expect(buffer.copy(buffer, 0, 100, 50)).to eq 100
    expect(buffer.get_string(0, 111)).to eq "#{"m" * 60}#{"n" * 40}#{"m" * 10}n"
    buffer.set_values(%i[U8 u64], 190, [1, 2])
    expect(buffer.get_string(189, 10)).to eq "n\x01\x02\0\0\0\0\0\0\0"
    sim.cache.invalidate(buffer)
    expect(buffer.get_string).to eq memory
  end

  it "refuses new views while it has the bytes; those made before show what the device sees" do
    before = buffer.view
    mapping = map(type: :streaming, direction: :to_device)
    buffer.clear("n".ord)
    [-> { buffer.view }, -> { buffer.to_ptr }, -> { buffer.slice(0, 1).view }].each do |call|
      expect(&call).to raise_error(DMA::UnsupportedError, /methods of the buffer, or unmap/)
    end
    expect { Fiddle::MemoryView.new(buffer) }.to raise_error(ArgumentError)
    expect(before.get_string).to eq "o" * 256
    mapping.sync_for_device
    expect(before.get_string).to eq "n" * 256
    mapping.unmap
    map(type: :coherent)
    expect([buffer.view.get_string, Fiddle::Pointer.new(buffer.to_ptr.to_i)[0, 2]]).to eq ["n" * 256, "nn"]
  end

  it "evicts lines when it is full, some of them dirty, by its seed" do
    run = lambda do |seed|
      sim = DMA::Sim.new(clock: :manual, coherent: false, cache_size: 256, seed: seed)
      buffer = DMA::Buffer.new(4096)
      sim.device.map(buffer, type: :streaming, direction: :to_device) do
        buffer.clear(1)
        [sim.cache.lines(buffer).map { |line| line[:valid] }, sim.stats[:cache]]
      end
    end
    expect(run[1]).to eq run[1]
    expect(run[1][0]).not_to eq run[2][0]
    expect(run[1][0].count(true)).to eq 4
    expect(run[1][1]).to include(misses: 64, evictions: 60, write_backs: 60)
  end

  it "misses what devices write, unless they put it there" do
    counts = [false, true].map do |injection|
      sim = DMA::Sim.new(clock: :manual, cache_injection: injection)
      device = sim.device
      device.write_dma("n" * 4096).wait
      mapping = device.map(buffer = DMA::Buffer.new(4096))
      buffer.get_string
      device.read_dma(into: mapping)
      expect(buffer.get_string).to eq "n" * 4096
      sim.stats[:cache].values_at(:hits, :misses, :dma_misses, :miss_cycles)
    end
    expect(counts).to eq [[0, 128, 64, 12_800], [64, 64, 0, 6400]]
    options = { coherent: false, cache_injection: true }
    expect { DMA::Sim.new(**options) }.to raise_error(ArgumentError, /cache_injection: is a coherent cache's/)
    expect { DMA::Sim.new(cache_size: 4096) }.to raise_error(ArgumentError, /cache_size: .*coherent: false/)
  end

  it "counts a line of an access once, also of memory that begins in its midst" do
    map(of: memory = DMA::Buffer.new(300).slice(10, 200))
    same = DMA::Buffer.new(200)
    expect { memory <=> same }.to change { sim.stats[:cache].values_at(:hits, :misses) }.from([0, 0]).to([0, 4])
  end

  it "says when there is no memory for what the CPU has in it" do
    program = <<~RUBY
      memory, other = DMA::Buffer.new(512 << 20, lock: false), DMA::Buffer.new(8)
      mapping = DMA::Sim.new(coherent: false).device.map(memory.slice(0, 64))
      pages = File.read("/proc/self/statm").to_i
      Process.setrlimit(:AS, (pages * DMA::PAGE_SIZE) + (128 << 20))
      [-> { memory.get_string }, -> { other.copy(memory, 0, 8) }].each do |work|
        work.call
      rescue NoMemoryError, Errno::ENOMEM => e
        puts e.message[/no memory to copy \\d+ bytes/] || e.class
      end
      mapping.unmap
    RUBY
    answer, = Open3.capture2e(RbConfig.ruby, "-I", File.expand_path("../lib", __dir__), "-r", "dma", "-e", program)
    expect(answer).to eq "NoMemoryError\nno memory to copy 536870912 bytes\n"
  end

  it "is one of one machine: memory is not mapped for another at the same time" do
    mapping = map
    other = DMA::Sim.new(clock: :manual, coherent: false).device
    expect { other.map(buffer) }.to raise_error(DMA::BusyError, /another simulated machine.*unmap it there first/)
    expect { other.write_dma(buffer).wait }.to raise_error(DMA::BusyError, /another simulated machine/)
    sim.device.map(buffer).unmap
    mapping.unmap
    expect(other.map(buffer)).to be_a DMA::Mapping
  end

  it "says of each device whether it is coherent" do
    expect([device, DMA::Sim.new.device].map { |device| device.capabilities[:coherent] }).to eq [false, true]
    DMA::Device.open(scratch_file("file", "x" * 4096)) { |file| expect(file.capabilities[:coherent]).to be true }
  end

  describe "the life of memory in it" do
    it "keeps a buffer from being freed, and ends with the device" do
      map
      buffer.clear("n".ord)
      expect { buffer.free }.to raise_error(DMA::BusyError)
      device.close
      expect(lines).to eq [none] * 4
      expect(buffer.view.size).to eq 256
      buffer.free
    end

    it "outlives machines and buffers that the GC takes, in any order" do
      20.times do |round|
        kept = DMA::Buffer.new(4096)
        ordering = round.even? ? :weak : :strong
        DMA::Sim.new(clock: :manual, coherent: false, ordering: ordering).device(memory: 4096).then do |device|
          [kept, DMA::Buffer.new(100)].each { |buffer| device.map(buffer, type: :streaming, direction: :to_device) }
        end
        kept.clear(round)
        GC.start if (round % 5).zero?
        expect(kept.get_string).to eq round.chr * 4096
      end
      GC.start
    end

    it "is the parent's after a fork" do
      mapping = map
      buffer.clear("n".ord)
      reader, writer = IO.pipe
      pid = fork do
        error = begin
          buffer.get_string
        rescue DMA::ClosedError => e
          e.class
        end
        mapping.unmap
        writer.write error
        GC.start
        exit!
      end
      writer.close
      expect(reader.read).to eq "DMA::ClosedError"
      Process.wait(pid)
      expect(device_sees(mapping.sync_for_device)).to eq "n" * 256
    end

    it "is used by threads while the machine moves bytes" do
      sim = DMA::Sim.new(coherent: false, ordering: :weak, cache_size: 1024)
      device = sim.device(memory: 1 << 20)
      threads = Array.new(3) do |index|
        Thread.new do
          buffer = DMA::Buffer.new(8192)
          mapping = device.map(buffer, type: :consistent)
          20.times.map do |round|
            bytes = sample(8192, round)
            buffer.set_string(bytes)
            mapping.sync_for_device
            device.channel(index).submit(source: mapping, destination: index * 8192).wait
            buffer.clear
            mapping.sync_for_device
            device.channel(index).submit(source: index * 8192, destination: mapping).wait
            mapping.sync_for_cpu
            buffer.get_string == bytes
          end
        end
      end
      expect(threads.flat_map(&:value)).to eq [true] * 60
    end
  end
end
