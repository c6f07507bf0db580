# frozen_string_literal: true

module DMA
  # A channel of a {Device}: a queue of transfers of its own, used by any number of threads and fibers.
  #
  # Completions are told of in four ways: {Transfer#wait}, polling ({Transfer#done?}, {#process_completions}),
  # {Transfer#on_complete}, and {#to_io} for event loops.
  class Channel
    # @!attribute [r] index
    #   @return [Integer] its number in the device

    # @!attribute [r] device
    #   @return [Device]

    # @!attribute [r] capacity
    #   @return [Integer] how many descriptors it holds

    # @!attribute [r] room
    #   @return [Integer] how many more fit now

    # @!attribute [r] state
    #   @return [:idle, :active, :closed]

    # @!attribute [r] stats
    #   @return [Hash{Symbol => Object}] running totals, see {Device#stats}

    # @!method poll
    #   Looks for completions, and calls back for them.
    #   @return [nil]

    # Submits a transfer, and does not wait for it.
    #
    #   channel.submit(source: buffer, destination: 0x1000)
    #   channel.submit(source: 0x1000, destination: buffer, length: 512, fence: true)
    #   channel.submit([{ source: a, destination: 0 }, { source: b, destination: 512 }])   # scatter-gather
    #   channel.submit(ring)
    #
    # @param list [Array<Hash>, Ring, nil] instead of one element: several, with the same keys, carried out as one
    #   transfer; or the pending descriptors of a ring, which the device fetches by itself, and whose statuses it writes
    # @option element [Buffer, Mapping, IO::Buffer, Integer] :source memory, or a device address
    # @option element [Buffer, Mapping, IO::Buffer, Integer] :destination the same; at most one of the two is memory
    # @option element [Integer, nil] :length bytes; nil: as many as the memory has
    # @param fence [Boolean] begin after all transfers of this channel that are outstanding now, and not at all
    #   (`:not_attempted`) if one of them fails
    # @param interrupt [Boolean] tell of the end by an interrupt; without, somebody has to look
    # @return [Transfer]
    # @raise [RingFullError] where there is no room; nothing was submitted then
    # @raise [AlignmentError, ArgumentError] for what the device does not take, with the limit
    # @raise [MisuseError] for a mapping that was taken away, is for the other direction, or of another device
    def submit(list = nil, fence: false, interrupt: true, **element)
      return native_submit_ring(list, fence) if list.is_a?(Ring)

      native_submit(elements(list, element), fence, interrupt, true, false)
    end

    # As {#submit}, but the transfer begins with the next {#kick} or {#submit}: descriptors first, one doorbell after.
    # Whoever waits for a transfer of the channel rings the doorbell too.
    #
    # @return [Transfer]
    def enqueue(list = nil, fence: false, interrupt: true, **element)
      native_submit(elements(list, element), fence, interrupt, false, false)
    end

    # The doorbell: what was enqueued begins.
    #
    # @return [self]
    def kick
      native_kick
      self
    end

    # Passes each transfer that ended, well or not, and that nobody has waited for or been called back for.
    #
    # @yieldparam transfer [Transfer]
    # @return [Integer] how many
    def process_completions
      poll
      count = 0
      while (transfer = native_next_ended)
        count += 1
        yield transfer if block_given?
      end
      count
    end

    # Waits until nothing is outstanding, however it ends.
    #
    # @param timeout [Numeric, nil] seconds; what is not over by then is given up
    # @return [self]
    # @raise [TimeoutError]
    def drain(timeout: nil)
      drain_until(device.__send__(:deadline, timeout), timeout)
    end

    # Makes what was written durable, after all that is outstanding (fdatasync(2)).
    #
    # @return [Transfer]
    # @raise [UnsupportedError] of a device whose memory is not durable
    def flush
      native_flush
    end

    # Aborts what is under way or waits, and waits a moment for it to end.
    #
    # @return [self]
    # @raise [BusyError] where something does not end
    def reset
      idle = native_reset
      raise BusyError, "channel #{index} has not let go of an aborted transfer yet; try again later" unless idle

      self
    end

    # Changes when the channel of a simulated device interrupts, from now on; what was held back comes no later for it.
    #
    # @param policy [Symbol, Hash] as `coalesce:` of {Sim#device}
    # @raise [UnsupportedError] for a channel of another device
    # @raise [ArgumentError] for what cannot be
    def coalesce=(policy)
      native_coalesce(Sim.__send__(:coalesce, policy))
    end

    # @!attribute [r] affinity
    #   @return [Integer] the CPU of a simulated machine that handles the channel's interrupts
    #   @raise [UnsupportedError] for a channel of another device

    # Has another CPU of a simulated machine handle the channel's interrupts from now on (`cpus:` of {Sim.new}). Those
    # that wait for a CPU already are handled there.
    #
    # @param cpu [Integer] from 0 on
    # @raise [UnsupportedError] for a channel of another device
    # @raise [ArgumentError] for a CPU that there is not, and for a channel of an 8237, which interrupts the first one
    def affinity=(cpu)
      native_set_affinity(DMA.__send__(:natural, cpu, "affinity", 32))
    end

    # An IO that is readable while a completion waits to be reaped, for IO.select and event loops; {#poll} or
    # {#process_completions} reaps. It is not to be read from.
    #
    # @return [IO]
    def to_io
      native_check
      @to_io ||= IO.for_fd(native_descriptor, "r")
    end

    # @return [String] number, device and state
    def inspect
      "#<#{self.class} #{index} of #{device.name} #{state}>"
    end

    private

    def elements(list, element)
      return [operands(**element)] unless list
      raise TypeError, "a DMA::Ring is submitted, not enqueued" if list.is_a?(Ring)
      raise ArgumentError, "give a list or source: and destination:, not both" unless element.empty?
      raise TypeError, "#{list.class} is neither an Array of Hashes nor a DMA::Ring" unless list.is_a?(Array)
      raise ArgumentError, "an empty list moves nothing" if list.empty?

      list.map { |hash| operands(**hash) }
    end

    def operands(source:, destination:, length: nil)
      DMA.__send__(:natural, length, "length") if length
      [source, destination, length]
    end

    def write(data, offset)
      case data
      when String then native_write_string(data, offset)
      when IO::Buffer then write(own_buffer(data) || data.get_string, offset)
      when Buffer, Mapping then native_submit([[data, offset, nil]], false, true, true, true)
      else raise TypeError, "#{data.class} is neither a String nor memory (DMA::Buffer, DMA::Mapping, IO::Buffer)"
      end
    end

    def read(size, offset, into, timeout)
      return read_string(size, offset, timeout) unless into

      memory = into.is_a?(IO::Buffer) ? own_buffer(into) : into
      if memory
        native_submit([[offset, memory, size]], false, true, true, true).wait(timeout: timeout)
      else
        into.set_string(read_string(size || into.size, offset, timeout))
      end
      into
    end

    def read_string(size, offset, timeout)
      transfer = native_read_string(size, offset).wait(timeout: timeout)
      String.new(capacity: size, encoding: Encoding::BINARY).tap { |bytes| transfer.__send__(:native_append_to, bytes) }
    end

    # The buffer that an IO::Buffer is a view of, if any.
    def own_buffer(view)
      Buffer.__send__(:native_of_view, view)
    end

    def drain_until(deadline, timeout)
      left = deadline && (deadline - device.__send__(:now))
      while (transfer = native_oldest)
        # What ends while it is given up has ended well; the time is up for those behind it.
        give_up(cancel_all, timeout) if left&.negative?
        begin
          native_wait(transfer, left)
        rescue TimeoutError
          native_forget(transfer)
          give_up(cancel_all + 1, timeout)
        end
        left = deadline && (deadline - device.__send__(:now))
      end
      poll
      self
    end

    def give_up(count, timeout)
      why = timeout ? "after #{timeout} s" : "when the machine had nothing left to do"
      raise TimeoutError, "#{count} #{count == 1 ? "transfer" : "transfers"} on channel #{index} of #{device.name} " \
                          "#{count == 1 ? "was" : "were"} not over #{why}, and given up"
    end

    # The newest first: what waits behind a transfer that hangs must not begin when that is over.
    def cancel_all
      native_pending.reverse_each do |transfer|
        native_forget(transfer)
        native_cancel(transfer)
      end.size
    end

    def take_failures
      failures = []
      process_completions { |transfer| failures << transfer if transfer.__send__(:failed?) }
      failures
    end
  end
end
