# frozen_string_literal: true

require "io/console"
require "shellwords"
require "timeout"
require "tmpdir"

module Lab
  # One guest: boots, runs a command as root in the checkout, powers off.
  class Guest
    ROOT = File.expand_path("../../..", __dir__)
    # Seconds after which a guest is taken to hang.
    LIMIT = 600

    # `iommu` is one of Machine::IOMMUS. The folder `share` is /vm in the guest, and the way out for files.
    def initialize(iommu, share: File.join(ROOT, "tmp/guest", iommu), limit: LIMIT)
      @iommu = iommu
      @share = share
      @limit = limit
      @packages = Packages.new.fetch
      @machine = Machine.new(iommu, @packages)
    end

    # Runs a shell's command and returns its exit status; what it prints is written to `output` as it comes. Raises
    # Error with the end of the console where the guest does not report a status within the limit, and Crash where
    # QEMU has died of a signal.
    def run(command, output: $stdout)
      start(command, terminal: false) do |qemu, folder|
        printed, writer = IO.pipe
        pid = Process.spawn(*qemu, in: File::NULL, %i[out err] => log(folder), Machine::OUTPUT => writer)
        writer.close
        Timeout.timeout(@limit, Error, "the guest ran for more than #{@limit} s, and was ended") do
          until printed.eof?
            output.write(printed.readpartial(1 << 16))
            output.flush
          end
          _, status = Process.wait2(pid)
          pid = nil
          raise Crash, "QEMU died of SIG#{Signal.signame(status.termsig)}" if status.signaled?
        end
      ensure
        printed&.close
        Process.kill(:KILL, pid).then { Process.wait(pid) } if pid
      end
    end

    # A shell on this terminal; its exit status.
    def shell
      start(Shellwords.join([ENV.fetch("SHELL", "/bin/sh")]), terminal: true) do |qemu, folder|
        system(*qemu, err: log(folder))
      end
    end

    private

    # Yields QEMU's command and the folder of the run, which is removed afterwards.
    def start(command, terminal:)
      FileUtils.mkdir_p(@share)
      Dir.mktmpdir("dma-lab") do |folder|
        disks = Disks.new(File.join(folder, "disks"), @packages)
        kernel = Kernel.new(@packages)
        initramfs = File.join(folder, "initramfs")
        File.binwrite(initramfs, archive(kernel, script(command, disks), terminal))
        qemu = @machine.command(folder:, share: @share, kernel: kernel.image, initramfs:, disks:, terminal:)
        report(folder) { yield qemu, folder }
      end
    end

    # Where the kernel's console goes, and what QEMU has to say.
    def log(folder)
      [File.join(folder, "console.log"), "a"]
    end

    # The exit status that the guest has reported when the block is over.
    def report(folder)
      yield
      text = File.read(File.join(folder, "status"))
      text.match?(/\A\d+\n\z/) ? text.to_i : raise(Error, "the guest ended without a status of its command")
    rescue Error => e
      console = File.readlines(File.join(folder, "console.log")).last(60).join
      raise e.class, "#{e.message}; the end of its console:\n#{console}"
    end

    # The command as a file to run: with the environment of this process, and what the guest's programs want to know.
    def script(command, disks)
      environment = ENV.to_h.merge("DMA_GUEST" => @iommu, "DMA_GUEST_EXT4" => disks.ext4,
                                   "PATH" => "#{ENV.fetch("PATH")}:#{@packages.bin}")
      start = ["exec", "env", "-i", *environment.map { |name, value| "#{name}=#{value}" }, "sh", "-c", command]
      "cd #{Shellwords.escape(Dir.pwd)} && #{Shellwords.join(start)}\n"
    end

    def archive(kernel, script, terminal)
      modules = kernel.modules(@machine.modules)
      rows, columns = IO.console&.winsize if terminal
      Initramfs.new.tap do |archive|
        %w[bin dev proc sys lower upper root modules lab].each { |name| archive.directory(name) }
        archive.console
        { "bin/busybox" => @packages.file("{usr/,}bin/busybox"), "init" => File.join(__dir__, "init"),
          "lab/session" => File.join(__dir__, "session") }.each { |name, path| archive.file(name, File.binread(path)) }
        archive.file("lab/command", script)
        archive.file("lab/terminal", "rows #{rows} columns #{columns}\n") if terminal
        archive.file("modules/order", modules.keys.map { |name| "#{name}\n" }.join)
        modules.each { |name, bytes| archive.file("modules/#{name}.ko", bytes) }
      end.to_s
    end
  end
end
