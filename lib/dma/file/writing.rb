# frozen_string_literal: true

require "stringio"

module DMA
  class File
    # The writing half of an IO. Nothing is held back: each call has reached the kernel when it returns.
    module Writing
      # Writes at the position.
      # @param strings [Array<#to_s>]
      # @return [Integer] bytes written: all of them
      # @raise [SystemCallError] with offset, length, and how many bytes are safe in the file
      # @raise [IOError] opened for reading only
      def write(*strings)
        writable
        strings.sum { |string| put(string.to_s, settle, whole: false) { |bytes| @next += bytes } }
      end

      # Writes at an offset; the position stays.
      # @param string [#to_s]
      # @param offset [Integer]
      # @return [Integer] bytes written: all of them
      # @raise [SystemCallError] see {#write}
      def pwrite(string, offset)
        writable
        settle
        put(string.to_s, DMA.__send__(:natural, offset, "offset"), whole: false)
      end

      # Writes at the position with one request to the kernel: direct where all of it is aligned, through the page cache otherwise.
      # @param string [#to_s]
      # @return [Integer] bytes written, which may be fewer than the string has
      # @raise [SystemCallError]
      def syswrite(string)
        writable
        put(string.to_s, settle, whole: true) { |bytes| @next += bytes }
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
        write(StringIO.new.tap { |io| io.print(*objects) }.string)
        nil
      end

      # As IO#puts.
      # @return [nil]
      def puts(*objects)
        write(StringIO.new.tap { |io| io.puts(*objects) }.string)
        nil
      end

      # As IO#printf.
      # @return [nil]
      def printf(format, *objects)
        write(format(format, *objects))
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
        raise ClosedError, "#{path} was closed" if closed?
        raise IOError, "not opened for writing" unless @mode.writable?
      end

      # A copy of its own (which shares the bytes until somebody changes them): other threads run while it is written.
      def put(string, offset, whole:)
        bytes = native_write_string(string.dup, offset, whole)
        yield bytes if block_given?
        bytes
      end
    end
  end
end
