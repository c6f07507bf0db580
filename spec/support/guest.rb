# frozen_string_literal: true

require "json"

module Support
  # The devices of the laboratory's guest, and its monitor, for the specs in spec/guest. The table of devices is in
  # spec/guest/README.md.
  module Guest
    EDU = "0000:00:06.0"
    OTHER_EDU = "0000:00:08.0"
    # Behind a port: `device_del edu2` in the monitor takes it away.
    REMOVABLE_EDU = "0000:01:00.0"
    NVME = "0000:00:07.0"
    EXT4_NVME = "0000:00:09.0"

    def self.included(group)
      group.before(:context) do
        raise "spec/guest is for the laboratory's guest: run `rake guest:spec`" unless ENV["DMA_GUEST"]

        # Of the 1.5 s that a program of the specs takes to start here, RubyGems takes one, and none of them uses it.
        ENV["RUBYOPT"] = "--disable=gems"
      end
      group.after { release if @held }
    end

    # The folder of a PCI function in sysfs.
    def pci(address)
      "/sys/bus/pci/devices/#{address}"
    end

    # The name of the driver that has the function, or nil.
    def driver(address)
      link = File.join(pci(address), "driver")
      File.basename(File.readlink(link)) if File.symlink?(link)
    end

    # The number of its IOMMU group. With IOMMU=virtio it has none before a driver has had it.
    def iommu_group(address)
      Integer(File.basename(File.readlink(File.join(pci(address), "iommu_group"))))
    end

    # Gives the function to a driver, or to none (nil). It stays there: whoever needs another says so.
    def bind(address, name)
      rebind(address, name) unless driver(address) == name
    end

    # The path of a namespace of a controller, which the kernel's nvme driver is given for it.
    def namespace(address, number)
      bind(address, "nvme")
      eventually("namespace #{number} of #{address}") do
        ids = Dir.glob(File.join(pci(address), "nvme/nvme*/nvme*n*/nsid"))
        found = ids.find { |path| Integer(File.read(path)) == number }
        found && "/dev/#{File.basename(File.dirname(found))}"
      end
    end

    # Has QEMU's monitor carry out a command, as in `monitor("device_del edu2")`; what it answers, empty where it has
    # nothing to say. Commands: the chapter "QEMU Monitor" of QEMU's manual.
    def monitor(command)
      File.open("/dev/virtio-ports/monitor", "r+") do |port|
        port.sync = true
        # A refusal after the first time. Answers to others are still there where somebody did not wait for his.
        port.puts JSON.generate(execute: "qmp_capabilities")
        id = SecureRandom.hex
        port.puts JSON.generate(execute: "human-monitor-command", arguments: { "command-line" => command }, id:)
        answer = nil
        answer = JSON.parse(port.gets) until answer && answer["id"] == id
        answer.fetch("return") { raise "the monitor refuses #{command.inspect}: #{answer}" }
      end
    end

    # From here on the next request to namespace 10, :read or :write, stays under way until `release`. Nothing may reset
    # the controller meanwhile: QEMU would wait for the request, and with QEMU the guest.
    def hold(kind)
      @held = true
      monitor(%(qemu-io -d ns10 "break #{kind}_aio held"))
    end

    # Lets it go, whether it has come already or not.
    def release
      monitor('qemu-io -d ns10 "remove_break held"')
    end

    # What the block returns, as soon as that is something. The guest's kernel does much of its work later.
    def eventually(what, seconds: 60)
      deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + seconds
      until (result = yield)
        raise "no #{what} after #{seconds} s" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline

        sleep 0.01
      end
      result
    end

    private

    def rebind(address, name)
      File.write(File.join(pci(address), "driver/unbind"), address) if driver(address)
      File.write(File.join(pci(address), "driver_override"), "#{name}\n")
      return unless name

      File.write("/sys/bus/pci/drivers_probe", address)
      # Where the function has only just come, the kernel has it probed by itself, a moment later.
      eventually("driver #{name} of #{address}", seconds: 10) { driver(address) == name }
    end
  end
end
