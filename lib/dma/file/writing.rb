# frozen_string_literal: true

require "stringio"

module DMA
  class File
    # The writing half of an IO. Nothing is held back: each call has reached the kernel when it returns.
    module Writing
      # IO's own `print` and `puts`, which write to whatever has a `write`.
      # @private
      class Parts < StringIO
        attr_reader :all

        def self.of(call, objects)
          new.tap { |parts| parts.public_send(call, *objects) }.all
        end

        def initialize
          super
          @all = []
        end

        def write(*strings)
          @all.concat(strings)
          0
        end
      end
      private_constant :Parts

      # Writes at the position, which moves on. Converts Strings to the external encoding, where one was given.
      # @param objects [Array<Buffer, IO::Buffer, #to_s>] a single {Buffer} is written as {File#write_from} does
      # @return [Integer] bytes written: all of them
      # @raise [SystemCallError] with offset, length, and how many bytes are safe in the file; the position stays, so
      #   that the call can be made again
      # @raise [IOError] opened for reading only
      def write(*objects)
        writable
        return write_from(objects.first) if objects.size == 1 && objects.first.is_a?(Buffer)

        strings = objects.map { |object| converted(object) }
        advance(strings.size == 1 ? strings.first : strings.map(&:b).join, whole: false)
      end

      # Writes at an offset; the position stays.
      # @param object [Buffer, IO::Buffer, #to_s]
      # @param offset [Integer]
      # @return [Integer] bytes written: all of them
      # @raise [SystemCallError] see {#write}
      def pwrite(object, offset)
        writable
        return write_from(object, offset: offset) if object.is_a?(Buffer)

        string = plain(object)
        DMA.__send__(:natural, offset, "offset")
        begin
          put(string, offset, false)
        ensure
          overwritten(offset, string.bytesize)
        end
      end

      # Writes at the position with one request to the kernel: direct where all of it is aligned, through the page cache
      # otherwise.
      # @param object [Buffer, IO::Buffer, #to_s]
      # @return [Integer] bytes written, which may be fewer than there are
      # @raise [SystemCallError]
      def syswrite(object)
        writable
        advance(plain(object), whole: true)
      end

      # {#write}, returning the file.
      # @return [self]
      def <<(object)
        write(object)
        self
      end

      # As IO#print.
      # @return [nil]
      def print(*objects)
        write(*Parts.of(:print, objects))
        nil
      end

      # As IO#puts.
      # @return [nil]
      def puts(*objects)
        write(*Parts.of(:puts, objects))
        nil
      end

      # As IO#putc.
      # @param object [String, Integer] its first character is written, or one byte
      # @return [String, Integer] what was given
      def putc(object)
        write(object.is_a?(String) ? object[0, 1] : [object].pack("C"))
        object
      end

      # As IO#printf.
      # @return [nil]
      def printf(*arguments)
        write(format(*arguments))
        nil
      end

      # @return [self] nothing waits to be flushed; {File#fdatasync} makes bytes durable
      def flush
        writable
        self
      end

      # @return [true] nothing is held back
      def sync
        true
      end

      # Accepted, for programs that set it; there is nothing to change.
      def sync=(value); end

      private

      def writable
        native_check
        return if @mode.writable?

        raise IOError, "#{path} is not opened for writing; open it with \"r+\", \"w\" or \"w+\""
      end

      # Bytes that have an encoding or none: those of a buffer have none.
      def plain(object)
        object.is_a?(Buffer) || object.is_a?(IO::Buffer) ? object.get_string : object.to_s
      end

      def converted(object)
        return plain(object) if object.is_a?(Buffer) || object.is_a?(IO::Buffer)

        @encoding && @encoding != Encoding::BINARY ? object.to_s.encode(@encoding) : object.to_s
      end

      def advance(string, whole:)
        moving { |at| put(string, at, whole) }
      end

      # A copy of its own (which shares the bytes until somebody changes them): other threads run while it is written.
      def put(string, offset, whole)
        native_write_string(string.dup, offset, whole)
      end
    end
  end
end
