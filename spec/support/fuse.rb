# frozen_string_literal: true

module Support
  # A file that hangs or fails where a test wants it: see spec/programs/fuse_server.rb.
  module Fuse
    # The path of such a file of `size` bytes, whose bytes are `sample(size)`; for the rest of the example.
    def fuse_file(size, **behaviour)
      needs_root
      needs "/dev/fuse", ::File.exist?("/dev/fuse")
      directory = ::File.join(scratch, "fuse").tap { |path| Dir.mkdir(path) }
      server = ::File.expand_path("../programs/fuse_server.rb", __dir__)
      @fuse = IO.popen([RbConfig.ruby, server, directory, size.to_s, *behaviour.map { |name, at| "#{name}=#{at}" }])
      (@mounts ||= []) << directory
      raise "the FUSE server did not start" unless @fuse.gets == "ready\n"

      ::File.join(directory, "file")
    end

    # Waits until a read hangs.
    def await_hang
      raise "the FUSE server ended" unless @fuse.gets == "held\n"
    end

    # Answers the reads that hang.
    def release_reads
      Process.kill(:USR1, @fuse.pid)
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
