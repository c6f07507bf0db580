# frozen_string_literal: true

module Support
  # A file, or devices, that hang or fail where a test wants it: see spec/programs/fuse_server.rb and cuse_server.rb.
  module Fuse
    # The path of such a file of `size` bytes, whose bytes are `sample(size)`; for the rest of the example.
    def fuse_file(size, **behaviour)
      needs_root
      needs "/dev/fuse", ::File.exist?("/dev/fuse")
      directory = ::File.join(scratch, "fuse").tap { |path| Dir.mkdir(path) }
      (@mounts ||= []) << directory
      serve("fuse_server.rb", directory, size, behaviour)
      ::File.join(directory, "file")
    end

    # Character devices for the rest of the example: the half of a pair that is written, the half that is read, which
    # gives back the packets that were written, and a register.
    def cuse_devices(**behaviour)
      needs_root
      needs "/dev/cuse (modprobe cuse)", ::File.exist?("/dev/cuse")
      serve("cuse_server.rb", "xdma9", behaviour)
      %w[h2c_0 c2h_0 user].map { |name| "/dev/xdma9_#{name}" }
    end

    # Waits until a read hangs, or a write.
    def await_hang
      raise "the server ended" unless @fuse.gets == "held\n"
    end

    # Has what hangs carried out, and lets nothing hang from now on.
    def release_reads
      Process.kill(:USR1, @fuse.pid)
    end

    # Starts a server, and returns when it serves.
    def serve(program, *arguments, behaviour)
      path = ::File.expand_path("../programs/#{program}", __dir__)
      options = behaviour.map { |name, at| "#{name}=#{at}" }
      @fuse = IO.popen([RbConfig.ruby, path, *arguments.map(&:to_s), *options])
      raise "#{program} did not start" unless @fuse.gets == "ready\n"
    end

    def self.included(group)
      group.after do
        next unless @fuse

        Process.kill(:KILL, @fuse.pid)
        @fuse.close
      end
    end
  end
end
