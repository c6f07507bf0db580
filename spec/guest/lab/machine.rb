# frozen_string_literal: true

module Lab
  # The guest as QEMU is told of it: processors, memory, IOMMU, devices and their addresses.
  class Machine
    # The IOMMU by its name: QEMU's device, the kernel's arguments, its modules.
    IOMMUS = {
      "intel" => ["intel-iommu,intremap=on,caching-mode=on", "intel_iommu=on", []],
      "virtio" => ["virtio-iommu-pci,addr=02.0", "vfio_iommu_type1.allow_unsafe_interrupts=1", %w[virtio_iommu]]
    }.freeze
    # A namespace without a second path is a block device of its controller's, which sysfs then shows as such.
    # On a busy machine the kernel's test of its timer counts too few interrupts now and then, and it panics.
    KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check nvme_core.multipath=N"
    # ext4 asks for crc32c when it mounts, and there is no modprobe to serve the kernel.
    MODULES = %w[virtio_console 9p 9pnet_virtio overlay vfio_pci vfio_iommu_type1 nvme crc32c_generic ext4 fuse
                 cuse mtdram dm_flakey].freeze

    OUTPUT = 3

    attr_reader :modules

    def initialize(iommu, packages)
      @packages = packages
      @iommu, @kernel_arguments, modules = IOMMUS.fetch(iommu) do
        raise Error, "no IOMMU #{iommu.inspect}: it is one of #{IOMMUS.keys.join(", ")}"
      end
      @modules = ["virtio_pci", *modules, *MODULES]
    end

    # QEMU's command, for a run whose own files are in `folder`. What the guest's command prints is written to the
    # descriptor OUTPUT; with `terminal` the guest has QEMU's own terminal instead.
    def command(folder:, share:, kernel:, initramfs:, disks:, terminal:)
      [@packages.program("qemu-system-x86_64"), *board, *firmware, "-device", @iommu,
       "-kernel", kernel, "-initrd", initramfs,
       "-append", "#{KERNEL_ARGUMENTS} #{@kernel_arguments}",
       *console(folder, terminal), *monitor(folder), *folders(share), *edus, *disks.arguments]
    end

    private

    def board
      # KVM is left out: with TCG every machine has the same laboratory. One processor: with two, QEMU 10.0 now and then
      # dies where a device's registers move while the other looks at them (iotlb_to_section).
      %w[-machine q35,kernel-irqchip=split -accel tcg -cpu max -smp 1 -m 1536
         -nodefaults -no-user-config -display none -no-reboot]
    end

    def firmware
      %w[usr/share/qemu usr/share/seabios].flat_map { |folder| ["-L", @packages.file(folder)] }
    end

    # The kernel's console goes to a file; the command's output and its exit status have ports of their own.
    def console(folder, terminal)
      output = if terminal
                 ["stdio,id=output,signal=off", "virtconsole,chardev=output"]
               else
                 ["file,id=output,path=/dev/fd/#{OUTPUT}", "virtserialport,chardev=output,name=output"]
               end
      ["-chardev", "file,id=console,path=#{folder}/console.log,append=on", "-serial", "chardev:console",
       "-device", "virtio-serial-pci,addr=03.0",
       "-chardev", output[0], "-device", output[1],
       "-chardev", "file,id=status,path=#{folder}/status", "-device", "virtserialport,chardev=status,name=status"]
    end

    # QEMU is its own client: what the guest writes to the port goes to the monitor.
    def monitor(folder)
      ["-chardev", "socket,id=qmp,path=#{folder}/monitor,server=on,wait=off", "-mon", "chardev=qmp,mode=control",
       "-chardev", "socket,id=monitor,path=#{folder}/monitor",
       "-device", "virtserialport,chardev=monitor,name=monitor"]
    end

    def folders(share)
      ["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
       "-device", "virtio-9p-pci,fsdev=root,mount_tag=root,addr=04.0",
       "-fsdev", "local,id=share,path=#{share},security_model=none",
       "-device", "virtio-9p-pci,fsdev=share,mount_tag=share,addr=05.0"]
    end

    # The third is behind a port that devices can be taken from, which those on the root bus cannot.
    def edus
      %w[-device edu,id=edu0,addr=06.0 -device edu,id=edu1,addr=08.0
         -device pcie-root-port,id=port0,addr=0a.0,chassis=1 -device edu,id=edu2,bus=port0]
    end
  end
end
