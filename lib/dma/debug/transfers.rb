# frozen_string_literal: true

module DMA
  module Debug
    # Hooks of transfers: when they begin, and when software is told that they ended.
    module Hooks
      # Submissions, and what tells of many ends at once.
      #
      # @private
      module Channel
        def state
          super.tap { |state| Debug.ended(self) if state == :idle }
        end

        def reset
          Debug.ending(Debug.of(self)) { super }
        end

        private

        def native_submit(list, fence, *)
          return super unless (live = Debug.live(self, fence: fence))

          list.each { |source, destination, length| use(live, source, destination, length) }
          Debug.submitting(live) { super }
        end

        def native_submit_ring(ring, fence)
          return super unless (live = Debug.live(self, fence: fence, ring: ring))

          use_ring(live, ring)
          Debug.submitting(live) { super }
        end

        def native_write_string(*)
          Debug.submitting(Debug.live(self)) { super }
        end

        def native_read_string(*)
          Debug.submitting(Debug.live(self)) { super }
        end

        def native_flush
          Debug.submitting(Debug.live(self, fence: true)) { super }
        end

        def native_wait(transfer, timeout)
          super
        ensure
          Debug.told(transfer)
        end

        def drain_until(deadline, timeout)
          Debug.ending(Debug.of(self)) { super }
        rescue TimeoutError
          # The rest was given up.
          Debug.ended(self)
          raise
        end

        def native_next_ended
          super.tap { |transfer| Debug.told(transfer) if transfer }
        end

        # The memory of an element; what is none is refused later.
        def use(live, source, destination, length)
          written = source.is_a?(Integer)
          memory = written ? destination : source
          view = memory if memory.is_a?(IO::Buffer)
          memory = own_buffer(view) if view
          case memory
          when DMA::Buffer then use_buffer(live, memory, length || memory.size, written, view)
          when DMA::Mapping then use_mapping(live, memory, length || memory.size, written)
          end
        end

        def use_buffer(live, buffer, length, written, view)
          live.use(buffer, length, written: written, view: view) unless buffer.freed? || length > buffer.size
        end

        def use_mapping(live, mapping, length, written)
          return if mapping.unmapped? || length > mapping.size

          entry = live.tracker.entry_of(mapping)
          if entry
            live.use_mapped(mapping, entry, entry.low, entry.low + length, written: written)
          else
            live.use(mapping.buffer, length, written: written, apart: true)
          end
        end

        # The memory of a ring's descriptors, which say it by bus addresses.
        def use_ring(live, ring)
          tracker = live.tracker
          known = tracker.mappings_of(device.__id__).map { |entry| [entry.mapping, entry] }
          known += ring.mappings.reject { |mapping| tracker.entry_of(mapping) || mapping.unmapped? }
                       .map { |mapping| [mapping, Mapped.new(mapping, tracker, checked: true, coherent: true)] }
          ring.to_a.each do |descriptor|
            bus = { 1 => descriptor.source, 2 => descriptor.destination }[descriptor.flags & 3] or next
            use_bus(live, known, bus, descriptor.length, written: descriptor.flags.anybits?(2))
          end
        end

        def use_bus(live, known, bus, length, written:)
          known.each do |mapping, entry|
            first, last = entry.memory_at(bus, length)
            next unless first
            return live.use_mapped(mapping, entry, first, last, written: written) if live.tracker.entry_of(mapping)

            return live.use(mapping.buffer, last - first, offset: first - entry.low, written: written)
          end
        end
      end

      # What tells of one end.
      #
      # @private
      module Transfer
        def done?
          super.tap { |done| Debug.told(self) if done }
        end

        def status
          super.tap { |status| Debug.told(self) unless status == :pending }
        end

        def bytes
          super.tap { |bytes| Debug.told(self) if bytes.positive? }
        end

        private

        def native_call_back(block)
          taken = super(proc do |transfer|
            Debug.told(transfer)
            block.call(transfer)
          end)
          Debug.told(self) unless taken
          taken
        end
      end

      # Descriptors that are taken off.
      module Ring
        private

        def native_pop
          fields = super
          id = __id__
          Debug.ending(->(live) { live.ring == id }) { nil } if fields && pending.zero?
          fields
        end
      end

      # Transfers without a copy, which last as long as their call.
      module File
        private

        def native_read_into(memory, length, at)
          Debug.lasting(Debug.live_file(memory, length, written: true)) { super }
        end

        def native_write_from(memory, length, at)
          Debug.lasting(Debug.live_file(memory, length, written: false)) { super }
        end
      end
    end
  end
end
