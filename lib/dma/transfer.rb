# frozen_string_literal: true

module DMA
  # A transfer, from when it is submitted on. The memory that it uses stays, whatever happens, until it has ended.
  class Transfer
    # @!attribute [r] id
    #   @return [Integer] its number in its channel

    # @!attribute [r] channel
    #   @return [Channel]

    # @!attribute [r] size
    #   @return [Integer] bytes that were asked for

    # @!attribute [r] bytes
    #   @return [Integer] bytes that were moved, from the start without a gap; 0 before it has ended

    # @!attribute [r] status
    #   @return [Symbol] `:pending`, `:complete`; `:aborted` (cancelled), `:timed_out` (given up by who waited),
    #     `:not_attempted` (what its fence waited for failed), `:bad_source`, `:bad_destination`, `:bad_length`,
    #     `:iommu_fault` (see {#fault}), `:bus_read_error`, `:bus_write_error`, `:data_poison`, `:descriptor_error`,
    #     `:link_down`, `:ring_full`, `:medium_error`, `:device_error` (its code is in the message of {#failure}),
    #     `:os_error` (see {#errno})

    # @!attribute [r] fault
    #   @return [(Integer, Symbol), nil] of an IOMMU fault the bus address, and `:read` or `:write`, what the device
    #     wanted

    # @!attribute [r] errno
    #   @return [Integer, nil] what the operating system refused it with

    # @!method done?
    #   @return [Boolean] whether it has ended, well or not; does not wait

    # Waits until it has ended. Other threads, or fibers of a scheduler, run meanwhile. A wait that ends before the
    # transfer, by a timeout or by an exception from outside, gives the transfer up, so that the channel is free for
    # the next one.
    #
    # @param timeout [Numeric, nil] seconds, of simulated time where the machine has a manual clock; where such a
    #   machine has nothing left to do, time is up at once
    # @return [self]
    # @raise [TransferError] where it did not end well; {FaultError} for a fault of the IOMMU
    # @raise [TimeoutError]
    def wait(timeout: nil)
      seconds = DMA.__send__(:seconds, timeout)
      begin
        channel.__send__(:native_wait, self, seconds)
      ensure
        channel.__send__(:native_forget, self)
      end
      raise error if failed?

      self
    end

    # Asks that it be given up. It still ends, as `:aborted` if that came in time.
    #
    # @return [self]
    def cancel
      channel.__send__(:native_cancel, self)
      self
    end

    # Calls the block when it has ended, well or not; at once if it has. The block runs on the thread or fiber that
    # finds the completion: one that waits, polls or asks for a status on this channel ({Sim#step} and
    # {Sim#run_until_idle} do not). An error in it comes out there.
    #
    # @yieldparam transfer [Transfer]
    # @return [self]
    def on_complete(&block)
      raise ArgumentError, "on_complete needs a block to call" unless block

      return self if native_call_back(block)

      channel.__send__(:native_forget, self)
      yield self
      self
    end

    # @return [String] what became of it, in words
    def failure
      place = native_address&.then { |address| format(" at device address 0x%x", address) }
      "transfer #{id} of #{size} bytes#{place} on channel #{channel.index} of #{channel.device.name}: " \
        "#{native_reason}#{no_address} (#{bytes} of #{size} bytes were moved)"
    end

    # @return [String] number, size and state
    def inspect
      "#<#{self.class} #{id} of #{size} bytes: #{native_reason}>"
    end

    private

    # What it means of a simulated machine that there is no space: nothing to do with the memory of its device.
    def no_address
      return unless errno == Errno::ENOSPC::Errno && channel.device.capabilities[:engine] == :sim

      ": the device has no address for this memory; let transfers end, take mappings away, or ask DMA::Device#map why"
    end

    def failed?
      !%i[pending complete].include?(status)
    end

    # The exception for it, the first of `failures`.
    def error(failures = [self])
      (status == :iommu_fault ? FaultError : TransferError).new(self, failures)
    end
  end
end
