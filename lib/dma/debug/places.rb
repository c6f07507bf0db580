# frozen_string_literal: true

module DMA
  module Debug
    # Things that lie at addresses of memory, found by these: anything with `low` and `high`, the addresses of its first
    # byte and of the one behind its last. Things of about the same size are together, in buckets as large as they are:
    # a small range is found among many in a few steps, and what is large is in no more than two buckets.
    #
    # @private
    class Places
      # Bits of an address within the smallest bucket.
      SMALLEST = 12
      private_constant :SMALLEST

      # @return [Integer] how many there are
      attr_reader :size

      def initialize
        @levels = {}
        @size = 0
      end

      def add(thing)
        bits = bits_of(thing)
        level = @levels[bits] ||= {}
        buckets_of(bits, thing) { |number| (level[number] ||= {}.compare_by_identity)[thing] = true }
        @size += 1
      end

      def delete(thing)
        bits = bits_of(thing)
        level = @levels[bits] or return
        found = false
        buckets_of(bits, thing) do |number|
          bucket = level[number] or next
          found = true if bucket.delete(thing)
          level.delete(number) if bucket.empty?
        end
        @levels.delete(bits) if level.empty?
        @size -= 1 if found
      end

      # Those that share bytes with a range.
      def overlapping(low, high)
        found = {}.compare_by_identity
        @levels.each do |bits, level|
          near(level, low >> bits, (high - 1) >> bits) do |thing|
            found[thing] = true if thing.low < high && low < thing.high
          end
        end
        found.keys
      end

      # All of them, each once.
      def to_a
        @levels.each_value.flat_map(&:values).reduce({}.compare_by_identity, :update).keys
      end

      private

      def bits_of(thing)
        [(thing.high - thing.low - 1).bit_length, SMALLEST].max
      end

      def buckets_of(bits, thing, &)
        (thing.low >> bits).upto((thing.high - 1) >> bits, &)
      end

      # The things of a level in the buckets of these numbers, of which there may be more than buckets.
      def near(level, first, last, &)
        if last - first < level.size
          first.upto(last) { |number| level[number]&.each_key(&) }
        else
          level.each { |number, bucket| bucket.each_key(&) if number.between?(first, last) }
        end
      end
    end
  end
end
