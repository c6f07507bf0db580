# frozen_string_literal: true

require "open3"

# What the kernel is asked for while a file is read: strace tells.
RSpec.describe DMA::File, "system calls" do
  let(:size) { 48 << 20 }
  let(:path) { unstressed { scratch_file("file.bin", sample(size)) } }
  let(:log) { scratch_file("strace") }

  ring = /\Aio_uring_enter\(\d+<anon_inode:\[io_uring\]>/
  # Hands operations over, and does not wait; waits for a completion, and hands nothing over.
  doorbell = /#{ring}, [1-9]\d*, 0, 0, /
  waits = /#{ring}, 0, 1, IORING_ENTER_GETEVENTS\|IORING_ENTER_EXT_ARG, /
  # How Ruby's threads take turns: nothing of it is about the file. (It asks for its pid whenever it waits, 3.1.)
  turns = /\A(?:futex|getpid|sched_yield|timer_settime|rt_sigreturn|restart_syscall)\(/

  # Runs code in a process of its own in which `file` is the open file, `mark` brackets what is looked at, and `check`
  # compares a buffer with the file's bytes; returns what it called in between, on all its threads.
  def calls(code, engine: :uring)
    # With objects enough for all of it, Ruby asks for no memory meanwhile.
    in_ruby(<<~RUBY, "strace", "-f", "-y", "-qq", "-o", log, RUBY_GC_HEAP_INIT_SLOTS: "1000000")
      BYTES = File.binread(#{path.dump})
      GC.start.then { GC.disable }
      def mark = File.exist?("/dma-mark")
      def check(buffer, at)
        abort "other bytes at \#{at}" unless buffer.get_string == BYTES[at, buffer.size]
      end
      DMA::File.open(#{path.dump}, direct: true, engine: #{engine.inspect}, depth: 4) { |file| #{code} }
    RUBY
    unstressed { between_marks(File.readlines(log, chomp: true).map { |line| line.sub(/\A\d+ +/, "") }) }
  end

  def between_marks(lines)
    from, to = lines.each_index.select { |index| lines[index].include?("/dma-mark") }
    lines[from + 1...to].grep_v(/\A(?:---|<\.\.\. )/)
  end

  before do
    output, status = Open3.capture2e("strace", "-f", "-o", File::NULL, "true")
    needs "strace that may trace (#{output.strip})", status.success?
  rescue Errno::ENOENT
    needs "strace", false
  end

  before do
    needs_uring
    described_class.open(path) do |file|
      needs "a file system with direct I/O", file.direct?
    end
    evict(path)
  end

  reads = {
    "read_into" => <<~RUBY,
      pool = DMA::Pool.new(count: 4, size: 1 << 20)
      buffers = Array.new(4) { pool.checkout }
      buffers.each { |buffer| file.read_into(buffer, offset: 0) }
      mark
      24.times { |n| file.read_into(buffers[n % 4], offset: n << 20) }
      mark
      buffers.each_with_index { |buffer, n| check(buffer, (20 + n) << 20) }
    RUBY
    # What a wait needs is made by the first, which the others may do without that are under strace. Who takes its time
    # at first has as much read ahead as there is memory for.
    "each_chunk" => <<~RUBY,
      file.read_into(DMA::Buffer.new(16 << 20), offset: 0)
      kept = []
      file.each_chunk(1 << 20, depth: 4) do |buffer, at|
        mark if [8, 40].include?(at >> 20)
        kept << buffer.get_string(0, 8).tap { sleep 0.01 } if at >> 20 < 8
      end
      kept.each_with_index { |bytes, n| abort "other bytes" unless bytes == BYTES[n << 20, 8] }
    RUBY
    "read_many" => <<~RUBY
      file.read_into(DMA::Buffer.new(16 << 20), offset: 0)
      ranges = (0...1000).map { |n| [n * 7919 % 12_000 * 4096, 4096] }
      sums = Array.new(1000)
      count = 0
      file.read_many(ranges, depth: 32) do |buffer, at|
        mark if [200, 900].include?(count += 1)
        sums[count - 1] = [at, buffer.get_value(:u32, 0)]
      end
      sums.each { |at, word| abort "other bytes" unless word == BYTES.unpack1("V", offset: at) }
    RUBY
  }

  reads.each do |name, code|
    it "of #{name} are the doorbell and the wait in the ring alone, once its memory is known to the kernel" do
      seen = calls(code)
      expect(seen.grep(doorbell)).not_to be_empty
      expect(seen.grep_v(Regexp.union(doorbell, waits, turns))).to eq([])
    end

    it "of #{name} leave nothing of the file in the page cache" do
      in_ruby(<<~RUBY)
        BYTES = File.binread(#{path.dump})
        def mark = nil
        def check(*) = nil
        File.open(#{path.dump}) { |file| file.advise(:dontneed) }
        DMA::File.open(#{path.dump}, direct: true, engine: :uring) { |file| #{code} }
      RUBY
      expect(resident(path)).to be < size / 100
    end
  end

  it "ring for a sixth of the depth of read_many at a time" do
    seen = calls(<<~RUBY)
      ranges = (0...32).map { |n| [n << 20, 4096] }
      file.read_many(ranges, depth: 32) { nil }
      mark
      file.read_many(ranges, depth: 32) { |buffer, at| check(buffer, at) }
      mark
    RUBY
    expect(seen.grep(doorbell).size).to eq(6)
    expect(seen.grep(/\Ap?read|\Acopy_file_range|\Asplice/)).to eq([])
  end

  it "of the other engine are a preadv for each request, on its workers: what strace sees is what there is" do
    seen = calls(<<~RUBY, engine: :threads)
      buffer = DMA::Buffer.new(1 << 20)
      file.read_into(buffer, offset: 0)
      mark
      4.times { |n| file.read_into(buffer, offset: n << 20) }
      mark
    RUBY
    expect(seen.grep(/\Apreadv?(?:2|64)?\(/).size).to eq(4)
    expect(seen.grep(ring)).to eq([])
  end
end
