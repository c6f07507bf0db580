# frozen_string_literal: true
# rubocop:disable all

require_relative "plot"
require_relative "../svg"

module Machine
  # All panels in an SVG, each group from a new line on.
  class Chart
    include SVG

    COLUMNS = 3
    HEAD = 72
    TITLE = 56
    MARGIN = 24

    # @param modules [Hash] what the groups are about, by their keys
    def initialize(panels, modules)
      @modules = modules
      @groups = panels.map { |panel| [panel.group, Plot.new(panel)] }.group_by(&:first)
    end

    def svg
      top = HEAD
      parts = @groups.flat_map do |group, plots|
        rows = plots.map(&:last).each_slice(COLUMNS).to_a
        [*title(@modules[group], top), *rows.flat_map do |row|
                                         draw(row, top + TITLE).tap do
                                           top += row.map(&:height).max
                                         end
                                       end]
          .tap { top += TITLE }
      end
      document((2 * MARGIN) + (COLUMNS * Plot::WIDTH), top, [*head, *parts])
    end

    private

    def title(group, top)
      [text(MARGIN, top + 18, group::TITLE, size: 17, weight: "bold"), text(MARGIN, top + 38, group::NOTE)]
    end

    def draw(row, top)
      row.each_with_index.map { |plot, n| plot.draw(MARGIN + (n * Plot::WIDTH), top) }
    end

    def head
      [text(MARGIN, 30, "The simulated machine, measured in its own time", size: 20, weight: "bold"),
       text(MARGIN, 52, "Marks and bars were measured; dashed lines are the formulas and bounds below each panel, which " \
                        "know nothing of the machine but the parameters of its bus.", fill: GREY)]
    end
  end
end
