# frozen_string_literal: true
# rubocop:disable all

require_relative "../svg"

module Files
  # Bars of all groups in an SVG: how fast each row is, with the reference's speed as a line through its group.
  class Chart
    include SVG

    COLOURS = { dma: "#c2410c", ruby: "#2563eb", program: "#6b7280" }.freeze
    LEGEND = { dma: "DMA", ruby: "Ruby's other ways", program: "other programs" }.freeze
    # Horizontal: names, bars, and columns of figures with their right edges.
    NAMES = 290
    BARS = 220
    FIGURES = { ratio: 44, value: 124, cpu: 194, extra: 304 }.freeze
    COLUMN = NAMES + BARS + FIGURES.values.last + 30
    # Vertical: rows, what a group has above them, and what the chart has above the groups.
    LINE = 18
    TITLE = 30
    GAP = 20
    TOP = 84

    # @param notes [String] what the figures depend on
    def initialize(groups, notes)
      @groups = groups.select { |group| group.measured.any? }
      @notes = notes
    end

    def svg
      columns = columns()
      height = TOP + columns.map { |groups| groups.sum { |group| height(group) } }.max.to_i
      width = 20 + (COLUMN * columns.size)
      parts = columns.each_with_index.flat_map { |groups, n| column(groups, 20 + (n * COLUMN)) }
      document(width, height, [*head, *parts])
    end

    private

    def height(group)
      TITLE + (group.measured.size * LINE) + GAP
    end

    # Two, of about the same height.
    def columns
      half = @groups.sum { |group| height(group) } / 2
      sum = 0
      @groups.partition { |group| (sum += height(group)) <= half + (height(group) / 2) }.reject(&:empty?)
    end

    def head
      left = 20
      legend = LEGEND.flat_map do |kind, name|
        [rectangle("legend", left, 54, 12, 12, COLOURS[kind]), text(left + 18, 64, name)].tap do
          left += 50 + (name.size * 7)
        end
      end
      [text(20, 26, "Files: longer bars are faster", size: 18, weight: "bold"),
       text(20, 44, @notes, fill: GREY), *legend,
       text(left, 64, "dashed line: the row that the others are compared with", fill: GREY)]
    end

    def column(groups, left)
      top = TOP
      groups.flat_map { |group| draw(group, left, top).tap { top += height(group) } }
    end

    def draw(group, left, top)
      longest = group.measured.map { |row| group.value(row) }.max
      lengths = group.measured.to_h { |row| [row, (group.value(row) / longest * BARS).round(1)] }
      rows = lengths.each_with_index.flat_map do |(row, length), n|
        bar(group, row, left, top + TITLE + (n * LINE), length)
      end
      [*titles(group, left, top + 20), *rows, *mark(left + NAMES, top + TITLE, lengths, group)]
    end

    def titles(group, left, top)
      titles = { ratio: ("ratio" if group.row(group.reference)), value: group.unit, cpu: "CPU s/GB",
                 extra: Report.extra(group).values.first }
      [text(left, top, group.name, size: 14, weight: "bold"), *figures(titles, left, top, GREY)]
    end

    def bar(group, row, left, top, length)
      extra = %i[calls gap].filter_map { |figure| Report.text(figure, row) }.first
      values = { ratio: Report.ratio(group, row), value: Report.value(group, row), cpu: format("%.3f", group.cpu(row)),
                 extra: extra }
      [text(left + NAMES - 8, top + 13, row.name, anchor: "end"),
       rectangle("bar", left + NAMES, top + 3, length, 12, COLOURS[row.kind]), *figures(values, left, top + 13, "black")]
    end

    def figures(texts, left, top, fill)
      texts.compact.map do |name, words|
        text(left + NAMES + BARS + FIGURES[name], top, words, anchor: "end", fill: fill)
      end
    end

    def mark(left, top, lengths, group)
      length = lengths[group.row(group.reference)] or return
      path("M#{left + length} #{top}v#{lengths.size * LINE}", "black", dash: "3 2")
    end
  end
end
