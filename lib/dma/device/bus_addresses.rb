# frozen_string_literal: true

module DMA
  class Device
    # Memory at bus addresses. {#unmap}, {#sync_for_cpu} and {#sync_for_device} are calls of drivers of the kernel
    # (dma_unmap_single, dma_sync_single_for_cpu and dma_sync_single_for_device; Documentation/core-api/dma-api.rst),
    # for those that were ported. They find the {Mapping} of an address, which somebody has to keep: it ends when it is
    # collected.
    module BusAddresses
      # Gives memory bus addresses, by which the device reaches it until the mapping is taken away; a file reaches it by
      # its own address, and that is it. Its pages are locked meanwhile, or pinned for a PCI function. A transfer of a
      # {Buffer} needs none: it is mapped while the transfer lasts.
      #
      # @param memory [Buffer, IO::Buffer, Integer, #to_ptr] memory; what is no Buffer is wrapped, see {Buffer.wrap}
      # @param size [Integer, nil] bytes; nil: all that the memory has
      # @param type [:coherent, :streaming, :consistent] `:coherent` needs no sync; `:streaming` is for one direction,
      #   `:consistent` for both, and each wants {Mapping#sync_for_device} and {Mapping#sync_for_cpu} between turns
      # @param direction [:bidirectional, :to_device, :from_device]
      # @param contiguous [Boolean] in one segment. Behind an IOMMU every mapping is; without one its pages have to lie
      #   in a row of physical memory
      # @param pin [Boolean] false, on a simulated machine without an IOMMU: its pages may move ({Sim#migrate}), and the
      #   device is not told
      # @param exception [Boolean] false: memory that cannot be mapped gives a mapping that says so, when it is asked
      #   ({Mapping#error?}), which is to be done before anything else, as dma_mapping_error of the kernel
      # @yieldparam mapping [Mapping] which ends with the block
      # @return [Mapping, Object]
      # @raise [LockLimitError] past RLIMIT_MEMLOCK
      # @raise [SystemCallError] where no addresses are left, or no memory: Errno::ENOMEM where no pages lie in a row,
      #   with the largest run that does; Errno::ENOSPC where nothing in reach is left, or no bounce buffer
      # @raise [ArgumentError] for `pin: false` where memory is always pinned
      # @raise [BusyError] where another simulated machine has the memory in its cache
      def map(memory, size = nil, type: :coherent, direction: :bidirectional, contiguous: false, pin: true,
              exception: true)
        unless %i[coherent streaming consistent].include?(type)
          raise ArgumentError, "type: #{type.inspect} is none of :coherent, :streaming, :consistent"
        end
        if type == :consistent && direction != :bidirectional
          raise ArgumentError, "a consistent mapping is for both directions; one direction is type: :streaming"
        end

        place = { contiguous: contiguous, pin: pin }.each { |name, value| Sim.__send__(:boolean, value, name) }
        mapping = map_buffer(Buffer.wrap(memory, size), type, direction, exception, place.values)
        return mapping unless block_given?

        begin
          yield mapping
        ensure
          mapping.unmap unless mapping.unmapped?
        end
      end

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
