# frozen_string_literal: true

require_relative "dma/version"
require_relative "dma/error"
require "dma/dma_ext"
require_relative "dma/buffer"
require_relative "dma/pool"
require_relative "dma/file"
require_relative "dma/sim"
require_relative "dma/cache"
require_relative "dma/trace"
require_relative "dma/device"
require_relative "dma/sim/end"
require_relative "dma/channel"
require_relative "dma/transfer"
require_relative "dma/mapping"
require_relative "dma/registers"
require_relative "dma/ring"
require_relative "dma/debug"

# Page-aligned memory that hardware and the kernel read and write directly, and ways to move bytes through it.
module DMA
  # @!parse
  #   # The kernel's page size in bytes.
  #   PAGE_SIZE = 4096

  # Reads a file, or a part of one, into aligned memory: without a copy where the file system has direct I/O.
  #
  # @param path [String, #to_path] the file
  # @param offset [Integer] where to begin, in bytes; need not be aligned
  # @param length [Integer, nil] how many bytes; nil: to the end
  # @param direct [true, :auto, false] past the page cache, or an error; where the file system can; never
  # @param lock [true, :auto, false] see {Buffer.new}; does not apply to `into`
  # @param into [Buffer, nil] a buffer to fill instead of a new one; its size is the default of `length`
  # @return [Buffer] the bytes; shorter than asked where the file ends before. With `into` it is that buffer, or a slice
  #   of it where it was not filled
  # @raise [SystemCallError] what the operating system refused, with the offset
  # @raise [UnsupportedError] with `direct: true` where the file system has no direct I/O
  # @raise [LockLimitError] with `lock: true` past RLIMIT_MEMLOCK
  def self.read(path, offset: 0, length: nil, direct: :auto, lock: :auto, into: nil)
    File.open(path, "rb", direct: direct) do |file|
      next file.__send__(:load, offset, length, lock) unless into

      part = length ? into.slice(0, length) : into
      bytes = file.read_into(part, offset: offset)
      bytes == into.size ? into : into.slice(0, bytes)
    end
  end

  # Writes a file, as ::File.binwrite: makes it where there is none, and cuts it to what is written.
  #
  # @param path [String, #to_path] the file
  # @param data [Buffer, IO::Buffer, #to_s] a {Buffer} goes without a copy where the file system has direct I/O
  # @param offset [Integer, nil] where to begin, in bytes; the file is not cut then. nil: at the start
  # @param perm [Integer] permissions of a file that is created
  # @param direct [true, :auto, false] past the page cache, or an error; where the file system can; never
  # @return [Integer] bytes written: all of them. {File#fdatasync} makes them durable
  # @raise [SystemCallError] what the operating system refused, with the offset, and how many bytes are safe
  # @raise [UnsupportedError] with `direct: true` where the file system has no direct I/O
  def self.write(path, data, offset: nil, perm: 0o666, direct: :auto)
    flags = ::File::WRONLY | ::File::CREAT | (offset ? 0 : ::File::TRUNC)
    natural(offset, "offset") if offset
    File.open(path, flags, perm, direct: direct) { |file| file.pwrite(data, offset || 0) }
  end

  # Copies a file: by the file system where it can do that (reflink; the server of a network file system), else through
  # memory, reading and writing at the same time. Holes stay holes. A destination that is there is cut first; one that
  # is not is made with the permissions of the source, less the umask.
  #
  # A copy that fails or is interrupted leaves the bytes in the destination that are safe, and nothing behind them; but
  # where the destination does not answer, what was written ahead may stay.
  #
  # @param source [String, #to_path] a regular file or a block device. What others append or cut off meanwhile is copied
  #   or not, but no byte is made up
  # @param destination [String, #to_path] a regular file, or a block device with room for all of it
  # @param direct [true, :auto, false] past the page cache on both sides, or an error; where the file systems can; never
  # @return [Integer] bytes copied, with holes: the size of the destination. {File#fdatasync} makes them durable
  # @raise [ArgumentError] both are the same file; nothing was changed
  # @raise [SystemCallError] what the operating system refused, with path and offset
  # @raise [UnsupportedError] neither file nor block device; with `direct: true`, no direct I/O
  def self.copy(source, destination, direct: :auto)
    paths = [source, destination].map { |path| path.respond_to?(:to_path) ? path.to_path : path }
    native_copy(*paths, direct)
  end

  # The library to give to `ffi_lib`: the functions of dma.h in the extension itself, which know the memory of every
  # {Buffer} that owns its own. libdma.so, beside it, is the same for programs without Ruby; in Ruby it would know none.
  #
  # @return [String] absolute path of the loaded extension
  def self.library_path
    $LOADED_FEATURES.find { |path| path.end_with?("/dma/dma_ext.#{RbConfig::CONFIG["DLEXT"]}") }
  end

  # What becomes of misuse that the checker finds: false (nobody checks), `:raise`, `:warn` or what is called. With a
  # block: it is called with each {MisuseError} from now on, and the program goes on.
  #
  #   DMA.debug = true
  #   DMA.debug { |error| puts error.rule, error.message, error.mapped_at }
  #
  # The rules are those of the kernel's dma-debug and a few more; docs/debug.md has them, and what each costs. As long
  # as it was never switched on, nothing of it is there.
  #
  # @yieldparam error [MisuseError]
  # @return [false, :raise, :warn, #call]
  def self.debug(&block)
    self.debug = block if block
    Debug.mode
  end

  # Switches the checker on or off. What was mapped or submitted while it was off is not looked at.
  #
  # @param mode [Boolean, Symbol, #call, nil] true is `:raise`
  # @raise [ArgumentError] for what is none of these
  def self.debug=(mode)
    Debug.mode = mode
  end

  # What was written before is visible to devices before what is written afterwards: of this process, and of every
  # simulated machine with `ordering: :weak`. A driver calls it between what it tells a device of, a descriptor or data,
  # and what it tells it with: the flag that makes a descriptor valid, a doorbell. {Channel}, {Mapping#sync_for_device}
  # and {Mapping#unmap} do so by themselves; {Registers} do not.
  #
  # @return [nil]
  def self.write_barrier
    native_write_barrier
  end

  # What is read afterwards is at least as new as what was read before. A driver calls it between a status that says
  # that a device is done, and what the device wrote before. {Transfer#wait}, {Transfer#done?}, {Mapping#sync_for_cpu}
  # and {Mapping#unmap} do so by themselves. See {.write_barrier}.
  #
  # @return [nil]
  def self.read_barrier
    native_read_barrier
  end

  # @return [Integer] `value`, if it is one that counts something, of so many bits
  def self.natural(value, name, bits = 63)
    return value if value.is_a?(Integer) && value.between?(0, (1 << bits) - 1)

    raise ArgumentError, "#{name} must be an Integer in 0..2**#{bits} - 1, not #{value.inspect}"
  end
  private_class_method :natural

  # @return [Float, nil] a timeout in seconds
  def self.seconds(timeout)
    return if timeout.nil?

    seconds = Float(timeout)
    return seconds if seconds >= 0

    raise ArgumentError, "timeout must be nil, or seconds from 0 on, not #{timeout.inspect}"
  end
  private_class_method :seconds
end
