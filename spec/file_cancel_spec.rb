# frozen_string_literal: true

require "async"

# Whatever ends a transfer that the file system does not answer: the exception arrives, the memory is nobody's before
# the kernel has let go of it, and then all works.
RSpec.describe DMA::File, "given up" do
  let(:mib) { 1 << 20 }
  let(:size) { 6 << 20 }
  let(:bytes) { unstressed { sample(size) } }
  # How long Timeout waits: the request has reached the file system by then.
  let(:limit) { Support::Stress::ON ? 1 : 0.3 }

  # Runs a transfer in a thread until it hangs, and then ends it as `how` says. Returns whether its ensure blocks ran.
  def give_up(how, &transfer)
    ensured = false
    run = lambda do
      transfer.call
    ensure
      ensured = true
    end
    how == :stop ? stop(run) : interrupt(how, run, limit)
    ensured
  end

  def interrupt(how, run, limit)
    thread = Thread.new { how == :timeout ? Timeout.timeout(limit) { run.call } : run.call }
    thread.report_on_exception = false
    await_hang
    case how
    when :timeout then expect { thread.join(60) }.to raise_error(Timeout::Error)
    when :kill then expect([thread.kill.join(60), thread.status]).to eq([thread, false])
    when :raise
      thread.raise(KeyError, "mine")
      expect { thread.join(60) }.to raise_error(KeyError, "mine")
    end
  end

  def stop(run)
    Async do |task|
      reader = task.async { run.call }
      task.async { await_hang }.wait
      reader.stop
      expect(reader).to be_stopped
    end
  end

  def open_file(path, engine, mode = "rb", **options, &)
    needs_uring if engine == :uring
    described_class.open(path, mode, engine: engine, direct: true, **options, &)
  end

  # The engine that DMA.copy has, which takes none.
  def with_engine(engine)
    before = ENV.fetch("DMA_FILE_ENGINE", nil)
    ENV["DMA_FILE_ENGINE"] = engine.to_s
    yield
  ensure
    ENV["DMA_FILE_ENGINE"] = before
  end

  # What is passed by a block that takes a buffer and its offset.
  def right?(parts)
    parts.any? && parts.all? { |part, at| part == bytes[at, part.bytesize] }
  end

  %i[uring threads].product(%i[timeout kill raise stop]).each do |engine, how|
    context "by #{how}, with engine: #{engine}" do
      it "read_into keeps a pool's buffer away from others until the kernel has let go of it" do
        path = fuse_file(size, hang: 3 << 20)
        pool = DMA::Pool.new(count: 1, size: 4 << 20)
        open_file(path, engine) do |file|
          buffer = pool.checkout
          expect(give_up(how) { file.read_into(buffer, offset: mib) }).to be(true)
          expect { file.read_into(buffer.slice(0, 4096), offset: 0) }.to raise_error(DMA::BusyError, /interrupted/)
          expect { buffer.free }.to raise_error(DMA::BusyError)
          expect(file.pread(9000, 5)).to eq(bytes[5, 9000])
          release_reads
          settled { buffer.free }
          pool.checkout(timeout: 60) do |again|
            expect(file.read_into(again, offset: mib)).to eq(4 << 20)
            expect(again.get_string == bytes[mib, 4 << 20]).to be(true)
          end
        end
      end

      it "read_into writes no byte around its memory, before and after" do
        path = fuse_file(size, hang: 100_000)
        part = guarded(200_001)
        open_file(path, engine) do |file|
          give_up(how) { file.read_into(part, offset: 50_001) }
          expect(guards_whole?).to be(true)
          release_reads
          settled { file.read_into(part, offset: 50_001) }
          expect(part.get_string == bytes[50_001, 200_001]).to be(true)
          expect(guards_whole?).to be(true)
        end
        free_guarded
      end

      it "each_chunk has passed the chunks before, and its memory is not used again before it may be" do
        path = fuse_file(size, hang: 3 << 20)
        open_file(path, engine) do |file|
          passed = []
          read = -> { file.each_chunk(500_000, offset: 0, depth: 3) { |part, at| passed << [part.get_string, at] } }
          expect(give_up(how, &read)).to be(true)
          expect(passed.map(&:last)).to eq(Array.new(passed.size) { |n| n * 500_000 })
          expect(passed.size).to be_between(4, 6)
          expect(right?(passed)).to be(true)
          others = file.each_chunk(100_000, offset: 0, length: mib).map { |part, at| [part.get_string, at] }
          expect(right?(others)).to be(true)
          release_reads
          passed.clear
          read.call
          expect(right?(passed) && passed.sum { |part, _| part.bytesize } == size).to be(true)
        end
      end

      it "read_many has passed what is there, and works again" do
        path = fuse_file(size, hang: 3 << 20)
        ranges = Array.new(12) { |n| [n * 500_000, 9000] } << [3 << 20, 10]
        open_file(path, engine) do |file|
          passed = []
          read = -> { file.read_many(ranges, depth: 13) { |part, at| passed << [part.get_string, at] } }
          expect(give_up(how, &read)).to be(true)
          expect(passed.map(&:last)).not_to include(3 << 20)
          expect(passed.empty? || right?(passed)).to be(true)
          others = file.read_many(ranges.first(3)).map { |part, at| [part.get_string, at] }
          expect(right?(others)).to be(true)
          release_reads
          passed.clear
          read.call
          expect(right?(passed) && passed.size == 13).to be(true)
        end
      end

      it "write_from begins nothing more, and writes none of what it had not begun" do
        # The kernel gets eight mebibytes of a write at a time.
        path = fuse_file(11 * mib, hang_write: 0)
        before = unstressed { sample(11 * mib) }
        fresh = unstressed { sample(9 * mib, 7) }
        source = DMA::Buffer.new(9 * mib).tap { |buffer| buffer.set_string(fresh) }
        open_file(path, engine, "r+b", depth: 1) do |file|
          expect(give_up(how) { file.write_from(source, offset: 0) }).to be(true)
          expect { source.free }.to raise_error(DMA::BusyError)
          release_reads
          # It is over when its memory may be written from again.
          settled { file.write_from(source.slice(0, 4096), offset: 10 * mib) }
          now = file.pread(11 * mib, 0)
          expect([fresh[0, mib], before[0, mib]]).to include(now[0, mib])
          expect(now[8 * mib, 2 * mib] == before[8 * mib, 2 * mib]).to be(true)
          expect(now[10 * mib, 4096] == fresh[0, 4096]).to be(true)
          expect(file.write_from(source, offset: 0)).to eq(9 * mib)
          expect(file.pread(9 * mib, 0) == fresh).to be(true)
          source.free
        end
      end

      it "DMA.copy from where nothing comes leaves what is safe, and can be made again" do
        path = fuse_file(size, hang: 3 << 20)
        target = scratch_file("target.bin", "x" * size)
        with_engine(engine) do
          expect(give_up(how) { DMA.copy(path, target, direct: true) }).to be(true)
          expect(File.size(target)).to be <= 3 << 20
          expect(bytes.start_with?(File.binread(target))).to be(true)
          release_reads
          expect(DMA.copy(path, target, direct: true)).to eq(size)
          expect(File.binread(target) == bytes).to be(true)
        end
      end

      it "DMA.copy to where nothing goes ends, and can be made again" do
        source = unstressed { scratch_file("source.bin", sample(size, 3)) }
        path = fuse_file(0, hang_write: 3 << 20)
        with_engine(engine) do
          expect(give_up(how) { DMA.copy(source, path, direct: true) }).to be(true)
          release_reads
          expect(DMA.copy(source, path, direct: true)).to eq(size)
          expect(File.binread(path) == File.binread(source)).to be(true)
        end
      end
    end
  end
end
