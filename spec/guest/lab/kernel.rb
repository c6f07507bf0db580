# frozen_string_literal: true

require "open3"

module Lab
  # The kernel of the packages: its image, and its modules with those that they depend on.
  class Kernel
    UNPACKERS = { "\xFD7zXZ".b => %w[xz -dc], "\x28\xB5\x2F\xFD".b => %w[zstd -qdc] }.freeze

    # Writes the uncompressed kernel that is inside `image` to `path`: QEMU starts it through PVH, half a second sooner.
    # Where the payload lies: Documentation/arch/x86/boot.rst of Linux, setup_sects, payload_offset, payload_length.
    def self.extract(image, programs, path)
      bytes = File.binread(image)
      offset, length = bytes.byteslice(0x248, 8).unpack("VV")
      payload = bytes.byteslice(((bytes.getbyte(0x1f1) + 1) * 512) + offset, length)
      # The last four bytes are the length of what comes out.
      File.binwrite(path, decompress(payload[0...-4], programs))
    end

    # An ELF file, packed or not.
    def self.decompress(bytes, programs)
      name, *options = UNPACKERS.find { |magic,| bytes.start_with?(magic) }&.last
      bytes, = Open3.capture2(File.join(programs, name), *options, stdin_data: bytes, binmode: true) if name
      bytes.start_with?("\x7FELF".b) ? bytes : raise(Error, "the kernel or a module of it is packed in an unknown way")
    end

    attr_reader :image

    def initialize(packages)
      @packages = packages
      @image = packages.file("vmlinux")
      folder = packages.file("{usr/,}lib/modules/*")
      @files = Dir.glob("#{folder}/kernel/**/*.ko{,.xz,.zst}").to_h { |path| [name_of(path), path] }
      @builtin = File.readlines(File.join(folder, "modules.builtin"), chomp: true).map { |path| name_of(path) }
    end

    # The modules of these names and what they depend on, by name, in the order in which they can be loaded.
    def modules(names, found = {})
      names.each do |name|
        next if found.key?(name) || @builtin.include?(name)

        path = @files.fetch(name) { raise Error, "the kernel has no module #{name}" }
        bytes = Kernel.decompress(File.binread(path), @packages.bin)
        modules(bytes[/\0depends=([^\0]*)\0/n, 1].to_s.tr("-", "_").split(","), found)
        found[name] = bytes
      end
      found
    end

    private

    def name_of(path)
      File.basename(path).sub(/\.ko(\.\w+)?\z/, "").tr("-", "_")
    end
  end
end
