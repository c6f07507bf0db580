# frozen_string_literal: true

require "monitor"
require_relative "places"
require_relative "entries"
require_relative "rules"

module DMA
  module Debug
    # What is mapped and under way in a process. No code of the program runs under its lock: it returns what it finds
    # broken ({Rules} finds it), and the hooks tell of that afterwards.
    class Tracker
      include Rules

      # Mappings that were taken away whose addresses are remembered.
      FREED = 256
      # How many entries there are before those that the GC took are looked for.
      SWEEP = 256
      private_constant :FREED, :SWEEP

      # @return [Integer] the process
      attr_reader :pid

      def initialize
        @pid = Process.pid
        @monitor = Monitor.new
        @mapped = Places.new
        @parts = Places.new
        @writes = Places.new
        @lives = {}.compare_by_identity
        @freed = []
        @limits = {}
        @count = 0
        @sweep_at = SWEEP
      end

      # Whether this thread may lock what is known.
      def free?
        synchronize { true }
      rescue ThreadError
        false
      end

      # A mapping was made.
      def map(mapping, checked:)
        limits = limits_of(mapping.device)
        entry = Mapped.new(mapping, self, checked: checked, coherent: limits[:coherent] != false)
        mapping.instance_variable_set(:@debug, entry)
        return if entry.failed?

        synchronize do
          sweep
          @mapped.add(entry)
          segment_limit(entry, limits[:max_length])
        end
      end

      # What is known of a mapping; nil if it was made while nobody checked.
      def entry_of(mapping)
        entry = mapping.instance_variable_get(:@debug)
        entry if entry&.tracker.equal?(self)
      end

      # A mapping was taken away by software.
      def unmap(mapping)
        entry = entry_of(mapping)
        return if entry.nil? || entry.failed? || entry.unmapped

        synchronize do
          entry.unmapped = true
          @mapped.delete(entry)
          @freed.shift if @freed.size == FREED
          @freed << entry
        end
      end

      # Bytes of a mapping were synced.
      def sync(mapping, owner, offset, length)
        entry = entry_of(mapping) or return
        synchronize { entry.give(owner, entry.low + offset, entry.low + offset + length) }
      end

      # A transfer begins. Returns what is broken by that.
      def submit(live)
        synchronize do
          sweep
          broken = overlap(live)
          live.number = @count += 1
          keep(live)
          broken
        end
      end

      # Software was told of a transfer's end, or it has not begun.
      def forget(live)
        synchronize do
          ended = drop(live) ? [live] : []
          while (one = ended.pop)
            ended.concat(earlier(one).each { |other| drop(other) })
          end
        end
      end

      # The transfers that are live, and fit.
      def lives
        synchronize { @lives.keys.select { |live| live.alive? && yield(live) } }
      end

      # A device is about to be closed: what was left alive.
      def closing(device)
        id = device.__id__
        synchronize { leak(device, mappings_of(id), @lives.keys.select { |live| live.device == id && live.alive? }) }
      end

      # It was closed, and nothing of it is left.
      def close(device)
        id = device.__id__
        synchronize do
          @mapped.to_a.each { |entry| @mapped.delete(entry) if entry.device == id }
          @lives.each_key { |live| drop(live) if live.device == id }
          @freed.reject! { |entry| entry.device == id }
          @limits.delete(id)
        end
      end

      # The memory at a bus address as a device sees it.
      def mappings_of(id)
        synchronize { @mapped.to_a.select { |entry| entry.device == id && entry.alive? } }
      end

      # What a device takes, which does not change.
      def limits_of(device)
        @limits[device.__id__] ||= device.capabilities.slice(:coherent, :max_length)
      end

      private

      def synchronize(&)
        @monitor.synchronize(&)
      end

      # Those that a transfer has waited for: of its channel, from before it.
      def earlier(live)
        others = @lives.keys
        others = live.parts.flat_map { |part| users(part.low, part.high, part.written).map(&:live) } unless live.fence
        others.select { |other| other.same_channel?(live) && other.number < live.number }
      end

      # Parts of transfers that somebody who uses that memory too has to wait for: who reads it, for those that write.
      def users(low, high, write)
        (write ? @parts : @writes).overlapping(low, high)
      end

      def keep(live)
        @lives[live] = true
        live.parts.each do |part|
          @parts.add(part)
          @writes.add(part) if part.written
        end
        live.mapped.each { |entry,| entry.users[live] = true }
      end

      # Whether it was known.
      def drop(live)
        live.over = true
        return false unless @lives.delete(live)

        live.parts.each { |part| [@parts, @writes].each { |places| places.delete(part) } }
        live.mapped.each { |entry,| entry.users.delete(live) }
        true
      end

      # Forgets what the GC took, each time that there is twice as much as was left.
      def sweep
        return if @mapped.size + @lives.size < @sweep_at

        @mapped.to_a.each { |entry| @mapped.delete(entry) unless entry.alive? }
        @lives.each_key { |live| drop(live) unless live.alive? }
        @sweep_at = [SWEEP, 2 * (@mapped.size + @lives.size)].max
      end
    end
  end
end
