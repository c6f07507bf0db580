# frozen_string_literal: true

require "pathname"
require "socket"

RSpec.describe DMA::File do
  let(:bytes) { unstressed { sample(300_001) } }
  let(:path) { scratch_file("file.bin", bytes) }

  def open_file(mode = "rb", **options, &)
    described_class.open(path, mode, **options, &)
  end

  describe ".open" do
    it "gives the file to the block, returns the block's value, and closes the file after it" do
      kept = nil
      value = open_file do |file|
        kept = file
        file.read(3)
      end
      expect(value).to eq(bytes[0, 3])
      expect(kept).to be_closed
    end

    it "closes the file when the block raises or is left" do
      kept = []
      expect { open_file { |file| raise "inside #{kept.push(file).size}" } }.to raise_error("inside 1")
      [1].each { |_| open_file { |file| break kept << file } }
      expect(kept).to all(be_closed)
    end

    it "returns the file without a block, as new does" do
      [described_class.open(path), described_class.new(path, "rb", direct: false)].each do |file|
        expect(file.path).to eq(path)
        expect(file.close).to be_nil
        expect(file.close).to be_nil
      end
    end

    it "takes what has a to_path" do
      expect(described_class.open(Pathname(path), &:path)).to eq(path)
    end

    it "makes, cuts and keeps files as the mode of IO says" do
      other = scratch_file("other.bin")
      described_class.open(other, "w", 0o600) { |file| file.write("content") }
      expect(File.stat(other).mode & 0o777).to eq(0o600)
      described_class.open(other, "r+") { |file| file.write("C") }
      expect(File.binread(other)).to eq("Content")
      described_class.open(other, File::RDWR | File::CREAT) { |file| expect(file.read).to eq("Content") }
      expect { described_class.open(other, "wx") }.to raise_error(Errno::EEXIST, /other\.bin/)
      described_class.open(other, "w+b") { |file| expect([file.write("s"), file.rewind, file.read]).to eq([1, 0, "s"]) }
      expect(described_class.open(other, "w", &:size)).to eq(0)
    end

    {
      "a" => /mode "a" is not offered; to append, open with "r\+" and seek\(0, IO::SEEK_END\)/,
      "a+b:UTF-8" => /to append/,
      "rt" => /newlines are not converted/,
      "rx" => /it is "r" or "w", then/,
      "r++" => /each once/,
      "R" => /mode "R" is not offered/,
      "" => /mode "" is not offered/,
      "r:UTF-8:UTF-16LE" => /UTF-8:UTF-16LE are not offered; transcoding is left to String#encode/,
      "r:unheard" => /unknown encoding name - unheard/,
      File::RDWR | File::APPEND => /File::APPEND is not offered; to append/,
      File::RDWR | File::DIRECT => /use direct: true/
    }.each do |mode, message|
      it "refuses mode #{mode.inspect} and says what there is instead" do
        expect { open_file(mode) }.to raise_error(ArgumentError, message)
      end
    end

    it "names the options that it does not know" do
      expect { open_file(direct: :sometimes) }.to raise_error(ArgumentError, /:sometimes is none of true, :auto, false/)
      expect { open_file(engine: :steam) }.to raise_error(ArgumentError, /:steam is none of :auto, :uring, :threads/)
      expect { open_file(depth: 0) }.to raise_error(ArgumentError, /depth: 0 is not in 1\.\.1024/)
      expect { open_file(depth: 1025) }.to raise_error(ArgumentError, /1025/)
      expect { open_file(speed: 9) }.to raise_error(ArgumentError, "unknown keyword: :speed")
      expect { open_file(depth: -1) }.to raise_error(ArgumentError, /depth must be an Integer in 0.*, not -1/)
    end

    it "says where mode and encoding go, which File.open takes as keywords" do
      { encoding: "utf-8", external_encoding: "utf-8", mode: "r" }.each do |name, value|
        told = "unknown keyword: #{name.inspect}; the mode, with the encoding, is the second argument: \"r:utf-8\""
        expect { open_file(name => value) }.to raise_error(ArgumentError, told)
      end
      expect { open_file(encoding: "utf-8", mode: "r") }.to raise_error(ArgumentError, /keywords: :encoding, :mode; /)
    end

    it "names the file that is not there, and that may not be opened" do
      expect { described_class.open("#{path}x") }.to raise_error(Errno::ENOENT, /#{path}x/)
      expect { described_class.open("#{path}/x") }.to raise_error(Errno::ENOTDIR, /#{path}/)
      expect { described_class.open("nul\0l") }.to raise_error(ArgumentError)
    end

    it "refuses a directory, a FIFO, a socket and a terminal, at once" do
      expect { described_class.open(scratch) }.to raise_error(Errno::EISDIR, /#{scratch}/)
      File.mkfifo(fifo = scratch_file("fifo"))
      ["r", "r+"].each do |mode|
        expect { described_class.open(fifo, mode) }
          .to raise_error(DMA::UnsupportedError, /#{fifo} is neither a regular file nor a device; .* an ordinary IO/)
      end
      expect { described_class.open(fifo, "w") }.to raise_error(SystemCallError, /#{fifo}/)
      UNIXServer.open(socket = scratch_file("socket")) do
        expect { described_class.open(socket) }.to raise_error(Errno::ENXIO, /#{socket}/)
      end
      expect { described_class.open("/dev/ptmx") }.to raise_error(DMA::UnsupportedError, /terminal/)
    end
  end

  describe "a closed file" do
    it "raises ClosedError, naming the file, whatever is asked but closed?, path, stats and inspect" do
      file = open_file("r+b").tap(&:close)
      buffer = DMA::Buffer.new(1)
      calls = [
        [:read], [:read, 1], [:pread, 1, 0], [:readpartial, 1], [:sysread, 1], [:gets], [:getc], [:getbyte], [:eof?],
        [:each_chunk], [:read_into, buffer], [:write_from, buffer], [:write, "x"], [:pwrite, "x", 0], [:syswrite, "x"],
        [:puts], [:flush], [:truncate, 0], [:fsync], [:fdatasync], [:pos], [:seek, 0], [:rewind], [:sysseek, 0],
        [:size], [:to_io], [:fileno], [:direct?], [:alignment], [:memory_alignment], [:lineno], [:ungetbyte, 1]
      ]
      calls.each do |name, *arguments|
        expect { file.public_send(name, *arguments) { nil } }
          .to raise_error(DMA::ClosedError, /#{path} was closed/), name.to_s
      end
      expect(file.inspect).to include("closed")
      expect(file.stats[:requests]).to eq(0)
    end
  end

  describe "a String to be filled" do
    it "is as it was where the file is closed, or open for writing only" do
      writer = described_class.open(scratch_file("other.bin"), "w")
      [writer, open_file.tap(&:close)].product([10, 4096, 32_768, 1 << 20]).each do |file, length|
        out = +"as it was"
        [[:read, length, out], [:pread, length, 0, out], [:readpartial, length, out]].each do |call|
          expect { file.public_send(*call) }.to raise_error(StandardError, /was closed|is not opened for reading/)
        end
        expect(out).to eq("as it was")
      end
      writer.close
    end
  end

  describe "misuse" do
    it "of a file that is open for reading only raises IOError, and says how to open it" do
      buffer = DMA::Buffer.new(1)
      calls = [[:write, "x"], [:pwrite, "x", 0], [:syswrite, "x"], [:write_from, buffer], [:truncate, 0], [:flush],
               [:puts, "x"], [:<<, "x"]]
      open_file do |file|
        calls.each do |name, *arguments|
          expect { file.public_send(name, *arguments) }
            .to raise_error(IOError, /#{path} is not opened for writing; open it with "r\+", "w" or "w\+"/), name.to_s
        end
      end
      expect(File.binread(path) == bytes).to be(true)
    end

    it "of a file that is open for writing only does, too" do
      calls = [[:read], [:pread, 1, 0], [:sysread, 1], [:readpartial, 1], [:gets], [:getc], [:getbyte], [:eof?],
               [:ungetc, "x"], [:read_into, DMA::Buffer.new(1)], [:each_chunk], [:lineno]]
      described_class.open(scratch_file("other.bin"), "w") do |file|
        calls.each do |name, *arguments|
          expect { file.public_send(name, *arguments) { nil } }
            .to raise_error(IOError, /is not opened for reading; open it with "r", "r\+" or "w\+"/), name.to_s
        end
      end
    end

    it "of offsets and lengths raises ArgumentError with what was given" do
      buffer = DMA::Buffer.new(16)
      open_file("r+b") do |file|
        expect { file.read_into(buffer, offset: -1) }.to raise_error(ArgumentError, /offset .* not -1/)
        expect { file.write_from(buffer, offset: 1.5) }.to raise_error(ArgumentError, /offset .* not 1\.5/)
        expect { file.write_from(buffer, length: 17) }.to raise_error(ArgumentError, /17.*16/)
        expect { file.pwrite("x", -1) }.to raise_error(ArgumentError, /offset .* not -1/)
        expect { file.pread(1, -1) }.to raise_error(ArgumentError, /offset .* not -1/)
        expect { file.truncate(-1) }.to raise_error(ArgumentError, /size .* not -1/)
        expect { file.read_into("string") }.to raise_error(TypeError)
        expect { file.pwrite("x", (2**63) - 1) }.to raise_error(ArgumentError, /largest offset, 2\*\*63 - 1/)
      end
      expect(File.binread(path) == bytes).to be(true)
    end
  end

  [true, false].each do |direct|
    context "with direct: #{direct}" do
      def open_with(direct, mode = "r+b", &)
        described_class.open(path, mode, direct: direct, &)
      end

      it "read_into fills the region that was asked for and touches no byte around it, at any offset and length" do
        whole = DMA::Buffer.new(32_768)
        open_with(direct) do |file|
          [[4096, 4096, 0], [4096, 4096, 7], [513, 1000, 4096], [1, 1, 299_000], [512, 1024, 511], [3, 12_289, 4095],
           [8192, 8192, 292_000], [7, 8000, 299_999]].each do |at, length, offset|
            whole.clear(0xA5)
            got = file.read_into(whole.slice(at, length), offset: offset)
            expected = ("\xA5".b * 32_768).tap { |all| all[at, got] = bytes[offset, got] }
            # Behind the end of the file the rest of the region is anything.
            [expected, all = whole.get_string].each { |string| string[at + got, length - got] = "" }
            expect(got).to eq([length, bytes.size - offset].min)
            expect(all == expected).to be(true), "#{length} bytes of #{offset} to #{at}"
          end
        end
      end

      it "write_from writes the region that was given, changes no neighbour, and leaves the source as it was" do
        expected = bytes.dup
        whole = DMA::Buffer.new(32_768)
        whole.set_string(source = sample(32_768, 7))
        open_with(direct) do |file|
          [[4096, 4096, 0], [4096, 4096, 7], [513, 1000, 4096], [1, 1, 299_000], [512, 1024, 511], [3, 12_289, 4095],
           [0, 0, 5], [7, 1, 300_000]].each do |at, length, offset|
            expect(file.write_from(whole.slice(at, length), offset: offset)).to eq(length)
            expected[offset, length] = source[at, length]
          end
        end
        expect(File.binread(path) == expected).to be(true)
        expect(whole.get_string == source).to be(true)
      end

      it "a write past the end makes the file as long as the write needs, not longer, with zeros between" do
        open_with(direct) do |file|
          file.write_from(DMA::Buffer.new(4096).tap { |buffer| buffer.clear(1) }, offset: 299_900, length: 200)
          expect(file.size).to eq(300_100)
          file.pwrite("end", 310_000)
          expect(file.size).to eq(310_003)
          expect(file.pread(9900, 300_100)).to eq("\0" * 9900)
        end
        expect(File.size(path)).to eq(310_003)
      end

      it "writes that are not aligned change no byte around them" do
        expected = bytes.dup
        open_with(direct) do |file|
          [[1, 1], [511, 2], [4095, 2], [4097, 4094], [8191, 4098], [99_999, 70_000], [299_999, 2]].each do |at, size|
            file.pwrite(string = sample(size, at), at)
            expected[at, size] = string
          end
        end
        expect(File.binread(path) == expected).to be(true)
      end

      it "read_into and write_from move the position where no offset is given, and leave it where one is" do
        open_with(direct) do |file|
          buffer = DMA::Buffer.new(1000)
          file.getbyte
          expect([file.read_into(buffer), file.pos]).to eq([1000, 1001])
          expect(buffer.get_string).to eq(bytes[1, 1000])
          expect([file.read_into(buffer, offset: 5), file.pos]).to eq([1000, 1001])
          expect([file.write_from(buffer, length: 10), file.pos]).to eq([10, 1011])
          expect([file.write_from(buffer, offset: 0), file.pos]).to eq([1000, 1011])
          expect(file.read(4)).to eq(bytes[1011, 4])
          file.seek(0, IO::SEEK_END)
          expect([file.read_into(buffer), file.pos]).to eq([0, 300_001])
        end
      end

      it "truncate cuts and extends, keeps the position, and drops what was read ahead of the cut" do
        open_with(direct) do |file|
          file.read(10)
          expect([file.truncate(1001), file.size, file.pos]).to eq([0, 1001, 10])
          expect(file.read).to eq(bytes[10...1001])
          expect([file.truncate(5000), file.size]).to eq([0, 5000])
          expect(file.read).to eq("\0" * 3999)
          expect([file.truncate(0), file.read]).to eq([0, ""])
        end
      end

      it "fsync and fdatasync return 0, for readers too" do
        open_with(direct) { |file| expect([file.write("x"), file.fsync, file.fdatasync]).to eq([1, 0, 0]) }
        open_with(direct, "rb") { |file| expect([file.fsync, file.fdatasync]).to eq([0, 0]) }
      end

      it "says whether it is direct, with what alignment, and counts requests and bytes by the path they took" do
        open_with(direct) do |file|
          expect(file.direct?).to be(direct)
          expect([file.alignment, file.memory_alignment]).to direct ? all(be >= 4) : eq([1, 1])
          expect(file.inspect).to include(path, "#{direct ? "direct" : "buffered"}, alignment #{file.alignment}")
          file.read_into(DMA::Buffer.new(8192), offset: 4096)
          file.write_from(DMA::Buffer.new(4096), offset: 0)
          used, unused = direct ? %i[direct buffered] : %i[buffered direct]
          expect(file.stats).to include(engine: be(:uring).or(be(:threads)), requests: 2, fallbacks: 0,
                                        bounced_bytes: 0, "#{used}_requests": 2,
                                        "#{used}_bytes": 12_288,
                                        "#{unused}_requests": 0, "#{unused}_bytes": 0)
          file.close
          expect(file.stats[:requests]).to eq(2)
        end
      end

      it "sees at once what another process writes, and shows at once what it writes" do
        open_with(direct) do |file|
          File.open(path, "r+b") { |other| other.write("other") }
          expect(file.pread(8, 0)).to eq("other#{bytes[5, 3]}")
          file.pwrite("mine", 1)
          file.write_from(DMA::Buffer.new(4096), offset: 4096)
          expect(File.binread(path, 8)).to eq("omine#{bytes[5, 3]}")
          expect(File.binread(path, 4098, 4095)).to eq("#{bytes[4095]}#{"\0" * 4096}#{bytes[8192]}")
        end
      end
    end
  end

  it "aligned writes of a file that is direct go past the page cache, its edges through it" do
    open_file("r+b", direct: true) do |file|
      edge = file.alignment
      needs "a file system whose direct I/O wants an alignment", edge > 1
      file.write_from(DMA::Buffer.new(edge * 4), offset: edge)
      expect(file.stats).to include(direct_requests: 1, buffered_requests: 0)
      file.write_from(DMA::Buffer.new(edge * 4), offset: 1)
      expect(file.stats).to include(direct_requests: 2, buffered_requests: 2, buffered_bytes: edge)
    end
  end

  describe "#to_io" do
    it "is an ordinary File at the position, through the page cache, closed with the file" do
      io = nil
      open_file("r+b", direct: true) do |file|
        file.read(1000)
        io = file.to_io
        expect(io).to be_a(File)
        expect(io.read(5)).to eq(bytes[1000, 5])
        expect(IO.for_fd(io.fileno, autoclose: false).fcntl(3) & File::DIRECT).to eq(0) # F_GETFL
        expect(file.pos).to eq(1000)
        expect([file.to_io, file.fileno]).to eq([io, io.fileno])
        io.write("seen at once")
        expect(file.pread(12, 1000)).to eq("seen at once")
        expect(file).not_to respond_to(:to_path)
      end
      expect(io).to be_closed
    end

    it "reads and writes as the file may" do
      open_file { |file| expect { file.to_io.write("x") }.to raise_error(IOError) }
      described_class.open(scratch_file("other.bin"), "w") do |file|
        file.to_io.write("x")
        expect { file.to_io.read }.to raise_error(IOError)
      end
      open_file("r+:ISO-8859-1") { |file| expect(file.to_io.external_encoding).to eq(Encoding::ISO_8859_1) }
    end
  end

  describe "a block device" do
    it "has a size, and is read and written direct" do
      needs_root
      device = loop_device(1 << 20)
      described_class.open(device, "r+b", direct: true) do |file|
        expect(file.size).to eq(1 << 20)
        expect(file.direct?).to be(true)
        file.pwrite(bytes, 1001)
        expect(file.pread(bytes.size, 1001) == bytes).to be(true)
        expect(file.seek(-10, IO::SEEK_END)).to eq(0)
        expect(file.read(100)).to eq("\0" * 10)
        expect(file.each_chunk(100_000, offset: 0).sum { |buffer, _| buffer.size }).to eq(1 << 20)
        expect(file.fsync).to eq(0)
        expect { file.pwrite("xy", (1 << 20) - 1) }.to raise_error(Errno::ENOSPC, /offset #{1 << 20} \(1 of 2 bytes/)
      end
      expect(DMA.read(device, direct: true).get_string == File.binread(device)).to be(true)
    end

    def loop_device(size)
      image = scratch_file("disk.img", "").tap { |file| File.truncate(file, size) }
      device, status = Open3.capture2e("losetup", "--find", "--show", image)
      needs "a loop device (#{device.strip})", status.success?
      (@loops ||= []) << device.strip
      device.strip
    end

    after { @loops&.each { |device| system("losetup", "--detach", device) } }
  end

  describe "a read that fails" do
    let(:path) { fuse_file(300_000, eio: 200_000) }

    it "says at which offset, delivers what lies before, and leaves the position where it was" do
      expected = unstressed { sample(300_000) }
      open_file(direct: false) do |file|
        file.seek(131_072)
        message = /read \d+ bytes at offset \d+ .*of #{path}/
        expect { file.read }.to raise_error(Errno::EIO, message)
        expect(file.pos).to eq(131_072)
        expect { file.read_into(DMA::Buffer.new(100_000)) }.to raise_error(Errno::EIO, /bytes were read/)
        expect(file.pos).to eq(131_072)
        file.rewind
        passed = 0
        expect do
          file.each_chunk(65_536) { |buffer, at| passed += 1 if buffer.get_string == expected[at, 65_536] }
        end.to raise_error(Errno::EIO, message)
        expect(passed).to eq(3)
        expect(file.pos).to be_between(196_608, 200_000)
        expect(file.pread(10, 0)).to eq(expected[0, 10])
      end
    end
  end

  describe "threads that share a file" do
    it "pread, pwrite and read_into are independent of each other, and of the position" do
      open_file("r+b") do |file|
        read = Thread.new { Array.new(rounds(300)) { |n| file.read(997) == bytes[n * 997, 997] } }
        others = Array.new(4) do |number|
          Thread.new do
            buffer = DMA::Buffer.new(512, lock: false)
            Array.new(rounds(100)) do |n|
              at = 4096 * ((number * 10) + (n % 10))
              file.pwrite(bytes[at, 700], at) # what is there already: nobody sees a change
              file.read_into(buffer, offset: at + 1)
              file.pread(600, at + 7) == bytes[at + 7, 600] && buffer.get_string == bytes[at + 1, 512]
            end
          end
        end
        expect([read, *others].flat_map(&:value)).to all(be(true))
        expect(file.pos).to eq(997 * rounds(300))
      end
    end
  end
end

RSpec.describe DMA::File do
  it "writes the bytes of a buffer, not its name, wherever a String is taken" do
    target = scratch_file("out", "")
    buffer = DMA::Buffer.new(5).tap { |memory| memory.set_string("\xFF\x00abc".b) }
    described_class.open(target, "w:UTF-8") do |file|
      expect(file.write(buffer)).to eq(5)
      expect(file.write(buffer.view(2), "é")).to eq(5)
      expect(file.pwrite(buffer.slice(4), 20)).to eq(1)
      expect((file << buffer).syswrite(buffer)).to eq(5)
    end
    expect(File.binread(target)).to eq("\xFF\0abcabc\xC3\xA9\xFF\0abc\xFF\0abcc".b)
  end

  it "says what is no buffer, and no mode" do
    described_class.open(scratch_file("file", "bytes"), "r+") do |file|
      [nil, "String", IO::Buffer.new(10)].each do |other|
        expect { file.read_into(other) }.to raise_error(TypeError, /is no DMA::Buffer; DMA::Buffer.wrap/)
        expect { file.write_from(other) }.to raise_error(TypeError, /is no DMA::Buffer; DMA::Buffer.wrap/)
      end
    end
    expect { described_class.open(scratch_file("file"), :w) }.to raise_error(TypeError, /mode :w/)
    described_class.open(scratch_file("file"), nil) { |file| expect(file.read).to eq("bytes") }
  end
end
