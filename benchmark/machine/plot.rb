# frozen_string_literal: true

require_relative "curves"
require_relative "scale"
require_relative "../svg"

module Machine
  # One panel: its frame, curves, legend, and what the curves should follow.
  class Plot
    include SVG

    BAND = "#fde68a"
    LINES = "#e5e7eb"
    # Of a panel, and of the plot within it, whose legend is at its right.
    WIDTH = 610
    LEFT = 64
    RIGHT = WIDTH - 234
    TOP = 26
    BOTTOM = TOP + 210
    # Below the plot: names of ticks and of the axis, then a line of so many characters for each rule or more.
    BELOW = 56
    LINE = 14
    CHARACTERS = 98
    LEGEND = 16

    def initialize(panel)
      @panel = panel
      points = panel.series.flat_map(&:points)
      @across = Scale.new(panel.along, points.map(&:place), LEFT, RIGHT)
      @up = Scale.new(panel.y, points.flat_map { |point| [point.value, *point.limits] }, BOTTOM, TOP)
      @curves = Curves.new(panel, @across, @up)
    end

    def height
      BOTTOM + BELOW + (rules.size * LINE) + 12
    end

    # The whole, with its upper left corner there.
    def draw(left, top)
      parts = [*frame, *band, *@curves.draw, *legend, *follow]
      %(<g class="panel" transform="translate(#{left} #{top})">\n#{parts.join("\n")}\n</g>)
    end

    private

    def frame
      side = text(0, 0, @panel.y.title, anchor: "middle", fill: GREY)
      [text(0, 14, @panel.name, size: 14, weight: "bold"), *horizontal, *vertical,
       path("M#{LEFT} #{TOP}V#{BOTTOM}H#{RIGHT}", "black"),
       text((LEFT + RIGHT) / 2, BOTTOM + 42, @panel.along.title, anchor: "middle", fill: GREY),
       %(<g transform="translate(12 #{(TOP + BOTTOM) / 2}) rotate(-90)">#{side}</g>)]
    end

    def horizontal
      @up.ticks.flat_map do |value, name|
        level = @up.at(value)
        [path("M#{LEFT} #{level}H#{RIGHT}", LINES), text(LEFT - 6, level + 4, name, size: 11, anchor: "end")]
      end
    end

    def vertical
      @across.ticks.flat_map do |value, name|
        # Names of several words stand below each other.
        name.split(", ").each_with_index.map do |part, n|
          text(@across.at(value), BOTTOM + 15 + (n * 11), part, size: @panel.bars? ? 10 : 11, anchor: "middle")
        end
      end
    end

    # What somebody gives for it.
    def band
      return [] unless @panel.band

      upper, lower = [@panel.band.end, @panel.band.begin].map { |value| @up.at(value) }
      [rectangle("band", LEFT, upper, RIGHT - LEFT, (lower - upper).round(1), BAND, opacity: 0.6)]
    end

    def legend
      left = RIGHT + 24
      names = @panel.series.map(&:name)
      samples = names.each_index.map { |n| @curves.sample(left, level_of(n), n) }
      if @panel.band
        names << "the article: 10-12 in practice"
        samples << rectangle("legend", left - 5, level_of(samples.size) - 5, 10, 10, BAND)
      end
      samples + names.each_with_index.map { |name, n| text(left + 10, level_of(n) + 4, name, size: 11) }
    end

    def level_of(number)
      TOP + 8 + (number * LEGEND)
    end

    def follow
      rules.each_with_index.map { |line, n| text(0, BOTTOM + BELOW + (n * LINE), line, size: 11, fill: GREY) }
    end

    # In lines.
    def rules
      @rules ||= @panel.rules.flat_map do |rule|
        rule.gsub(/(.{1,#{CHARACTERS}})(?:\s+|\z)/o, "\\1\n").lines(chomp: true)
      end
    end
  end
end
