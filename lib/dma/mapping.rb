# frozen_string_literal: true

module DMA
  # Memory as a device sees it, from {Device#map} on until {#unmap}, or until it is collected, which is not before its
  # transfers have ended. The memory cannot be freed meanwhile.
  #
  # On a simulated machine whose caches do not follow devices (`coherent: false`), what the CPU sees of it, by the
  # methods of {#buffer}, and what the device sees are two things: see {#sync_for_device}, {#sync_for_cpu}, and {Cache}.
  class Mapping
    # @!attribute [r] handle
    #   @return [Integer] a number that no other mapping has

    # @!attribute [r] device
    #   @return [Device]

    # @!attribute [r] buffer
    #   @return [Buffer] the memory: a slice of the Buffer that was mapped, whose end is not that of the memory

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
    #   Takes the mapping away: from now on the device finds nothing at its addresses (with `invalidation: :lazy` of
    #   {Sim.new} a little later), and the CPU has what it wrote, as after {#sync_for_cpu} of all. A second call does
    #   nothing.
    #   @return [self]

    # @!method unmapped?
    #   @return [Boolean]

    # @return [SystemCallError, Error, nil] why {Device#map} with `exception: false` could not map the memory
    attr_reader :error

    # Whether the memory could not be mapped: it has no address then, and nothing to be taken away. To be asked where it
    # was mapped with `exception: false`.
    #
    # @return [Boolean]
    def error?
      !error.nil?
    end

    # Hands a range over to the device: what the CPU wrote is there for it to read. Where caches follow devices, as
    # those of a PC do, and where the mapping is `:coherent`, that is a barrier and nothing more. On a simulated machine
    # with `coherent: false` the lines that the range touches are written to memory; of a mapping `:from_device`, which
    # the device is to write, they are dropped, with what the CPU wrote to them. {Device#map} does so with all of it.
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

    # Takes a range over from the device: what it wrote is there for the CPU to read. On a simulated machine with
    # `coherent: false` the lines that the range touches are dropped, with what the CPU wrote to them since; of a
    # mapping `:to_device` there is nothing to do. See {#sync_for_device}.
    #
    # @return [self]
    def sync_for_cpu(offset = 0, length = nil)
      native_sync(offset, length, false)
      self
    end

    # @return [String] address, size, direction and type
    def inspect
      return "#<#{self.class} #{handle} #{error? ? "failed: #{error.class}" : "unmapped"}>" if unmapped?

      format("#<%<class>s %<handle>d 0x%<address>x+%<size>d %<direction>s %<type>s>",
             class: self.class, handle: handle, address: address, size: size, direction: direction, type: type)
    end

    private

    # The offset in the mapping of a bus address; nil where it lies outside.
    def offset_of(address)
      before = 0
      segments.each do |start, length|
        return before + address - start if address.between?(start, start + length - 1)

        before += length
      end
      nil
    end
  end
end
