# frozen_string_literal: true

# Taking a PCI function, whatever it is: what is in the way, who has it, how it is left.
RSpec.describe "A PCI function" do
  address = Support::Guest::EDU
  vfio = "vfio-pci"

  # Gives the device file of the function's group to the unprivileged user of the specs.
  def hand_over(address)
    @handed = "/dev/vfio/#{iommu_group(address)}"
    File.chown(65_534, 65_534, @handed)
  end

  after { File.chown(0, 0, @handed) if @handed }

  def listed(address)
    DMA::Device.list.find { |function| function[:address] == address }
  end

  describe "in the list" do
    it "is named with its driver, its group and what is missing" do
      bind(address, nil)
      bind(Support::Guest::NVME, "nvme")
      expect(listed(address)).to include(vendor: 0x1234, device: 0x11e8, driver: nil, ready: false,
                                         missing: /bound to no driver/, remedy: /drivers_probe/)
      expect(listed(Support::Guest::NVME)).to include(driver: "nvme", class: 0x010802,
                                                      missing: /the kernel's driver nvme/)
      bind(address, vfio)
      expect(listed(address)).to include(driver: vfio, iommu_group: iommu_group(address), ready: true, missing: nil,
                                         remedy: nil)
    end

    it "is ready for root alone, until a user is given its group" do
      bind(address, vfio)
      code = "p DMA::Device.list.find { |f| f[:address] == #{address.inspect} }.values_at(:ready, :missing, :remedy)"
      group = iommu_group(address)
      expect(unprivileged(code)).to eq("#{[false, "/dev/vfio/#{group} may not be opened by this user",
                                           "chown 65534 /dev/vfio/#{group}"].inspect}\n")
      hand_over(address)
      expect(unprivileged(code)).to eq "[true, nil, nil]\n"
    end

    it "is mended by the line that is said" do
      bind(address, nil)
      DMA::Device.open(address)
    rescue DMA::UnsupportedError => e
      expect(e.message).to match(/cannot drive #{address}: it is bound to no driver, not to vfio-pci; as root: /)
      expect(system("sh", "-c", e.message[/as root: (.*)/, 1])).to be true
      DMA::Device.open(address) { |device| expect(device.name).to eq address }
    end
  end

  describe "that cannot be had" do
    it "is not there" do
      expect { DMA::Device.open("0000:00:1e.7") }.to raise_error(Errno::ENODEV, /0000:00:1e.7.*DMA::Device.list/)
    end

    it "is the kernel's" do
      bind(Support::Guest::NVME, "nvme")
      expect { DMA::Device.open(Support::Guest::NVME) }
        .to raise_error(DMA::UnsupportedError,
                        %r{the kernel's driver nvme.*echo \S+ > /sys/bus/pci/devices/\S+/driver/unbind})
    end

    it "is another user's" do
      bind(address, vfio)
      code = "begin; DMA::Device.open(#{address.inspect}); rescue SystemCallError => e; puts e.class, e.message; end"
      expect(unprivileged(code)).to match(%r{\AErrno::EACCES\n.*/dev/vfio/\d+ may not.*: chown 65534 /dev/vfio/})
    end

    it "is another process's, until that is killed in the middle of a transfer" do
      bind(address, vfio)
      owner = in_child("d = DMA::Device.open(#{address.inspect}); m = DMA::Buffer.new(4096); " \
                       "d.channel.submit(source: 0, destination: m); puts :going; sleep")
      expect(owner.gets).to eq "going\n"
      expect do
        DMA::Device.open(address)
      end.to raise_error(Errno::EBUSY, %r{another process has it: fuser -v /dev/vfio/\d+})
      Process.kill(:KILL, owner.pid)
      owner.close
      # The device, which has no reset, goes on with its transfer to a bus address that is given away anew.
      DMA::Device.open(address, driver: false) do |device|
        memory = DMA::Buffer.new(4096).tap { |buffer| buffer.clear(0xee) }
        device.map(memory) { device.registers.poll(0x98, mask: 1, value: 0, interval: 0.01, timeout: 5) }
        expect(memory.get_string).to eq "\xee".b * 4096
      end
      DMA::Device.open(address) do |device|
        device.write_dma("mine").wait(timeout: 5)
        expect(device.read_dma(4, timeout: 5)).to eq "mine"
      end
    end

    it "is open in this process already" do
      bind(address, vfio)
      DMA::Device.open(address, driver: false) do
        expect { DMA::Device.open(address) }.to raise_error(DMA::BusyError, /this process has #{address} open already/)
      end
      DMA::Device.open(address, driver: false, &:close)
    end
  end

  # A program of its own, whose output is read; it is ended with the example.
  def in_child(code)
    lib = File.expand_path("../../lib", __dir__)
    child = IO.popen([RbConfig.ruby, "-I", lib, "-rdma", "-e", "$stdout.sync = true; #{code}"], "r+")
    (@children ||= []) << child
    child
  end

  after do
    (@children || []).reject(&:closed?).each do |child|
      Process.kill(:KILL, child.pid)
      child.close
    end
  end

  it "refuses options that are not its own" do
    bind(address, vfio)
    { namespace: 1, address_bits: 29, interrupts: :msix, driver: :edu, direct: true,
      ring_size: 8 }.each do |name, value|
      expect { DMA::Device.open(address, name => value) }.to raise_error(StandardError, /#{name}|kind msix/)
    end
    expect { DMA::Device.open(address, interrupts: :msix) }.to raise_error(DMA::UnsupportedError, /msix/)
  end

  describe "without a driver" do
    before { bind(address, vfio) }

    it "is driven by its registers, each access at its width, and no access outside" do
      DMA::Device.open(address, driver: false) do |device|
        registers = device.registers(0)
        expect([registers.size, registers.read32(0)]).to eq [1 << 20, 0x010000ed]
        registers.write32(4, 0x1234_5678)
        expect(registers.read32(4)).to eq 0xedcb_a987
        registers.write64(0x80, 0x12_3456_7890)
        expect(registers.read64(0x80)).to eq 0x12_3456_7890
        expect { registers.read32(1 << 20) }.to raise_error(ArgumentError, /outside/)
        expect { registers.read32(2) }.to raise_error(DMA::AlignmentError)
        expect { device.registers(1) }.to raise_error(ArgumentError, /BAR 1: #{address} has none/)
        expect { device.registers(6) }.to raise_error(ArgumentError, /BARs 0 to 5/)
      end
    end

    it "shows its configuration space, through which it is switched" do
      DMA::Device.open(address, driver: false) do |device|
        config = device.registers(:config)
        expect([config.read16(0), config.read16(2), config.read32(8) >> 8]).to eq [0x1234, 0x11e8, 0xff00]
        expect([config.read16(4) & 6, device.bus_master?]).to eq [2, false]
        device.bus_master = true
        expect([config.read16(4) & 6, device.bus_master?]).to eq [6, true]
        # The registers stay, whatever is written.
        config.write16(4, 0)
        expect([config.read16(4) & 6, device.registers.read32(0)]).to eq [2, 0x010000ed]
      end
    end

    it "has interrupts that are counted, and waited for by threads and fibers" do
      DMA::Device.open(address, driver: false) do |device|
        registers = device.registers
        device.bus_master = true
        3.times do
          registers.write32(0x60, 1)
          expect(device.wait_interrupt(timeout: 5)).to eq 1
        end
        expect do
          device.wait_interrupt(timeout: 0.01)
        end.to raise_error(DMA::TimeoutError, /no interrupt \(0\) of #{address}/)
        waiter = Thread.new { device.wait_interrupt }
        Thread.pass until waiter.stop?
        registers.write32(0x60, 1)
        expect(waiter.value).to eq 1
        expect { device.wait_interrupt(1) }.to raise_error(ArgumentError, /vector 1: #{address} has 1/)
        expect { device.wait_interrupt(:sometimes) }.to raise_error(ArgumentError, /:removal/)
      end
    end

    it "lets other fibers run while one waits" do
      require "async"
      DMA::Device.open(address, driver: false) do |device|
        device.bus_master = true
        Async do |task|
          waiter = task.async { device.wait_interrupt(timeout: 5) }
          task.async { device.registers.write32(0x60, 1) }
          expect(waiter.wait).to eq 1
        end
      end
    end

    it "interrupts by its line again once the device has taken its request back" do
      DMA::Device.open(address, driver: false, interrupts: :intx) do |device|
        registers = device.registers
        3.times do |round|
          registers.write32(0x60, 1 << round)
          expect(device.wait_interrupt(timeout: 5)).to eq 1
          registers.write32(0x64, registers.read32(0x24))
        end
        expect { device.wait_interrupt(timeout: 0.05) }.to raise_error(DMA::TimeoutError)
      end
    end

    it "says that it has no channels and no reset" do
      DMA::Device.open(address, driver: false) do |device|
        expect(device.capabilities).to include(driver: nil, size: nil, channels: 0, operations: [])
        expect do
          device.write_dma("x")
        end.to raise_error(DMA::UnsupportedError, /no driver for it here, or none was wanted.*wait_interrupt.*map/)
        expect do
          device.reset
        end.to raise_error(DMA::UnsupportedError, /#{address} (has no reset of its own|refuses to be reset)/)
      end
    end

    it "wakes who waits when it is closed" do
      device = DMA::Device.open(address, driver: false)
      waiter = Thread.new { device.wait_interrupt }
      waiter.report_on_exception = false
      Thread.pass until waiter.stop?
      device.close
      expect { waiter.value }.to raise_error(DMA::ClosedError)
      expect { device.registers }.to raise_error(DMA::ClosedError)
    end
  end

  describe "and memory" do
    before { bind(address, vfio) }

    it "pins what it reaches, as long as it reaches it, and lets it be freed" do
      buffer = DMA::Buffer.new(4096, lock: true)
      DMA::Device.open(address) do |device|
        expect(buffer.residency).to eq :locked
        device.write_dma(buffer).wait(timeout: 5)
        expect([buffer.residency, device.stats[:mappings]]).to eq [:pinned, 1]
        device.map(DMA::Buffer.new(8192).slice(4096, 64)) do |mapping|
          expect(mapping.buffer.residency).to eq :pinned
        end
      end
      expect(buffer.residency).to eq :locked
      DMA::Device.open(address) do |device|
        device.write_dma(buffer).wait(timeout: 5)
        buffer.free
        expect(device.stats[:mappings]).to eq 0
      end
    end

    it "lets go of what was mapped when it is closed" do
      buffer = DMA::Buffer.new(4096)
      mapping = DMA::Device.open(address) { |device| device.map(buffer) }
      expect([mapping.unmapped?, buffer.residency]).to eq [true, :locked]
      expect { mapping.address }.to raise_error(DMA::MisuseError, /closed/)
      expect(buffer.free).to be_freed
    end

    it "moves memory that is not this library's" do
      require "fiddle"
      pointer = Fiddle::Pointer.malloc(5000, Fiddle::RUBY_FREE)
      pointer[0, 5000] = sample(5000)
      wrapped = DMA::Buffer.wrap(pointer, 5000)
      DMA::Device.open(address) do |device|
        device.write_dma(wrapped.slice(77, 900), at: 5).wait(timeout: 5)
        expect(device.read_dma(900, at: 5, timeout: 5)).to eq sample(5000)[77, 900]
        expect(device.stats[:mappings]).to be <= 1
      end
      expect(pointer[0, 5000]).to eq sample(5000)
    end

    it "is limited for a user, with all three figures, and goes on within the limit" do
      hand_over(address)
      code = <<~RUBY
        DMA::Device.open(#{address.inspect}) do |device|
          begin
            device.map(DMA::Buffer.new(1 << 20, lock: false))
          rescue DMA::LockLimitError => e
            puts e.message[/cannot lock 1048576 bytes: \\d+ bytes are locked already and RLIMIT_MEMLOCK is 65536/]
          end
          device.write_dma("within").wait(timeout: 5)
          puts device.read_dma(6, timeout: 5)
        end
      RUBY
      expect(unprivileged(code)).to match(/\Acannot lock 1048576 bytes: .* is 65536\nwithin\n\z/)
    end

    it "makes room for a user by letting go of what no transfer uses, and does not count locked memory twice" do
      hand_over(address)
      code = <<~RUBY
        DMA::Device.open(#{address.inspect}) do |device|
          buffers = Array.new(3) { DMA::Buffer.new(5 << 20, lock: :auto) }
          buffers.first.clear(1)
          buffers.each { |buffer| device.write_dma(buffer.slice(0, 16)).wait(timeout: 5) }
          p buffers.map(&:residency).count(:pinned), device.stats[:mappings]
        end
      RUBY
      expect(unprivileged(code, memlock: 8 << 20)).to eq "1\n1\n"
    end
  end

  describe "at the end of a program" do
    before { bind(address, vfio) }

    it "is quiet and free, however the program ends in the middle of a transfer" do
      code = "device = DMA::Device.open(#{address.inspect}); device.write_dma('x' * 4096); puts :going; "
      { "exit" => nil, "raise 'x'" => nil, "sleep" => :TERM, "device.close; sleep" => :TERM }.each do |ending, signal|
        child = in_child("$stderr = File.open(File::NULL, 'w'); #{code}#{ending}")
        expect(child.gets).to eq "going\n"
        Process.kill(signal, child.pid) if signal
        child.close
        config = File.binread("#{pci(address)}/config", 2, 4).unpack1("v")
        expect(config & 4).to eq(0), "the device is a bus master after #{ending}"
        DMA::Device.open(address, driver: false, &:close)
      end
    end

    it "is refused to the child of a fork, and goes on for the parent" do
      DMA::Device.open(address) do |device|
        buffer = DMA::Buffer.new(64)
        device.write_dma("parent").wait(timeout: 5)
        answer = in_forked_child(leave: true) { device.read_dma(6) }
        expect(answer).to match(/DMA::ClosedError.*fork/)
        expect(in_forked_child { device.registers(:config).read16(0) }).to match(/DMA::ClosedError/)
        expect(device.read_dma(6, into: buffer, timeout: 5).get_string(0, 6)).to eq "parent"
      end
    end

    it "is given back when somebody wants it, which it tells" do
      other = Support::Guest::OTHER_EDU
      bind(other, vfio)
      device = DMA::Device.open(other)
      waiter = Thread.new { device.wait_interrupt(:removal, timeout: 60) }
      unbinding = Thread.new { File.write("#{pci(other)}/driver/unbind", other) }
      expect(waiter.value).to be_positive
      expect { device.write_dma("x").wait(timeout: 5) }.to raise_error(DMA::TransferError, /link down/)
      device.close
      unbinding.join
      expect(driver(other)).to be_nil
      bind(other, vfio)
      DMA::Device.open(other) { |again| expect(again.write_dma("x").wait(timeout: 5).status).to eq :complete }
    end
  end

  it "is driven from beginning to end by a user without rights" do
    bind(address, vfio)
    hand_over(address)
    code = <<~RUBY
      device = DMA::Device.open(#{address.inspect})
      device.write_dma("as nobody").wait(timeout: 5)
      puts Process.uid, device.read_dma(9, timeout: 5)
      device.close
      puts device.closed?
    RUBY
    expect(unprivileged(code, memlock: 8 << 20)).to eq "65534\nas nobody\ntrue\n"
  end
end
