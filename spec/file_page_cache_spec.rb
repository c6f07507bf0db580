# frozen_string_literal: true

# `direct: :auto` takes what lies in the page cache from there, and the rest from the disk; `direct: true` leaves the
# page cache alone.
RSpec.describe DMA::File, "and the page cache" do
  let(:mib) { 1 << 20 }
  let(:size) { (8 * mib) + 1234 }
  let(:bytes) { unstressed { sample(size) } }
  let!(:path) { unstressed { scratch_file("file.bin", bytes) } }

  # Bytes that this process has had read from disks during the block.
  def from_disk
    needs "/proc/self/io", File.readable?("/proc/self/io")
    before = disk_bytes
    yield
    disk_bytes - before
  end

  def disk_bytes
    Integer(File.read("/proc/self/io")[/^read_bytes: (\d+)/, 1])
  end

  # Brings these bytes into the page cache, and none around them.
  def warm(ranges)
    File.open(path, "rb") do |file|
      file.advise(:random)
      ranges.each { |offset, length| file.pread(length, offset) }
    end
  end

  def self.into(capacity, offset)
    lambda do |file|
      buffer = DMA::Buffer.new(capacity)
      [[buffer.get_string(0, file.read_into(buffer, offset: offset)), offset]]
    end
  end

  # All ways to read, each as a block that returns the bytes that it read, and where they were.
  def self.ways
    {
      "read_into" => into(8 << 20, 0),
      "read_into of more memory than there is file" => into(64 << 20, 0),
      "read_into at an offset that is not aligned" => into(100_000, 77),
      "pread" => ->(file) { [[file.pread(3_000_000, 5), 5]] },
      "read" => ->(file) { [[file.read, 0]] },
      "each_chunk" => ->(file) { file.each_chunk(100_000, offset: 0).map { |chunk, at| [chunk.get_string, at] } },
      "read_many" => lambda do |file|
        ranges = Array.new(100) { |n| [n * 80_000, 9000] }
        file.read_many(ranges).map { |part, at| [part.get_string, at] }
      end
    }
  end

  def right?(parts)
    parts.any? && parts.all? { |part, at| part == bytes[at, part.bytesize] }
  end

  def open_file(engine, direct)
    needs_uring if engine == :uring
    described_class.open(path, "rb", engine: engine, direct: direct) do |file|
      needs "a file system with direct I/O", direct == false || file.direct?
      yield file
    end
  end

  %i[uring threads].each do |engine|
    context "with engine: #{engine}" do
      ways.each do |name, read|
        it "#{name} of a file that lies there takes nothing from the disk with direct: :auto" do
          warm([[0, size]])
          open_file(engine, :auto) do |file|
            parts = nil
            expect(from_disk { parts = read.call(file) }).to eq(0)
            expect(right?(parts)).to be(true)
            expect(file.stats).to include(direct_requests: 0, fallbacks: 0, bounced_bytes: 0, cached_requests: be > 0)
            expect(file.stats[:cached_requests]).to eq(file.stats[:buffered_requests])
          end
        end

        it "#{name} of a file that does not lie there leaves nothing there with direct: :auto and direct: true" do
          [:auto, true].each do |direct|
            evict(path)
            expect(resident(path)).to eq(0)
            open_file(engine, direct) do |file|
              expect(right?(read.call(file))).to be(true)
              expect(file.stats).to include(buffered_requests: 0, cached_requests: 0, direct_requests: be > 0)
            end
            expect(resident(path)).to eq(0)
          end
        end
      end

      it "takes what lies there from there, and the rest from the disk, chunk by chunk" do
        evict(path)
        there = [2, 3, 6]
        warm(there.map { |n| [n * mib, mib] })
        expect(resident(path)).to eq(3 * mib)
        open_file(engine, :auto) do |file|
          parts = nil
          taken = from_disk { parts = file.each_chunk(mib, offset: 0).map { |chunk, at| [chunk.get_string, at] } }
          expect(right?(parts)).to be(true)
          expect(file.stats).to include(cached_requests: 3, buffered_requests: 3, direct_requests: 6)
          expect(taken).to be_between(5 * mib, (5 * mib) + 4096)
        end
        expect(resident(path)).to eq(3 * mib)
      end

      it "takes a batch's ranges from where each of them lies" do
        evict(path)
        warm([[mib, 4096], [5 * mib, 8192]])
        open_file(engine, :auto) do |file|
          ranges = Array.new(8) { |n| [n * mib, 4096] }
          parts = file.read_many(ranges).map { |part, at| [part.get_string, at] }
          expect(right?(parts) && parts.size == 8).to be(true)
          expect(file.stats).to include(cached_requests: 2, direct_requests: 6)
        end
        expect(resident(path)).to eq(3 * 4096)
      end

      it "does not look there with direct: true: what lies there is read from the disk, and stays" do
        warm([[0, size]])
        before = resident(path)
        open_file(engine, true) do |file|
          buffer = DMA::Buffer.new(8 * mib)
          expect(from_disk { file.read_into(buffer, offset: 0) }).to eq(8 * mib)
          expect(buffer.get_string == bytes[0, 8 * mib]).to be(true)
          expect(file.stats).to include(cached_requests: 0, buffered_requests: 0, direct_bytes: 8 * mib)
        end
        expect(resident(path)).to be <= before
      end

      it "gets bytes that were written there and are on no disk yet, with any direct" do
        [true, :auto, false].each_with_index do |direct, index|
          fresh = sample(mib, index)
          File.open(path, "r+b") { |file| file.pwrite(fresh, mib) }
          open_file(engine, direct) do |file|
            buffer = DMA::Buffer.new(mib)
            file.read_into(buffer, offset: mib)
            expect(buffer.get_string == fresh).to be(true)
          end
        end
      end

      it "writes whole blocks past it, and leaves nothing there" do
        evict(path)
        described_class.open(path, "r+b", engine: engine, direct: true) do |file|
          needs "a file system with direct I/O", file.direct?
          buffer = DMA::Buffer.new(mib).tap { |fresh| fresh.set_string(sample(mib, 9)) }
          file.write_from(buffer, offset: 2 * mib)
          expect(file.stats).to include(direct_bytes: mib, buffered_requests: 0)
        end
        expect(resident(path)).to eq(0)
        expect(File.binread(path, mib, 2 * mib) == sample(mib, 9)).to be(true)
      end
    end
  end

  it "is not asked by who could not write the file, for that nobody may know: all is direct, and right" do
    File.chmod(0o755, scratch)
    File.chmod(0o644, path)
    warm([[0, size]])
    output = unprivileged(<<~RUBY, uid: 65_403)
      DMA::File.open(#{path.dump}) do |file|
        buffer = DMA::Buffer.new(#{mib})
        file.read_into(buffer, offset: 0)
        print file.stats.values_at(:cached_requests, :direct_requests), buffer.get_string == File.binread(file.path, #{mib})
      end
    RUBY
    expect(output).to eq("[0, 1]true")
  end
end
