# frozen_string_literal: true

module DMA
  # A descriptor as it lies in a {Ring}: what is to be moved, and the status that the device writes back.
  #
  # `source` and `destination` are bus addresses of memory or device addresses, as `flags` say: 0x01 to the device,
  # 0x02 from it, both within it; 0x04 interrupt, 0x08 fence, 0x10 chained to `next`. `status` is that of
  # {Transfer#status}, `index` the slot.
  Descriptor = Struct.new(:source, :destination, :length, :flags, :next, :status, :index) # rubocop:disable Lint/StructNewOverride

  # A ring of descriptors in memory that a device can fetch them from. It stands alone: fill it, submit it to a channel
  # ({Channel#submit}), or stand in for the device with {#complete}; then take off what has ended.
  #
  # One slot stays free: a ring of n slots holds n - 1 descriptors.
  class Ring
    DIRECTIONS = { to_device: 0x01, from_device: 0x02, within: 0x03 }.freeze
    INTERRUPT = 0x04
    FENCE = 0x08
    private_constant :DIRECTIONS, :INTERRUPT, :FENCE

    # @!attribute [r] size
    #   @return [Integer] slots

    # @!attribute [r] capacity
    #   @return [Integer] descriptors that it can hold

    # @!attribute [r] pending
    #   @return [Integer] descriptors that were added and not taken off

    # @!attribute [r] head
    #   @return [Integer] slot of the oldest of them

    # @!attribute [r] tail
    #   @return [Integer] slot that the next one goes to

    # @!attribute [r] address
    #   @return [Integer] address of the first slot; a slot has 40 bytes

    # @return [Array<Mapping>] mappings that are kept as long as the ring, see {Device#configure_transfer}
    attr_reader :mappings

    class << self
      # @param size [Integer] slots, 2 or more
      # @return [Ring]
      # @raise [ArgumentError]
      def new(size)
        native_new(DMA.__send__(:natural, size, "size", 16)).tap { |ring| ring.instance_variable_set(:@mappings, []) }
      end

      private

      # A ring that describes a transfer, with a descriptor for each piece of memory.
      def describe(device, source, destination, length)
        from = pieces(device, source, length, :to_device)
        to = pieces(device, destination, length, :from_device)
        raise ArgumentError, "both are memory, and a device moves bytes to or from itself" if from && to

        mapping, segments = from || to || [nil, [[nil, length]]]
        ring = new(segments.size + 1)
        ring.mappings.push(mapping) if mapping
        offset = 0
        segments.each_with_index do |(address, bytes), index|
          ends = [from ? address : source + offset, to ? address : destination + offset]
          ring.add_transfer(*ends, bytes, direction: direction(from, to), interrupt: index == segments.size - 1)
          offset += bytes
        end
        ring
      end

      def direction(from, to)
        return :to_device if from

        to ? :from_device : :within
      end

      # The mapping of some memory and its pieces, as many as `length` bytes take and none longer than the device
      # takes.
      def pieces(device, memory, length, direction)
        return if memory.is_a?(Integer)

        mapping = memory if memory.is_a?(Mapping)
        mapping ||= device.__send__(:native_map, Buffer.wrap(memory, length), :coherent, direction, [false, true])
        raise ArgumentError, "#{length} bytes are more than the #{mapping.size} of the mapping" if length > mapping.size

        most = device.capabilities[:max_length]
        left = length
        segments = mapping.segments.flat_map do |address, bytes|
          bytes = [bytes, left].min
          left -= bytes
          0.step(bytes - 1, most).map { |offset| [address + offset, [most, bytes - offset].min] }
        end
        [mapping, segments]
      end
    end

    # Adds a descriptor at the tail.
    #
    # @param source [Integer, Mapping] address to read from: of memory the bus address, see {Mapping#address}
    # @param destination [Integer, Mapping] address to write to
    # @param length [Integer] bytes, less than 2**32
    # @param direction [:to_device, :from_device, :within, nil] which of the two is memory; nil: what is a mapping, or
    #   else the source
    # @param interrupt [Boolean] the device raises an interrupt after it
    # @param fence [Boolean] the device does not carry it out where one before it failed
    # @return [Integer] its slot
    # @raise [RingFullError] "Descriptor ring full"; every slot is as it was
    def add_transfer(source, destination, length, direction: nil, interrupt: false, fence: false)
      direction ||= destination.is_a?(Mapping) ? :from_device : :to_device
      memory = { to_device: destination, from_device: source, within: source }[direction]
      raise ArgumentError, "a #{direction} transfer has its memory on the other side" if memory.is_a?(Mapping)

      flags = DIRECTIONS.fetch(direction) do
        raise ArgumentError, "direction: #{direction.inspect} is none of :to_device, :from_device, :within"
      end
      flags |= INTERRUPT if interrupt
      flags |= FENCE if fence
      native_add(bus_address(source), bus_address(destination), DMA.__send__(:natural, length, "length", 32), flags)
    end

    # Takes off the descriptors that have ended, in order, and passes them: one that has ended behind one that has not
    # waits for it.
    #
    # @yieldparam descriptor [Descriptor]
    # @return [Integer] how many
    def process_completions
      count = 0
      while (fields = native_pop)
        count += 1
        yield Descriptor.new(*fields) if block_given?
      end
      count
    end

    # Ends a descriptor, as a device does.
    #
    # @param index [Integer] its slot
    # @param status [Symbol] see {Transfer#status}
    # @return [self]
    # @raise [ArgumentError] for a slot without a pending descriptor
    def complete(index, status = :complete)
      native_complete(index, status)
      self
    end

    # @param index [Integer] a slot
    # @return [Descriptor] what lies there, a pending descriptor or an old one
    # @raise [ArgumentError] outside the ring
    def [](index)
      Descriptor.new(*native_slot(index))
    end

    # @return [Array<Descriptor>] the pending ones, oldest first
    def to_a
      Array.new(pending) { |offset| self[(head + offset) % size] }
    end

    # @return [Boolean]
    def full?
      pending == capacity
    end

    # @return [Boolean]
    def empty?
      pending.zero?
    end

    # @return [String] size and how full it is
    def inspect
      "#<#{self.class} #{pending}/#{capacity}>"
    end

    private

    def bus_address(value)
      case value
      when Mapping then value.address
      when Integer then DMA.__send__(:natural, value, "an address")
      else raise TypeError, "#{value.class} has no bus address; map it first (DMA::Device#map)"
      end
    end
  end
end
