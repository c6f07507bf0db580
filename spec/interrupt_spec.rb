# frozen_string_literal: true

# A read that the file system does not answer is interrupted; the memory it may still write to is kept from everybody.
RSpec.describe "interrupting a transfer" do
  let(:size) { 3_000_000 }
  let!(:path) { fuse_file(size, hang: 1_500_000) }
  let(:bytes) { sample(size) }

  # Runs the block in a thread, and returns the thread once the disk has its request.
  def waiting(&)
    thread = Thread.new(&)
    thread.report_on_exception = false
    await_hang
    thread
  end

  # Waits until the transfer that was given up is really over.
  def settled
    release_reads
    Timeout.timeout(60) do
      yield
    rescue DMA::BusyError
      sleep 0.01
      retry
    end
  end

  it "raises Timeout::Error, refuses the memory until the disk lets go, and works again after" do
    DMA::File.open(path) do |file|
      buffer = DMA::Buffer.new(size)
      expect { Timeout.timeout(0.2) { file.read_into(buffer) } }.to raise_error(Timeout::Error)
      expect { buffer.free }.to raise_error(DMA::BusyError, /\Aoperations in flight or mappings use this buffer/)
      expect { file.read_into(buffer.slice(0, 512), offset: 0) }.to raise_error(DMA::BusyError, /interrupted/)
      expect(file.pread(1000, 0)).to eq bytes[0, 1000]
      settled { expect(file.read_into(buffer, offset: 0)).to eq size }
      expect(buffer.get_string).to eq bytes
      expect(buffer.free).to be_freed
    end
  end

  it "ends a killed thread, whose ensure blocks run, and leaves the file usable" do
    DMA::File.open(path) do |file|
      buffer = DMA::Buffer.new(size)
      ensured = false
      thread = waiting do
        file.read_into(buffer)
      ensure
        ensured = true
      end
      thread.kill
      expect(thread.join(60)).to eq thread
      expect(ensured).to be true
      settled { buffer.free }
      expect(file.pread(10, size - 10)).to eq bytes[-10..]
    end
  end

  it "delivers Thread#raise with the exception's own class" do
    DMA::File.open(path) do |file|
      thread = waiting { file.pread(size, 0) }
      thread.raise(ArgumentError, "changed my mind")
      expect { thread.join(60) }.to raise_error(ArgumentError, "changed my mind")
    end
    release_reads
  end

  it "ends on Ctrl-C" do
    code = <<~RUBY
      begin
        DMA::File.open(ARGV[0]) { |file| Thread.new { Process.kill(:INT, $$) }; file.read }
      rescue Interrupt
        puts "interrupted"
        $stdout.flush
      end
    RUBY
    lib = File.expand_path("../lib", __dir__)
    IO.popen([RbConfig.ruby, "-I", lib, "-rdma", "-e", code, path]) do |child|
      expect(child.gets).to eq "interrupted\n"
      release_reads # the kernel lets no process end while a file system has a request of it
    end
    expect($CHILD_STATUS).to be_success
  end

  it "loses no exception that comes while what was read ahead is given up" do
    other = unstressed { scratch_file("other", sample(4 << 20)) }
    DMA::File.open(other) do |file|
      rounds(50).times do
        started = Queue.new
        thread = Thread.new do
          loop do
            started << true
            file.each_chunk(65_536, offset: 0) { |chunk, _| break if chunk.size.positive? }
          end
        end
        thread.report_on_exception = false
        3.times { started.pop }
        thread.raise(ArgumentError, "hit")
        expect { thread.join(60) || raise("the exception was lost") }.to raise_error(ArgumentError, "hit")
      end
    end
  end

  it "leaves workers to others, however many a broken disk holds" do
    healthy = scratch_file("healthy", "bytes")
    files = Array.new(rounds(150)) { DMA::File.open(path, direct: true) }
    files.each do |file|
      thread = waiting { file.read_into(DMA::Buffer.new(64), offset: 1_500_000) }
      thread.kill.join
    end
    expect(DMA.read(healthy).get_string).to eq "bytes"
    release_reads
  end

  it "goes on waiting after Thread#wakeup" do
    DMA::File.open(path) do |file|
      thread = waiting { file.pread(size, 0) }
      rounds(20).times { thread.wakeup }
      release_reads
      expect(thread.value).to eq bytes
    end
  end

  it "lets other threads run while it waits" do
    DMA::File.open(path) do |file|
      thread = waiting { file.read }
      count = 0
      rounds(1000).times { count += 1 }
      expect(thread).to be_alive
      release_reads
      expect(thread.value.b).to eq bytes
      expect(count).to be_positive
    end
  end

  it "gives up the chunks that were read ahead when the block of each_chunk is left" do
    DMA::File.open(path) do |file|
      seen = []
      file.each_chunk(100_000) do |chunk, _|
        seen << chunk.get_string
        break if seen.size == 1
      end
      expect(seen).to eq [bytes[0, 100_000]]
      expect(file.pos).to eq 100_000
      release_reads
      expect(file.read.b).to eq bytes[100_000..]
    end
  end

  it "keeps a pool's buffer back until the disk lets go of it" do
    pool = DMA::Pool.new(count: 1, size: size)
    DMA::File.open(path) do |file|
      expect do
        Timeout.timeout(0.2) do
          pool.checkout do |buffer|
            file.read_into(buffer)
          end
        end
      end.to raise_error(Timeout::Error)
      expect { pool.checkout(timeout: 0) }.to raise_error(DMA::TimeoutError, /none of 1 buffers/)
      release_reads
      pool.checkout(timeout: 60) do |buffer|
        expect(file.read_into(buffer, offset: 0)).to eq size
        expect(buffer.get_string).to eq bytes
      end
    end
  end

  it "frees nothing under a transfer whose buffer and file are garbage" do
    thread = waiting { DMA::File.open(path) { |file| file.read_into(DMA::Buffer.new(size)) } }
    thread.kill.join
    GC.start
    release_reads
    DMA::File.open(path) { |file| expect(file.pread(100, 0)).to eq bytes[0, 100] }
  end

  it "lets a transfer end when another thread closes the file" do
    file = DMA::File.open(path)
    thread = waiting { file.pread(size, 0) }
    file.close
    expect { file.pread(1, 0) }.to raise_error(DMA::ClosedError)
    release_reads
    expect(thread.value).to eq bytes
  end
