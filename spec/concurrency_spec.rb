# frozen_string_literal: true

require "async"

RSpec.describe "files among threads, fibers, Ractors and processes" do
  let(:size) { 5_000_001 }
  let(:bytes) { unstressed { sample(size) } }
  let(:path) { unstressed { scratch_file("file.bin", bytes) } }

  it "serves 8 threads at once, each with its own bytes" do
    DMA::File.open(path) do |file|
      threads = Array.new(8) do |id|
        Thread.new do
          random = Random.new(id)
          rounds(200).times.all? do
            offset = random.rand(size)
            length = random.rand(1..20_000)
            file.pread(length, offset) == bytes.byteslice(offset, length)
          end
        end
      end
      expect(threads.map(&:value)).to all be true
    end
  end

  it "loses no byte when 8 threads write next to each other" do
    target = scratch_file("target.bin", "")
    pieces = rounds(80)
    DMA::File.open(target, "r+") do |file|
      threads = Array.new(8) do |id|
        Thread.new { (id...pieces).step(8) { |n| file.pwrite((n % 251).chr * 777, n * 777) } }
      end
      threads.each(&:join)
    end
    expect(File.binread(target)).to eq Array.new(pieces) { |n| (n % 251).chr * 777 }.join
  end

  it "writes whole lines, and gives each line to one reader, when 8 threads share the position" do
    target = scratch_file("lines", "")
    count = rounds(100)
    DMA::File.open(target, "r+") do |file|
      Array.new(8) { |id| Thread.new { count.times { |n| file.puts("#{id} #{n} #{"x" * 50}") } } }.each(&:join)
      written = unstressed { File.readlines(target) }
      expect(written.size).to eq 8 * count
      expect(written).to all match(/\A\d \d+ x{50}\n\z/)
      file.rewind
      read = Array.new(8) { Thread.new { file.each_line.to_a } }.flat_map(&:value)
      expect(read.sort).to eq written.sort
    end
  end

  it "lets other fibers run while one waits, and many fibers share a file" do
    hanging = fuse_file(size, hang: 3_000_000)
    DMA::File.open(hanging) do |file|
      order = []
      Async do |task|
        reader = task.async { file.pread(1000, 3_000_000).tap { order << :read } }
        task.async do
          rounds(5).times { task.sleep 0.001 }
          order << :ticked
          release_reads
        end
        expect(reader.wait).to eq bytes[3_000_000, 1000]
      end
      expect(order).to eq %i[ticked read]
    end
    DMA::File.open(path) do |file|
      results = Async do |task|
        Array.new(rounds(100)) { |n| task.async { file.pread(5000, n * 40_000) } }.map(&:wait)
      end.wait
      expect(results.each_with_index).to(be_all { |read, n| read == bytes[n * 40_000, 5000] })
    end
  end

  it "streams in a fiber while others stream the same file" do
    DMA::File.open(path) do |file|
      digests = Async do |task|
        Array.new(3) do
          task.async do
            digest = Digest::SHA256.new
            file.each_chunk(1 << 20, offset: 0) { |chunk, _| digest << chunk.get_string }
            digest.hexdigest
          end
        end.map(&:wait)
      end.wait
      expect(digests).to eq [Digest::SHA256.hexdigest(bytes)] * 3
    end
  end

  it "ends a wait that with_timeout of async ends by async's own error, as sleep does, for all who wait" do
    pool = DMA::Pool.new(count: 1, size: 4096)
    pool.checkout do
      Async do |task|
        expect { task.with_timeout(0.01) { pool.checkout } }.to raise_error(Async::TimeoutError, /scheduler/)
      end
    end
    DMA::File.open(fuse_file(size, hang: 0), direct: false) do |file|
      Async do |task|
        expect { task.with_timeout(0.01) { file.pread(10, 0) } }.to raise_error(Async::TimeoutError, /scheduler/)
        expect { task.with_timeout(0.01, KeyError) { file.pread(10, 0) } }.to raise_error(KeyError)
        ends = Array.new(3) do
          task.async do
            task.with_timeout(0.01) { file.pread(10, 0) }
          rescue StandardError => e
            e.class
          end
        end
        expect(ends.map(&:wait)).to eq([Async::TimeoutError] * 3)
      end
      release_reads
    end
  end

  it "says so by an error of its own where another scheduler ends a wait" do
    scheduler = Class.new do
      def io_wait(*) = false
      def block(*) = nil
      def unblock(*) = nil
      def kernel_sleep(*) = nil
      def close = nil
      def fiber(&) = Fiber.new(blocking: false, &).tap(&:resume)
    end
    DMA::File.open(fuse_file(size, hang: 0), direct: false) do |file|
      found = Thread.new do
        Fiber.set_scheduler(scheduler.new)
        error = nil
        Fiber.schedule do
          file.pread(10, 0)
        rescue StandardError => e
          error = e
        end
        error
      end.value
      expect([found.class, found.message]).to match([DMA::TimeoutError, /Fiber scheduler ended the wait before its/])
      release_reads
    end
  end

  it "stops with the task that is stopped" do
    hanging = fuse_file(size, hang: 0)
    DMA::File.open(hanging, direct: false) do |file|
      stopped = false
      Async do |task|
        reader = task.async do
          file.pread(10, 0)
        ensure
          stopped = true
        end
        task.sleep 0.01
        reader.stop
      end
      expect(stopped).to be true
      release_reads
    end
  end

  it "reads in a Ractor" do
    code = <<~RUBY
      Warning[:experimental] = false
      puts Ractor.new(#{path.dump}) { |path|
        buffer = DMA.read(path)
        digest = buffer.get_string(0, 1000).sum
        DMA::File.open(path) { |file| file.each_chunk(1 << 20) { |chunk, _| digest += chunk.size } }
        digest
      }.take
    RUBY
    expect(in_ruby(code)).to eq "#{bytes[0, 1000].sum + size}\n"
  end

  # A child process of fork runs the block; what it returns comes back as text.
  def in_child
    reader, writer = IO.pipe
    pid = fork do
      reader.close
      answer = begin
        yield.to_s
      rescue Exception => e # rubocop:disable Lint/RescueException -- whatever the child meets is what the test compares
        "#{e.class}: #{e.message}"
      end
      writer.write(answer)
      writer.close
      exit!(0)
    end
    writer.close
    reader.read.tap { Process.wait(pid) }
  end

  it "refuses a file of its parent in the child of a fork, where a new one works" do
    DMA::File.open(path) do |file|
      file.pread(10, 0)
      expect(in_child { file.pread(10, 0) }).to match(/DMA::ClosedError.*parent process.*open it anew/)
      expect(in_child { file.close.inspect }).to eq "nil"
      expect(in_child { DMA.read(path).get_string == bytes }).to eq "true"
      expect(file.pread(10, 0)).to eq bytes[0, 10]
    end
  end

  it "goes on reading in the parent while it forks" do
    DMA::File.open(path) do |file|
      children = []
      digest = Digest::SHA256.new
      file.each_chunk(100_000) do |chunk, offset|
        children << in_child { chunk.get_string } if (offset % 1_000_000).zero?
        digest << chunk.get_string
      end
      expect(digest.hexdigest).to eq Digest::SHA256.hexdigest(bytes)
      expect(children).to all match(/DMA::ClosedError.*parent process/)
    end
  end

  it "takes no completion of the parent's in a child that leaves the block of each_chunk" do
    DMA::File.open(path, depth: 4) do |file|
      rounds(20).times do
        seen = 0
        file.each_chunk(100_000, offset: 0) do |chunk, _|
          seen += chunk.size
          child = fork
          unless child
            Process.setproctitle("child")
            break exit!(0) if seen > 300_000

            raise SystemExit # runs the ensure blocks, close among them
          end
          Process.wait(child)
          break if seen > 400_000
        end
      rescue SystemExit
        exit!(0) # the child
      end
      expect(file.pread(10, 0)).to eq bytes[0, 10]
    end
  end

  it "runs a whole child with its own collector over inherited objects" do
    file = DMA::File.open(path)
    kept = [file, DMA.read(path), DMA::Pool.new(count: 2, size: 4096).checkout]
    file.pread(1, 0)
    pid = fork do
      kept.clear
      file = nil
      GC.start
      exit(DMA.read(path).get_string == bytes ? 0 : 1) # exit runs finalizers, exit! would not
    end
    expect(Process.wait2(pid).last).to be_success
  end

  it "survives compaction between and during transfers" do
    DMA::File.open(path) do |file|
      buffer = DMA::Buffer.new(size)
      view = buffer.view
      rounds(3).times do
        GC.verify_compaction_references(toward: :empty, double_heap: true)
        file.read_into(buffer, offset: 0)
        file.each_chunk(1 << 20, offset: 0) { GC.compact }
      end
      expect(view.get_string).to eq bytes
    end
  end
end
