# frozen_string_literal: true

module DMA
  # Above every error of this library. What the operating system refuses stays an `Errno::*`, and an argument that can
  # never be right an `ArgumentError`.
  class Error < StandardError; end

  # An alignment that is no power of two, or memory that is not aligned as asked.
  class AlignmentError < Error; end

  # The object is in use: by a transfer in flight, by another thread, by a view of somebody else's.
  class BusyError < Error; end

  # The object was freed or closed, its block has ended, or it belongs to the parent of this process.
  class ClosedError < Error; end

  # Locking would pass RLIMIT_MEMLOCK; the message has the figures.
  class LockLimitError < Error; end

  # Time was up.
  class TimeoutError < Error; end

  # This system cannot do it, whatever the arguments.
  class UnsupportedError < Error; end
end
