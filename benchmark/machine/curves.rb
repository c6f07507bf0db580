# frozen_string_literal: true

require_relative "../svg"

module Machine
  # Marks or bars for what was measured in a panel, dashed lines for what that should follow.
  class Curves
    include SVG

    COLOURS = %w[#c2410c #2563eb #15803d #7c3aed #a16207 #0e7490].freeze
    # Of marks, the later the smaller, so that all that lie on each other are to be seen.
    SIZES = [4.5, 4.5, 4, 3.5, 3, 2.5].freeze
    # Of what is between two marked places, for all the bars there.
    BARS = 0.7

    def initialize(panel, across, vertical)
      @panel = panel
      @across = across
      @up = vertical
    end

    def draw
      @panel.series.each_with_index.flat_map do |series, n|
        @panel.bars? ? bars(series, n) : [*thread(series, n), *dashed(series, n), *marks(series, n)]
      end
    end

    # What the legend has of a series.
    def sample(left, top, number)
      return rectangle("legend", left - 5, top - 5, 10, 10, COLOURS[number], opacity: 0.55) if @panel.bars?

      mark("legend", left, top, number)
    end

    private

    def marks(series, number)
      series.points.map { |point| mark("mark", @across.at(point.place), @up.at(point.value), number) }
    end

    # A shape and a colour for each series.
    def mark(name, left, top, number)
      size = SIZES[number]
      shape = case number % 3
              when 0 then %(circle cx="#{left}" cy="#{top}" r="#{size - 0.5}")
              when 1
                side = (size * 2) - 2
                %(rect x="#{left - (side / 2)}" y="#{top - (side / 2)}" width="#{side}" height="#{side}")
              else %(path d="M#{left} #{top - size}l#{size} #{size * 1.7}h-#{size * 2}z")
              end
      %(<#{shape} class="#{name}" fill="white" fill-opacity="0.6" stroke="#{COLOURS[number]}" stroke-width="1.5"/>)
    end

    # Through marks that do not stand one behind the other.
    def thread(series, number)
      return [] if @panel.along == @panel.x

      [line(series.points.map { |point| [point.place, point.value] }, number, opacity: 0.3)]
    end

    # Through what it should follow, with a gap where there is no such thing.
    def dashed(series, number)
      parts = series.points.chunk_while { |one, other| one.expected && other.expected }
      parts.map { |part| part.select(&:expected).map { |point| [point.place, point.limits.first] } }.reject(&:empty?)
           .map { |part| line(part, number, width: 1.2, dash: "4 3") }
    end

    def line(places, number, **style)
      steps = places.map { |place, value| "#{@across.at(place)} #{@up.at(value)}" }
      path("M#{steps.join("L")}", COLOURS[number], **style)
    end

    def bars(series, number)
      count = @panel.series.size
      width = @across.length / series.points.size * BARS / count
      series.points.flat_map do |point|
        left = (@across.at(point.x) + ((number - (count / 2.0)) * width)).round(1)
        [bar(left, point, width, number), *point.limits.map { |limit| limit(left, limit, width) }]
      end
    end

    def bar(left, point, width, number)
      top = @up.at(point.value)
      rectangle("mark", left, top, (width - 3).round(1), (@up.low - top).round(1), COLOURS[number], opacity: 0.55)
    end

    def limit(left, limit, width)
      path("M#{left - 2} #{@up.at(limit)}h#{(width + 1).round(1)}", "black", dash: "3 2")
    end
  end
end
