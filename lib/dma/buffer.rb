# frozen_string_literal: true

module DMA
  # Page-aligned memory outside Ruby's heap, for the kernel and devices to read and write in place. It has the
  # vocabulary of IO::Buffer; Strings are always copies, because a String that aliased this memory would outlive it
  # (substrings and hash keys share the address and nothing else). Freezing a buffer does not protect its bytes.
  #
  # A child of fork finds a buffer of its parent closed. Memory that a transfer uses is never given back before it is
  # over.
  class Buffer
    include Comparable

    # @!attribute [r] size
    #   @return [Integer] bytes

    # @!attribute [r] address
    #   @return [Integer] address of the first byte
    #   @raise [ClosedError]

    # @!attribute [r] alignment
    #   @return [Integer] what the address is a multiple of: for a whole buffer as asked for, for a slice what is left
    #     of it

    # @!attribute [r] residency
    #   @return [:pageable, :locked, :pinned] whether the kernel may swap the memory out. Locked memory may still move
    #     (mlock(2)); pinned memory cannot: io_uring or VFIO holds it, for an open file or device

    # @!attribute [r] huge_bytes
    #   @return [Integer] bytes that certainly lie in huge pages at this moment: pages come when they are first touched.
    #     Of a part of a buffer, there may be more

    # @!attribute [r] segments
    #   The physical memory at this moment; pages that were not touched yet are brought in.
    #   @return [Array<(Integer, Integer)>] physical address and length in bytes of each contiguous piece
    #   @raise [UnsupportedError] without CAP_SYS_ADMIN, and of memory that was wrapped

    # @!method free
    #   Gives the memory back. Slices end with it, and views become invalid. A second call does nothing. Of a slice, it
    #   ends the slice and nothing else.
    #   @return [self]
    #   @raise [BusyError] while a transfer or a MemoryView uses it

    # @!method freed?
    #   @return [Boolean] whether it can no longer be used

    # @!method retain
    #   Keeps a buffer that would end with its block: it stays until it is freed or collected.
    #   @return [self]

    # @!method get_value(type, offset)
    #   @param type [Symbol] `:U8 :S8`, `:u16 :s16 :u32 :s32 :u64 :s64 :f32 :f64` little-endian, the same in capitals
    #     big-endian
    #   @param offset [Integer] in bytes
    #   @return [Integer, Float]
    #   @raise [ArgumentError] outside the buffer

    # @!method set_value(type, offset, value)
    #   @param type [Symbol] see {#get_value}
    #   @param offset [Integer] in bytes
    #   @param value [Integer, Float]
    #   @return [Integer] the offset behind the value
    #   @raise [RangeError] a value that the type cannot hold, where IO::Buffer would cut it

    class << self
      # Allocates zeroed memory.
      #
      # @param size [Integer] bytes
      # @param align [Integer] a power of two; at least a page is given
      # @param lock [true, :auto, false] true brings every page in and locks it (mlock(2)), or raises; :auto locks each
      #   page when it is first touched, if RLIMIT_MEMLOCK allows ({#residency} tells); false does not lock
      # @param huge [:auto, :require, :never] :auto asks for 2 MiB pages from 2 MiB up; :require takes reserved ones or
      #   raises; {#huge_bytes} tells what was given
      # @raise [LockLimitError] with `lock: true` past RLIMIT_MEMLOCK, after a GC did not help
      # @raise [AlignmentError] an alignment that is no power of two
      # @raise [Errno::ENOMEM] no such memory
      def new(size, align: PAGE_SIZE, lock: :auto, huge: :auto)
        native_new(DMA.__send__(:natural, size, "size"), DMA.__send__(:natural, align, "align"), lock, huge)
      end

      # Allocates as {.new} does; with a block, frees after it and returns its value.
      #
      # @yieldparam buffer [Buffer]
      def open(size, **options, &block)
        buffer = new(size, **options)
        block ? buffer.__send__(:lend, &block) : buffer
      end

      # Makes a buffer of memory that exists already. The memory is never freed and never locked from here.
      #
      # An IO::Buffer is kept and locked (IO::Buffer#locked) until the buffer is freed: it cannot be freed, moved or
      # wrapped again meanwhile, and nothing can be written to memory that is no longer its own. The owner of a pointer
      # is kept as long as the buffer, and must not free the memory; nobody keeps the owner of an address.
      #
      # @param memory [IO::Buffer, Buffer, #to_ptr, Fiddle::Pointer, Integer] an IO::Buffer that owns its memory
      #   (IO::Buffer.new, IO::Buffer.map), a pointer of ffi or Fiddle, or an address; of a Buffer it is a slice
      # @param size [Integer, nil] bytes; nil: as many as the memory is known to have
      # @return [Buffer]
      # @raise [UnsupportedError] for an IO::Buffer whose memory is not its own: a slice, or one over a String
      # @raise [BusyError] for an IO::Buffer that is locked
      def wrap(memory, size = nil)
        DMA.__send__(:natural, size, "size") if size
        case memory
        when Buffer then memory.slice(0, size)
        when IO::Buffer then wrap_io_buffer(memory, size)
        else wrap_pointer(memory, size)
        end
      end

      private

      def wrap_io_buffer(memory, size)
        return native_wrap_io_buffer(memory, size) if memory.internal? || memory.mapped?

        raise UnsupportedError,
              "this IO::Buffer does not own its memory, which may be freed at any time: wrap one made by " \
              "IO::Buffer.new or IO::Buffer.map, not a slice or one over a String, and slice the result"
      end

      def wrap_pointer(memory, size)
        pointer = memory.respond_to?(:to_ptr) ? memory.to_ptr : memory
        known = known_size(pointer)
        size ||= known || raise(ArgumentError, "the size of #{memory.inspect} is not known; give it")
        raise ArgumentError, "#{size} bytes are more than the #{known} of #{memory.inspect}" if known && size > known

        native_wrap(pointer.to_i, size, memory)
      end

      # Pointers that do not know their size say 0 (Fiddle) or the largest number there is (ffi).
      def known_size(pointer)
        case pointer
        when Integer then nil
        when *pointer_classes then pointer.size if pointer.size.between?(1, (1 << 62) - 1)
        else raise TypeError, "#{pointer.class} is neither a DMA::Buffer nor an IO::Buffer, a pointer or an address"
        end
      end

      def pointer_classes
        [(FFI::Pointer if defined?(FFI::Pointer)), (Fiddle::Pointer if defined?(Fiddle::Pointer))].compact
      end
    end

    # @param offset [Integer] in bytes
    # @param length [Integer, nil] bytes; nil: to the end
    # @param encoding [Encoding, String] of the String
    # @return [String] a copy
    def get_string(offset = 0, length = nil, encoding = Encoding::BINARY)
      native_get_string(offset, length).force_encoding(encoding)
    end

    # Copies a String into the buffer.
    #
    # @param string [String]
    # @param offset [Integer] where in the buffer
    # @param length [Integer, nil] bytes; nil: the rest of the String
    # @param source_offset [Integer] where in the String, in bytes
    # @return [Integer] bytes copied
    # @raise [ArgumentError] where they do not fit
    def set_string(string, offset = 0, length = nil, source_offset = 0)
      native_set_string(string, offset, length, source_offset)
    end

    # @param types [Array<Symbol>] see {#get_value}
    # @param offset [Integer] of the first, in bytes
    # @return [Array<Integer, Float>] values that lie one behind the other
    def get_values(types, offset)
      Array(types).map do |type|
        value = get_value(type, offset)
        offset += Buffer.__send__(:native_size_of, type)
        value
      end
    end

    # @param types [Array<Symbol>] see {#get_value}
    # @param offset [Integer] of the first, in bytes
    # @param values [Array<Integer, Float>] as many as types
    # @return [Integer] the offset behind the last
    def set_values(types, offset, values)
      types = Array(types)
      values = Array(values)
      unless types.size == values.size
        raise ArgumentError, "#{types.size} types for #{values.size} values; each value needs one"
      end

      types.zip(values) { |type, value| offset = set_value(type, offset, value) }
      offset
    end

    # Copies from another buffer; the two may overlap.
    #
    # @param source [Buffer, IO::Buffer]
    # @param offset [Integer] where in this buffer
    # @param length [Integer, nil] bytes; nil: the rest of the source
    # @param source_offset [Integer] where in the source
    # @return [Integer] bytes copied
    def copy(source, offset = 0, length = nil, source_offset = 0)
      native_copy(source, offset, length, source_offset)
    end

    # @param offset [Integer] in bytes
    # @param length [Integer, nil] bytes; nil: to the end
    # @return [Buffer] a part that shares the memory, and keeps this buffer alive
    def slice(offset = 0, length = nil)
      native_slice(offset, length)
    end

    # Sets every byte.
    #
    # @param byte [Integer] 0..255
    # @param offset [Integer] of the first, in bytes
    # @param length [Integer, nil] bytes; nil: to the end
    # @return [self]
    # @raise [RangeError] what is no byte
    def clear(byte = 0, offset = 0, length = nil)
      native_clear(byte, offset, length)
      self
    end

    # An IO::Buffer over the same memory, for APIs that take one: it reads and writes in place, and keeps the memory.
    # {#free} makes it invalid. Of an IO::Buffer that was wrapped, it is a slice of that.
    #
    # @param offset [Integer] in bytes
    # @param length [Integer, nil] bytes; nil: to the end
    # @return [IO::Buffer]
    # @raise [UnsupportedError] while the buffer is mapped for a simulated machine whose CPU has the bytes in a cache
    #   or a store buffer: see {Sim.new}. A view that was made before shows what devices see
    def view(offset = 0, length = nil)
      native_view(offset, length)
    end

    # @return [FFI::Pointer, Fiddle::Pointer] a pointer to the memory: FFI's where ffi is loaded, for it accepts no
    #   other. The pointer keeps the buffer from the GC, but {#free} does not know of it
    # @raise [UnsupportedError] where a simulated CPU has the bytes in its cache, as {#view}
    def to_ptr
      native_check_shown
      if defined?(FFI::Pointer)
        pointer = FFI::Pointer.new(address).slice(0, size)
      else
        require "fiddle"
        pointer = Fiddle::Pointer.new(address, size)
      end
      pointer.instance_variable_set(:@buffer, self)
      pointer
    end

    # Passes each value with its offset.
    #
    # @param type [Symbol] see {#get_value}
    # @param offset [Integer] of the first, in bytes
    # @param count [Integer, nil] how many; nil: all that fit
    # @yieldparam offset [Integer]
    # @yieldparam value [Integer, Float]
    # @return [self, Enumerator]
    # @raise [ArgumentError] outside the buffer
    def each(type, offset = 0, count = nil)
      return enum_for(:each, type, offset, count) unless block_given?

      width = Buffer.__send__(:native_size_of, type)
      last = offset + slice(offset, count && (count * width)).size - width
      offset.step(last, width) { |at| yield at, get_value(type, at) }
      self
    end

    # Passes each byte.
    #
    # @param offset [Integer] of the first
    # @param count [Integer, nil] how many; nil: all
    # @yieldparam byte [Integer]
    # @return [self, Enumerator]
    def each_byte(offset = 0, count = nil)
      return enum_for(:each_byte, offset, count) unless block_given?

      each(:U8, offset, count) { |_, byte| yield byte }
    end

    # @param type [Symbol] see {#get_value}
    # @param offset [Integer] of the first, in bytes
    # @param count [Integer, nil] how many; nil: all that fit
    # @return [Array<Integer, Float>] the values that {#each} passes
    def values(type, offset = 0, count = nil)
      each(type, offset, count).map { |_, value| value }
    end

    # Compares sizes, then bytes.
    #
    # @param other [Buffer, IO::Buffer]
    # @return [-1, 0, 1, nil]
    def <=>(other)
      other.is_a?(Buffer) || other.is_a?(IO::Buffer) ? native_compare(other) : nil
    end

    # @return [String] sixteen bytes a line, as IO::Buffer prints them
    def hexdump
      0.step(size - 1, 16).map do |offset|
        bytes = get_string(offset, [16, size - offset].min)
        hex = bytes.unpack("C*").map { |byte| format(" %02x", byte) }.join
        format("0x%08x %-48s %s", offset, hex, bytes.gsub(/[^ -~]/n, "."))
      end.join("\n")
    end

    # @return [String] class, address, size and state, not the bytes
    def inspect
      return "#<#{self.class} freed>" if freed?

      format("#<%<class>s 0x%<address>x+%<size>d %<residency>s>",
             class: self.class, address: address, size: size, residency: residency)
    end
    alias to_s inspect

    private

    # Passes the buffer, which ends with the block unless it is retained in it, and returns the block's value.
    def lend
      yield self
    ensure
      native_release
    end
  end
end
