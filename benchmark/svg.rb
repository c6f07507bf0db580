# frozen_string_literal: true
# rubocop:disable all

# What charts are drawn with.
module SVG
  GREY = "#4b5563"

  module_function

  # A whole picture on white.
  def document(width, height, parts)
    <<~SVG
      <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{width} #{height}" width="#{width}" height="#{height}"
        font-family="sans-serif" font-size="12">
      <rect width="100%" height="100%" fill="white"/>
      #{parts.join("\n")}
      </svg>
    SVG
  end

  def text(left, top, words, size: 12, weight: "normal", anchor: "start", fill: "black")
    %(<text x="#{left}" y="#{top}" font-size="#{size}" font-weight="#{weight}" text-anchor="#{anchor}" ) +
      %(fill="#{fill}">#{words.encode(xml: :text)}</text>)
  end

  # `name` is its class: what it stands for.
  def rectangle(name, left, top, width, height, fill, opacity: 1)
    %(<rect class="#{name}" x="#{left}" y="#{top}" width="#{width}" height="#{height}" fill="#{fill}" ) +
      %(fill-opacity="#{opacity}"/>)
  end

  # A line, `dash` as for stroke-dasharray.
  def path(steps, stroke, width: 1, opacity: 1, dash: "none")
    %(<path d="#{steps}" fill="none" stroke="#{stroke}" stroke-width="#{width}" stroke-opacity="#{opacity}" ) +
      %(stroke-dasharray="#{dash}"/>)
  end
end
