# frozen_string_literal: true

require_relative "file/exclusive"
require_relative "file/mode"
require_relative "file/reading"
require_relative "file/writing"

module DMA
  # A file that is read and written past the page cache (O_DIRECT), straight to and from aligned memory, at any offset
  # and length.
  #
  # Transfers to and from {Buffer}s are without a copy where memory and offset are aligned ({#alignment}). The rest of
  # the class makes it a readable, seekable IO: for programs that were written for one, and for the standard library.
  # Waits let other threads and fibers run, and can be interrupted at any time.
  #
  # Threads and fibers may share a file, and the one ring that carries out what they ask for: {#pread}, {#pwrite},
  # {#read_many}, and {#read_into}, {#write_from} and {#each_chunk} with an offset, are independent of each other. The
  # position, and what was read ahead of it, is one for all, as with an IO.
  #
  # Once 256 KiB were read in order at the position, {#read}, {#gets} and the like read ahead: half a mebibyte by each
  # request, up to eight of them under way. What others write there meanwhile is not seen until {#seek} drops it; what
  # is written through this file is. All that names an offset reads from the file in any case.
  class File
    include Enumerable
    include Reading
    include Writing

    # @!parse
    #   # @!attribute [r] size
    #   #   @return [Integer] bytes at this moment; of a block device, too; 0 where nobody says, as of character devices
    #   #   @raise [ClosedError]
    #   # @!attribute [r] alignment
    #   #   @return [Integer] what offset and length of direct I/O are a multiple of (statx(2), STATX_DIOALIGN); 1
    #   #     without
    #   # @!attribute [r] memory_alignment
    #   #   @return [Integer] what its memory address is a multiple of; 1 without
    #   # @!attribute [r] stats
    #   #   Running totals, which stay readable after {#close}: `:engine`; `:requests` to the kernel, of which
    #   #   `:direct_requests` went past the page cache and `:buffered_requests` through it; `:direct_bytes`,
    #   #   `:buffered_bytes`; `:bounced_bytes` that were copied because memory or offset was not aligned; `:fallbacks`
    #   #   from direct to buffered; `:cached_requests` that would have gone direct, had their bytes not been in the
    #   #   page cache (with `direct: :auto`); `:fixed_requests` on memory that io_uring holds in place, that of pools;
    #   #   and, where it could not be held, why: `:registration_error`; `:ring_error`: why threads served some of it
    #   #   although `:engine`, which was left open, is :uring.
    #   #   @return [Hash{Symbol => Integer, Symbol, String, nil}]
    #   # @return [Boolean] whether aligned requests go past the page cache
    #   # @raise [ClosedError]
    #   def direct?; end
    #   # @return [Boolean] whether it is, or belongs to the parent of this process
    #   def closed?; end

    # @return [String] the path it was opened by
    attr_reader :path

    class << self
      # Opens a file; with a block, closes it after and returns the block's value.
      #
      # @param path [String, #to_path] a regular file, a block device, or a character device whose driver takes offsets
      #   (pread(2)); it gets each request as it is, and {#sysread} makes one of just the size asked for
      # @param mode [String, Integer] "r", "r+", "w", "w+" with "b", "x" and ":encoding" as for ::File.open (no "a"), or
      #   flags
      # @param perm [Integer] permissions of a file that is created
      # @param direct [true, :auto, false] past the page cache, or an error; where the file system can, which {#direct?}
      #   and {#stats} tell; never
      # @param engine [:auto, :uring, :threads] what carries requests out: io_uring(7), where the kernel lets this
      #   process have it, or worker threads; or one of the two. The environment's `DMA_FILE_ENGINE` says what :auto is,
      #   with the same names; empty, nothing
      # @param depth [Integer] how many requests one transfer keeps in flight, 1..1024; all of the file together keep as
      #   many, or 128 where that is more
      # @yieldparam file [File]
      # @raise [UnsupportedError] `direct: true` where the file system has no direct I/O; neither file
      #   nor device, or a device without offsets; `direct: false` of a character device; `engine: :uring` of one, or
      #   where io_uring cannot be used
      # @raise [ArgumentError] a mode that is not offered; a `DMA_FILE_ENGINE` that names no engine
      # @raise [SystemCallError] what open(2) refuses
      def open(path, mode = "r", perm = 0o666, direct: :auto, engine: :auto, depth: 8, **unknown)
        raise ArgumentError, Mode.instead_of(unknown.keys) unless unknown.empty?

        mode = Mode.parse(mode || "r")
        path = path.respond_to?(:to_path) ? path.to_path : path
        file = native_open(path, mode.flags, perm, [direct, engine], depth_of(depth))
        file.__send__(:setup, path, mode)
        return file unless block_given?

        begin
          yield file
        ensure
          file.close
        end
      end

      # {.open} without a block.
      # @return [File]
      def new(path, mode = "r", perm = 0o666, **options)
        self.open(path, mode, perm, **options)
      end

      private

      def depth_of(depth)
        return depth if DMA.__send__(:natural, depth, "depth").between?(1, 1024)

        raise ArgumentError, "depth: #{depth} is not in 1..1024"
      end
    end

    # Fills a buffer, or several one behind the other, from the file: without a copy where all is aligned.
    #
    # @param buffer [Buffer, Array<Buffer>] as many bytes are read as it has, or all of them have, by one request. They
    #   must not overlap
    # @param offset [Integer, nil] where in the file; nil: at the position, which moves on
    # @return [Integer] bytes read; fewer than there is memory for only at the end of the file. What lies behind them in
    #   the memory may have changed
    # @raise [SystemCallError] with offset, length, and how many bytes are in memory already
    # @raise [BusyError] while an interrupted transfer still holds the memory
    def read_into(buffer, offset: nil)
      readable
      memory, length = memory(buffer)
      return native_read_into(memory, length, DMA.__send__(:natural, offset, "offset")) if offset

      moving { |at| native_read_into(memory, length, at) }
    end

    # Writes a buffer, or several one behind the other, to the file: without a copy where all is aligned.
    #
    # @param buffer [Buffer, Array<Buffer>]
    # @param offset [Integer, nil] where in the file; nil: at the position, which moves on
    # @param length [Integer, nil] bytes from the start of the memory; nil: all
    # @return [Integer] bytes written: all of them
    # @raise [SystemCallError] with offset, length, and how many bytes are safe in the file
    def write_from(buffer, offset: nil, length: nil)
      writable
      memory, all = memory(buffer)
      length = length ? DMA.__send__(:natural, length, "length") : all
      return moving { |at| native_write_from(memory, length, at) } unless offset

      DMA.__send__(:natural, offset, "offset")
      begin
        native_write_from(memory, length, offset)
      ensure
        overwritten(offset, length)
      end
    end

    # Passes the file in chunks, reading ahead. Each buffer is valid inside the block only, unless it is
    # {Buffer#retain}ed; its memory is then used again. So `to_a`, `each_slice` and `next` of the Enumerator give
    # buffers that are over, where `map`, `with_index` and `lazy` give each its turn.
    #
    # @param size [Integer] bytes of a chunk, 1 or more; the last may be shorter
    # @param offset [Integer, nil] where to begin; nil: at the position, which moves on
    # @param length [Integer, nil] how many bytes; nil: to the end
    # @param depth [Integer] how many chunks are under way while the block runs, 1..1024. As many that have come may
    #   wait for their turn, up to 6 MiB
    # @yieldparam buffer [Buffer]
    # @yieldparam offset [Integer] of the chunk in the file
    # @return [self, Enumerator]
    # @raise [SystemCallError] with offset and length, after all chunks before have been passed
    def each_chunk(size = 1 << 20, offset: nil, length: nil, depth: @depth, &block)
      return enum_for(:each_chunk, size, offset: offset, length: length, depth: depth) unless block

      readable
      { size: size, length: length || 0 }.each { |name, n| DMA.__send__(:natural, n, name) }
      raise ArgumentError, "chunks of #{size} bytes never come to an end; give 1 or more" if size.zero?

      File.__send__(:depth_of, depth)
      from = offset ? DMA.__send__(:natural, offset, "offset") : settle
      deliver(native_stream(size, from, length, depth), move: offset.nil?, &block)
    end

    # Reads many ranges at once, and passes each when it is there: not in their order. Ranges that touch or overlap are
    # read together, up to 1 MiB at a time, and then share memory, which is used again when the last of them is over.
    # Buffers are valid as those of {#each_chunk} are; one that is {Buffer#retain}ed keeps the memory of its neighbours.
    #
    # @param ranges [Enumerable<Array(Integer, Integer)>] offset and length in bytes of each, in any order, any number
    #   of times. What passes the end of the file, as it is at the beginning, gives a shorter buffer, or an empty one
    # @param depth [Integer] how many reads are under way while the block runs, 1..1024. As many that have come may wait
    #   for their turn
    # @yieldparam buffer [Buffer]
    # @yieldparam offset [Integer] of the range
    # @return [self, Enumerator]
    # @raise [ArgumentError] for what is no range, before anything is read
    # @raise [TypeError] for what has no ranges
    # @raise [SystemCallError] after all ranges that can be read have been passed: with offset and length of the first
    #   that cannot, in the order of the file, and how many more there are
    def read_many(ranges, depth: @depth, &block)
      unless ranges.is_a?(Enumerable)
        raise TypeError, "#{ranges.inspect} is no Enumerable of ranges, each of them [offset, length]"
      end
      return enum_for(:read_many, ranges, depth: depth) unless block

      readable
      File.__send__(:depth_of, depth)
      deliver(native_many(ranges.to_a, depth), move: false, &block)
    end

    # Makes what was written durable (fsync(2)).
    # @return [0]
    def fsync
      native_sync(false)
      0
    end

    # Makes what was written durable, but for metadata that reading does not need (fdatasync(2)).
    # @return [0]
    def fdatasync
      native_sync(true)
      0
    end

    # Cuts or extends the file.
    # @param size [Integer] bytes
    # @return [0]
    def truncate(size)
      writable
      settle
      native_truncate(DMA.__send__(:natural, size, "size"))
      0
    end

    # Gives bytes their place on the disk before they are written (fallocate(2)), so that they cannot fail for want of
    # room, and direct writes do not make the file longer one by one. What was not written yet reads as zeros.
    # @param length [Integer] bytes, 1 or more; the file is as long as offset and length at least
    # @param offset [Integer] of the first
    # @return [0]
    # @raise [Errno::ENOSPC] where there is no room; nothing is promised then
    # @raise [Errno::EOPNOTSUPP] where the file system cannot; it and others with the file's path
    def fallocate(length, offset: 0)
      writable
      native_allocate(DMA.__send__(:natural, offset, "offset"), DMA.__send__(:natural, length, "length"))
      0
    end

    # Closes the file. Transfers of other threads that are under way come to their end.
    # @return [nil]
    def close
      native_close
      @io&.close
      @io = nil
    end

    # An ordinary IO of the same file, through the page cache, for code that insists on a descriptor (which must not be
    # one with O_DIRECT). It begins at the position of this file, and moves a position of its own.
    # @return [::File] closed with this file
    def to_io
      @io ||= ::File.for_fd(native_descriptor, @mode.to_s).tap { |io| io.sync = true }
      @io.seek(pos)
      @io
    end

    # @return [Integer] the descriptor of {#to_io}
    def fileno
      to_io.fileno
    end

    # @return [String] class, path and state
    def inspect
      return "#<#{self.class} #{path} (closed)>" if closed?

      "#<#{self.class} #{path} (#{direct? ? "direct" : "buffered"}, alignment #{alignment})>"
    end

    private

    def setup(path, mode)
      @path = path
      @mode = mode
      @depth = native_depth
      @encoding = mode.encoding
      @lineno = 0
      @lock = Thread::Mutex.new
      @overwritten = false
      forget(0)
      skip_mark if mode.bom && mode.readable?
    end

    def deliver(stream, move:, &block)
      if move
        stream.each do |buffer, at|
          keep(NOTHING, at + buffer.size)
          yield buffer, at
        end
      else
        stream.each(&block)
      end
      self
    ensure
      stream.close
    end

    # The memory of a transfer, and how many bytes it has. A list is a copy: others may change theirs meanwhile.
    def memory(object)
      list = object.is_a?(Array) ? object.dup.freeze : [object]
      list.each do |buffer|
        next if buffer.is_a?(Buffer)

        raise TypeError, "#{buffer.class} is no DMA::Buffer; DMA::Buffer.wrap makes one of an IO::Buffer or a pointer"
      end
      object.is_a?(Array) ? [list, list.sum(&:size)] : [object, object.size]
    end

    # The whole of a file, or a part, in a buffer of its own.
    def load(offset, length, lock)
      DMA.__send__(:natural, offset, "offset")
      DMA.__send__(:natural, length, "length") if length
      total = size
      return load_unsized(offset, length, lock) if total.zero?

      rest = [total - offset, 0].max
      buffer = Buffer.new([length || rest, rest].min, lock: lock)
      bytes = native_load(buffer, offset)
      bytes == buffer.size ? buffer : buffer.slice(0, bytes)
    end

    # Files of proc(5) and the like have bytes but no size.
    def load_unsized(offset, length, lock)
      seek(offset)
      bytes = length ? String.new.tap { |string| native_read_string(string, offset, length, false) } : read
      Buffer.new(bytes.bytesize, lock: lock).tap { |buffer| buffer.set_string(bytes) }
    end
  end
end
