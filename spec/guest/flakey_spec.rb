# frozen_string_literal: true

require "open3"

# Disks of the device mapper that fail in a region, behind the block layer and a file system; and a kernel without
# io_uring.
RSpec.describe DMA::File, "on a disk that fails" do
  let(:mib) { 1 << 20 }
  # Where it fails, for 64 KiB.
  let(:bad) { (2 * mib) + (512 << 10) }
  let(:bytes) { sample(8 * mib) }
  let(:disk) { namespace(Support::Guest::NVME, 1) }

  def dmsetup(*arguments)
    output, status = Open3.capture2e("dmsetup", "--noudevsync", *arguments)
    raise "dmsetup #{arguments.join(" ")}: #{output}" unless status.success?
  end

  # A disk over the namespace whose table has these lines; its path, which without udev is the kernel's own.
  def mapped(*lines)
    table = scratch_file("table", lines.map { |line| "#{line}\n" }.join)
    dmsetup("create", "--noudevrules", "dma-spec", table)
    @mapped = true
    name = Dir.glob("/sys/block/dm-*/dm/name").find { |path| File.read(path) == "dma-spec\n" }
    "/dev/#{name[/dm-\d+/]}"
  end

  # Once what is mounted there has gone.
  after { dmsetup("remove", "--deferred", "dma-spec") if @mapped }

  # Its first 8 MiB are the namespace's, but for the region.
  def broken(target)
    from, count, all = [bad, 64 << 10, 8 * mib].map { |n| n / 512 }
    rest = all - from - count
    mapped("0 #{from} linear #{disk} 0", "#{from} #{count} #{target.call(from)}",
           "#{from + count} #{rest} linear #{disk} #{from + count}")
  end

  targets = {
    "error" => ->(_, _) { "error" },
    "flakey" => ->(disk, from) { "flakey #{disk} #{from} 0 3600 1 error_reads" }
  }

  def mapped?
    Dir.glob("/sys/block/dm-*/dm/name").any? { |path| File.read(path) == "dma-spec\n" }
  rescue SystemCallError
    true # It goes just now.
  end

  before do
    # The kernel takes its time to end the ring of who read it last.
    sleep(0.01) while mapped?
    File.open(disk, "r+b") { |file| file.tap { file.write(bytes) }.fdatasync }
  end

  targets.to_a.product(%i[uring threads]).each do |(name, line), engine|
    it "of dm-#{name} names the offset, and all the rest is delivered, with engine: #{engine}" do
      path = broken(->(from) { line.call(disk, from) })
      described_class.open(path, "rb", engine: engine, direct: true) do |file|
        expect(file.stats[:engine]).to eq(engine)
        buffer = DMA::Buffer.new(8 * mib)
        figures = /read (\d+) bytes at offset (\d+) \((\d+) of 8388608 bytes were read\) of #{path}/
        expect { file.read_into(buffer, offset: 0) }.to raise_error(Errno::EIO, figures) do |error|
          left, at, safe = error.message.match(figures).captures.map(&:to_i)
          expect([left + safe, at]).to eq([8 * mib, safe])
          expect(safe).to be_between(2 * mib, bad)
          expect(buffer.get_string(0, safe) == bytes[0, safe]).to be(true)
        end
        found = {}
        expect { file.each_chunk(256 << 10, offset: 0) { |part, at| found[at] = part.get_string } }
          .to raise_error(Errno::EIO, /read \d+ bytes at offset 2621440 of #{path}/)
        expect(found.map { |at, part| part == bytes[at, 256 << 10] }).to eq([true] * 10)
        ranges = Array.new(128) { |n| [n << 16, 4096] }
        found = {}
        expect { file.read_many(ranges) { |part, at| found[at] = part.get_string } }
          .to raise_error(Errno::EIO, /read 4096 bytes at offset 2621440 of #{path}/)
        expect(found.map { |at, part| part == bytes[at, 4096] }).to eq([true] * 127)
      end
    end
  end

  it "of ext4 in between: the file's offset is named, what is behind comes, and the copy has what is before" do
    system("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", disk, "8M", exception: true)
    whole = File.join(scratch, "whole").tap { |directory| Dir.mkdir(directory) }
    system("mount", "-t", "ext4", disk, whole, exception: true)
    File.binwrite(File.join(whole, "file"), bytes[0, 5 * mib])
    system("umount", whole, exception: true)
    directory = mount("ext4", source: broken(->(_) { "error" }), options: "ro")
    path = File.join(directory, "file")
    described_class.open(path, "rb") do |file|
      good = (0...1280).map { |n| [n * 4096, 4096] }
      found = {}
      expect { file.read_many(good) { |part, at| found[at] = part.get_string } }
        .to raise_error(Errno::EIO, /read 4096 bytes at offset \d+ \(and 15 more ranges\) of #{path}/)
      expect(found.size).to eq(1280 - 16)
      expect(found).to(be_all { |at, part| part == bytes[at, 4096] })
      first = (good.map(&:first) - found.keys).min
      copy = scratch_file("copy")
      expect { DMA.copy(path, copy) }.to raise_error(Errno::EIO, /read \d+ bytes at offset \d+ of #{path}/)
      expect(File.size(copy)).to be <= first
      expect(bytes.start_with?(File.binread(copy))).to be(true)
    end
  end

  it "has threads where the system forbids io_uring, and says by what to who insists" do
    setting = "/proc/sys/kernel/io_uring_disabled"
    needs "Linux 6.6 (#{setting})", File.exist?(setting)
    File.write(setting, "2")
    output = in_ruby(<<~RUBY)
      DMA::File.open(#{disk.dump}, direct: true) { |file| print file.stats[:engine], file.pread(4096, 0).sum, " " }
      begin
        DMA::File.open(#{disk.dump}, engine: :uring)
      rescue DMA::UnsupportedError => e
        print e.message
      end
    RUBY
    expect(output).to match(/\Athreads#{bytes[0, 4096].sum} io_uring cannot be used: .*kernel\.io_uring_disabled is 2/)
  ensure
    File.write(setting, "0")
  end
end
