# frozen_string_literal: true

require_relative "tracker"

module DMA
  module Debug
    # Methods of the library that tell the checker what is done, and ask it first. They are prepended when it is first
    # switched on; here those of memory and of mappings.
    module Hooks
      # What the CPU does to memory.
      #
      # @private
      module Buffer
        def get_value(type, offset)
          cpu(offset, DMA::Buffer.__send__(:native_size_of, type), false) if Debug.mode
          super
        end

        def set_value(type, offset, value)
          cpu(offset, DMA::Buffer.__send__(:native_size_of, type), true) if Debug.mode
          super
        end

        private

        def native_get_string(offset, length)
          cpu(offset, length, false)
          super
        end

        def native_set_string(string, offset, length, source_offset)
          bytes = String.try_convert(string)&.bytesize
          cpu(offset, length || (bytes - source_offset), true) if bytes && source_offset.is_a?(Integer)
          super
        end

        def native_copy(source, offset, length, source_offset)
          memory = source.is_a?(DMA::Buffer) || source.is_a?(IO::Buffer)
          return super unless memory && source_offset.is_a?(Integer)

          source.__send__(:cpu, source_offset, length, false) if source.is_a?(DMA::Buffer)
          cpu(offset, length || (source.size - source_offset), true)
          super
        end

        def native_clear(byte, offset, length)
          cpu(offset, length, true)
          super
        end

        def native_compare(other)
          if size == other.size
            cpu(0, nil, false)
            other.__send__(:cpu, 0, nil, false) if other.is_a?(DMA::Buffer)
          end
          super
        end

        # Bytes are read or written. What is no range is refused later.
        def cpu(offset, length, write)
          return unless offset.is_a?(Integer) && (length.nil? || length.is_a?(Integer))

          Debug.check { |tracker| tracker.access(self, offset, length || (size - offset), write) }
        end
      end

      # What is mapped.
      #
      # @private
      module Mapping
        def unmap
          Debug.check(quiet: !$ERROR_INFO.nil?) { |tracker| tracker.unmapping(self) }
          super.tap { Debug.tracker&.unmap(self) }
        end

        def sync_for_device(offset = 0, length = nil)
          synced(:device, "sync_for_device", offset, length) { super }
        end

        def sync_for_cpu(offset = 0, length = nil)
          synced(:cpu, "sync_for_cpu", offset, length) { super }
        end

        def error
          Debug.tracker&.entry_of(self)&.checked = true
          super
        end

        private

        def synced(owner, name, offset, length)
          # What is no range is refused later.
          if offset.is_a?(Integer) && (length.nil? || length.is_a?(Integer))
            Debug.check { |tracker| tracker.syncing(self, name, offset, length) }
          end
          yield.tap { Debug.tracker&.sync(self, owner, offset, length || (size - offset)) }
        end
      end

      # Mappings by address, and the end of all that a device has.
      #
      # @private
      module Device
        def unmap(address, size = nil, direction: nil)
          found = find_mapping(address, size, direction, first: true)&.first
          Debug.check do |tracker|
            found ? tracker.unmapping_at(found, size, direction) : tracker.nothing_at("unmap", self, address)
          end
          super if found || !Debug.tracker
        end

        def sync_for_cpu(address, size = nil, direction: nil)
          synced("sync_for_cpu", address, size, direction) { super }
        end

        def sync_for_device(address, size = nil, direction: nil)
          synced("sync_for_device", address, size, direction) { super }
        end

        def reset
          id = __id__
          Debug.ending(->(live) { live.device == id }) { super }
        end

        def close
          tracker = closed? ? nil : Debug.tracker
          left = tracker&.closing(self)
          passing = $ERROR_INFO
          super.tap do
            tracker&.close(self)
            Debug.tell(left, quiet: !passing.nil?) if left
          end
        end

        private

        def map_buffer(_buffer, _type, _direction, exception, _place)
          mapping = super
          begin
            Debug.check { |tracker| tracker.map(mapping, checked: exception) }
          rescue MisuseError
            # Nobody gets it.
            mapping.error
            mapping.unmap
            raise
          end
          mapping
        end

        def synced(name, address, size, direction)
          found = find_mapping(address, size, direction)
          DMA.__send__(:natural, size, "size") if size
          Debug.check do |tracker|
            found ? tracker.syncing_at(*found, name, size, direction) : tracker.nothing_at(name, self, address)
          end
          yield if found || !Debug.tracker
        end
      end
    end
  end
end
