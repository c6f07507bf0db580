# frozen_string_literal: true

require_relative "text"

module DMA
  class File
    # The reading half of an IO, by IO's rules: bytes and the position. Small reads are served from bytes read ahead,
    # {FILL} at a time; behind them, a file that is read in order is read ahead in large requests ({File} says how).
    module Reading
      extend Exclusive

      include Text

      # Bytes that a small read asks of the kernel at once.
      FILL = 64 << 10
      # The largest offset that the kernel knows.
      LAST = (2**63) - 1
      NOTHING = String.new(encoding: Encoding::BINARY).freeze
      private_constant :LAST, :NOTHING

      # As IO#read: at the position, which moves on; from what was read ahead first.
      # @param length [Integer, nil] bytes; nil: all that is left
      # @param out [String, nil] receives the bytes instead of a new String
      # @return [String, nil] nil at the end of the file, if bytes were asked for
      # @raise [IOError] opened for writing only
      def read(length = nil, out = nil)
        native_take(length, out) || read_on(length, out)
      end

      # As IO#pread: at an offset, in any case from the file, with nothing read ahead; the position stays.
      # @param length [Integer] bytes
      # @param offset [Integer] where in the file
      # @param out [String, nil] receives the bytes instead of a new String
      # @return [String] shorter only at the end of the file
      # @raise [EOFError] behind the end
      def pread(length, offset, out = nil)
        native_pread(length, offset, out) || pread_on(length, offset, out)
      end

      # As IO#readpartial: what was read ahead, if anything; else what one request brings.
      # @param maxlen [Integer] the most bytes
      # @param out [String, nil] receives the bytes instead of a new String
      # @return [String]
      # @raise [EOFError] at the end
      def readpartial(maxlen, out = nil)
        partial(maxlen, out) || end_of_file
      end

      # As IO#read_nonblock: as {#readpartial}; a file never blocks in the sense of IO.
      # @param maxlen [Integer] the most bytes
      # @param out [String, nil] receives the bytes instead of a new String
      # @param exception [Boolean] whether the end of the file raises
      # @return [String, nil] nil at the end with `exception: false`
      # @raise [EOFError] at the end
      def read_nonblock(maxlen, out = nil, exception: true)
        partial(maxlen, out) || (end_of_file if exception)
      end

      # As IO#sysread: one request to the kernel, nothing read ahead.
      # @param maxlen [Integer] the most bytes
      # @param out [String, nil] receives the bytes instead of a new String
      # @return [String]
      # @raise [EOFError] at the end
      # @raise [IOError] while bytes that were read ahead wait
      def sysread(maxlen, out = nil)
        readable
        unbuffered("sysread")
        partial(maxlen, out) || end_of_file
      end

      # As IO#getbyte.
      # @return [Integer, nil] nil at the end
      def getbyte
        readable
        return if waiting.zero? && fill.zero?

        byte = @ahead.getbyte(@cursor)
        @cursor += 1
        byte
      end

      # As IO#readbyte.
      # @return [Integer]
      # @raise [EOFError] at the end
      def readbyte
        getbyte || end_of_file
      end

      # As IO#each_byte.
      # @yieldparam byte [Integer]
      # @return [self, Enumerator]
      def each_byte
        return enum_for(:each_byte) unless block_given?

        while (byte = getbyte)
          yield byte
        end
        self
      end

      # As IO#ungetbyte: the bytes are read again first; the file does not change.
      # @param bytes [Integer, String, nil]
      # @return [nil]
      def ungetbyte(bytes)
        readable
        unget(bytes.is_a?(Integer) ? (bytes & 0xff).chr : bytes) unless bytes.nil?
      end

      # @return [Boolean] whether nothing is left; reads ahead to find out
      def eof?
        readable
        waiting.zero? && fill.zero?
      end

      # @return [Boolean] {#eof?}
      def eof
        eof?
      end

      # @return [Integer] the position
      def pos
        native_check

        @next - waiting
      end
      alias tell pos

      # @param offset [Integer] the new position
      def pos=(offset)
        seek(offset)
      end

      # Moves the position. What was read ahead is dropped: bytes that others have written since are seen.
      # @param offset [Integer]
      # @param whence [Integer, Symbol] IO::SEEK_SET, IO::SEEK_CUR, IO::SEEK_END, or :SET, :CUR, :END
      # @return [0]
      # @raise [Errno::EINVAL] before the start, or past the largest offset
      def seek(offset, whence = IO::SEEK_SET)
        target = base_of(whence) + offset
        unless target.is_a?(Integer) && target.between?(0, LAST)
          raise Errno::EINVAL, "seek to #{target} in #{path}; an offset is an Integer from 0 to 2**63 - 1"
        end

        forget(target)
        0
      end

      # As IO#sysseek.
      # @param offset [Integer]
      # @param whence [Integer, Symbol] see {#seek}
      # @return [Integer] the new position
      # @raise [IOError] while bytes that were read ahead wait
      def sysseek(offset, whence = IO::SEEK_SET)
        unbuffered("sysseek")
        seek(offset, whence)
        pos
      end

      # Back to the first byte and line 0.
      # @return [0]
      def rewind
        seek(0)
        @lineno = 0
      end

      # @return [false]
      def tty?
        false
      end
      alias isatty tty?

      private

      def read_on(length, out)
        readable
        return collect(out) { |string| fetch(string, LAST) }.force_encoding(text_encoding) unless length

        DMA.__send__(:natural, length, "length")
        bytes = collect(out) { |string| fetch(string, length) }
        bytes unless bytes.empty? && length.positive?
      end

      def pread_on(length, offset, out)
        readable
        DMA.__send__(:natural, length, "length")
        DMA.__send__(:natural, offset, "offset")
        bytes = collect(out) { |string| native_read_string(string, offset, length, false) }
        bytes.empty? && length.positive? ? end_of_file : bytes
      end

      def readable
        native_check
        return if @mode.readable?

        raise IOError, "#{path} is not opened for reading; open it with \"r\", \"r+\" or \"w+\""
      end

      def end_of_file
        raise EOFError, "end of file reached"
      end

      def unbuffered(call)
        return unless waiting.positive?

        raise IOError, "#{call} for buffered IO: #{waiting} bytes of #{path} that were read ahead wait at #{pos}; " \
                       "read them first, or drop them by seek"
      end

      # Bytes that were read ahead and not asked for yet.
      def waiting
        @ahead.bytesize - @cursor
      end

      # Drops what was read ahead; reading goes on at `offset`.
      def forget(offset)
        keep(NOTHING, offset)
        native_forget
      end

      # Sets all that the position consists of at once: another thread may have changed it while this one waited.
      def keep(ahead, following)
        @ahead = ahead
        @cursor = 0
        @next = following
      end

      # Drops what was read ahead, and returns the position.
      def settle
        @overwritten = false
        forget([pos, 0].max)
        @next
      end

      # Runs the block with the position, and moves it by the bytes that the block says were transferred.
      def moving
        at = settle
        bytes = yield at
        keep(NOTHING, at + bytes)
        bytes
      end

      # Drops what was read ahead if it is what was written now. Nobody waits here for who reads at the position: the
      # next who does so drops it.
      def overwritten(offset, length)
        return drop_part(offset, length) if @lock.owned?
        return @overwritten = true unless @lock.try_lock

        begin
          drop_part(offset, length)
        ensure
          @lock.unlock
        end
      end

      def drop_part(offset, length)
        settle if offset < [@next, native_ahead].max && offset + length > @next - @ahead.bytesize
      end

      # Reads ahead; returns how many bytes came.
      def fill
        ahead = @ahead.byteslice(@cursor..)
        following = @next
        bytes = native_read_on(ahead, following, FILL, true)
        keep(ahead, following + bytes)
        bytes
      end

      def fill_to(count)
        nil while waiting < count && fill.positive?
      end

      def take(count)
        bytes = @ahead.byteslice(@cursor, count)
        @cursor += bytes.bytesize
        bytes
      end

      def unget(bytes)
        keep(bytes.b << @ahead.byteslice(@cursor..), @next)
        nil
      end

      # Runs the block with a binary String to be filled, and returns it: `out`, which keeps its encoding, or a new one.
      def collect(out, &)
        return String.new.tap(&) unless out

        string = String.try_convert(out) || raise(TypeError, "no implicit conversion of #{out.class} into String")
        native_empty(string)
        encoding = string.encoding
        string.force_encoding(Encoding::BINARY)
        begin
          yield string
          string
        ensure
          string.force_encoding(encoding)
        end
      end

      # Appends `count` bytes: what was read ahead, then the rest, straight from the file where that is much. The
      # position moves when all has come: what fails or is interrupted can be called again.
      def fetch(string, count)
        fill_to(count) if count < FILL
        return string << take(count) if count <= waiting || count < FILL

        string << @ahead.byteslice(@cursor..)
        following = @next
        keep(NOTHING, following + native_read_on(string, following, count - string.bytesize, false))
      end

      def partial(maxlen, out)
        readable
        DMA.__send__(:natural, maxlen, "maxlen")
        bytes = collect(out) do |string|
          next string << take(maxlen) if waiting.positive?

          following = @next
          keep(NOTHING, following + native_read_string(string, following, maxlen, true))
        end
        bytes unless bytes.empty? && maxlen.positive?
      end

      def base_of(whence)
        native_check

        case whence
        when IO::SEEK_SET, :SET then 0
        when IO::SEEK_CUR, :CUR then pos
        when IO::SEEK_END, :END then size
        else raise ArgumentError, "whence #{whence.inspect} is none of IO::SEEK_SET, IO::SEEK_CUR, IO::SEEK_END"
        end
      end

      exclusive :read_on, :readpartial, :read_nonblock, :sysread, :getbyte, :ungetbyte, :eof?, :seek, :settle, :moving
    end
  end
end
