# frozen_string_literal: true

require "etc"

# Memory that io_uring holds in place, and what happens where it may not; and which engine serves a file.
RSpec.describe DMA::File, "engines and registered memory" do
  let(:bytes) { unstressed { sample(3_000_001) } }
  let(:path) { unstressed { scratch_file("file.bin", bytes) } }

  # Code for a process of its own, in which PATH is the file and BYTES what is in it.
  def program(code)
    "PATH = #{path.dump}; BYTES = File.binread(PATH); #{code}"
  end

  # The files are to be read by a user who is not their owner.
  def for_everybody
    File.chmod(0o755, scratch)
    File.chmod(0o644, path)
  end

  # Has io_uring_setup(2) fail in this process: by seccomp(2), as in containers.
  let(:forbid) { <<~RUBY }
    require "fiddle"
    arguments = [Fiddle::TYPE_INT, *[Fiddle::TYPE_LONG] * 4]
    prctl = Fiddle::Function.new(Fiddle.dlopen(nil)["prctl"], arguments, Fiddle::TYPE_INT)
    # Take the number of the system call; where it is 425, answer with EPERM.
    filter = [[0x20, 0, 0, 0], [0x15, 0, 1, 425], [0x06, 0, 0, 0x50001], [0x06, 0, 0, 0x7fff0000]]
    code = filter.map { |instruction| instruction.pack("SCCL") }.join
    program = [filter.size, Fiddle::Pointer[code].to_i].pack("Sx6Q")
    abort "no_new_privs" unless prctl.call(38, 1, 0, 0, 0).zero?
    abort "seccomp" unless prctl.call(22, 2, Fiddle::Pointer[program].to_i, 0, 0).zero?
  RUBY

  describe "memory of a pool" do
    before { needs_uring }

    let(:pool) { DMA::Pool.new(count: 8, size: 65_536) }

    it "is held by io_uring from the first request on until the file is closed, and pinned meanwhile" do
      buffer = pool.checkout
      before = buffer.residency
      expect(before).not_to eq(:pinned)
      file = described_class.open(path, engine: :uring)
      rounds(10).times do |round|
        expect(file.read_into(buffer, offset: round * 65_536)).to eq(65_536)
        expect(buffer.get_string == bytes[round * 65_536, 65_536]).to be(true)
      end
      expect(file.stats).to include(requests: rounds(10), fixed_requests: rounds(10), registration_error: nil)
      expect(buffer.residency).to eq(:pinned)
      file.close
      expect(buffer.residency).to eq(before)
    end

    it "is pinned by what is registered, not by what was read: buffers that lie in a huge page's room together" do
      one, other = Array.new(2) { pool.checkout }
      far = DMA::Pool.new(count: 2, size: 65_536).checkout
      described_class.open(path, engine: :uring) do |file|
        file.read_into(one, offset: 0)
        expect([one, other, far].map(&:residency)).to eq([:pinned, :pinned, far.residency])
        expect(far.residency).not_to eq(:pinned)
      end
    end

    it "can be registered with many files at once, and stays pinned until the last is closed" do
      buffer = pool.checkout
      files = Array.new(4) { described_class.open(path, engine: :uring) }
      files.each { |file| file.read_into(buffer, offset: 0) }
      pinned = files.map { |file| [buffer.residency, file.close].first }
      expect(pinned).to eq([:pinned] * 4)
      expect(buffer.residency).not_to eq(:pinned)
    end

    it "is registered no more when the pool is gone, so that other memory at its address is not taken for it" do
      described_class.open(path, engine: :uring) do |file|
        rounds(50).times do |round|
          pool = DMA::Pool.new(count: 1, size: 1 << 20)
          buffer = pool.checkout
          file.read_into(buffer, offset: round << 12)
          expect(buffer.get_string == bytes[round << 12, 1 << 20]).to be(true)
          buffer.free
          pool = nil # rubocop:disable Lint/UselessAssignment -- for the collector
          GC.start if (round % 5).zero?
        end
        expect(file.stats).to include(registration_error: nil, fixed_requests: be >= rounds(50))
      end
    end

    it "of streams and batches is registered too; a Buffer of its own is not" do
      described_class.open(path, engine: :uring, direct: true) do |file|
        file.each_chunk(1 << 20, offset: 0) { nil }
        expect(file.stats[:fixed_requests]).to eq(file.stats[:requests])
        file.read_many([[0, 4096], [1 << 20, 4096]]) { nil }
        expect(file.stats[:fixed_requests]).to eq(file.stats[:requests])
        file.read_into(DMA::Buffer.new(4096), offset: 0)
        expect(file.stats[:requests] - file.stats[:fixed_requests]).to eq(1)
      end
    end

    it "is not registered by worker threads" do
      buffer = pool.checkout
      described_class.open(path, engine: :threads) do |file|
        file.read_into(buffer, offset: 0)
        expect(file.stats).to include(fixed_requests: 0, registration_error: nil)
        expect(buffer.residency).not_to eq(:pinned)
      end
    end
  end

  # RLIMIT_MEMLOCK counts what all processes of a user have registered: each of these users is nobody else's.
  describe "memory past RLIMIT_MEMLOCK" do
    before { needs_uring.then { for_everybody } }

    # Of a user without privileges: what it printed.
    def limited(code, uid, memlock: 65_536)
      unprivileged(program(code), uid: uid, memlock: memlock)
    end

    it "is used as it is, with the reason in stats, and brings the same bytes" do
      output = limited(<<~RUBY, 65_401)
        DMA::File.open(PATH, engine: :uring) do |file|
          pool = DMA::Pool.new(count: 2, size: 1 << 20, lock: false)
          buffer = pool.checkout
          3.times do |n|
            file.read_into(buffer, offset: n * 1000)
            abort "other bytes" unless buffer.get_string == BYTES[n * 1000, 1 << 20]
          end
          file.each_chunk(1 << 20, offset: 0) { |chunk, at| abort "other" unless chunk.get_string == BYTES[at, chunk.size] }
          file.read_many([[5, 9000], [2 << 20, 9]]) { |part, at| abort "other" unless part.get_string == BYTES[at, part.size] }
          puts file.stats.values_at(:engine, :fixed_requests).inspect, buffer.residency, file.stats[:registration_error]
        end
      RUBY
      engine, residency, why = output.lines(chomp: true)
      expect([engine, residency]).to eq(["[:uring, 0]", "pageable"])
      expect(why).to match(/\Acannot register 2097152 bytes more .*RLIMIT_MEMLOCK.* is 65536 bytes: raise it/)
    end

    it "leaves registered what was before it, and writes the same bytes" do
      output = limited(<<~RUBY, 65_402, memlock: 3 << 20)
        DMA::File.open(PATH, engine: :uring) do |file|
          first = DMA::Pool.new(count: 1, size: 2 << 20, lock: false).checkout
          second = DMA::Pool.new(count: 1, size: 2 << 20, lock: false).checkout
          [first, second, first, second].each_with_index do |buffer, n|
            file.read_into(buffer, offset: n << 12)
            abort "other bytes" unless buffer.get_string == BYTES[n << 12, 2 << 20]
          end
          print first.residency, " ", second.residency, " ", file.stats.values_at(:fixed_requests, :registration_error)
        end
      RUBY
      expect(output).to match(/\Apinned pageable \[4, "cannot register 2097152 bytes more .* is 3145728 bytes/)
    end
  end

  describe "a ring that cannot be had while a file is in use" do
    before { needs_uring }

    it "is done without where the engine is left open, which stats say: threads serve the file" do
      output = in_ruby(program(<<~RUBY))
        DMA::File.open(PATH) do |file|
          #{forbid}
          abort "other bytes" unless file.pread(9000, 5) == BYTES[5, 9000]
          file.each_chunk(10_000) { |chunk, at| abort "other" unless chunk.get_string == BYTES[at, chunk.size] }
          print file.stats.values_at(:engine, :ring_error)
        end
      RUBY
      expect(output).to match(/\A\[:uring, "cannot set up an io_uring .*: Operation not permitted"\]/)
    end

    it "is an error with engine: :uring, which says what else there is, and of RLIMIT_MEMLOCK the number" do
      skip "needs Linux 6.14, which counts rings towards RLIMIT_MEMLOCK" if (kernel <=> [6, 14]).negative?

      for_everybody
      output = unprivileged(program(<<~RUBY), uid: 65_404)
        files = Array.new(20) { DMA::File.open(PATH, engine: :uring) }
        begin
          files.each { |file| abort "other bytes" unless file.pread(9000, 5) == BYTES[5, 9000] }
        rescue SystemCallError => e
          print e.class, e.message
        end
      RUBY
      expect(output).to match(/\AErrno::ENOMEM.*cannot set up an io_uring .*:threads.*RLIMIT_MEMLOCK.* is 65536 bytes/)
    end

    def kernel
      Etc.uname[:release].split(".").first(2).map(&:to_i)
    end
  end

  describe "engine" do
    let(:read) { <<~RUBY }
      DMA::File.open(PATH) do |file|
        buffer = DMA::Buffer.new(BYTES.bytesize)
        file.read_into(buffer, offset: 0)
        abort "other bytes" unless buffer.get_string == BYTES
        print file.stats[:engine]
      end
    RUBY

    before { needs_uring }

    def refused(code = "", **environment)
      in_ruby(program(<<~RUBY), **environment)
        #{code}
        begin
          DMA::File.open(PATH, engine: #{environment.empty? ? ":uring" : ":auto"})
        rescue SystemExit, StandardError => e
          print e.class, ": ", e.message
        end
      RUBY
    end

    it "is threads where io_uring is forbidden, for files, devices, DMA.read and DMA.copy alike" do
      expect(in_ruby(program(forbid + read))).to eq("threads")
      output = in_ruby(program(<<~RUBY))
        #{forbid}
        abort "other bytes" unless DMA.read(PATH).get_string == BYTES
        DMA.copy(PATH, PATH + ".copy")
        abort "other bytes" unless File.binread(PATH + ".copy") == BYTES
        DMA::Device.open(PATH) { |device| print device.capabilities[:engine] }
      RUBY
      expect(output).to eq("threads")
    end

    it ":uring raises where io_uring is forbidden, and says by what and what else there is" do
      expect(refused(forbid)).to match(/\ADMA::UnsupportedError: io_uring cannot be used: .*EPERM.*seccomp.*:threads/)
      expect(refused(forbid, DMA_FILE_ENGINE: "uring")).to match(/\ADMA::UnsupportedError: io_uring cannot be used/)
    end

    it "is what DMA_FILE_ENGINE says where the program leaves it open" do
      %w[threads uring].each { |name| expect(in_ruby(program(read), DMA_FILE_ENGINE: name)).to eq(name) }
      ["auto", ""].each { |name| expect(in_ruby(program(read), DMA_FILE_ENGINE: name)).to eq("uring") }
      output = in_ruby(program("print DMA::File.open(PATH, engine: :uring).stats[:engine]"), DMA_FILE_ENGINE: "threads")
      expect(output).to eq("uring")
    end

    it "of a DMA_FILE_ENGINE that names none is refused, with the name and those there are" do
      ["steam", " ", "URING"].each do |name|
        expect(refused(DMA_FILE_ENGINE: name))
          .to eq("ArgumentError: the environment's DMA_FILE_ENGINE is #{name.inspect}, none of auto, uring, threads")
      end
    end

    it "is threads for a character device whatever DMA_FILE_ENGINE says, and :uring of one is refused" do
      code = 'DMA::File.open("/dev/zero") { |file| print file.stats[:engine], file.pread(3, 0).bytes.sum }'
      expect(in_ruby(code, DMA_FILE_ENGINE: "uring")).to eq("threads0")
      expect { described_class.open("/dev/zero", engine: :uring) }
        .to raise_error(DMA::UnsupportedError, /a character device is served by threads/)
    end

    it "has nothing to do with a process that is out of descriptors: that is said, and files in use go on" do
      output = in_ruby(program(<<~RUBY))
        file = DMA::File.open(PATH, engine: :uring)
        buffer = DMA::Buffer.new(4096)
        file.read_into(buffer, offset: 0)
        other = DMA::File.open(PATH, engine: :uring)
        held = []
        begin
          loop { held << File.open(PATH) }
        rescue Errno::EMFILE
          held.pop.close
        end
        begin
          other.read_into(buffer, offset: 0)
        rescue SystemCallError => e
          print e.class, " ", e.message
        end
        file.read_into(buffer, offset: 4096)
        abort "other bytes" unless buffer.get_string == BYTES[4096, 4096]
        held.each(&:close)
        other.read_into(buffer, offset: 8192)
        abort "other bytes" unless buffer.get_string == BYTES[8192, 4096]
      RUBY
      expect(output).to match(/\AErrno::EMFILE .*cannot/)
    end
  end
end
