# frozen_string_literal: true

module DMA
  module Debug
    # The rules: what each method returns is broken, or nil. Those of the kernel are in kernel/dma/debug.c, whose
    # functions are named here.
    module Rules
      # Bytes of a line of the CPU's cache.
      LINE = 64
      private_constant :LINE

      # Software takes a mapping away (check_unmap).
      def unmapping(mapping)
        entry = entry_of(mapping) or return
        return twice(entry, "unmap of a mapping that was taken away before") if entry.unmapped
        return unchecked(entry) unless entry.checked
        return in_flight(entry) unless entry.failed?

        Violation.new(:unmapped, "unmap of memory that could not be mapped", entry, "nothing is mapped: leave it")
      end

      # The same of one that begins at a bus address.
      def unmapping_at(mapping, size, direction)
        return [] unless (entry = entry_of(mapping))

        [wrong_size(entry, size), wrong_direction("unmap", entry, direction)].compact
      end

      # Software syncs a range of a mapping (check_sync).
      def syncing(mapping, name, offset, length)
        entry = entry_of(mapping) or return
        if entry.unmapped
          return Violation.new(:unmapped, "#{name} of a mapping that was taken away", entry, "sync before unmap")
        end

        outside(name, entry, offset, length || 0) if entry.alive?
      end

      # The same of one in which a bus address lies.
      def syncing_at(mapping, offset, name, size, direction)
        return [] unless (entry = entry_of(mapping))

        [wrong_direction(name, entry, direction), outside(name, entry, offset, size || 0)].compact
      end

      # Software unmaps or syncs by an address where nothing is mapped.
      def nothing_at(name, device, address)
        freed = synchronize { freed_at(device.__id__, address) }
        place = format("%<name>s at bus address 0x%<address>x", name: name, address: address)
        return twice(freed, "#{place}, whose mapping was taken away before") if freed && name == "unmap"

        Violation.new(:unmapped, "#{place}, where nothing is mapped for #{device.name}", freed,
                      "give the address of a DMA::Mapping that lives")
      end

      # The CPU reads or writes bytes of memory.
      def access(buffer, offset, length, write)
        return if @mapped.size.zero? && @parts.size.zero?
        return unless length.positive? && offset >= 0 && offset + length <= buffer.size

        first = buffer.address + offset
        synchronize { owned(first, first + length, write) || in_use(first, first + length, write) }
      end

      # A transfer is submitted that uses bytes of mappings which were not handed over.
      def unfit(live)
        synchronize { live.mapped.filter_map { |entry, first, last| device_access(entry, first, last) } }
      end

      private

      def device_access(entry, first, last)
        return unless entry.streaming?

        from, to = entry.owned_by(:cpu, first, last)
        return unless from

        Violation.new(:device_access, "a transfer of #{bytes(from, to, entry)} that belong to the CPU", entry,
                      "hand them over with sync_for_device first")
      end

      def twice(entry, what)
        Violation.new(:double_unmap, what, entry, "one unmap for each map is enough: find out who else does it")
      end

      # The device goes on with what it was told, and the addresses may be somebody else's by then.
      def in_flight(entry)
        live = synchronize { entry.users.each_key.find(&:alive?) } or return
        Violation.new(:in_flight, "unmap of #{count(entry.size)} that a transfer which is under way uses", live,
                      "wait for it first, or stop it (DMA::Channel#reset)")
      end

      # check_unmap: map_err_type is MAP_ERR_NOT_CHECKED.
      def unchecked(entry)
        Violation.new(:error_unchecked, "unmap of a mapping whose error nobody looked at", entry,
                      "ask for DMA::Mapping#error? after map(exception: false), or leave exception: out")
      end

      def freed_at(id, address)
        @freed.reverse_each.find { |entry| entry.device == id && entry.segments.first.first == address }
      end

      def wrong_size(entry, size)
        return if size.nil? || size == entry.size

        Violation.new(:wrong_size, "unmap of #{size} bytes, where #{entry.size} were", entry, "give the size as mapped")
      end

      # A mapping for both directions may be synced for either; unmapped it is as it was mapped.
      def wrong_direction(name, entry, direction)
        return if direction.nil? || direction == entry.direction
        return if name != "unmap" && entry.direction == :bidirectional

        Violation.new(:wrong_direction, "#{name} with direction: #{direction.inspect} of memory that is for " \
                                        "#{entry.direction.inspect}", entry, "give the direction as mapped")
      end

      def outside(name, entry, offset, length)
        return if offset + length <= entry.size

        Violation.new(:sync_outside, "#{name} of bytes #{offset}...#{offset + length}, where #{entry.size} are", entry,
                      "sync no more than the mapping has")
      end

      # check_sg_segment.
      def segment_limit(entry, most)
        longest = entry.segments.map(&:last).max
        return if most.nil? || longest <= most

        Violation.new(:segment_limit, "a segment of #{longest} bytes for a device that takes #{most} at once", entry,
                      "map parts of no more than that (DMA::Buffer#slice), or give the buffer to the transfer")
      end

      # dma_debug_device_change: pending allocations of a device that goes.
      def leak(device, mappings, lives)
        entry = mappings.first || lives.first or return
        counts = { "mapping" => mappings.size, "transfer" => lives.size }.reject { |_, count| count.zero? }
        left = counts.map { |name, count| "#{count} #{name}#{"s" if count > 1}" }.join(" and ") << " left"
        left << ", among them one" if mappings.size + lives.size > 1
        Violation.new(:leak, "#{device.name} is closed with #{left}", entry,
                      "unmap what was mapped, and wait for what was submitted")
      end

      # The memory of two transfers is the same, and the device writes to it: who comes last wins.
      def overlap(live)
        live.parts.each do |part|
          other = users(part.low, part.high, part.written).find { |known| conflict?(part, known) }
          next unless other

          range = bytes([part.low, other.low].max, [part.high, other.high].min)
          return Violation.new(:overlap, "a transfer uses #{range} that another one uses too, and one of them writes " \
                                         "there; the other is under way", other.live,
                               "wait for that first, or use its channel")
        end
        nil
      end

      # Those of one channel are carried out in their order.
      def conflict?(part, known)
        !part.live.same_channel?(known.live) && known.live.alive? && known.memory?
      end

      def owned(first, last, write)
        near = reach(first, last, write, coherent: false)
        @mapped.overlapping(*near).each do |entry|
          next unless entry.streaming? && (write || entry.device_writes?) && entry.alive?

          from, to = entry.owned_by(:device, *reach(first, last, write, coherent: entry.coherent?))
          next unless from

          remedy = "call sync_for_cpu for them first, or unmap"
          remedy = "give either lines of its own, or #{remedy}" if beside?(first, last, from, to)
          return Violation.new(:cpu_access, "#{cpu(write, first, last, from, to)} to the device", entry, remedy)
        end
        nil
      end

      def in_use(first, last, write)
        near = reach(first, last, write, coherent: false)
        part = users(*near, write).find { |known| used?(known, first, last, write) } or return
        what = cpu(write, first, last, part.low, part.high)
        Violation.new(:cpu_access, "#{what} to a transfer that is under way", part.live, "wait for it first")
      end

      def used?(part, first, last, write)
        return false if part.apart

        low, high = reach(first, last, write, coherent: part.live.coherent)
        part.low < high && low < part.high && part.live.alive? && part.memory?
      end

      # What the CPU touches where it accesses a range: where its cache is not coherent, it writes whole lines.
      def reach(first, last, write, coherent:)
        return [first, last] if coherent || !write

        [first / LINE * LINE, (last + LINE - 1) / LINE * LINE]
      end

      def cpu(write, first, last, from, to)
        near = beside?(first, last, from, to)
        range = near ? "#{bytes(first, last)}, in a cache line with #{bytes(from, to)}" : bytes(first, last)
        "the CPU #{write ? "writes" : "reads"} #{range} that belong#{"s" if (near ? to - from : last - first) == 1}"
      end

      # Whether bytes are none of others, and share a line with them.
      def beside?(first, last, from, to)
        first >= to || from >= last
      end

      def count(bytes)
        bytes == 1 ? "a byte" : "#{bytes} bytes"
      end

      # Bytes of memory, in words; of a mapping also where in it.
      def bytes(first, last, entry = nil)
        place = entry ? "bytes #{first - entry.low}...#{last - entry.low} of the mapping" : count(last - first)
        format("%<place>s at 0x%<first>x", place: place, first: first)
      end
    end
  end
end
