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
  # Also what {DMA.debug} finds, with the {#rule} that was broken.
  class MisuseError < Error
    # @return [Symbol, nil] which rule of the checker was broken: `:unmapped`, `:double_unmap`, `:wrong_size`,
    #   `:wrong_direction`, `:sync_outside`, `:error_unchecked`, `:cpu_access`, `:device_access`, `:in_flight`,
    #   `:overlap`, `:leak`, `:segment_limit`; nil where nobody checked
    attr_reader :rule

    # @return [Array<String>, nil] the backtrace of the mapping, or of the transfer's submission; nil: there is none
    attr_reader :mapped_at

    # @param message [String]
    # @param rule [Symbol, nil]
    # @param mapped_at [Array<String>, nil]
    def initialize(message = nil, rule: nil, mapped_at: nil)
      @rule = rule
      @mapped_at = mapped_at
      super(message)
    end
  end

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
