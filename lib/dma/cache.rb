# frozen_string_literal: true

module DMA
  # The cache of a simulated machine's CPU, {Sim#cache}, and what software can have it do. Lines have 64 bytes; an
  # operation is done to every line that its range touches, whole, with whatever else is in it. It is done once both
  # barriers have passed.
  #
  # What is in no cache, as all of the memory of a machine with `coherent: true`, is left alone, so that a program that
  # does all that such a machine needs runs on every one. A coherent cache loses nothing when it is invalidated.
  class Cache
    # @param sim [Sim]
    # @api private
    def initialize(sim)
      @sim = sim
    end

    # Writes dirty lines to memory, and keeps none: before a device reads memory, or reads and writes it.
    #
    # @param memory [Buffer, Mapping]
    # @param offset [Integer] in bytes
    # @param length [Integer, nil] bytes; nil: to the end
    # @return [self]
    # @raise [ArgumentError] outside the memory
    def flush(memory, offset = 0, length = nil)
      operate(:flush, memory, offset, length)
    end

    # Keeps no line, and writes none: what was dirty is lost. After a device wrote memory. See {#flush}.
    #
    # @return [self]
    def invalidate(memory, offset = 0, length = nil)
      operate(:invalidate, memory, offset, length)
    end

    # Writes dirty lines to memory, and keeps all of them, clean: where the CPU goes on with what a device is to read.
    # See {#flush}.
    #
    # @return [self]
    def write_back(memory, offset = 0, length = nil)
      operate(:write_back, memory, offset, length)
    end

    # Sees to it that memory has what the cache has, and keeps all lines, clean: before a device uses what is shared
    # with it. Other than {#write_back} it looks at memory first, and does not write a dirty line whose bytes that has
    # already: `sim.stats[:cache][:write_backs]` counts those that it writes. See {#flush}.
    #
    # @return [self]
    def clean(memory, offset = 0, length = nil)
      operate(:clean, memory, offset, length)
    end

    # @param memory [Buffer, Mapping]
    # @param offset [Integer] in bytes
    # @param length [Integer, nil] bytes; nil: to the end
    # @return [Array<Hash{Symbol => Object}>] of each line that the range touches `:address`, of its first byte;
    #   `:valid`, whether the cache has it; `:dirty`, whether the CPU wrote it since
    # @raise [ArgumentError] outside the memory
    def lines(memory, offset = 0, length = nil)
      @sim.__send__(:native_lines, *range(memory, offset, length)).map do |address, valid, dirty|
        { address: address, valid: valid, dirty: dirty }
      end
    end

    # @return [String]
    def inspect
      "#<#{self.class} of #{@sim.inspect}>"
    end

    private

    def operate(operation, memory, offset, length)
      @sim.__send__(:native_cache, operation, *range(memory, offset, length))
      self
    end

    def range(memory, offset, length)
      buffer = memory.is_a?(Mapping) ? memory.buffer : memory
      raise TypeError, "#{memory.class} is neither a DMA::Buffer nor a DMA::Mapping" unless buffer.is_a?(Buffer)

      [buffer, offset, length || [buffer.size - offset, 0].max]
    end
  end
end
