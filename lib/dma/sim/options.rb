# frozen_string_literal: true

module DMA
  class Sim
    # What the options of a machine and its devices mean, as its core wants them.
    module Options
      private

      # What is between the CPU, devices and memory.
      def memory(coherent:, cache_size:, cache_injection:, cpus:, ram:, fragmentation:, **others)
        boolean(coherent, "coherent")
        boolean(cache_injection, "cache_injection") unless cache_injection.nil?
        if cache_size && coherent && cache_injection.nil?
          raise ArgumentError, "cache_size: a coherent cache that devices do not write into is as good as none, and " \
                               "there is no model of it; give coherent: false, or cache_injection:"
        end
        fragmentation = fraction(fragmentation, "fragmentation")
        ram ||= FRAGMENTED if fragmentation.positive?
        { coherent: coherent, cache_injection: cache_injection, fragmentation: fragmentation,
          cache_size: DMA.__send__(:natural, cache_size || CACHE, "cache_size", 64),
          cpus: DMA.__send__(:natural, cpus, "cpus", 32), ram: ram && DMA.__send__(:natural, ram, "ram", 64), **others }
      end

      # A device's numbers, in the order of its core. What nobody said is its controller's; memory, all that it has
      # addresses for, up to a bound.
      def numbers(own, **numbers)
        numbers = numbers.to_h { |name, value| [name, value || own[name]] }
        bits = numbers[:address_bits]
        reach = bits.is_a?(Integer) && bits.between?(0, 63) ? 1 << bits : MEMORY
        numbers[:memory] ||= [MEMORY, reach].min
        numbers.map { |name, value| DMA.__send__(:natural, value, name, WIDTHS.fetch(name, 32)) }
      end

      # What a bus consists of.
      def timing(bus)
        return native_bus(bus) unless bus.is_a?(Hash)

        preset = native_bus(bus.fetch(:preset, :ideal))
        changes = bus.except(:preset)
        unknown = changes.keys - preset.keys
        unless unknown.empty?
          raise ArgumentError, "bus: #{unknown.inspect} are none of #{[:preset, *preset.keys].inspect}"
        end

        preset.merge(changes.to_h { |name, value| [name, part(name, value)] })
      end

      def part(name, value)
        case name
        when :frequency then return whole(value, name, "Hz")
        when :links then boolean(value, name)
        else DMA.__send__(:natural, value, name, 64) unless name == :payload && value.nil?
        end
        value
      end

      # A number that may be large as an Integer: 33e6 is one.
      def whole(value, name, unit)
        if value.is_a?(Numeric) && value.real? && value.finite? && value.between?(0, (1 << 64) - 1)
          number = value.to_i
          return number if number == value
        end

        raise ArgumentError, "#{name}: #{value.inspect} is no whole number of #{unit} in 0..2**64 - 1; give one, as 1e9"
      end

      def boolean(value, name)
        raise ArgumentError, "#{name}: #{value.inspect} is neither true nor false" unless [true, false].include?(value)
      end

      # Entry, exit and deferred work of an interrupt.
      def cost(cost)
        return native_interrupt_cost(cost || :none).values unless cost.is_a?(Hash)

        none = native_interrupt_cost(:none)
        unknown = cost.keys - none.keys
        raise ArgumentError, "interrupt_cost: #{unknown.inspect} are none of #{none.keys}" unless unknown.empty?

        cost.each { |name, time| nanoseconds(time, name) }
        none.merge(cost).values
      end

      def nanoseconds(time, name)
        return if time.is_a?(Integer) && time.between?(0, SECOND)

        raise ArgumentError, "interrupt_cost: #{name}: #{time.inspect} ns is no whole number in 0..#{SECOND} ns, up " \
                             "to a second"
      end

      # A preset of {#device}'s `coalesce:`, or completions and nanoseconds.
      def coalesce(policy)
        return policy unless policy.is_a?(Hash)

        unknown = policy.keys - %i[count time]
        raise ArgumentError, "coalesce: #{unknown.inspect} are neither :count nor :time" unless unknown.empty?
        raise ArgumentError, "coalesce: give count:, time: or both" if policy.values.compact.empty?

        count, time = policy.values_at(:count, :time)
        DMA.__send__(:natural, count, "coalesce: count", 64) if count
        unless time.nil? || (time.is_a?(Numeric) && time.real? && (0..1).cover?(time))
          raise ArgumentError, "coalesce: time: #{time.inspect} is not in 0..1 seconds, for which completions are " \
                               "held back; 50 us are 50e-6"
        end

        [count, time && (time * SECOND).round]
      end

      # A number in 0..1 as a Float.
      def fraction(number, name)
        return number.to_f if number.is_a?(Numeric) && number.real? && (0..1).cover?(number)

        raise ArgumentError, "#{name}: #{number.inspect} is not in 0..1"
      end
    end
  end
end
