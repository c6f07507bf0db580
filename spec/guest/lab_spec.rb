# frozen_string_literal: true

# That the laboratory is what its README says; what is driven in it is in the other files.
RSpec.describe "the laboratory" do
  edu = "0x1234 0x11e8"
  nvme = "0x1b36 0x0010"
  devices = { Support::Guest::EDU => edu, Support::Guest::OTHER_EDU => edu, Support::Guest::REMOVABLE_EDU => edu,
              Support::Guest::NVME => nvme, Support::Guest::EXT4_NVME => nvme }

  it "has the devices at their addresses" do
    devices.each do |address, ids|
      expect(%w[vendor device].map { |id| File.read("#{pci(address)}/#{id}").chomp }.join(" ")).to eq ids
    end
  end

  devices.each_key do |address|
    it "gives #{address} to VFIO in an IOMMU group of its own, and back" do
      before = devices[address] == nvme ? "nvme" : nil
      bind(address, "vfio-pci")
      group = iommu_group(address)
      expect(Dir.children("/sys/kernel/iommu_groups/#{group}/devices")).to eq [address]
      expect(File.stat("/dev/vfio/#{group}")).to be_chardev
      bind(address, before)
      expect(File).not_to exist("/dev/vfio/#{group}")
    end
  end

  it "answers in the monitor, and to the next who asks" do
    2.times { expect(monitor("info version")).to match(/\A\d+\.\d+/) }
    expect(monitor("no such command")).to include("unknown command")
  end

  it "takes a device away and brings it back through the monitor" do
    address = Support::Guest::REMOVABLE_EDU
    expect(monitor("device_del edu2")).to eq ""
    eventually("removal of #{address}") { !File.exist?(pci(address)) }
    # The name is free when QEMU, too, is through with it.
    eventually("place for #{address}") { monitor("device_add edu,id=edu2,bus=port0").empty? }
    eventually("return of #{address}") { File.exist?(pci(address)) }
    bind(address, "vfio-pci")
  end

  it "has a file system on the second controller, with known bytes" do
    device = namespace(Support::Guest::EXT4_NVME, 1)
    directory = mount("ext4", source: device, options: "ro")
    expect(File.read("#{directory}/hello.txt")).to eq "hello from ext4\n"
    expect(File.binread("#{directory}/sample.bin")).to eq sample((3 << 20) + 123)
    expect(Digest::SHA256.file(device)).to eq Digest::SHA256.file(ENV.fetch("DMA_GUEST_EXT4"))
  end

  it "has namespaces of 512 and of 4096-byte blocks" do
    sizes = [1, 2].map do |number|
      queue = "/sys/class/block/#{File.basename(namespace(Support::Guest::NVME, number))}/queue"
      Integer(File.read("#{queue}/logical_block_size"))
    end
    expect(sizes).to eq [512, 4096]
  end

  # The sectors of 512 bytes around the block of 4 KiB that cannot be read for which the block fails.
  def failing_sectors(path, mode)
    DMA::File.open(path, mode, direct: true) do |file|
      (224...320).select do |sector|
        yield file, sector * 512
        false
      rescue Errno::ENODATA # as Linux calls a medium's error
        true
      end
    end
  end

  6.times do |n|
    it "has a namespace whose block #{n} from 128 KiB on cannot be read, again and again, and nothing else" do
      path = namespace(Support::Guest::NVME, 3 + n)
      bad = 256 + (8 * n)
      2.times do
        failing = failing_sectors(path, "r") { |file, offset| expect(file.pread(512, offset)).to eq "\0" * 512 }
        expect(failing).to eq [*bad...(bad + 8)]
      end
    end
  end

  it "has a namespace with one sector that cannot be written, and nothing else" do
    path = namespace(Support::Guest::NVME, 9)
    bytes = ->(offset) { sample(512, offset) }
    expect(failing_sectors(path, "r+") { |file, offset| file.pwrite(bytes.call(offset), offset) }).to eq [256]
    written = DMA::File.open(path, direct: true) { |file| file.pread(96 * 512, 224 * 512) }
    expect(written).to eq (224...320).map { |sector| sector == 256 ? "\0".b * 512 : bytes.call(sector * 512) }.join
  end

  { read: ->(file) { file.pread(4096, 0) }, write: ->(file) { file.pwrite("new" * 2048, 0) } }.each do |kind, request|
    it "holds a #{kind} on the last namespace until it is released" do
      path = namespace(Support::Guest::NVME, 10)
      File.binwrite(path, sample(8192))
      DMA::File.open(path, "r+", direct: true) do |file|
        hold(kind)
        thread = Thread.new { request.call(file) }
        inflight = "/sys/class/block/#{File.basename(path)}/inflight"
        eventually("request") { File.read(inflight).split.map(&:to_i).sum == 1 }
        # These come later, and end.
        100.times { kind == :read ? file.pread(512, 4096) : file.pwrite("\0" * 512, 8192) }
        expect([thread.alive?, file.pread(512, 4096)]).to eq [true, sample(8192)[4096, 512]]
        release
        expect(thread.value).to eq({ read: sample(8192)[0, 4096], write: 6144 }.fetch(kind))
      end
    end
  end
end
