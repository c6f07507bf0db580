# frozen_string_literal: true

module DMA
  class File
    # What an IO adds to bytes: lines, characters and their encoding.
    module Text
      extend Exclusive

      # The most bytes of a character in any encoding.
      LONGEST = 16
      private_constant :LONGEST

      # Byte order marks, the longer before those they begin with.
      MARKS = %w[UTF-8 UTF-32LE UTF-32BE UTF-16LE UTF-16BE].to_h do |name|
        ["\uFEFF".encode(name).b.freeze, Encoding.find(name)]
      end.freeze
      private_constant :MARKS

      # As IO#gets, but for `$_`, which a method cannot set for its caller.
      # @overload gets(separator = $/, limit = nil, chomp: false)
      #   @param separator [String, nil] what ends a line; nil: nothing does, "": empty lines do
      #   @param limit [Integer, nil] the most bytes; no character is cut in two
      #   @param chomp [Boolean] whether the separator is left out; where it is nil, nothing is, as in Ruby from 3.2 on
      #     (before, IO left out a newline at the end: Bug #18770)
      # @overload gets(limit, chomp: false)
      # @return [String, nil] nil at the end
      def gets(*args, chomp: false)
        separator, limit = line_arguments(*args)
        readable
        limit&.zero? ? String.new(encoding: text_encoding) : take_line(separator, limit, chomp)
      end

      # As IO#readline; arguments as of {#gets}.
      # @return [String]
      # @raise [EOFError] at the end
      def readline(*args, chomp: false)
        gets(*args, chomp: chomp) || end_of_file
      end

      # As IO#each_line; arguments as of {#gets}.
      # @yieldparam line [String]
      # @return [self, Enumerator]
      def each_line(*args, chomp: false)
        return enum_for(:each_line, *args, chomp: chomp) unless block_given?
        raise ArgumentError, "invalid limit: 0 for each_line" if line_arguments(*args).last&.zero?

        while (line = gets(*args, chomp: chomp))
          yield line
        end
        self
      end
      alias each each_line

      # As IO#readlines; arguments as of {#gets}.
      # @return [Array<String>]
      def readlines(*args, chomp: false)
        each_line(*args, chomp: chomp).to_a
      end

      # @return [Integer] lines read so far
      def lineno
        readable
        @lineno
      end

      # @param number [Integer] what {#lineno} counts on from
      def lineno=(number)
        readable
        @lineno = number
      end

      # As IO#getc.
      # @return [String, nil] nil at the end
      def getc
        readable
        fill_to(LONGEST)
        return if waiting.zero?

        text = @ahead.byteslice(@cursor, LONGEST).force_encoding(text_encoding)
        char = text[0]
        char = text if !char.valid_encoding? && incomplete?(text)
        @cursor += char.bytesize
        char
      end

      # As IO#readchar.
      # @return [String]
      # @raise [EOFError] at the end
      def readchar
        getc || end_of_file
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

      # As IO#ungetc: the characters are read again first; the file does not change.
      # @param char [String, Integer] characters, or the code of one
      # @return [nil]
      def ungetc(char)
        readable
        unget(char.is_a?(Integer) ? char.chr(text_encoding) : char.to_str)
      end

      # From now on Strings are binary.
      # @return [self]
      def binmode
        @binmode = true
        @encoding = Encoding::BINARY
        self
      end

      # @return [Boolean] whether the mode had a "b", or {#binmode} was called
      def binmode?
        @binmode || @mode.binary
      end

      # @return [Encoding, nil] of the Strings that {#gets}, {#getc} and {#read} without a length give, and that
      #   {Writing#write} converts to; nil in a file that is written, where none was given: reads then give the default,
      #   and writes convert nothing
      def external_encoding
        @encoding || (text_encoding unless @mode.writable?)
      end

      # @return [nil] what is read is not transcoded
      def internal_encoding; end

      # @param encoding [Encoding, String, nil] see {#external_encoding}; nil: the default
      # @param internal [Encoding, String, nil] the same, or none
      # @return [self]
      # @raise [ArgumentError] an internal encoding that differs
      def set_encoding(encoding, internal = nil, **)
        external, inside = encoding.is_a?(String) ? encoding.sub(/\ABOM\|/i, "").split(":", 2) : encoding
        external &&= Encoding.find(external)
        internal ||= inside
        if internal && Encoding.find(internal) != external
          raise ArgumentError, "internal encoding #{internal} is not offered; transcoding is left to String#encode"
        end

        @encoding = external
        self
      end

      private

      def text_encoding
        @encoding || Encoding.default_external
      end

      # Passes a byte order mark, and takes the encoding that it tells.
      def skip_mark
        fill_to(MARKS.keys.map(&:bytesize).max)
        mark, encoding = MARKS.find { |bytes, _| @ahead.start_with?(bytes) }
        return unless mark

        @cursor = mark.bytesize
        @encoding = encoding
      end

      # [separator, limit] of the arguments that gets takes; both may be nil.
      def line_arguments(separator = $/, limit = nil)
        unless limit || separator.nil? || separator.respond_to?(:to_str)
          limit = separator
          separator = $/
        end
        unless limit.nil? || limit.respond_to?(:to_int)
          raise TypeError, "a line is limited by an Integer of bytes, not by #{limit.inspect}"
        end

        limit = limit&.to_int
        [separator&.to_str, (limit unless limit&.negative?)]
      end

      def take_line(separator, limit, chomp)
        return take_up_to(separator && ending_of(separator), limit, chomp) unless separator == ""

        skip_newlines
        take_up_to(newline * 2, limit, chomp).tap { skip_newlines }
      end

      def take_up_to(ending, limit, chomp)
        length, ended = line_length(ending, limit)
        return if length.zero?

        line = take(length)
        line = without(ending, line) if ended && chomp
        line.force_encoding(text_encoding)
        return complete(line) if length == limit && !ended

        @lineno += 1
        line
      end

      def without(ending, line)
        line = line.byteslice(0, line.bytesize - ending.bytesize)
        ending == "\n" ? line.delete_suffix("\r") : line
      end

      # The bytes that end a line.
      def ending_of(separator)
        return newline if separator == "\n" && separator.equal?($/)

        encoding = text_encoding
        unless separator.encoding == encoding || (separator.ascii_only? && encoding.ascii_compatible?)
          raise ArgumentError, "encoding mismatch: lines of #{encoding} with a separator of #{separator.encoding}; " \
                               "encode the separator"
        end
        separator.b
      end

      # The bytes of a newline: more than one where characters are wide.
      def newline
        text_encoding.ascii_compatible? ? "\n".b : "\n".encode(text_encoding).b
      end

      # Bytes up to and with the next `ending`, the limit, or the end of the file; and whether they end with it.
      def line_length(ending, limit)
        from = 0
        loop do
          found = ending && find(ending, from)
          return [[found, limit].compact.min, limit.nil? || found <= limit] if found
          return [limit, false] if limit && waiting >= limit

          from = [waiting - ending.bytesize + 1, 0].max if ending
          return [waiting, false] if fill.zero?
        end
      end

      # How many bytes there are to the end of the first `ending` that begins `from` bytes on, at the start of a
      # character.
      def find(ending, from)
        width = newline.bytesize
        while (start = @ahead.index(ending, @cursor + from))
          from = start - @cursor
          return from + ending.bytesize if (from % width).zero?

          from += 1
        end
      end

      # A limit never cuts a character in two: the rest of it is taken too.
      def complete(line)
        return line if line.valid_encoding?

        LONGEST.times do
          break unless (1..3).any? { |count| incomplete?(line[-count..] || line) } && !eof?

          line = (line.b << take(1)).force_encoding(line.encoding)
        end
        line
      end

      # Whether more bytes could make the end of `text` a character.
      def incomplete?(text)
        wide = text.encoding == Encoding::UTF_8 ? Encoding::UTF_16LE : Encoding::UTF_8
        Encoding::Converter.new(text.encoding, wide).primitive_convert(text.dup, +"") == :incomplete_input
      rescue Encoding::ConverterNotFoundError
        false
      end

      def skip_newlines
        skipped = newline
        loop do
          fill_to(skipped.bytesize)
          return unless @ahead.byteslice(@cursor, skipped.bytesize) == skipped

          @cursor += skipped.bytesize
        end
      end

      exclusive :gets, :getc, :ungetc
    end
  end
end
