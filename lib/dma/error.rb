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

  # An object was used in a state in which it cannot be: a mapping that was taken away, or one for the other direction.
  class MisuseError < Error; end

  # There is no room in a descriptor ring before something completes.
  class RingFullError < Error; end

  # Time was up; what was waited for was given up.
  class TimeoutError < Error; end

  # This system cannot do it, whatever the arguments.
  class UnsupportedError < Error; end

  # A transfer did not end well.
  class TransferError < Error
    # @return [Transfer] the transfer
    attr_reader :transfer

    # @return [Array<Transfer>] all that failed, where several were waited for; the first of them is {#transfer}
    attr_reader :failures

    # @param transfer [Transfer]
    # @param failures [Array<Transfer>]
    def initialize(transfer, failures = [transfer])
      @transfer = transfer
      @failures = failures
      others = failures.size - 1
      super(others.zero? ? transfer.failure : "#{transfer.failure}; #{others} more failed (see failures)")
    end

    # @return [Symbol] how it ended, see {Transfer#status}
    def status
      transfer.status
    end
  end

  # A transfer met a bus address that is not mapped, or not for this direction.
  class FaultError < TransferError
    # @return [Integer] the bus address
    def address
      transfer.fault.first
    end

    # @return [:read, :write] what the device wanted to do to memory there
    def access
      transfer.fault.last
    end
  end
end
