# frozen_string_literal: true

module Machine
  # Where values lie along a side of a plot, and what is written there.
  class Scale
    # Powers of ten, or of two for bytes, that are further apart than this are all that is marked.
    MOST = 7

    # @param axis [Axis]
    # @param values [Array] all that have to find a place
    # @param length [Numeric] pixels
    def initialize(axis, values, length)
      @axis = axis
      @length = length
      case axis.scale
      when :names then @names = values.uniq
      when :log then logarithmic(values.select(&:positive?))
      else linear(values)
      end
    end

    # Pixels from the lower end; nil for what has no place there.
    def at(value)
      case @axis.scale
      when :names then (@names.index(value) + 0.5) * @length / @names.size
      when :log then value.positive? ? Math.log(value / @low.to_f) / Math.log(@high / @low.to_f) * @length : nil
      else (value - @low).fdiv(@high - @low) * @length
      end
    end

    # Values that are marked, and their names.
    def ticks
      return @names.map { |name| [name, name] } if @names

      @ticks.map { |value| [value, label(value)] }
    end

    private

    # From 0 where all are positive, unless they are close together.
    def linear(values)
      low, high = values.minmax
      low = 0 if low.positive? && low < high / 2.0
      high = low + 1 if high == low
      step = step(high - low)
      @low = (low.fdiv(step)).floor * step
      @high = (high.fdiv(step) - 1e-9).ceil * step
      @ticks = (0..((@high - @low) / step).round).map { |n| @low + (n * step) }
    end

    # 1, 2 or 5 times a power of ten, so that there are about five.
    def step(range)
      power = 10.0**Math.log10(range / 5.0).floor
      [1, 2, 5, 10].map { |factor| factor * power }.find { |step| range / step <= 6 }
    end

    def logarithmic(values)
      base = @axis.unit == "bytes" ? 2 : 10
      low, high = values.minmax.map { |value| Math.log(value) / Math.log(base) }
      low = (low + 1e-9).floor
      high = [(high - 1e-9).ceil, low + 1].max
      @low, @high = [low, high].map { |power| base.to_f**power }
      every = ((high - low) / MOST.to_f).ceil
      @ticks = low.step(high, every).map { |power| base.to_f**power }
    end

    def label(value)
      return bytes(value) if @axis.unit == "bytes"

      power, letter = { 1e6 => " M", 1e3 => " k" }.find { |least, _| value.abs >= least && @axis.scale == :log }
      format("%.6g%s", value / (power || 1), letter)
    end

    def bytes(value)
      power, name = { 1 << 20 => " Mi", 1 << 10 => " Ki" }.find { |least, _| value >= least }
      format("%d%s", value / (power || 1), name)
    end
  end
end