end

RSpec.describe "a disk error in the middle of a file" do
  let(:path) { fuse_file(1_000_000, eio: 700_000) }
  let(:bytes) { sample(1_000_000) }

  it "names offset and length, and says how much of the buffer is good" do
    DMA::File.open(path) do |file|
      buffer = DMA::Buffer.new(1_000_000)
      what = /read \d+ bytes at offset \d+ \((?<safe>\d+) of 1000000 bytes were read\)/
      expect { file.read_into(buffer) }.to raise_error(Errno::EIO, what) { |e| @safe = e.message[what, :safe].to_i }
      expect(buffer.get_string(0, @safe)).to eq bytes[0, @safe]
    end
  end

  it "comes from each_chunk after every chunk before it" do
    DMA::File.open(path) do |file|
      seen = +""
      expect do
        file.each_chunk(65_536) do |chunk, _|
          seen << chunk.get_string
        end
      end.to raise_error(Errno::EIO, /at offset \d+/)
      expect(seen).to eq bytes[0, 10 * 65_536]
      expect(file.pread(1000, 800_000)).to eq bytes[800_000, 1000]
    end
  end

  it "is never taken for the end of the file" do
    DMA::File.open(path) { |file| expect { file.read }.to raise_error(Errno::EIO) }
    expect { DMA.read(path) }.to raise_error(Errno::EIO)
  end
end
