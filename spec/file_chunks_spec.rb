# frozen_string_literal: true

RSpec.describe DMA::File, "#each_chunk" do
  let(:bytes) { unstressed { sample(300_001) } }
  let(:path) { scratch_file("file.bin", bytes) }

  def open_file(mode = "rb", **options, &)
    described_class.open(path, mode, **options, &)
  end

  it "passes the file from the position on, in order, with the offset of each, and moves the position" do
    open_file do |file|
      file.seek(1001)
      chunks = []
      result = file.each_chunk(70_000) { |buffer, offset| chunks << [offset, buffer.get_string, file.pos] }
      expect(result).to equal(file)
      expect(chunks.map(&:first)).to eq([1001, 71_001, 141_001, 211_001, 281_001])
      expect(chunks.map { |chunk| chunk[1] }.join == bytes[1001..]).to be(true)
      expect(chunks.map(&:last)).to eq([71_001, 141_001, 211_001, 281_001, 300_001])
      expect(file.each_chunk { |buffer, _| chunks << buffer }).to equal(file)
      expect(chunks.size).to eq(5)
    end
  end

  it "passes what lies between an offset and a length, and leaves the position" do
    open_file do |file|
      [[0, nil], [7, 4096], [4096, 8192], [299_000, 5000], [300_001, 10], [5, 0]].each do |offset, length|
        parts = file.each_chunk(4096, offset: offset, length: length, depth: 3).map { |buffer, _| buffer.get_string }
        expect(parts.join == bytes[offset, length || bytes.size]).to be(true), "#{length.inspect} bytes of #{offset}"
        expect(parts[..-2].map(&:bytesize)).to all(eq(4096))
      end
      expect(file.pos).to eq(0)
    end
  end

  it "without a block gives an Enumerator, whose chunk is valid until the next is asked for" do
    open_file do |file|
      chunks = file.each_chunk(100_000, offset: 1)
      first, at = chunks.next
      expect([first.get_string == bytes[1, 100_000], at]).to eq([true, 1])
      second, = chunks.next
      expect(first).to be_freed
      expect(second.get_string == bytes[100_001, 100_000]).to be(true)
      expect(file.each_chunk(100_000).with_index.map { |(buffer, _), index| [index, buffer.size] })
        .to eq([[0, 100_000], [1, 100_000], [2, 100_000], [3, 1]])
    end
  end

  it "ends a chunk's buffer with the block: using it later raises" do
    open_file do |file|
      kept = []
      file.each_chunk(100_000) { |buffer, _| kept << buffer << buffer.slice(0, 1) }
      kept.each { |buffer| expect { buffer.get_string }.to raise_error(DMA::ClosedError) }
    end
  end

  it "leaves a retained chunk as it is, while the others' memory is used again" do
    open_file do |file|
      kept = []
      addresses = []
      file.each_chunk(8192, depth: 2) do |buffer, offset|
        kept << [buffer.retain, offset] if (offset / 8192 % 20).zero?
        addresses << buffer.address
      end
      expect(kept.map { |buffer, offset| buffer.get_string == bytes[offset, 8192] }).to eq([true, true])
      expect(addresses.size).to eq(37)
      expect(addresses.uniq.size).to be <= 7
      kept.each { |buffer, _| buffer.free }
    end
  end

  it "gives every descriptor back with close, though the GC has not come" do
    GC.start # what other examples have left is not to go meanwhile
    before = Dir.children("/proc/self/fd").size
    GC.disable
    open_file do |file|
      file.each_chunk(8192) { |buffer, _| buffer }
      file.read_many([[0, 10], [8192, 10]]) { |buffer, _| buffer }
      [file.read(300_000), file.read(1), file.pread(10, 0)]
    end
    expect(Dir.children("/proc/self/fd").size).to eq(before)
  ensure
    GC.enable
  end

  # To leave at the first chunk is what is tested.
  # rubocop:disable Lint/UnreachableLoop
  it "leaves nothing behind when the block breaks or raises: the position is behind the chunk, and all works on" do
    open_file do |file|
      rounds(100).times do |round|
        expect(file.each_chunk(1000, depth: 16) { |buffer, _| break buffer.size }).to eq(1000)
        expect(file.pos).to eq(1000 * ((2 * round) + 1))
        expect { file.each_chunk(1000, depth: 16) { raise "in the block" } }.to raise_error("in the block")
        expect(file.pos).to eq(2000 * (round + 1))
      end
      expect(file.read(10)).to eq(bytes[2000 * rounds(100), 10])
    end
  end

  it "leaves no descriptor behind, however it is left, nor a thread" do
    before = descriptors
    threads = Thread.list
    rounds(50).times do
      open_file do |file|
        file.each_chunk(1000, depth: 4) { break }
        file.each_chunk(1000, depth: 4).next
      end
    end
    # An Enumerator that was left in the middle ends when it is collected, a request under way when it is over.
    100.times do
      GC.start
      break if descriptors <= before + 5

      sleep 0.01
    end
    expect(descriptors).to be <= before + 5
    expect(Thread.list).to eq(threads)
  end
  # rubocop:enable Lint/UnreachableLoop

  def descriptors
    Dir.children("/proc/self/fd").size
  end

  it "may be nested, and mixed with other reads of the same file" do
    open_file do |file|
      file.each_chunk(100_000, offset: 0) do |outer, at|
        inner = file.each_chunk(50_000, offset: at, length: 100_000).map { |buffer, _| buffer.get_string }.join
        expect(inner == outer.get_string).to be(true)
        expect(file.pread(10, at)).to eq(bytes[at, 10])
      end
    end
  end

  it "passes what a growing file has when its end is reached" do
    open_file("r+b") do |file|
      sizes = file.each_chunk(100_000, depth: 1).map do |buffer, offset|
        file.pwrite("more", bytes.size) if offset.zero?
        buffer.size
      end
      expect(sizes.sum).to eq(bytes.size + 4)
    end
  end

  it "refuses sizes and depths that make no sense, with the figures" do
    open_file do |file|
      expect { file.each_chunk(0) { nil } }.to raise_error(ArgumentError, /chunks of 0 bytes/)
      expect { file.each_chunk(10, depth: 0) { nil } }.to raise_error(ArgumentError, /depth: 0 is not in 1\.\.1024/)
      expect { file.each_chunk(-1) { nil } }.to raise_error(ArgumentError, /-1/)
      expect { file.each_chunk(10, length: -1) { nil } }.to raise_error(ArgumentError, /-1/)
      expect { file.each_chunk(10, depth: -1) { nil } }.to raise_error(ArgumentError, /-1/)
      expect { file.each_chunk(10, offset: -1) { nil } }.to raise_error(ArgumentError, /-1/)
    end
  end

  it "ends with an error when its block closes the file" do
    seen = 0
    file = open_file
    expect { file.each_chunk(1000) { (seen += 1) && file.close } }.to raise_error(DMA::ClosedError, /was closed/)
    expect(seen).to eq(1)
  end

  it "takes any size: a chunk is no larger than the file" do
    open_file { |file| expect(file.each_chunk(1 << 62).map { |buffer, _| buffer.size }).to eq([bytes.size]) }
  end
end
