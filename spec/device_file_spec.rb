# frozen_string_literal: true

RSpec.describe "a file as a device" do
  let(:path) { scratch_file("device.bin", sample(10_000)) }
  let(:device) { DMA::Device.open(path) }

  after { device.close }

  it "has offsets as addresses, says what it can do, and says whether it goes past the page cache" do
    expect(device.capabilities).to include(engine: be(:uring).or(be(:threads)), size: 10_000, channels: 4, capacity: 32,
                                           strict: false, operations: %i[read write flush], max_segments: nil)
    expect([true, false]).to include device.capabilities[:direct]
    expect([device.sim, device.name]).to eq [nil, path]
    expect(device.read_dma(100, at: 5000)).to eq sample(10_000)[5000, 100]
    device.write_dma("changed", at: 4095).wait
    device.close
    expected = sample(10_000)
    expected[4095, 7] = "changed"
    expect(File.binread(path)).to eq expected
  end

  it "grows where it is written behind its end, with a hole where nothing was" do
    expect(device.write_dma("end", at: 20_000).wait.bytes).to eq 3
    expect(device.capabilities[:size]).to eq 20_003
    expect(device.read_dma(10_003, at: 10_000)).to eq "#{"\0" * 10_000}end"
    expect(File.size(path)).to eq 20_003
  end

  it "reads less at its end, and nothing behind it; what lies behind in memory is left" do
    expect(device.read_dma(500, at: 9900)).to eq sample(10_000)[9900..]
    expect(device.read_dma(500, at: 10_000)).to eq ""
    expect(device.read_dma(5, at: 1 << 40)).to eq ""
    target = guarded("z" * 500)
    transfer = device.channel.submit(source: 9900, destination: target).wait
    expect([transfer.status, transfer.bytes, transfer.size]).to eq [:complete, 100, 500]
    expect(target.get_string).to eq sample(10_000)[9900..] + ("z" * 400)
    expect(guards_whole?).to be true
  end

  it "is refused by the kernel where it may only be read, and says why" do
    output = unprivileged(<<~RUBY)
      Dir.chdir(#{scratch.tap { |directory| File.chmod(0o755, directory) }.inspect})
      device = DMA::Device.open(#{path.tap { |file| File.chmod(0o444, file) }.inspect})
      print device.read_dma(10) == File.binread(#{path.inspect}, 10), " "
      begin
        device.write_dma("x").wait
      rescue DMA::TransferError => e
        print e.status, " ", e.transfer.errno == Errno::EBADF::Errno, " ", e.message
      end
    RUBY
    expect(output).to match(/\Atrue os_error true transfer .*\(0 of 1 bytes were moved\)\z/)
    expect(File.binread(path)).to eq sample(10_000)
  end

  it "makes what was written durable, after all that came before" do
    write = device.write_dma("durable")
    expect(device.channel.flush.wait.status).to eq :complete
    expect(write.status).to eq :complete
  end

  it "uses the page cache only where it is told to, and refuses to where it must not" do
    DMA::Device.open(path, direct: false) { |buffered| expect(buffered.capabilities[:direct]).to be false }
    expect { DMA::Device.open(path, direct: :often) }.to raise_error(ArgumentError, /true, :auto, false/)
    directory = mount("tmpfs")
    file = File.join(directory, "file").tap { |name| File.write(name, "in memory") }
    DMA::Device.open(file) { |other| expect(other.read_dma(9)).to eq "in memory" }
  end

  it "tells which transfer of a burst a broken disk failed, and carries out the others" do
    broken = fuse_file(1_000_000, eio: 300_000)
    DMA::Device.open(broken, direct: false) do |disk|
      targets = Array.new(5) { guarded(50_000) }
      places = Array.new(5) { |n| 100_000 * (n + 1) }
      transfers = places.zip(targets).map { |at, part| disk.channel.submit(source: at, destination: part) }
      disk.channel.drain
      expect(transfers.map(&:status)).to eq %i[complete complete os_error complete complete]
      expect(transfers[2].errno).to eq Errno::EIO::Errno
      expect { transfers[2].wait }.to raise_error(DMA::TransferError, %r{Input/output|I/O}i)
      bytes = unstressed { sample(1_000_000) }
      [0, 1, 3, 4].each { |n| expect(targets[n].get_string).to eq bytes[places[n], 50_000] }
      expect(guards_whole?).to be true
    end
  end

  describe "on a disk that does not answer" do
    let(:path) { fuse_file(1_000_000, hang: 500_000) }
    let(:buffer) { DMA::Buffer.new(4096) }

    it "returns from a wait in time, refuses the memory until the disk lets go, and serves others" do
      transfer = device.channel.submit(source: 500_000, destination: buffer)
      await_hang
      expect { transfer.wait(timeout: 0.01) }.to raise_error(DMA::TimeoutError)
      expect { buffer.free }.to raise_error(DMA::BusyError)
      expect(device.read_dma(100, at: 0)).to eq sample(1_000_000)[0, 100]
      release_reads
      settled { device.channel.poll || expect(buffer.free).to(be_freed) }
    end

    it "ends a thread that is killed while the disk is given a moment to let go" do
      channel = device.channel
      thread = Thread.new { channel.submit(source: 500_000, destination: buffer).wait(timeout: 0.01) }
      await_hang
      sleep(0.05)
      expect([thread.kill.join(5), thread.status]).to eq [thread, false]
      release_reads
    end

    it "frees nothing under a transfer whose objects are garbage" do
      Thread.new do
        other = DMA::Device.open(path)
        other.channel.submit(source: 500_000, destination: DMA::Buffer.new(4096))
        await_hang
      end.join
      GC.start
      release_reads
      expect(device.read_dma(100, at: 0)).to eq sample(1_000_000)[0, 100]
    end
  end
end
