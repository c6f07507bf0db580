# frozen_string_literal: true

require_relative "../svg"

module Machine
  # One panel: marks or bars for what was measured, dashed lines for what it should follow.
  class Plot
    include SVG

    COLOURS = %w[#c2410c #2563eb #15803d #7c3aed #a16207 #0e7490].freeze
    # Of a panel, and of the plot within it, whose legend is at its right.
    WIDTH = 600
    LEFT = 64
    RIGHT = 224
    TOP = 26
    HEIGHT = 210
    # Below the plot: names of ticks, of the axis, and what the curves follow.
    BELOW = 48
    LINE = 14
    # Characters of a line of these.
    CHARACTERS = 98
    LEGEND = 16

    def initialize(panel)
      @panel = panel
      @across = Scale.new(panel.along, points.map(&:place), WIDTH - LEFT - RIGHT)
      @up = Scale.new(panel.y, points.flat_map { |point| [point.value, *limits(point)] }, HEIGHT)
    end

    def height
      TOP + HEIGHT + BELOW + (rules.size * LINE) + 20
    end

    # Its elements, with the upper left corner there.
    def draw(left, top)
      %(<g class="panel" transform="translate(#{left} #{top})">\n#{[*frame, *band, *curves, *legend, *follow].join("\n")}\n</g>)
    end

    private

    def points
      @panel.series.flat_map(&:points)
    end

    # The number, or both ends of what it has to be in; of a lower one that is 0 nothing is to be seen.
    def limits(point)
      case point.expected
      when nil then []
      when Range then [point.expected.end, point.expected.begin].reject(&:zero?)
      else [point.expected]
      end
    end

    def right
      WIDTH - RIGHT
    end

    def bottom
      TOP + HEIGHT
    end

    def place(value)
      LEFT + @across.at(value)
    end

    # Below what can be shown: at the lower edge.
    def level(value)
      (bottom - [@up.at(value) || 0, 0].max).round(1)
    end

    def frame
      [text(0, 14, @panel.name, size: 14, weight: "bold"), *horizontal, *vertical,
       %(<path d="M#{LEFT} #{TOP}V#{bottom}H#{right}" fill="none" stroke="black"/>),
       text((LEFT + right) / 2, bottom + 40, @panel.along.title, anchor: "middle", fill: GREY),
       %(<g transform="translate(12 #{(TOP + bottom) / 2}) rotate(-90)">#{text(0, 0, @panel.y.title, anchor: "middle", fill: GREY)}</g>)]
    end

    def horizontal
      @up.ticks.flat_map do |value, name|
        [%(<path d="M#{LEFT} #{level(value)}H#{right}" stroke="#e5e7eb"/>),
         text(LEFT - 6, level(value) + 4, name, size: 11, anchor: "end")]
      end
    end

    def vertical
      @across.ticks.flat_map do |value, name|
        # Names of several words stand below each other.
        name.split(", ").each_with_index.map do |part, n|
          text(place(value).round(1), bottom + 15 + (n * 11), part, size: 11, anchor: "middle")
        end
      end
    end

    # What somebody gives for it.
    def band
      return [] unless @panel.band

      upper, lower = [@panel.band.end, @panel.band.begin].map { |value| level(value) }
      [%(<rect x="#{LEFT}" y="#{upper}" width="#{right - LEFT}" height="#{(lower - upper).round(1)}" fill="#fde68a" opacity="0.6"/>)]
    end

    def curves
      @panel.series.each_with_index.flat_map do |series, n|
        @panel.x.scale == :names ? bars(series, n) : [*dashed(series, COLOURS[n]), *marks(series, n)]
      end
    end

    def marks(series, number)
      series.points.map { |point| mark(place(point.place).round(1), level(point.value), number) }
    end

    # A shape for each series, so that marks that lie on each other are all to be seen.
    def mark(left, top, number)
      size = [4.5, 4.5, 4, 3.5, 3, 2.5][number]
      shape = case number % 3
              when 0 then %(circle cx="#{left}" cy="#{top}" r="#{size - 0.5}")
              when 1 then %(rect x="#{left - size + 1}" y="#{top - size + 1}" width="#{(size * 2) - 2}" height="#{(size * 2) - 2}")
              else %(path d="M#{left} #{top - size}l#{size} #{size * 1.7}h-#{size * 2}z")
              end
      %(<#{shape} class="mark" fill="white" fill-opacity="0.6" stroke="#{COLOURS[number]}" stroke-width="1.5"/>)
    end

    # Through what it should follow; with a gap where there is no such thing.
    def dashed(series, colour)
      series.points.chunk_while { |one, next_one| one.expected && next_one.expected }.filter_map do |part|
        path = part.select(&:expected).map { |point| "#{place(point.place).round(1)} #{level(point.limit)}" }.join("L")
        %(<path d="M#{path}" fill="none" stroke="#{colour}" stroke-width="1.2" stroke-dasharray="4 3"/>) unless path.empty?
      end
    end

    def bars(series, number)
      width = (right - LEFT).fdiv(series.points.size) * 0.7 / @panel.series.size
      series.points.flat_map do |point|
        left = (place(point.x) + ((number - (@panel.series.size / 2.0)) * width)).round(1)
        top = level(point.value)
        [%(<rect class="mark" x="#{left}" y="#{top}" width="#{(width - 3).round(1)}" height="#{(bottom - top).round(1)}" ) +
          %(fill="#{COLOURS[number]}" fill-opacity="0.55"/>),
         *limits(point).map { |limit| %(<path d="M#{left - 2} #{level(limit)}h#{(width + 1).round(1)}" stroke="black" stroke-dasharray="3 2"/>) }]
      end
    end

    def legend
      left = right + 14
      lines = @panel.series.each_with_index.flat_map do |series, n|
        top = TOP + 8 + (n * LEGEND)
        sample = @panel.x.scale == :names ? %(<rect x="#{left - 5}" y="#{top - 5}" width="10" height="10" fill="#{COLOURS[n]}" fill-opacity="0.55"/>) : mark(left, top, n).sub("mark", "legend")
        [sample, text(left + 10, top + 4, series.name, size: 11)]
      end
      return lines unless @panel.band

      top = TOP + 8 + (@panel.series.size * LEGEND)
      lines << %(<rect x="#{left - 5}" y="#{top - 5}" width="10" height="10" fill="#fde68a"/>) <<
        text(left + 10, top + 4, "\"10-12 in practice\"", size: 11)
    end

    def follow
      rules.each_with_index.map { |line, n| text(0, bottom + BELOW + 8 + (n * LINE), line, size: 11, fill: GREY) }
    end

    # In lines.
    def rules
      @rules ||= @panel.rules.flat_map { |rule| rule.gsub(/(.{1,#{CHARACTERS}})(?:\s+|\z)/, "\\1\n").lines(chomp: true) }
    end
  end
end
