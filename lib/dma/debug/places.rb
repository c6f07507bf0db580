# frozen_string_literal: true

module DMA
  module Debug
    # Things that lie at addresses of memory, found by these: anything with `first` and `last`, the addresses of its first
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
        buckets_of(thing.first, thing.last) { |number| @buckets[number] << thing }
        @size += 1
      end

      def delete(thing)
        found = false
        buckets_of(thing.first, thing.last) do |number|
          next unless @buckets.key?(number)

          found = true if @buckets[number].reject! { |other| other.equal?(thing) }
          @buckets.delete(number) if @buckets[number].empty?
        end
        @size -= 1 if found
      end

      # Those that share bytes with a range, in the order in which they were added.
      def overlapping(first, last)
        found = []
        buckets_of(first, last) do |number|
          next unless @buckets.key?(number)

          @buckets[number].each do |thing|
            found << thing if thing.first < last && first < thing.last && found.none? { |other| other.equal?(thing) }
          end
        end
        found
      end

      # All of them, each once.
      def to_a
        @buckets.values.flatten(1).uniq(&:__id__)
      end

      private

      def buckets_of(first, last, &block)
        (first >> BUCKET).upto((last - 1) >> BUCKET, &block)
      end
    end
  end
end
