# frozen_string_literal: true

require "fileutils"
require "json"

module Lab
  # The images behind the NVMe controllers, in a folder of the run, and what QEMU is told of them. README.md has the
  # table.
  class Disks
    MIB = 1 << 20
    # Where the first of the blocks lies that cannot be read or written, in 512-byte sectors (byte 0x20000).
    BAD_SECTOR = 256
    UNREADABLE = 6

    def initialize(folder, packages)
      @folder = folder
      @packages = packages
    end

    # QEMU's arguments. A namespace of the first controller, and the node it is on, are named as its number: ns1, ns2...
    def arguments
      FileUtils.mkdir_p(@folder)
      [*controller("nvme0", "07.0"), *plain, *failing, *slow,
       *controller("nvme1", "09.0"), *namespace("nvme1", 1, ext4, "ext4"),
       *namespace("nvme1", 2, image("large", 4 * MIB), "large", block: 4096)]
    end

    # The path of the image with the file system.
    def ext4
      path = File.join(@folder, "ext4.img")
      return path if File.exist?(path)

      files = File.join(@folder, "files")
      FileUtils.mkdir_p(files)
      File.write(File.join(files, "hello.txt"), "hello from ext4\n")
      File.binwrite(File.join(files, "sample.bin"), Random.new(42).bytes((3 * MIB) + 123))
      make_ext4(path, files)
      path
    end

    private

    def controller(name, address)
      ["-device", "nvme,id=#{name},serial=#{name},addr=#{address}"]
    end

    def plain
      [*namespace("nvme0", 1, image("ns1", 64 * MIB)),
       *namespace("nvme0", 2, image("ns2", 4 * MIB), block: 4096)]
    end

    # Six namespaces each with 4 KiB that cannot be read, one with a sector that cannot be written, one without a fault,
    # whose requests the monitor can hold.
    def failing
      unreadable = Array.new(UNREADABLE) { |n| faults("read", BAD_SECTOR + (8 * n), 8) }
      [*unreadable, faults("write", BAD_SECTOR, 1), []].each_with_index.flat_map do |rules, index|
        number = 3 + index
        namespace("nvme0", number, image("ns#{number}", 4 * MIB), faults: rules)
      end
    end

    # How long, in nanoseconds, a block takes to be read that is in the place of the third of those that fail elsewhere:
    # longer than a driver waits for an abort.
    SLOW = 2_500_000_000

    def slow
      path = File.join(@folder, "slow.qcow2")
      Hole.new(4 * MIB, (BAD_SECTOR + 16) * 512).write(path)
      nothing = { "driver" => "null-aio", "size" => 4 * MIB, "latency-ns" => SLOW, "read-zeroes" => true }
      node = { "driver" => "qcow2", "node-name" => "slow", "backing" => nothing,
               "file" => { "driver" => "file", "filename" => path } }
      ["-blockdev", JSON.generate(node), *device("nvme0", 11, "slow", 512)]
    end

    # A rule matches requests that touch its one sector.
    def faults(type, sector, count)
      Array.new(count) do |index|
        { "event" => "none", "iotype" => type, "errno" => Errno::EIO::Errno, "once" => false,
          "sector" => sector + index }
      end
    end

    def namespace(controller, number, path, node = "ns#{number}", block: 512, faults: nil)
      file = { "driver" => "file", "filename" => path }
      file = { "driver" => "blkdebug", "image" => file } if faults
      file["inject-error"] = faults if faults&.any? # an empty list is refused
      # blkdebug's events are raised by the format above it.
      ["-blockdev", JSON.generate("driver" => "raw", "node-name" => node, "file" => file),
       *device(controller, number, node, block)]
    end

    def device(controller, number, node, block)
      ["-device", "nvme-ns,id=#{node},drive=#{node},bus=#{controller},nsid=#{number}," \
                  "logical_block_size=#{block},physical_block_size=#{block}"]
    end

    def image(name, size)
      File.join(@folder, "#{name}.img").tap { |path| File.open(path, "w") { |file| file.truncate(size) } }
    end

    # The same bytes in every run, but for the files' own times; and still after a mount, for reading only, which
    # would write to a journal.
    def make_ext4(path, files)
      output, status = Open3.capture2e(
        { "MKE2FS_CONFIG" => @packages.file("etc/mke2fs.conf"), "E2FSPROGS_FAKE_TIME" => "1700000000" },
        @packages.program("mke2fs"),
        *%w[-q -t ext4 -b 4096 -O ^has_journal -U 6c616230-0000-4000-8000-000000000001 -E
            hash_seed=6c616230-0000-4000-8000-000000000002,lazy_itable_init=0,root_owner=0:0],
        "-d", files, path, "16M"
      )
      raise Error, "mke2fs could not make #{path}: #{output}" unless status.success?
    end
  end
end
