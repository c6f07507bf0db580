# frozen_string_literal: true

# The benchmark of the simulated machine: what is measured, and what it is held against.
module Machine
  # What a panel shows along one of its sides. `scale` is :linear or :log, or :names, whose values are words and not
  # numbers; `unit` "%" has deviations in points, of all others they are relative.
  Axis = Struct.new(:name, :unit, :scale) do
    def title
      unit ? "#{name}, #{unit}" : name
    end
  end

  # What was measured at `x`, and what the formula says: a number, a Range that it has to be in, or nil where there is
  # nothing to say. `at` is where it stands in the chart of a panel that shows something else than `x`.
  Point = Struct.new(:x, :value, :expected, :at) do
    def place
      at || x
    end

    # How far it is from that, relative to it or, `in_points`, as it is.
    def deviation(in_points)
      case expected
      when nil then nil
      when Range then distance.zero? || in_points ? distance : distance / expected.end
      else
        difference = (value - expected).abs
        in_points || difference.zero? ? difference : difference / expected.to_f.abs
      end
    end

    # What to draw of that: the number, or the ends, of which a lower one that is 0 is none.
    def limits
      case expected
      when nil then []
      when Range then [expected.end, expected.begin].reject(&:zero?)
      else [expected]
      end
    end

    private

    def distance
      [value - expected.end, expected.begin - value, 0.0].max
    end
  end

  # A curve, and in words what it should follow.
  Series = Struct.new(:name, :rule, :points)

  # Curves that have their sides in common.
  class Panel
    attr_reader :group, :name, :x, :y, :series, :band, :along

    # @param group [String] the key of its group
    # @param band [Range, nil] values that somebody gives for it, shown behind the curves
    # @param along [Axis] what the chart shows along its lower side, where that is not `across`
    def initialize(group, name, across, upwards, band: nil, along: across)
      @group = group
      @name = name
      @x = across
      @y = upwards
      @band = band
      @along = along
      @series = []
    end

    def add(name, rule, points)
      series << Series.new(name, rule, points)
    end

    def points?
      y.unit == "%"
    end

    def bars?
      x.scale == :names
    end

    # What the series follow: rules, each with the names of those that do.
    def rules
      series.group_by(&:rule).map { |rule, all| all == series ? rule : "#{all.map(&:name).join("; ")}: #{rule}" }
    end
  end
end
