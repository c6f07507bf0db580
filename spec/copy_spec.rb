# frozen_string_literal: true

require "async"
require "pathname"

RSpec.describe DMA, ".copy" do
  let(:bytes) { unstressed { sample(5_000_001) } }
  let(:source) { scratch_file("source.bin", bytes) }
  let(:destination) { scratch_file("destination.bin") }

  def same?(one = source, other = destination)
    FileUtils.cmp(one, other)
  end

  # What is in the destination is what the source begins with.
  def safe?(all = bytes)
    all.start_with?(File.binread(destination))
  end

  def descriptors
    Dir.children("/proc/self/fd").size
  end

  # Waits for descriptors that a worker has until it has told of its last operation, and a moment longer.
  def closed_down_to(count)
    Timeout.timeout(60) { sleep 0.001 until descriptors <= count }
  end

  # A loop device over a file of `size` bytes.
  def loop_device(name, size)
    needs_root
    image = scratch_file(name, "").tap { |path| File.truncate(path, size) }
    device, status = Open3.capture2e("losetup", "--find", "--show", image)
    needs "a loop device (#{device.strip})", status.success?
    (@loops ||= []) << device.strip
    device.strip
  end

  # A file system of btrfs, where files can share bytes.
  def btrfs(size)
    needs "mkfs.btrfs", system("which mkfs.btrfs", out: File::NULL)
    image = scratch_file("disk.img", "").tap { |path| File.truncate(path, size) }
    system("mkfs.btrfs", "-q", image, out: File::NULL, exception: true)
    mount("btrfs", source: image, options: "loop")
  end

  def free_bytes(directory)
    system("sync", "-f", directory, exception: true)
    blocks, size = Open3.capture2("stat", "-f", "-c", "%f %S", directory).first.split.map(&:to_i)
    blocks * size
  end

  after { @loops&.each { |device| system("losetup", "--detach", device) } }

  it "copies files of any length, over longer ones too, and returns the bytes" do
    [0, 1, 4096, 4097, 1 << 20, (1 << 20) + 1, 5_000_001].product([:auto, false]) do |length, direct|
      File.binwrite(source, bytes[0, length])
      File.binwrite(destination, "x" * 3_000_000)
      expect(described_class.copy(source, Pathname(destination), direct: direct)).to eq(length)
      expect(same?).to be(true), "#{length} bytes, direct: #{direct}"
    end
  end

  it "makes the destination with the permissions of the source, and leaves those of one that is there" do
    File.chmod(0o751, source)
    described_class.copy(source, destination)
    expect(File.stat(destination).mode & 0o777).to eq(0o751 & ~File.umask)
    File.chmod(0o4600, source)
    described_class.copy(source, destination)
    expect(File.stat(destination).mode & 0o7777).to eq(0o751 & ~File.umask)
  end

  it "leaves holes as holes" do
    File.open(source, "wb") do |file|
      [1 << 20, 40 << 20].each { |offset| file.pwrite(bytes[0, 100_001], offset) }
      file.truncate(90 << 20)
    end
    expect(described_class.copy(source, destination)).to eq(90 << 20)
    expect(same?).to be(true)
    expect(File.stat(destination).blocks).to be <= File.stat(source).blocks
  end

  it "shares the bytes where the file system can" do
    directory = btrfs(256 << 20)
    from, to = %w[from to].map { |name| File.join(directory, name) }
    unstressed { File.binwrite(from, bytes * 8) }
    free = free_bytes(directory)
    expect(described_class.copy(from, to)).to eq(40_000_008)
    expect(same?(from, to)).to be(true)
    expect(free - free_bytes(directory)).to be < 4_000_000
    File.binwrite(to, "changed", 5)
    expect(File.binread(from, 100)).to eq(bytes[0, 100])
    expect(File.binread(to, 12)).to eq("#{bytes[0, 5]}changed")
  end

  it "copies files that have bytes but no size" do
    File.binwrite(destination, "before" * 100_000)
    all = File.read("/proc/self/limits")
    expect(described_class.copy("/proc/self/limits", destination)).to eq(all.bytesize)
    expect(File.read(destination)).to eq(all)
  end

  it "refuses to copy a file over itself, whatever its name, and changes nothing" do
    File.link(source, "#{source}.hard")
    File.symlink(source, "#{source}.soft")
    [source, "#{source}.hard", "#{source}.soft"].each do |other|
      expect { described_class.copy(source, other) }.to raise_error(ArgumentError, /#{other} are the same file/)
    end
    expect(File.binread(source) == bytes).to be(true)
  end

  it "refuses what is neither file nor block device, and what is not there, and leaves the other alone" do
    File.mkfifo("#{source}.fifo")
    refused = { "/dev/null" => DMA::UnsupportedError, "#{source}.fifo" => DMA::UnsupportedError,
                scratch => Errno::EISDIR, "#{source}.none/file" => Errno::ENOENT }
    refused.each do |path, error|
      expect { described_class.copy(source, path) }.to raise_error(error, /#{path}/)
      expect { described_class.copy(path, destination) }.to raise_error(error, /#{path}/)
    end
    expect(File.exist?(destination)).to be(false)
    expect { described_class.copy("/proc/self/limits", destination, direct: true) }
      .to raise_error(DMA::UnsupportedError, /direct I/)
    expect { described_class.copy(source, destination, direct: 1) }.to raise_error(ArgumentError, /direct: 1 is none/)
  end

  it "copies to and from block devices" do
    device = loop_device("disk", 8 << 20)
    expect(described_class.copy(source, device)).to eq(5_000_001)
    expect(File.binread(device, 5_000_001) == bytes).to be(true)
    expect(described_class.copy(device, destination)).to eq(8 << 20)
    expect(File.binread(destination) == File.binread(device)).to be(true)
    expect { described_class.copy(device, device) }.to raise_error(ArgumentError, /the same file/)
    small = loop_device("small", 1 << 20)
    expect { described_class.copy(source, small) }
      .to raise_error(Errno::ENOSPC, /cannot copy the 5000001 bytes of #{source} to #{small}/)
    expect(File.binread(small)).to eq("\0" * (1 << 20))
  end

  it "overwrites with zeros where the source has holes and the destination is a block device" do
    device = loop_device("disk", 4 << 20)
    File.binwrite(device, "x" * (4 << 20))
    File.truncate(source, 0)
    File.truncate(source, 3 << 20)
    expect(described_class.copy(source, device)).to eq(3 << 20)
    expect(File.binread(device) == ("\0" * (3 << 20)) + ("x" * (1 << 20))).to be(true)
  end

  it "leaves no descriptor behind, and no thread" do
    described_class.copy(source, destination)
    before = descriptors
    threads = Thread.list
    rounds(20).times do
      described_class.copy(source, destination)
      expect { described_class.copy(source, source) }.to raise_error(ArgumentError)
    end
    expect(Thread.list).to eq(threads)
    closed_down_to(before)
  end

  describe "when it fails" do
    it "says that there is no room before anything is written" do
      full = File.join(mount("tmpfs", options: "size=1m"), "file")
      expect { described_class.copy(source, full) }
        .to raise_error(Errno::ENOSPC, /cannot allocate 5000001 bytes at offset 0 of #{full}/)
      expect(File.size(full)).to eq(0)
    end

    it "past RLIMIT_FSIZE raises EFBIG" do
      message = in_ruby(<<~RUBY)
        trap("XFSZ", "IGNORE")
        Process.setrlimit(:FSIZE, 1_000_000)
        begin
          DMA.copy(#{source.dump}, #{destination.dump})
        rescue Errno::EFBIG => e
          print e.message
        end
      RUBY
      expect(message).to match(/5000001 bytes at offset 0 of #{destination}/)
      expect(File.size(destination)).to eq(0)
    end

    [:auto, false].each do |direct|
      it "leaves what comes before the place that cannot be read, and says where that is: direct: #{direct}" do
        broken = fuse_file(5_000_001, eio: 3_500_000)
        expect { described_class.copy(broken, destination, direct: direct) }
          .to raise_error(Errno::EIO, /cannot read \d+ bytes at offset 3\d{6} of #{broken}/)
        expect(File.size(destination)).to be_between(3 << 20, 3_500_000)
        expect(safe?).to be(true)
      end
    end
  end

  describe "of a file that does not answer" do
    let!(:source) { fuse_file(5_000_001, hang: 3_500_000) }

    it "ends by Timeout, leaves what is safe, and can be begun again" do
      expect { Timeout.timeout(0.3) { described_class.copy(source, destination, direct: true) } }
        .to raise_error(Timeout::Error)
      expect(File.size(destination)).to be_between(1, 3_500_000)
      expect(safe?).to be(true)
      release_reads
      expect(described_class.copy(source, destination)).to eq(5_000_001)
      expect(safe? && File.size(destination) == 5_000_001).to be(true)
    end

    it "ends with its thread, which runs its ensure blocks, and leaves no descriptor behind" do
      before = descriptors
      ensured = false
      thread = Thread.new do
        described_class.copy(source, destination, direct: true)
      ensure
        ensured = true
      end
      await_hang
      thread.kill.join
      expect(ensured).to be(true)
      release_reads
      closed_down_to(before)
    end

    it "lets other fibers run" do
      order = []
      Async do |task|
        copy = task.async { order << described_class.copy(source, destination, direct: true) }
        task.async do
          rounds(5).times { task.sleep 0.001 }
          order << :ticked
          release_reads
        end
        copy.wait
      end
      expect(order).to eq([:ticked, 5_000_001])
      expect(safe?).to be(true)
    end
  end
end
