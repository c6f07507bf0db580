# frozen_string_literal: true

module DMA
  class Device
    # The calls by bus address that drivers of the kernel make (dma_unmap_single, dma_sync_single_for_cpu and
    # dma_sync_single_for_device; Documentation/core-api/dma-api.rst), for drivers that were ported. They find the
    # {Mapping} of an address, which somebody has to keep: it ends when it is collected.
    module BusAddresses
      # Takes the mapping away that begins at a bus address.
      #
      # @param address [Integer] {Mapping#address}
      # @param size [Integer, nil] bytes that were mapped; nil, or another: not looked at, unless by {DMA.debug}
      # @param direction [Symbol, nil] as it was mapped; the same
      # @return [nil]
      # @raise [MisuseError] where nothing is mapped
      def unmap(address, size = nil, direction: nil)
        mapping_at(address, size, direction, first: true).first.unmap
        nil
      end

      # Takes a range over from the device, see {Mapping#sync_for_cpu}.
      #
      # @param address [Integer] bus address, anywhere in a mapping
      # @param size [Integer, nil] bytes; nil, or more than there are: to the end of the mapping
      # @param direction [Symbol, nil] as it was mapped; not looked at, unless by {DMA.debug}
      # @return [nil]
      # @raise [MisuseError] where nothing is mapped
      def sync_for_cpu(address, size = nil, direction: nil)
        mapping, offset, length = part_at(address, size, direction)
        mapping.sync_for_cpu(offset, length)
        nil
      end

      # Hands a range over to the device, see {Mapping#sync_for_device} and {#sync_for_cpu}.
      #
      # @return [nil]
      def sync_for_device(address, size = nil, direction: nil)
        mapping, offset, length = part_at(address, size, direction)
        mapping.sync_for_device(offset, length)
        nil
      end

      private

      # Maps a buffer; `place`: whether in one piece, and pinned.
      def map_buffer(buffer, type, direction, exception, place)
        mapping = native_map(buffer, type, direction, place)
        @mapped[mapping.handle] = mapping if @mapped
        mapping
      rescue SystemCallError, LockLimitError, UnsupportedError => e
        raise if exception

        native_map_failed(buffer, type, direction).tap { |failed| failed.instance_variable_set(:@error, e) }
      end

      def part_at(address, size, direction)
        mapping, offset = mapping_at(address, size, direction)
        rest = mapping.size - offset
        [mapping, offset, size ? [DMA.__send__(:natural, size, "size"), rest].min : rest]
      end

      # The mapping in which a bus address lies (`first`: which begins there), and the offset in it; of several, the one
      # that fits best.
      def mapping_at(address, size, direction, first: false)
        found = find_mapping(address, size, direction, first: first)
        return found if found

        raise MisuseError, format("nothing is mapped at bus address 0x%<address>x for %<name>s: it was never mapped, " \
                                  "or has been unmapped; give the address of a DMA::Mapping that lives",
                                  address: address, name: name)
      end

      # The mappings of this device. They are written down from when one is first looked for by its address: programs
      # that do not do so pay nothing.
      def mapped
        unless @mapped
          @mapped = ObjectSpace::WeakMap.new
          ObjectSpace.each_object(Mapping) { |one| @mapped[one.handle] = one if one.device.equal?(self) }
        end
        @mapped.values
      end

      def find_mapping(address, size, direction, first: false)
        DMA.__send__(:natural, address, "an address", 64)
        found = mapped.filter_map do |mapping|
          offset = mapping.unmapped? ? nil : mapping.__send__(:offset_of, address)
          [mapping, offset] if offset && (offset.zero? || !first)
        end
        found.max_by do |mapping, _|
          [mapping.size == size ? 1 : 0, mapping.direction == direction ? 1 : 0, mapping.handle]
        end
      end
    end
  end
end
