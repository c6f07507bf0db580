# frozen_string_literal: true

require "English"

# Character devices that are not to be had on every machine: memory with addresses (mtdram), and a pair that streams and
# a register, served by spec/programs/cuse_server.rb.
RSpec.describe "A character device" do
  # What waits in other threads begins and ends on time also where the machine is emulated.
  def soon(&)
    Timeout.timeout(60, &)
  end

  describe "with memory" do
    # The test device of the kernel's module mtdram: 4 MiB. Of its nodes the even one is for both directions, the odd
    # one for reading.
    size = 4 << 20

    before { needs "a memory device (modprobe mtdram)", File.exist?("/dev/mtd0") }

    def node(name, minor)
      needs_root
      scratch_file(name).tap { |path| system("mknod", path, "c", "90", minor.to_s, exception: true) }
    end

    let!(:writing) { node("xdma9_h2c_0", 0) }
    let!(:reading) { node("xdma9_c2h_0", 1) }
    let(:open_device) { DMA::Device.open(writing) }

    it_behaves_like "a DMA engine"

    context "without a harness" do
      let(:device) { open_device }

      after { device.close }

      it "takes any offset and length, up to the last byte, and touches nothing beside it on either side" do
        model = sample(size, 3)
        device.write_dma(model).wait
        [[0, 1], [1, 4095], [4095, 2], [12_345, (2 << 20) + 7], [size - 5, 5]].each do |offset, length|
          source = guarded(sample(length, offset))
          expect(device.channel.submit(source: source, destination: offset).wait.bytes).to eq length
          model[offset, length] = source.get_string
          target = guarded(length)
          expect(device.channel.submit(source: offset, destination: target).wait.bytes).to eq length
          expect(target.get_string).to eq model[offset, length]
        end
        expect(device.read_dma(size)).to eq model
        expect(File.binread(reading)).to eq model
        expect(device.stats[:bounced_bytes]).to eq 0
        expect(guards_whole?).to be true
      end

      it "ends a read where the device ends, and leaves what lies behind it in memory" do
        device.write_dma(sample(10), at: size - 10).wait
        target = guarded("z" * 100)
        transfer = device.channel.submit(source: size - 10, destination: target).wait
        expect([transfer.status, transfer.bytes]).to eq [:complete, 10]
        expect(target.get_string).to eq sample(10) + ("z" * 90)
        expect(device.read_dma(5, at: size)).to eq ""
        expect(guards_whole?).to be true
      end

      it "moves what fits of a write past the end, and says what stopped it, where, and how much is there" do
        transfer = device.write_dma(sample(100), at: size - 40)
        expect { transfer.wait }.to raise_error(
          DMA::TransferError, /100 bytes at device address 0x3fffd8 .*: No space left on device \(40 of 100 bytes/
        )
        expect([transfer.status, transfer.errno, transfer.bytes]).to eq [:os_error, Errno::ENOSPC::Errno, 40]
        expect(device.read_dma(100, at: size - 40)).to eq sample(100)[0, 40]
      end

      it "is the same memory by either name, and by a device that is both halves in one" do
        device.write_dma("by h2c", at: 777).wait
        DMA::Device.open(reading) do |other|
          expect(other.read_dma(6, at: 777)).to eq "by h2c"
          other.write_dma("by c2h", at: 777).wait
        end
        DMA::Device.open(node("both", 0)) { |other| expect(other.read_dma(6, at: 777)).to eq "by c2h" }
      end

      it "does not say its size, nor takes a flush" do
        expect(device.capabilities).to include(size: nil, character: true, operations: %i[read write])
        expect { device.channel.flush }.to raise_error(DMA::UnsupportedError)
      end
    end

    it "alone is used for what its permissions allow, and refuses the rest" do
      DMA::Device.open(writing) { |device| device.write_dma("memory", at: 9).wait }
      path = node("memory", 0)
      File.chmod(0o755, scratch)
      said = lambda do |mode|
        File.chmod(mode, path)
        unprivileged(<<~RUBY)
          DMA::Device.open(#{path.inspect}) do |device|
            print device.capabilities[:operations], " "
            print((device.read_dma(6, at: 9) rescue $!.class), " ", (device.write_dma("M", at: 9).wait.bytes rescue $!))
          end
        RUBY
      end
      expect(said.call(0o444)).to eq "[:read] memory cannot write to #{path}, which its permissions do not allow"
      expect(said.call(0o222)).to eq "[:write] DMA::UnsupportedError 1"
      expect(said.call(0o666)).to eq "[:read, :write] Memory 1"
      expect { said.call(0o000) }.to raise_error(/Permission denied.*#{path}/)
    end

    it "of a pair of which one half may not be opened serves the other half's direction, and says why" do
      DMA::Device.open(writing) { |device| device.write_dma("memory").wait }
      File.chmod(0o755, scratch)
      File.chmod(0o000, writing)
      File.chmod(0o444, reading)
      output = unprivileged(<<~RUBY)
        DMA::Device.open(#{reading.inspect}) do |device|
          print device.read_dma(6), " ", (device.write_dma("x") rescue $!.message)
        end
      RUBY
      expect(output).to match(/\Amemory cannot write to #{reading}.*open #{writing}: Permission denied\z/)
    end

    it "is a file too, with a position" do
      DMA::File.open(writing, "r+b") do |file|
        file.pwrite("0123456789", 1000)
        file.seek(1000)
        expect([file.sysread(4), file.pos, file.read(3), file.pos]).to eq ["0123", 1004, "456", 1007]
        file.write("!")
        expect(file.pread(10, 1000)).to eq "0123456!89"
        file.seek(size - 3)
        expect([file.read(10).bytesize, file.eof?]).to eq [3, true]
      end
    end
  end

  describe "that streams" do
    let!(:names) { cuse_devices(**behaviour) }
    let(:behaviour) { {} }
    let(:device) { DMA::Device.open(names.first) }
    let(:channel) { device.channel }

    after { device.close }

    # A channel keeps the order of what reads and writes at the same address, so that a write would wait there for a
    # read that waits for it. On another channel it does not.
    def send_packet(packet)
      device.write_dma(packet, channel: 1)
    end

    it "makes one packet of a write and gives one to a read, of any size, whichever half it was opened by" do
      names.first(2).each do |name|
        DMA::Device.open(name) do |pair|
          [1, 4097, (3 << 20) + 5].each do |length|
            source = guarded(sample(length, length))
            target = guarded(length + 100)
            expect(pair.channel.submit(source: source, destination: 0).wait.bytes).to eq length
            transfer = pair.channel.submit(source: 0, destination: target).wait
            expect([transfer.status, transfer.bytes]).to eq [:complete, length]
            expect(target.get_string(0, length)).to eq source.get_string
            expect(target.get_string(length)).to eq "\0" * 100
          end
        end
      end
      expect(guards_whole?).to be true
    end

    it "gives packets to reads in the order in which both were submitted, though all are under way at once" do
      packets = Array.new(20) { |index| sample(100 + index, index) }
      reads = packets.map { |packet| guarded(packet.bytesize) }
      transfers = reads.each_with_index.map { |target, index| channel.submit(source: index << 20, destination: target) }
      packets.each { |packet| soon { send_packet(packet).wait } }
      transfers.each { |transfer| soon { transfer.wait } }
      expect(reads.map(&:get_string)).to eq packets
      expect(guards_whole?).to be true
    end

    it "scatters one packet after the other over the elements of a list, and ends with one that is shorter" do
      %w[first second third].each { |packet| send_packet(packet).wait }
      targets = [guarded("." * 5), guarded("." * 9), guarded("." * 5)]
      transfer = channel.submit(targets.map { |target| { source: 0, destination: target } }).wait
      expect([transfer.status, transfer.bytes]).to eq [:complete, 11]
      expect(targets.map(&:get_string)).to eq ["first", "second...", "....."]
      expect(device.read_dma(100)).to eq "third"
    end

    it "that has nothing to give ends a wait in time, takes writes, and keeps the memory until it gives" do
      target = guarded(100)
      transfer = channel.submit(source: 0, destination: target)
      await_hang
      expect { transfer.wait(timeout: 0.01) }.to raise_error(DMA::TimeoutError)
      expect { @guarded.first.free }.to raise_error(DMA::BusyError)
      expect(send_packet("late").wait.bytes).to eq 4
      free_guarded
      send_packet("next").wait
      expect(soon { device.read_dma(100) }).to eq "next"
    end

    it "is closed while a read hangs; what it holds is let go of when the read is over" do
      target = guarded(100)
      transfer = channel.submit(source: 0, destination: target)
      await_hang
      expect(soon { device.close }).to be_nil
      expect(transfer.status).to eq :aborted
      expect { @guarded.first.free }.to raise_error(DMA::BusyError)
      File.open(names.first, "wb") { |other| other.syswrite("late") }
      free_guarded
      expect(target).to be_freed
      DMA::Device.open(names.first) do |again|
        again.write_dma("again").wait
        expect(soon { again.read_dma(100) }).to eq "again"
      end
    end

    it "ends a read that hangs when its driver goes away, and what is asked for after that, with the reason" do
      transfer = channel.submit(source: 0x40, destination: guarded(100))
      await_hang
      Process.kill(:KILL, @fuse.pid)
      expect { soon { transfer.wait } }.to raise_error(DMA::TransferError, /at device address 0x40 .*\(0 of 100 bytes/)
      expect(transfer.status).to eq :os_error
      expect { soon { device.write_dma("x").wait } }.to raise_error(DMA::TransferError)
      expect(guards_whole?).to be true
    end

    it "ends a thread that is killed while a read hangs" do
      thread = Thread.new { channel.submit(source: 0, destination: guarded(100)).wait }
      await_hang
      expect([thread.kill.join(60), thread.status]).to eq [thread, false]
      send_packet("late").wait
      free_guarded
    end

    context "and fails" do
      let(:behaviour) { { eio_write: 1, eio_read: 2 } }

      it "says at which address, and goes on with the next transfer" do
        writes = %w[a b c d].map { |packet| device.write_dma(packet, at: 0x1000 + packet.ord) }
        writes.each { |write| write.wait rescue nil } # rubocop:disable Style/RescueModifier -- looked at below
        expect(writes.map(&:status)).to eq %i[complete os_error complete complete]
        expect(writes[1].errno).to eq Errno::EIO::Errno
        expect { writes[1].wait }
          .to raise_error(DMA::TransferError, %r{at device address 0x1062 on .*I/O error \(0 of 1 bytes|Input/output})
        reads = Array.new(4) { |n| -> { device.read_dma(10, at: 0x2000 * (n + 1)) } }
        expect(reads.first(2).map(&:call)).to eq %w[a c]
        expect(&reads[2]).to raise_error(DMA::TransferError, /at device address 0x6000/)
        expect(reads[3].call).to eq "d"
      end
    end
  end

  it "that streams gives a DMA::File a packet for each sysread, and says what was asked for when its driver is gone" do
    writer, reader = cuse_devices
    DMA::File.open(writer, "wb") { |file| %w[one two three].each { |packet| file.syswrite(packet) } }
    DMA::File.open(reader, "rb") do |file|
      expect([file.sysread(100), file.sysread(2), file.readpartial(100)]).to eq %w[one tw o]
      expect([file.sysread(100), file.pos, file.stats[:requests]]).to eq ["three", 11, 4]
      Process.kill(:KILL, @fuse.pid)
      expect { soon { file.sysread(7) } }.to raise_error(SystemCallError, /read 7 bytes at offset 11 .*of #{reader}/)
    end
  end

  describe "that is a register" do
    include Support::Article

    let!(:register) { cuse_devices(busy: 5).last }

    # How often it was read before this.
    def reads
      File.open(register, "rb") { |io| (io.sysread(4).unpack1("L") >> 1) - 1 }
    end

    it "is read once by each sysread(4), and by nothing else" do
      DMA::File.open(register, "rb") do |file|
        expect(reads).to eq 0
        expect(Array.new(3) { file.sysread(4).unpack1("L") >> 1 }).to eq [2, 3, 4]
        expect(file.stats).to include(requests: 3, direct_bytes: 12)
        expect { file.read(4) }.to raise_error(Errno::EINVAL) # it reads ahead, which this register does not allow
      end
      expect(reads).to eq 4
    end

    it "is polled until it is ready (examples/poll_register.rb)" do
      program = File.expand_path("../../examples/poll_register.rb", __dir__)
      output = IO.popen([RbConfig.ruby, "-w", "-I", File.expand_path("../../lib", __dir__), program, register], &:read)
      expect($CHILD_STATUS).to be_success
      busy = (1..4).map { |n| format("%<n>d. 0x%<word>08x: busy\n", n: n, word: (n << 1) | 1) }
      expect(output).to eq "#{busy.join}ready: 0x0000000a\n"
      expect(reads).to eq 5
    end

    it "is polled until it is ready by the founding article's function, unchanged" do
      skip "needs the article's text: DMA_ARTICLE=PATH" unless Support::Article::PATH

      scratch_file("raw_device", sample(512))
      report, = run_article("raw_device", scratch, "read_device_registers(#{register.inspect})")
      file = report[:files].last
      expect(file).to include(path: register, closed: true, calls: [["sysread", 4, 4, 1]] * 5)
      expect(file[:seen]).to eq Digest::SHA256.hexdigest([3, 5, 7, 9, 10].pack("L*"))
      expect(reads).to eq 5
    end
  end
end
