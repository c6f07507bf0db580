# frozen_string_literal: true

RSpec.describe DMA, ".read at every size" do
  mib = 1 << 20
  sizes = [0, 1, 511, 512, 513, 4095, 4096, 4097, mib - 1, mib + 1, 64 * mib]

  # A directory on an overlay whose layers lie on the disk.
  def overlay
    lower, upper, work = %w[lower upper work].map { |name| File.join(scratch, name).tap { |path| Dir.mkdir(path) } }
    mount("overlay", options: "lowerdir=#{lower},upperdir=#{upper},workdir=#{work}")
  end

  file_systems = {
    "the disk's file system" => -> { scratch },
    "tmpfs" => -> { mount("tmpfs") },
    "overlayfs" => -> { overlay }
  }

  file_systems.each do |name, directory|
    sizes.each do |size|
      it "gives the #{size} bytes of a file on #{name}, direct" do
        path = File.join(instance_exec(&directory), "file.bin")
        File.binwrite(path, sample(size))
        buffer = described_class.read(path, direct: true)
        expect(buffer.size).to eq(size)
        expect(buffer.get_string == File.binread(path)).to be(true)
      end
    end

    it "gives any part of a file on #{name}, direct and not: odd ones, and past the end" do
      size = 20_011
      path = File.join(instance_exec(&directory), "file.bin")
      bytes = sample(size)
      File.binwrite(path, bytes)
      parts = [[0, 1], [1, 1], [511, 2], [512, 512], [513, nil], [4095, 4098], [4096, 4096], [20_010, 1],
               [20_010, 9000], [20_011, 1], [20_011, nil], [20_480, 5], [1 << 40, 10],
               [0, 0], [7, 0], [19_968, 43], [0, 1 << 40]]
      [true, false].product(parts).each do |direct, (offset, length)|
        part = described_class.read(path, offset: offset, length: length, direct: direct)
        expected = bytes.byteslice(offset, length || size) || ""
        expect(part.get_string == expected).to be(true), "offset #{offset}, length #{length.inspect}, direct #{direct}"
      end
    end
  end

  it "reads a part straight into a buffer that exists, and gives the part of it that was filled" do
    path = scratch_file("file.bin", bytes = sample(10_000))
    buffer = DMA::Buffer.new(16_384)
    expect(described_class.read(path, into: buffer, direct: true).get_string).to eq(bytes)
    expect(described_class.read(path, into: buffer, offset: 9000, direct: true).get_string).to eq(bytes[9000..])
    expect(described_class.read(path, into: buffer, offset: 3, length: 5).get_string).to eq(bytes[3, 5])
    small = buffer.slice(100, 50)
    expect(described_class.read(path, into: small)).to equal(small)
    expect(small.get_string).to eq(bytes[0, 50])
  end

  it "says how many bytes a buffer has that is too small for the length asked" do
    path = scratch_file("file.bin", "bytes")
    buffer = DMA::Buffer.new(16)
    expect { described_class.read(path, into: buffer, length: 17) }.to raise_error(ArgumentError, /17.*16/)
  end

  it "names what was asked of a file of proc that cannot be read" do
    expect { described_class.read("/proc/self/mem", length: 10) }
      .to raise_error(Errno::EIO, %r{cannot read 10 bytes at offset 0 \(0 of 10 bytes were read\) of /proc/self/mem})
  end

  it "reads files of proc, which have bytes but no size" do
    expect(described_class.read("/proc/self/status", offset: 1 << 20, length: 5).size).to eq(0)
    expect(described_class.read("/proc/self/status").get_string).to start_with("Name:\t")
    expect(described_class.read("/proc/self/status", offset: 2, length: 5).get_string).to eq("me:\tr")
  end

  it "brings the aligned body of a file on the disk in by direct requests alone, without a copy" do
    path = scratch_file("file.bin", sample((3 * mib) + 5))
    DMA::File.open(path, "rb", direct: true) do |file|
      body = DMA::Buffer.new(3 * mib)
      file.read_into(body, offset: 0)
      expect(file.stats).to include(direct_requests: 3, direct_bytes: 3 * mib, buffered_requests: 0, bounced_bytes: 0)
      tail = DMA::Buffer.new(5)
      expect(file.read_into(tail, offset: 3 * mib)).to eq(5)
      expect(file.stats).to include(direct_requests: 4, buffered_requests: 0, bounced_bytes: 5, fallbacks: 0)
    end
  end

  it "brings a whole file of odd size in without a copy: the slack of the buffer takes the last block" do
    path = scratch_file("file.bin", sample(mib + 5))
    DMA::File.open(path, "rb", direct: true) do |file|
      expect(file.__send__(:load, 0, nil, false).size).to eq(mib + 5)
      expect(file.stats).to include(direct_requests: 2, buffered_requests: 0, bounced_bytes: 0)
    end
  end

  context "where the file system has no direct I/O" do
    let(:path) { File.join(mount("ramfs"), "file.bin").tap { |path| File.binwrite(path, sample(5000)) } }

    it "refuses direct: true, and says why and what to do" do
      expect { described_class.read(path, direct: true) }
        .to raise_error(DMA::UnsupportedError, /#{path} cannot be .* direct I.*; use direct: :auto or direct: false/)
    end

    it "reads through the page cache with :auto, and counts that" do
      expect(described_class.read(path).get_string).to eq(sample(5000))
      DMA::File.open(path) do |file|
        file.read_into(DMA::Buffer.new(4096), offset: 0)
        expect(file.direct?).to be(false)
        expect(file.alignment).to eq(1)
        expect(file.stats).to include(fallbacks: 1, direct_requests: 0, buffered_requests: 1, buffered_bytes: 4096)
      end
    end

    it "does not call it a fallback where buffered reading was asked for" do
      DMA::File.open(path, direct: false) { |file| expect(file.stats[:fallbacks]).to eq(0) }
    end
  end
end
