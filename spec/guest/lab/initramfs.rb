# frozen_string_literal: true

module Lab
  # An archive for the kernel to unpack as its first root, in cpio's format "newc":
  # Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
  class Initramfs
    DIRECTORY = 0o040755
    FILE = 0o100755
    CONSOLE = 0o020600

    def initialize
      @bytes = String.new(encoding: Encoding::BINARY)
      @entries = 0
    end

    def directory(name)
      add(name, DIRECTORY)
    end

    def file(name, bytes)
      add(name, FILE, bytes)
    end

    # What /init has as its standard input and output.
    def console
      add("dev/console", CONSOLE, device: [5, 1])
    end

    def to_s
      add("TRAILER!!!", 0)
      @bytes
    end

    private

    def add(name, mode, bytes = "", device: [0, 0])
      numbers = [@entries += 1, mode, 0, 0, 1, 0, bytes.bytesize, 0, 0, *device, name.bytesize + 1, 0]
      @bytes << "070701" << numbers.map { |number| number.to_s(16).rjust(8, "0") }.join
      ["#{name}\0", bytes].each do |part|
        @bytes << part.b
        @bytes << ("\0" * (-@bytes.bytesize % 4))
      end
    end
  end
end
