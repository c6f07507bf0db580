# frozen_string_literal: true

require_relative "../svg"

module Machine
  # All panels in an SVG, each group from a new line on.
  class Chart
    include SVG

    COLUMNS = 3
    HEAD = 72
    TITLE = 34
    MARGIN = 24
    TITLES = {
      "modes" => "Modes: who shares the bus with the CPU how",
      "interrupts" => "Interrupts: latency against rate under each coalescing policy",
      "pio" => "Programmed I/O beside DMA",
      "payload" => "PCI Express by the payload of its packets",
      "fairness" => "Fairness under three arbitrations",
      "memory" => "Memory that all devices share",
      "speed" => "What the simulation takes, in real time"
    }.freeze

    def initialize(panels)
      @groups = panels.map { |panel| [panel.group, Plot.new(panel)] }.group_by(&:first)
    end

    def svg
      top = HEAD
      parts = @groups.flat_map do |group, plots|
        rows(plots.map(&:last)).map(&:itself).then do |rows|
          title = text(MARGIN, top + 16, TITLES[group], size: 17, weight: "bold")
          top += TITLE
          [title, *rows.flat_map { |row| draw(row, top).tap { top += row.map(&:height).max } }]
        end
      end
      document((2 * MARGIN) + (COLUMNS * Plot::WIDTH), top, [*head, *parts])
    end

    private

    def rows(plots)
      plots.each_slice(COLUMNS).to_a
    end

    def draw(row, top)
      row.each_with_index.map { |plot, n| plot.draw(MARGIN + (n * Plot::WIDTH), top) }
    end

    def head
      [text(MARGIN, 30, "The simulated machine, measured in its own time", size: 20, weight: "bold"),
       text(MARGIN, 52, "Marks and bars were measured; dashed lines are the formulas and bounds below each panel, which know " \
                        "nothing of the machine but the parameters of its bus.", fill: GREY)]
    end
  end
end
