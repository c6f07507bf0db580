# frozen_string_literal: true

require "async"

# A thousand fibers of one thread read one file at once.
RSpec.describe DMA::File, "among a thousand fibers" do
  let(:count) { rounds(1000) }
  let(:size) { 4_000_001 }
  let(:bytes) { unstressed { sample(size) } }
  let(:path) { unstressed { scratch_file("file.bin", bytes) } }

  # Where the fiber of this number reads.
  def place(number)
    number * 7919 % 3_900_000
  end

  # Has each fiber run the block, which says whether it got the right bytes, and then again until a timer has gone off
  # meanwhile; what they all said.
  def among_fibers(engine, &read)
    needs_uring if engine == :uring
    evict(path)
    described_class.open(path, "rb", engine: engine, direct: true) do |file|
      Async do |task|
        ticks = 0
        timer = task.async { loop { task.sleep(0.0002).then { ticks += 1 } } }
        fibers = Array.new(count) do |number|
          task.async { again_until(-> { ticks.positive? }) { read.call(file, place(number), number) } }
        end
        fibers.map(&:wait).tap { timer.stop }
      end.wait
    end
  end

  def again_until(done)
    1000.times do
      return false unless yield
      return true if done.call
    end
    :the_timer_starves
  end

  %i[uring threads].each do |engine|
    context "with engine: #{engine}" do
      it "gives each its bytes by pread, while a timer keeps ticking" do
        right = among_fibers(engine) { |file, at, _| file.pread(50_000, at) == bytes.byteslice(at, 50_000) }
        expect(right.size).to eq(count)
        expect(right).to all(be(true))
      end

      it "fills a buffer of each by read_into, and no byte around it, while a timer keeps ticking" do
        whole = DMA::Buffer.new(count * 16_384).tap { |all| all.clear(0xA5) }
        parts = Array.new(count) { |n| whole.slice((n * 16_384) + 4096, 8192) }
        right = among_fibers(engine) do |file, at, number|
          part = parts[number]
          file.read_into(part, offset: at) == 8192 && part.get_string == bytes.byteslice(at, 8192)
        end
        expect(right.size).to eq(count)
        expect(right).to all(be(true))
        around = Array.new(count) { |n| [n * 16_384, (n * 16_384) + 12_288] }.flatten
        expect(around.map { |at| whole.get_string(at, 4096) }.uniq).to eq(["\xA5".b * 4096])
      end

      it "passes each its ranges by read_many, while a timer keeps ticking" do
        right = among_fibers(engine) do |file, at, _|
          ranges = Array.new(4) { |n| [(at + (n * 1_000_003)) % 3_900_000, 3000] }
          found = []
          file.read_many(ranges) { |part, offset| found << [offset, part.get_string] }
          found.sort == ranges.sort.map { |offset, length| [offset, bytes.byteslice(offset, length)] }
        end
        expect(right.size).to eq(count)
        expect(right).to all(be(true))
      end

      it "streams to each by each_chunk, while a timer keeps ticking" do
        right = among_fibers(engine) do |file, at, _|
          chunks = file.each_chunk(30_000, offset: at, length: 100_000).map { |chunk, _| chunk.get_string }
          chunks.join == bytes.byteslice(at, 100_000)
        end
        expect(right.size).to eq(count)
        expect(right).to all(be(true))
      end
    end
  end

  # One of those who wait does so on a descriptor for all: the first to come, and who comes next when it goes.
  it "goes on for the others when fibers are stopped that wait, whichever they are" do
    [:even?, :odd?, ->(number) { number < 40 }].each do |stopped|
      evict(path)
      described_class.open(path, "rb", direct: true) do |file|
        Async do |task|
          fibers = Array.new(80) { |n| task.async { file.pread(9000, place(n)) == bytes.byteslice(place(n), 9000) } }
          fibers.each_with_index { |fiber, n| fiber.stop if stopped.to_proc.call(n) }
          left = fibers.reject.with_index { |_, n| stopped.to_proc.call(n) }
          expect(left.map(&:wait)).to all(be(true))
        end.wait
      end
    end
  end

  it "goes on for the others when the time of some is up" do
    evict(path)
    described_class.open(path, "rb", direct: true) do |file|
      Async do |task|
        hasty = lambda do |n|
          task.with_timeout(0) { file.pread(90_000, place(n)) }
        rescue Async::TimeoutError
          nil
        end
        40.times { |n| task.async { hasty.call(n) } }
        patient = Array.new(40) { |n| task.async { file.pread(9000, place(n)) == bytes.byteslice(place(n), 9000) } }
        expect(patient.map(&:wait)).to all(be(true))
      end.wait
    end
  end

  it "gives fibers of several threads, and threads among them, their bytes" do
    evict(path)
    described_class.open(path, "rb", direct: true) do |file|
      read = ->(n) { file.pread(9000, place(n)) == bytes.byteslice(place(n), 9000) }
      threads = Array.new(6) do |thread|
        Thread.new do
          numbers = Array.new(rounds(200)) { |n| (n * 6) + thread }
          next numbers.map(&read) if thread.even?

          Async { |task| numbers.map { |n| task.async { read.call(n) } }.map(&:wait) }.wait
        end
      end
      expect(threads.flat_map(&:value)).to all(be(true))
    end
  end

  # What most processes have.
  {
    "each_chunk" => "file.each_chunk(30_000, offset: at, length: 90_000).map { |part, from| [part.get_string, from] }",
    "read_many" => "file.read_many([[at, 900], [at + 99_000, 9]]).map { |part, from| [part.get_string, from] }",
    "read_into" => "DMA::Buffer.new(9000).then { |part| file.read_into(part, offset: at) && [[part.get_string, at]] }",
    "pread" => "[[file.pread(9000, at), at]]"
  }.each do |name, code|
    it "a thousand reads by #{name} at once do with 1024 descriptors" do
      output = in_ruby(<<~RUBY, "prlimit", "--nofile=1024:1024", "--")
        require "async"
        bytes = File.binread(#{path.dump})
        File.open(#{path.dump}) { |file| file.advise(:dontneed) }
        DMA::File.open(#{path.dump}, "rb", direct: true) do |file|
          read = lambda do |at|
            parts = #{code}
            parts.all? { |part, from| part == bytes.byteslice(from, part.bytesize) }
          rescue SystemCallError => e
            e.message
          end
          Async { |task| print Array.new(1000) { |n| task.async { read.call(n * 3001) } }.map(&:wait).tally }
        end
      RUBY
      expect(output).to eq("{true=>1000}")
    end
  end
end
