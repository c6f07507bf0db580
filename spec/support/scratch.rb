# frozen_string_literal: true

module Support
  # Files to work on, on the disk: under DMA_TEST_DIR, or where the system keeps its temporary files.
  module Scratch
    def self.included(group)
      group.after { FileUtils.remove_entry(@scratch) if @scratch }
    end

    # A directory of this example alone.
    def scratch
      @scratch ||= Dir.mktmpdir("dma-spec", ENV.fetch("DMA_TEST_DIR", Dir.tmpdir))
    end

    # A path in it, with `bytes` in the file where given.
    def scratch_file(name = "file.bin", bytes = nil)
      File.join(scratch, name).tap { |path| File.binwrite(path, bytes) if bytes }
    end

    # Bytes that are the same in every run, and differ wherever two places are mixed up.
    def sample(size, seed = 42)
      Random.new(seed).bytes(size)
    end
  end
end
