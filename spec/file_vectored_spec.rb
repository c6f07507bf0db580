# frozen_string_literal: true

RSpec.describe DMA::File, "with several buffers in one transfer" do
  let(:bytes) { unstressed { sample(300_001) } }
  let(:path) { scratch_file("file.bin", bytes) }

  after do
    expect(guards_whole?).to be(true)
    free_guarded
  end

  def open_file(mode = "r+b", **options, &)
    described_class.open(path, mode, **options, &)
  end

  sizes = [[4096, 8192, 4096], [1, 2, 3], [0, 10, 0], [100_000, 1, 0, 4095, 70_000], [], [0]]
  offsets = [0, 4096, 4095, 123_457]

  it "read_into fills them one behind the other, and not a byte more" do
    [:auto, false].each do |direct|
      open_file(direct: direct) do |file|
        sizes.product(offsets) do |lengths, offset|
          buffers = lengths.map { |length| guarded(length) }
          expect(file.read_into(buffers, offset: offset)).to eq(lengths.sum)
          expect(buffers.map(&:get_string).join == bytes[offset, lengths.sum]).to be(true), "#{lengths} at #{offset}"
        end
      end
    end
  end

  it "write_from writes them one behind the other, and leaves all else in the file" do
    [:auto, false].each do |direct|
      sizes.product(offsets) do |lengths, offset|
        File.binwrite(path, bytes)
        parts = lengths.each_with_index.map { |length, index| unstressed { sample(length, index) } }
        buffers = parts.map { |part| guarded(part) }
        open_file(direct: direct) { |file| expect(file.write_from(buffers, offset: offset)).to eq(lengths.sum) }
        expected = bytes.dup.tap { |all| all[offset, lengths.sum] = parts.join }
        expect(File.binread(path) == expected).to be(true), "#{lengths} at #{offset}"
      end
    end
  end

  it "both go on at the position, and move it" do
    open_file do |file|
      file.seek(5)
      buffers = [guarded(10), guarded(4096)]
      expect(file.read_into(buffers)).to eq(4106)
      expect(file.pos).to eq(4111)
      expect(file.write_from(buffers)).to eq(4106)
      expect(file.pos).to eq(8217)
      expect(file.pread(4106, 4111) == bytes[5, 4106]).to be(true)
      expect(file.read(3)).to eq(bytes[8217, 3])
    end
  end

  it "read_into is short at the end of the file only, and says how many bytes there are" do
    open_file do |file|
      buffers = [guarded(500), guarded(1000), guarded(10)]
      expect(file.read_into(buffers, offset: 299_001)).to eq(1000)
      expect(buffers.map(&:get_string).join[0, 1000] == bytes[-1000..]).to be(true)
      expect(file.read_into(buffers, offset: 400_000)).to eq(0)
    end
  end

  it "write_from writes as many bytes as length says, from the start of the first" do
    open_file do |file|
      buffers = [guarded("a" * 10), guarded("b" * 10)]
      expect([0, 7, 10, 13, 20].map { |length| file.write_from(buffers, offset: 50, length: length) })
        .to eq([0, 7, 10, 13, 20])
      expect(file.write_from(buffers, offset: 20, length: 13)).to eq(13)
      expect(file.pread(52, 19)).to eq("#{bytes[19]}#{"a" * 10}bbb#{bytes[33, 17]}#{"a" * 10}#{"b" * 10}#{bytes[70]}")
      expect { file.write_from(buffers, offset: 0, length: 21) }
        .to raise_error(ArgumentError, /length: 21 bytes are more than the 20 of the buffers/)
    end
  end

  it "takes one request of several elements: aligned ones go direct, without a copy" do
    needs "direct I/O", open_file(&:direct?)
    open_file("r+", direct: true) do |file|
      buffers = Array.new(4) { DMA::Buffer.new(16_384) }
      file.read_into(buffers, offset: 4096)
      file.write_from(buffers, offset: 4096)
      expect(file.stats).to include(direct_requests: 8, direct_bytes: 131_072, buffered_requests: 0, bounced_bytes: 0)
      buffers.each(&:free)
    end
    expect(File.binread(path) == bytes).to be(true)
  end

  it "read_into refuses the same bytes twice, before anything is read; write_from takes them" do
    open_file do |file|
      buffer = guarded("x" * 100)
      last = buffer.slice(99, 1)
      [[buffer, buffer], [buffer.slice(0, 51), guarded(5), buffer.slice(50)], [buffer, last]].each do |list|
        expect { file.read_into(list, offset: 0) }.to raise_error(ArgumentError, /buffers overlap: \d+ bytes at 0x/)
      end
      expect(buffer.get_string).to eq("x" * 100)
      expect(file.read_into([buffer.slice(50), buffer.slice(0, 50), buffer.slice(20, 0)], offset: 0)).to eq(100)
      expect(buffer.get_string == bytes[50, 50] + bytes[0, 50]).to be(true)
      expect(file.write_from([buffer, buffer], offset: 0)).to eq(200)
      expect(File.binread(path, 200) == buffer.get_string * 2).to be(true)
    end
  end

  it "refuses what is no buffer, or is none any more" do
    open_file do |file|
      buffer = DMA::Buffer.new(10)
      [["text"], [buffer, nil], [[buffer]]].each do |list|
        expect { file.read_into(list) }.to raise_error(TypeError, /is no DMA::Buffer/)
        expect { file.write_from(list, offset: 0) }.to raise_error(TypeError, /is no DMA::Buffer/)
      end
      buffer.free
      expect { file.read_into([DMA::Buffer.new(3), buffer], offset: 0) }.to raise_error(DMA::ClosedError, /was freed/)
    end
  end

  it "names offset and length when one fails, and how many bytes were read" do
    broken = fuse_file(300_000, eio: 200_000)
    described_class.open(broken, direct: false) do |file|
      buffers = [guarded(65_536), guarded(131_072)]
      figures = /read (\d+) bytes at offset (\d+) \((\d+) of 196608 bytes were read\) of #{broken}/
      expect { file.read_into(buffers, offset: 65_536) }.to raise_error(Errno::EIO, figures) do |error|
        left, at, safe = error.message.match(figures).captures.map(&:to_i)
        expect([left + safe, at - safe]).to eq([196_608, 65_536])
        expect(safe).to be_between(65_536, 134_464)
        expect(buffers.map(&:get_string).join[0, safe] == sample(300_000)[65_536, safe]).to be(true)
      end
    end
  end

  it "keeps the list that was given, and the memory, until an interrupted read is over" do
    hanging = fuse_file(300_000, hang: 0)
    described_class.open(hanging, direct: false) do |file|
      buffers = [DMA::Buffer.new(100), DMA::Buffer.wrap(IO::Buffer.new(5000))]
      kept = buffers.dup
      thread = Thread.new { file.read_into(buffers, offset: 0) }
      thread.report_on_exception = false
      await_hang
      buffers.clear
      GC.start
      thread.kill.join
      kept.each { |buffer| expect { buffer.free }.to raise_error(DMA::BusyError) }
      release_reads
      kept.each { |buffer| settled { buffer.free } }
    end
  end
end
