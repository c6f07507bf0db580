# frozen_string_literal: true

require "objspace"

# What `read` brings is what lies in the file, however much of it is on its way already.
RSpec.describe DMA::File, "reading ahead" do
  let(:bytes) { unstressed { sample((8 << 20) + 1001) } }
  let(:path) { scratch_file("file.bin", bytes).tap { |path| evict(path) } }
  let(:file) { described_class.open(path, "r+b") }

  after { file.close }

  # Nothing of it in the page cache.
  def evict(path)
    ::File.open(path) do |io|
      io.fdatasync
      io.advise(:dontneed)
    end
  end

  # Reads so much that the file counts as read in order, and more is under way.
  def begin_reading
    read = file.read(512 << 10) + file.read(4096)
    expect(read == bytes[0, read.bytesize]).to be(true)
    read.bytesize
  end

  [100, 4096, 65_536, 1_000_003, 1 << 20].each do |size|
    it "brings every byte once in reads of #{size} bytes, in requests of half a mebibyte" do
      read = +""
      rounds(size == 100 ? 20_000 : 90_000).times do
        break unless (piece = file.read(size))

        expect(piece.bytesize).to eq([size, bytes.bytesize - read.bytesize].min)
        read << piece
      end
      expect(read == bytes[0, read.bytesize]).to be(true)
      next if read.bytesize < bytes.bytesize || !file.direct?

      expect(file.stats[:requests]).to be <= 30
    end
  end

  # Ruby's own growth takes up to twice as much, and copies.
  it "takes as much memory for a String as it has bytes, from the disk and from the page cache" do
    [method(:evict), ::File.method(:binread)].each do |prepare|
      prepare.call(path)
      file.rewind
      strings = Array.new(6) { file.read(1 << 20) } << file.read
      expect(strings.map { |string| ObjectSpace.memsize_of(string) - string.bytesize }).to all(be_between(0, 4096))
      expect(strings.join == bytes).to be(true)
    end
  end

  it "leaves the memory of a String that is filled again as it is" do
    out = String.new(capacity: 1 << 20)
    [4096, 65_536, 100_000].each { |length| rounds(10).times { file.read(length, out) } }
    10.times { |n| file.pread(4096, n, out) }
    expect(out).to eq(bytes[9, 4096])
    expect(ObjectSpace.memsize_of(out)).to be > 1 << 20
  end

  it "brings every line once" do
    lines = unstressed { Array.new(60_000) { |n| "line #{n} #{"x" * (n % 100)}\n" } }
    text = scratch_file("lines.txt", lines.join)
    evict(text)
    count = rounds(lines.size)
    described_class.open(text) { |file| expect(file.each_line.first(count) == lines.first(count)).to be(true) }
  end

  it "is dropped by seek, after which what others wrote is seen" do
    position = begin_reading
    ::File.binwrite(path, "written by others", position + 100_000)
    file.seek(position)
    expect(file.read(200_000)[100_000, 17]).to eq("written by others")
  end

  it "does not hide what is written through the same file" do
    position = begin_reading
    file.pwrite("pwrite", position + 1_000_000)
    buffer = DMA::Buffer.new(4096).tap { |memory| memory.set_string("write_from".ljust(4096, ".")) }
    file.write_from(buffer, offset: 3 << 20)
    read = file.read(4 << 20)
    expect([read[1_000_000, 6], read[(3 << 20) - position, 12]]).to eq(["pwrite", "write_from.."])
  end

  it "does not hide what is written where the last that is on its way ends" do
    begin_reading
    3.times { sleep(0.05) && file.read(512 << 10) }
    sleep(0.05) # Until what is on its way has come.
    (file.pos...(7 << 20)).step(256 << 10) { |at| file.pwrite("new", at) }
    (file.pos...(7 << 20)).step(256 << 10) { |_| expect(file.read(256 << 10)).to start_with("new") }
  end

  it "does not bring back what another thread has overwritten" do
    small = scratch_file("small.bin", "\0" * 65_536)
    described_class.open(small, "r+b") do |shared|
      written = 0
      writer = Thread.new { (1..rounds(3000)).each { |n| shared.pwrite([n].pack("L"), 4000) && (written = n) } }
      stale = 0
      while writer.alive?
        # What is read ahead here may have been on its way while the next version was written.
        shared.rewind
        shared.read(4000)
        before = written
        stale += 1 if shared.read(4).unpack1("L") < before
      end
      writer.join
      expect(stale).to eq(0)
    end
  end

  it "goes on at the position that a write has moved" do
    position = begin_reading
    file.write("0123456789")
    expect(file.read(100)).to eq(bytes[position + 10, 100])
    expect(file.pread(10, position)).to eq("0123456789")
  end

  it "finds what the file has become longer by" do
    begin_reading
    nil while file.read(1 << 20)
    ::File.open(path, "ab") { |io| io.write("more") }
    expect([file.read(100), file.read(100)]).to eq(["more", nil])
  end

  it "ends where the file was cut" do
    position = begin_reading
    ::File.truncate(path, 6 << 20)
    read = +""
    while (piece = file.read(100_000))
      read << piece
    end
    expect(bytes.start_with?(bytes[0, position] + read)).to be(true)
    expect(position + read.bytesize).to be_between(6 << 20, bytes.bytesize)
  end

  it "ends with close, and with the memory in nobody's hands" do
    begin_reading
    file.close
    expect { file.read(1) }.to raise_error(DMA::ClosedError)
  end

  it "is the parent's alone after fork" do
    position = begin_reading
    child = fork do
      file.read(1 << 20)
    rescue DMA::ClosedError
      exit!(0)
    ensure
      exit!(1)
    end
    expect(Process.wait2(child).last.exitstatus).to eq(0)
    expect(file.read(100_000) == bytes[position, 100_000]).to be(true)
  end

  context "on a disk that fails or hangs" do
    it "raises for the first byte that cannot be read, once all before it were, and again when asked again" do
      path = fuse_file(4 << 20, eio: 3_000_000)
      described_class.open(path, "rb") do |file|
        read = file.read(400_000)
        error = nil
        loop { read << file.read(100_000) } rescue error = $! # rubocop:disable Style/RescueModifier
        expect(error).to be_a(Errno::EIO).and have_attributes(message: /read \d+ bytes at offset \d+ /)
        expect(read == sample(4 << 20)[0, read.bytesize]).to be(true)
        expect(read.bytesize).to be_between(2_800_000, 3_000_000)
        expect { file.read(100_000) }.to raise_error(Errno::EIO)
        expect(file.pos).to eq(read.bytesize)
      end
    end

    it "is interrupted while it waits for what is under way, and reads the same bytes after" do
      path = fuse_file(4 << 20, hang: 1_000_000)
      described_class.open(path, "rb") do |file|
        read = file.read(400_000)
        thread = Thread.new(file, read) { |given, out| loop { out << given.read(100_000) } }
        thread.report_on_exception = false
        await_hang
        thread.raise(KeyError, "mine")
        expect { thread.join(60) }.to raise_error(KeyError, "mine")
        release_reads
        read << file.read
        expect(read == sample(4 << 20)).to be(true)
      end
    end
  end
end
