# frozen_string_literal: true

module DMA
  # A fixed number of buffers of one size, cut from one allocation, for many threads and fibers. A buffer comes back
  # when its block ends, when it is freed, or when it is garbage; never while a transfer uses it.
  #
  # Its memory is held in place by io_uring where that serves a {File}, so that no request has to find it again: from
  # the first transfer on until the file is closed. {Buffer#residency} is :pinned meanwhile.
  class Pool
    # @!attribute [r] count
    #   @return [Integer] how many buffers there are

    # @!attribute [r] size
    #   @return [Integer] bytes of each

    # @!attribute [r] available
    #   @return [Integer] how many are free at this moment
    #   @raise [ClosedError] in a child of fork

    # Allocates the buffers.
    #
    # @param count [Integer] how many buffers
    # @param size [Integer] bytes of each
    # @param align [Integer] see {Buffer.new}
    # @param lock [true, :auto, false] see {Buffer.new}
    # @param huge [:auto, :require, :never] see {Buffer.new}; counts for the pool as a whole
    def self.new(count:, size:, align: PAGE_SIZE, lock: :auto, huge: :auto)
      numbers = { count: count, size: size, align: align }.map { |name, value| DMA.__send__(:natural, value, name) }
      native_new(*numbers, lock, huge)
    end

    # Takes a buffer, waiting for one while all are taken, in turn with others who wait; other fibers and threads run
    # meanwhile. Its bytes are what its last user left.
    #
    # @param timeout [Numeric, nil] seconds; nil waits for ever
    # @yieldparam buffer [Buffer] ends with the block, unless {Buffer#retain}ed
    # @return [Buffer, Object] without a block the buffer, to be freed; else the block's value
    # @raise [TimeoutError] when none came in time
    def checkout(timeout: nil, &block)
      buffer = native_checkout(timeout && Float(timeout))
      raise TimeoutError, "none of #{count} buffers came back within #{timeout} s" unless buffer

      block ? buffer.__send__(:lend, &block) : buffer
    end
  end
end
