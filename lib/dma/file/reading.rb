# frozen_string_literal: true

module DMA
  class File
    # The reading half of an IO, by IO's rules. Small reads are served from bytes read ahead ({FILL} at a time).
    module Reading
      # Bytes that a small read asks of the kernel at once.
      FILL = 64 << 10

      # @return [Integer] lines read so far
      attr_accessor :lineno

      # As IO#read: at the position, which moves on; from what was read ahead first.
      # @param length [Integer, nil] bytes; nil: all that is left
      # @param out [String, nil] receives the bytes instead of a new String
      # @return [String, nil] nil at the end of the file, if bytes were asked for
      # @raise [IOError] opened for writing only
      def read(length = nil, out = nil)
        readable
        return fetch(out, Float::INFINITY) { |all| all.force_encoding(@encoding) } unless length

        DMA.__send__(:natural, length, "length")
        fetch(out, length) { |bytes| bytes unless bytes.empty? && length.positive? }
      end

      # As IO#pread: at an offset, in any case from the file; the position stays.
      # @return [String]
      # @raise [EOFError] behind the end
      def pread(length, offset, out = nil)
        readable
        [length, offset].each { |n| DMA.__send__(:natural, n, "length and offset") }
        collect(out) do |bytes|
          native_read_string(bytes, offset, length, false)
          raise EOFError, "end of file reached" if bytes.empty? && length.positive?
        end
      end

      # As IO#readpartial: what was read ahead, if anything; else what one request brings.
      # @return [String]
      # @raise [EOFError] at the end
      def readpartial(maxlen, out = nil)
        partial(maxlen, out) || raise(EOFError, "end of file reached")
      end

      # As IO#read_nonblock: as {#readpartial}; a file never blocks in the sense of IO.
      # @return [String, nil] nil at the end with `exception: false`
      def read_nonblock(maxlen, out = nil, exception: true)
        partial(maxlen, out) || (raise EOFError, "end of file reached" if exception)
      end

      # As IO#sysread: one request to the kernel, nothing read ahead.
      # @return [String]
      # @raise [EOFError] at the end
      # @raise [IOError] while bytes that were read ahead wait
      def sysread(maxlen, out = nil)
        readable
        raise IOError, "sysread for buffered IO" if waiting.positive?

        partial(maxlen, out) || raise(EOFError, "end of file reached")
      end

      # As IO#gets.
      # @return [String, nil] nil at the end
      def gets(*args, chomp: false)
        separator, limit = line_arguments(args)
        readable
        return +"".force_encoding(@encoding) if limit&.zero?

        line = take_line(separator, limit, chomp)
        @lineno += 1 if line
        line
      end

      # As IO#readline.
      # @raise [EOFError] at the end
      def readline(*args, chomp: false)
        gets(*args, chomp: chomp) || raise(EOFError, "end of file reached")
      end

      # As IO#each_line.
      # @yieldparam line [String]
      # @return [self, Enumerator]
      def each_line(*args, chomp: false)
        return enum_for(:each_line, *args, chomp: chomp) unless block_given?
        raise ArgumentError, "invalid limit: 0 for each_line" if line_arguments(args).last&.zero?

        while (line = gets(*args, chomp: chomp))
          yield line
        end
        self
      end
      alias each each_line

      # As IO#readlines.
      # @return [Array<String>]
      def readlines(*args, chomp: false)
        each_line(*args, chomp: chomp).to_a
      end

      # As IO#getbyte.
      # @return [Integer, nil]
      def getbyte
        readable
        return if waiting.zero? && fill.zero?

        @ahead.getbyte(@cursor).tap { @cursor += 1 }
      end

      # As IO#readbyte.
      # @raise [EOFError] at the end
      def readbyte
        getbyte || raise(EOFError, "end of file reached")
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

      # As IO#getc.
      # @return [String, nil]
      def getc
        readable
        fill_to(16)
        return if waiting.zero?

        char = @ahead.byteslice(@cursor, 16).force_encoding(@encoding)[0]
        @cursor += char.bytesize
        char
      end

      # As IO#readchar.
      # @raise [EOFError] at the end
      def readchar
        getc || raise(EOFError, "end of file reached")
      end

      # As IO#each_char.
      # @yieldparam char [String]
      # @return [self, Enumerator]
      def each_char
        return enum_for(:each_char) unless block_given?

        while (char = getc)
          yield char
        end
        self
      end

      # As IO#ungetbyte: the bytes are read again first; the file does not change.
      # @param bytes [Integer, String, nil]
      # @return [nil]
      def ungetbyte(bytes)
        unget(bytes.is_a?(Integer) ? (bytes & 0xff).chr : bytes)
      end

      # As IO#ungetc.
      # @param char [String, Integer, nil]
      # @return [nil]
      def ungetc(char)
        unget(char.is_a?(Integer) ? char.chr(@encoding) : char)
      end

      # @return [Boolean] whether nothing is left; reads ahead to find out
      def eof?
        readable
        waiting.zero? && fill.zero?
      end
      alias eof eof?

      # @return [Integer] the position
      def pos
        raise ClosedError, "#{path} was closed" if closed?

        @next - waiting
      end
      alias tell pos

      # @param offset [Integer] the new position
      def pos=(offset)
        seek(offset)
      end

      # Moves the position. What was read ahead is kept where it still serves.
      # @param offset [Integer]
      # @param whence [Integer, Symbol] IO::SEEK_SET, IO::SEEK_CUR, IO::SEEK_END, or :SET, :CUR, :END
      # @return [0]
      # @raise [Errno::EINVAL] before the start
      def seek(offset, whence = IO::SEEK_SET)
        target = target_of(offset, whence)
        start = @next - @ahead.bytesize
        if !@altered && target.between?(start, @next)
          @cursor = target - start
        else
          forget(target)
        end
        0
      end

      # As IO#sysseek.
      # @return [Integer] the new position
      # @raise [IOError] while bytes that were read ahead wait
      def sysseek(offset, whence = IO::SEEK_SET)
        raise IOError, "sysseek for buffered IO" if waiting.positive?

        seek(offset, whence)
        pos
      end

      # Back to the first byte and line 0.
      # @return [0]
      def rewind
        @lineno = 0
        seek(0)
      end

      # @return [self] from now on Strings are binary
      def binmode
        @encoding = Encoding::BINARY
        self
      end

      # @return [Boolean]
      def binmode?
        @encoding == Encoding::BINARY
      end

      # @return [Encoding] of the Strings that {#gets}, {#getc} and {#read} without a length give
      def external_encoding
        @encoding
      end

      # @return [nil] nothing is transcoded
      def internal_encoding; end

      # @param encoding [Encoding, String] see {#external_encoding}
      # @return [self]
      def set_encoding(encoding, *)
        @encoding = Encoding.find(encoding.to_s.sub(/\ABOM\|/i, ""))
        self
      end

      # @return [false]
      def tty?
        false
      end
      alias isatty tty?

      private

      def readable
        raise ClosedError, "#{path} was closed" if closed?
        raise IOError, "not opened for reading" unless @mode.readable?
      end

      # Bytes that were read ahead and not asked for yet.
      def waiting
        @ahead.bytesize - @cursor
      end

      # Drops what was read ahead; reading goes on at `offset`.
      def forget(offset)
        @ahead = String.new(encoding: Encoding::BINARY)
        @cursor = 0
        @next = offset
        @altered = false
      end

      # Drops what was read ahead, and returns the position.
      def settle
        forget([pos, 0].max)
        @next
      end

      def fill
        @ahead = @ahead.byteslice(@cursor..) if @cursor.positive?
        @cursor = 0
        bytes = native_read_string(@ahead, @next, FILL, true)
        @next += bytes
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

      # Runs the block with a binary String to be filled: `out`, which keeps its encoding, or a new one.
      def collect(out)
        encoding = out&.encoding
        out = out ? out.clear.force_encoding(Encoding::BINARY) : String.new(encoding: Encoding::BINARY)
        yield out
        out
      ensure
        out.force_encoding(encoding) if encoding
      end

      # `count` bytes: what was read ahead, then the rest, straight from the file where that is much. The block sees the result.
      def fetch(out, count)
        bytes = collect(out) do |string|
          string << take([count, waiting].min)
          left = count - string.bytesize
          if left >= FILL
            string_read = native_read_string(string, @next, [left, 2**63 - 1].min.to_i, false)
            forget(@next + string_read)
          elsif left.positive?
            fill_to(left)
            string << take(left)
          end
        end
        yield bytes
      end

      def partial(maxlen, out)
        readable
        DMA.__send__(:natural, maxlen, "maxlen")
        bytes = collect(out) do |string|
          next string << take(maxlen) if waiting.positive?

          forget(@next + native_read_string(string, @next, maxlen, true))
        end
        bytes unless bytes.empty? && maxlen.positive?
      end

      def unget(bytes)
        readable
        return if bytes.nil?

        @ahead = bytes.b << @ahead.byteslice(@cursor..)
        @cursor = 0
        @altered = true
        nil
      end

      def target_of(offset, whence)
        base = case whence
               when IO::SEEK_SET, :SET then 0
               when IO::SEEK_CUR, :CUR then pos
               when IO::SEEK_END, :END then size
               else raise ArgumentError, "unknown whence: #{whence.inspect}"
               end
        raise ClosedError, "#{path} was closed" if closed?

        target = base + Integer(offset)
        raise Errno::EINVAL, "seek to #{target} in #{path}" if target.negative?

        target
      end

      # [separator, limit] of the arguments that gets takes.
      def line_arguments(args)
        raise ArgumentError, "wrong number of arguments (given #{args.size}, expected 0..2)" if args.size > 2
        return [$/, args.first.to_int] if args.size == 1 && args.first.respond_to?(:to_int)

        separator, limit = args.empty? ? [$/, nil] : args
        limit = limit&.to_int
        [separator&.to_str, limit&.negative? ? nil : limit]
      end

      def take_line(separator, limit, chomp)
        return take_rest(limit) unless separator

        skip_newlines if separator.empty?
        ending = separator.empty? ? "\n\n" : separator.b
        length = line_length(ending, limit)
        return if length.zero?

        line = whole_chars(take(length), limit == length)
        skip_newlines if separator.empty?
        line = line.delete_suffix("\n") if chomp && separator.empty? && line.end_with?("\n\n")
        chomp ? line.chomp(separator.empty? ? "\n" : separator) : line
      end

      def take_rest(limit)
        return fetch(nil, Float::INFINITY) { |all| all.force_encoding(@encoding) unless all.empty? } unless limit

        fill_to(limit)
        whole_chars(take(limit), true) if waiting.positive?
      end

      # Bytes up to and with the next `ending`, the limit, or the end of the file.
      def line_length(ending, limit)
        from = 0
        loop do
          found = @ahead.index(ending, @cursor + from)
          length = found ? found + ending.bytesize - @cursor : waiting
          return [length, limit].compact.min if found || (limit && waiting >= limit)

          from = [waiting - ending.bytesize + 1, 0].max
          return waiting if fill.zero?
        end
      end

      # A limit never cuts a character in two: the rest of it is taken too.
      def whole_chars(line, cut)
        line.force_encoding(@encoding)
        return line unless cut && !@encoding.ascii_compatible?.nil? && @encoding != Encoding::BINARY

        fill_to(16)
        0.upto([15, waiting].min) do |more|
          longer = (line.b << @ahead.byteslice(@cursor, more)).force_encoding(@encoding)
          next unless longer[-1]&.valid_encoding?

          @cursor += more
          return longer
        end
        line
      end

      def skip_newlines
        loop do
          return if waiting.zero? && fill.zero?
          return unless @ahead.getbyte(@cursor) == 10

          @cursor += 1
        end
      end
    end
  end
end
