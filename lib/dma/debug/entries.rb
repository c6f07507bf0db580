# frozen_string_literal: true

require "weakref"

module DMA
  module Debug
    # A mapping. Bytes of a streaming or consistent one belong to the device or to the CPU.
    #
    # @private
    class Mapped
      # @return [Integer] of the memory: the address of the first byte, and of the one behind the last
      attr_reader :low, :high
      # @return [Array<Thread::Backtrace::Location>] where it was mapped
      attr_reader :locations
      attr_reader :device, :segments, :direction, :tracker
      # @return [Hash{Live => true}] the transfers that use it
      attr_reader :users
      # @return [Boolean] whether somebody asked if it failed
      attr_accessor :checked
      # @return [Boolean] whether software took it away
      attr_accessor :unmapped

      def initialize(mapping, tracker, checked:, coherent:)
        @reference = WeakRef.new(mapping)
        @tracker = tracker
        @locations = Debug.here
        @device = mapping.device.__id__
        @direction = mapping.direction
        @streaming = mapping.type != :coherent
        @coherent = coherent
        @checked = checked
        @users = {}.compare_by_identity
        @failed = mapping.error?
        place(mapping) unless @failed
      end

      def verb
        "mapped"
      end

      # Whether the memory could not be mapped.
      def failed?
        @failed
      end

      # Whether its bytes change owners.
      def streaming?
        @streaming
      end

      # Whether the CPU's cache sees what the device does.
      def coherent?
        @coherent
      end

      # The mapping itself; nil once the GC took it.
      def mapping
        @reference.__getobj__
      rescue WeakRef::RefError
        nil
      end

      def alive?
        mapping = self.mapping
        !mapping.nil? && !mapping.unmapped?
      end

      def size
        high - low
      end

      def device_writes?
        direction != :to_device
      end

      # Hands bytes, by address, to the device, or to the CPU.
      def give(owner, from, to)
        @owned = @owned.flat_map { |low, high| [[low, [high, from].min], [[low, to].max, high]] }
                       .select { |low, high| low < high }
        @owned << [from, to] if owner == :device && from < to
      end

      # The first range of these bytes that belongs to `owner`; nil where there is none.
      def owned_by(owner, from, to)
        device = @owned.map { |low, high| [[low, from].max, [high, to].min] }.select { |low, high| low < high }.sort
        return device.first if owner == :device

        device.each do |low, high|
          return [from, low] if from < low

          from = high
        end
        [from, to] if from < to
      end

      # The memory, by address, behind `length` bytes from a bus address on; nil where these are of no part of it.
      def memory_at(bus, length)
        at = low
        segments.each do |start, bytes|
          if bus.between?(start, start + bytes - 1)
            place = at + bus - start
            return [place, [place + length, high].min]
          end

          at += bytes
        end
        nil
      end

      private

      def place(mapping)
        @low = mapping.buffer.address
        @high = @low + mapping.size
        @segments = mapping.segments
        @owned = [[@low, @high]]
      end
    end

    # A transfer that software was not told the end of.
    #
    # @private
    class Live
      # Bytes that it uses. `apart`: the CPU may use them meanwhile, or what says whether it may is their owner.
      Part = Struct.new(:low, :high, :written, :memory, :apart, :live) do
        # Whether it is memory still: what was freed is somebody else's now.
        def memory?
          owner = memory.__getobj__
          owner.is_a?(DMA::Buffer) ? !owner.freed? : owner.valid?
        rescue WeakRef::RefError
          false
        end
      end

      attr_reader :tracker, :locations, :channel, :device, :parts, :ring, :mapped
      # @return [Boolean] whether it begins after all before it
      attr_reader :fence
      # @return [Boolean] whether the CPU's cache sees what the device does
      attr_reader :coherent
      # @return [Integer] its place among the transfers of the process
      attr_accessor :number
      # @return [Boolean] whether software was told of its end
      attr_writer :over

      def initialize(tracker, channel: nil, fence: false, ring: nil, coherent: true)
        @tracker = tracker
        @over = false
        @channel = channel&.__id__
        @device = channel&.device&.__id__
        @fence = fence
        @ring = ring&.__id__
        @coherent = coherent
        @locations = Debug.here
        @parts = []
        @mapped = []
      end

      def verb
        "submitted"
      end

      # Adds `length` bytes of a buffer, or of the view that it was made of.
      def use(buffer, length, written:, offset: 0, apart: false, view: nil)
        first = buffer.address + offset
        part(view || buffer.__send__(:native_root), first, first + length, written, apart)
      end

      # Adds bytes of a mapping's memory, by address.
      def use_mapped(mapping, entry, first, last, written:)
        part(mapping.buffer.__send__(:native_root), first, last, written, !entry.streaming?)
        @mapped << [entry, first, last]
      end

      def same_channel?(other)
        !channel.nil? && channel == other.channel
      end

      # The transfer's object, once there is one; where there is none, it is live until it is forgotten.
      def transfer=(transfer)
        return unless transfer.is_a?(DMA::Transfer)

        @reference = WeakRef.new(transfer)
        transfer.instance_variable_set(:@debug, self)
      end

      def alive?
        !@over && (@reference.nil? || @reference.weakref_alive?)
      end

      private

      def part(owner, first, last, written, apart)
        @parts << Part.new(first, last, written, WeakRef.new(owner), apart, self) if first < last
      end
    end
  end
end
