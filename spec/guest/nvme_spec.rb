# frozen_string_literal: true

RSpec.describe "An NVMe disk" do
  address = Support::Guest::NVME

  before { bind(address, "vfio-pci") }

  # Of a namespace with blocks of 4096 bytes dma-core's own contract has a row.
  context "by its namespace" do
    let(:open_device) { DMA::Device.open(address) }

    it_behaves_like "a DMA engine", effort: :fifth
  end

  it "says what it is, and which namespaces it has" do
    DMA::Device.open(address, namespace: 2) do |device|
      expect(device.capabilities).to include(
        engine: :vfio, driver: :nvme, model: "QEMU NVMe Ctrl", serial: "nvme0", namespace: 2, block_size: 4096,
        size: 4 << 20, alignment: 4096, interrupts: :msix, operations: %i[read write flush]
      )
      expect(device.capabilities[:channels]).to be >= 2
      expect(device.capabilities[:namespaces].first(2)).to eq [{ id: 1, size: 64 << 20, block_size: 512 },
                                                               { id: 2, size: 4 << 20, block_size: 4096 }]
    end
  end

  it "refuses a namespace that it has not, and a device address past its end" do
    expect do
      DMA::Device.open(address, namespace: 99)
    end.to raise_error(ArgumentError, /namespace 99: #{address} has 1, 2, 3/)
    DMA::Device.open(address, namespace: 2) do |device|
      expect do
        device.read_dma(2, at: (4 << 20) - 1)
      end.to raise_error(ArgumentError, /outside the device's 4194304 bytes/)
      expect(device.read_dma(1, at: (4 << 20) - 1).bytesize).to eq 1
    end
  end

  it "is written here and read by the kernel's own driver, and the other way round" do
    ours = DMA::Buffer.new(64 << 20, lock: false).tap { |buffer| buffer.set_string(sample(64 << 20)) }
    theirs = DMA::Buffer.new(64 << 20, lock: false)
    DMA::Device.open(address) do |device|
      device.write_dma(ours).wait
      device.channel.flush.wait
    end
    bind(address, "nvme")
    DMA::File.open(namespace(address, 1), "r+", direct: true) do |file|
      expect(file.read_into(theirs, offset: 0)).to eq 64 << 20
      expect(theirs <=> ours).to eq 0
      ours.set_string(sample(64 << 20, 1))
      file.write_from(ours, offset: 0)
      file.fsync
    end
    bind(address, "vfio-pci")
    DMA::Device.open(address) { |device| device.read_dma(64 << 20, into: theirs) }
    expect(theirs <=> ours).to eq 0
  end

  it "carries out transfers of several channels at once, each with an interrupt of its own" do
    DMA::Device.open(address) do |device|
      jobs = Array.new(4) do |index|
        buffer = DMA::Buffer.new(1 << 20).tap { |memory| memory.set_string(sample(1 << 20, index)) }
        device.channel(index).submit(source: buffer, destination: index << 20)
      end
      jobs.each { |job| expect(job.wait(timeout: 60).status).to eq :complete }
      threads = Array.new(4) { |index| Thread.new { device.read_dma(1 << 20, at: index << 20, channel: index) } }
      threads.each_with_index { |thread, index| expect(thread.value).to eq sample(1 << 20, index) }
      expect(device.stats[:channels].map { |channel| channel[:completed] }).to eq [2, 2, 2, 2]
      expect(device.stats[:lost_interrupts]).to eq 0
    end
  end

  { 1 => 512, 2 => 4096 }.each do |number, block|
    it "merges what several channels write into one block of #{block} bytes" do
      DMA::Device.open(address, namespace: number) do |device|
        device.write_dma("." * 2 * block).wait
        threads = Array.new(4) do |index|
          Thread.new { 16.times { |n| device.write_dma(index.to_s, at: (n * 4) + index, channel: index).wait } }
        end
        threads.each(&:join)
        expect(device.read_dma(2 * block)).to eq(("0123" * 16) + ("." * ((2 * block) - 64)))
      end
    end
  end

  it "fails where the medium cannot be read, names it, and goes on" do
    DMA::Device.open(address, namespace: 3) do |device|
      bad = 0x20000
      expect { device.read_dma(512, at: bad) }.to raise_error(DMA::TransferError, /medium error/) do |error|
        expect(error.status).to eq :medium_error
      end
      expect { device.write_dma("x", at: bad).wait }.to raise_error(DMA::TransferError, /medium error/)
      expect(device.read_dma(4096, at: bad - 4096).bytesize).to eq 4096
      expect(device.read_dma(4096, at: bad + 4096).bytesize).to eq 4096
    end
  end

  it "fails where the medium cannot be written, and leaves what is there" do
    DMA::Device.open(address, namespace: 9) do |device|
      expect { device.write_dma("x" * 512, at: 0x20000).wait }.to raise_error(DMA::TransferError, /medium error/)
      device.write_dma("x" * 512, at: 0x20200).wait
      expect(device.read_dma(1024, at: 0x20000)).to eq(("\0" * 512) + ("x" * 512))
    end
  end

  it "gives up what takes too long: by an abort, by a reset of the controller, and tries the others' again" do
    DMA::Device.open(address, namespace: 11) do |device|
      memory = DMA::Buffer.new(4096)
      slow = device.channel(0).submit(source: 0x22000, destination: memory)
      expect { slow.wait(timeout: 0.01) }.to raise_error(DMA::TimeoutError)
      expect { memory.free }.to raise_error(DMA::BusyError)
      others = Array.new(3) do |index|
        device.channel(1).submit(source: index * 4096, destination: DMA::Buffer.new(4096))
      end
      others.each { |other| expect(other.wait(timeout: 60).status).to eq :complete }
      settled { memory.free }
      expect(slow.status).to eq :timed_out
      expect(device.read_dma(4096, at: 0, timeout: 60)).to eq "\0" * 4096
      expect(device.write_dma("after", at: 1).wait(timeout: 60).status).to eq :complete
    end
  end

  it "is reset with transfers under way, which end as aborted or complete, and works after it" do
    DMA::Device.open(address) do |device|
      transfers = Array.new(32) do |n|
        device.channel(n % 2).submit(source: n << 12, destination: DMA::Buffer.new(4096))
      end
      device.reset
      expect(transfers.map(&:status).uniq - %i[aborted complete]).to be_empty
      device.write_dma("after").wait
      expect(device.read_dma(5)).to eq "after"
    end
  end

  it "fails when its controller does, and comes back with a reset" do
    DMA::Device.open(address) do |device|
      device.write_dma("before").wait
      # A controller that cannot fetch commands, for it is no bus master, gives up for good.
      config = device.registers(:config)
      config.write16(4, config.read16(4) & ~4)
      transfer = device.channel.submit(source: 0, destination: DMA::Buffer.new(4096))
      expect { transfer.wait(timeout: 30) }.not_to raise_error
      expect(device.read_dma(6)).to eq "before"
    end
  end

  it "shows a file system's own bytes at their offsets" do
    bind(Support::Guest::EXT4_NVME, "vfio-pci")
    DMA::Device.open(Support::Guest::EXT4_NVME) do |device|
      image = File.binread(ENV.fetch("DMA_GUEST_EXT4"))
      superblock = device.read_dma(1024, at: 1024)
      expect(superblock).to eq image[1024, 1024]
      expect(superblock[0x38, 2].unpack1("v")).to eq 0xef53
      file = sample((3 << 20) + 123)
      # Where the file's first block is, by its bytes; ext4 lays a file of this size out in one piece.
      start = image.index(file[0, 4096])
      expect(device.read_dma(100, at: start + 4000)).to eq file[4000, 100]
      expect(device.read_dma(4096, at: start)).to eq file[0, 4096]
      hello = image.index("hello from ext4\n")
      expect(device.read_dma(16, at: hello)).to eq "hello from ext4\n"
    end
  end

  it "is driven from beginning to end by a user without rights, and says what is too much for the limit" do
    File.chown(65_534, 65_534, "/dev/vfio/#{iommu_group(address)}")
    code = <<~RUBY
      DMA::Device.open(#{address.inspect}) do |device|
        device.write_dma("as nobody", at: 700).wait
        puts device.read_dma(9, at: 700)
        begin
          device.map(DMA::Buffer.new(16 << 20, lock: false))
        rescue DMA::LockLimitError => e
          puts e.class
        end
        puts device.read_dma(9, at: 700)
      end
    RUBY
    expect(unprivileged(code, memlock: 8 << 20)).to eq "as nobody\nDMA::LockLimitError\nas nobody\n"
    small = "begin; DMA::Device.open(#{address.inspect}).channel; rescue DMA::LockLimitError => e; puts e.message; end"
    expect(unprivileged(small)).to match(/cannot lock \d+ bytes: \d+ bytes are locked already and .* is 65536/)
  end

  it "frees everything when it is killed, for the next who opens it" do
    lib = File.expand_path("../../lib", __dir__)
    code = "d = DMA::Device.open(#{address.inspect}); b = DMA::Buffer.new(4 << 20); " \
           "d.channel.submit(source: 0, destination: b); $stdout.puts :going; $stdout.flush; sleep"
    child = IO.popen([RbConfig.ruby, "-I", lib, "-rdma", "-e", code])
    expect(child.gets).to eq "going\n"
    Process.kill(:KILL, child.pid)
    child.close
    DMA::Device.open(address) { |device| expect(device.read_dma(512, timeout: 60).bytesize).to eq 512 }
  end
end
