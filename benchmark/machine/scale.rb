# frozen_string_literal: true

module Machine
  # Where values lie along a side of a plot, and what is written there.
  class Scale
    # Powers of ten, or of two for bytes, that are further apart than this are all that is marked.
    MOST = 7

    attr_reader :low

    # @param axis [Axis]
    # @param values [Array] all that have to find a place
    # @param low [Numeric] pixels of the lowest, and `high`, of the highest
    def initialize(axis, values, low, high)
      @axis = axis
      @low = low
      @high = high
      case axis.scale
      when :names then @names = values.uniq
      when :log then logarithmic(values.select(&:positive?))
      else linear(values)
      end
    end

    def length
      (@high - @low).abs.to_f
    end

    # The pixel of a value; of what is too low to have one the lowest.
    def at(value)
      part = case @axis.scale
             when :names then (@names.index(value) + 0.5) / @names.size
             when :log then value.positive? ? Math.log(value / @least) / Math.log(@most / @least) : 0
             else (value - @least).fdiv(@most - @least)
             end
      (@low + ([part, 0].max * (@high - @low))).round(1)
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
      @least = low.fdiv(step).floor * step
      @most = (high.fdiv(step) - 1e-9).ceil * step
      @ticks = (0..((@most - @least) / step).round).map { |n| @least + (n * step) }
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
      @least, @most = [low, high].map { |power| base.to_f**power }
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
