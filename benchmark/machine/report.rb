# frozen_string_literal: true

module Machine
  # What was measured, for people and for programs.
  module Report
    COLUMNS = %w[group panel series x axis at value unit expected deviation rule].freeze

    module_function

    def table(panel)
      puts "#{panel.name} (#{title(panel)}):", ""
      xs = panel.series.flat_map { |series| series.points.map(&:x) }.uniq
      xs = xs.sort unless panel.x.scale == :names
      rows = xs.map { |x| [label(x), *panel.series.map { |series| at(series, x) }] }
      last = ["largest deviation", *panel.series.map { |series| deviation(panel, series) }]
      Support.table([panel.x.title, *panel.series.map(&:name)], [*rows, last])
      puts(panel.rules.map { |rule| "- #{rule}" }, "")
    end

    def title(panel)
      panel.along == panel.x ? panel.y.title : "#{panel.y.title}, at #{panel.along.title}"
    end

    def at(series, place)
      point = series.points.find { |one| one.x == place } or return ""
      point.at ? "#{value(point.value)} at #{value(point.at)}" : value(point.value)
    end

    def label(value)
      value.is_a?(String) ? value : value(value)
    end

    # Three digits, or all of a whole number.
    def value(number)
      return "0" if number.zero?
      return Support.thousands(number) if number.is_a?(Integer) || number.abs >= 100

      format("%.#{2 - Math.log10(number.abs).floor}f", number)
    end

    # From the formula, and whether it is within its bounds where it has such.
    def deviation(panel, series)
      bounded, exact = series.points.select(&:expected).partition { |point| point.expected.is_a?(Range) }
      outside = bounded.map { |point| point.deviation(panel.points?) }.max
      parts = [largest(panel, exact)]
      parts << (outside.zero? ? "within" : "#{largest(panel, bounded)} outside") if outside
      parts.compact.join(", ").then { |words| words.empty? ? "-" : words }
    end

    def largest(panel, points)
      deviation = points.map { |point| point.deviation(panel.points?) }.max or return
      panel.points? ? format("%.1f points", deviation) : format("%.1f %%", deviation * 100)
    end

    def csv(panels, path)
      Support.csv(path, COLUMNS, panels.flat_map { |panel| panel.series.flat_map { |series| records(panel, series) } })
    end

    def records(panel, series)
      series.points.map do |point|
        expected = point.expected
        expected = "#{expected.begin}..#{format("%.6g", expected.end)}" if expected.is_a?(Range)
        [panel.group, panel.name, series.name, point.x, panel.x.title, point.at, point.value, panel.y.unit, expected,
         point.deviation(panel.points?), series.rule]
      end
    end
  end
end
