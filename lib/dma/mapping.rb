# frozen_string_literal: true

module DMA
  # Memory as a device sees it, from {Device#map} on until {#unmap}. The memory cannot be freed meanwhile.
  class Mapping
    # @!attribute [r] handle
    #   @return [Integer] a number that no other mapping has

    # @!attribute [r] device
    #   @return [Device]

    # @!attribute [r] buffer
    #   @return [Buffer] the memory

    # @!attribute [r] size
    #   @return [Integer] bytes

    # @!attribute [r] type
    #   @return [:coherent, :streaming, :consistent]

    # @!attribute [r] direction
    #   @return [:bidirectional, :to_device, :from_device]

    # @!attribute [r] address
    #   @return [Integer] bus address of the first byte
    #   @raise [MisuseError] once it was taken away

    # @!attribute [r] segments
    #   @return [Array<(Integer, Integer)>] bus address and length of each piece: one behind an IOMMU, else one or
    #     more for each page
    #   @raise [MisuseError] once it was taken away

    # @!method unmap
    #   Takes the mapping away: from now on the device finds nothing at its addresses. A second call does nothing.
    #   @return [self]

    # @!method unmapped?
    #   @return [Boolean]

    # Hands a range over to the device: what the CPU wrote is there for it to read.
    #
    # @param offset [Integer] in bytes
    # @param length [Integer, nil] bytes; nil: to the end
    # @return [self]
    # @raise [ArgumentError] outside the mapping
    # @raise [MisuseError] once it was taken away
    def sync_for_device(offset = 0, length = nil)
      native_sync(offset, length, true)
      self
    end

    # Takes a range over from the device: what it wrote is there for the CPU to read. See {#sync_for_device}.
    #
    # @return [self]
    def sync_for_cpu(offset = 0, length = nil)
      native_sync(offset, length, false)
      self
    end

    # @return [String] address, size, direction and type
    def inspect
      return "#<#{self.class} #{handle} unmapped>" if unmapped?

      format("#<%<class>s %<handle>d 0x%<address>x+%<size>d %<direction>s %<type>s>",
             class: self.class, handle: handle, address: address, size: size, direction: direction, type: type)
    end
  end
end
