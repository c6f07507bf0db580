# frozen_string_literal: true

module DMA
  module Debug
    # Things that lie at addresses of memory, found by these: anything with `low` and `high`, the addresses of its first
    # byte and of the one behind its last.
    class Places
      # Bits of an address within a bucket.
      BUCKET = 21
      private_constant :BUCKET

      # @return [Integer] how many there are
      attr_reader :size

      def initialize
        @buckets = Hash.new { |buckets, number| buckets[number] = [] }
        @size = 0
      end

      def add(thing)
        buckets_of(thing.low, thing.high) { |number| @buckets[number] << thing }
        @size += 1
      end

      def delete(thing)
        found = false
        buckets_of(thing.low, thing.high) do |number|
          next unless @buckets.key?(number)

          found = true if @buckets[number].reject! { |other| other.equal?(thing) }
          @buckets.delete(number) if @buckets[number].empty?
        end
        @size -= 1 if found
      end

      # Those that share bytes with a range, in the order in which they were added.
      def overlapping(low, high)
        found = []
        buckets_of(low, high) do |number|
          next unless @buckets.key?(number)

          @buckets[number].each do |thing|
            found << thing if thing.low < high && low < thing.high && found.none? { |other| other.equal?(thing) }
          end
        end
        found
      end

      # All of them, each once.
      def to_a
        @buckets.values.flatten(1).uniq(&:__id__)
      end

      private

      def buckets_of(low, high, &)
        (low >> BUCKET).upto((high - 1) >> BUCKET, &)
      end
    end
  end
end
