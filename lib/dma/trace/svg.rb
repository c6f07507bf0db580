# frozen_string_literal: true

module DMA
  class Trace
    # Signals as a timing diagram: names on the left, cycles to the right, a line for each.
    #
    # @api private
    class Svg
      # Horizontal: names, what a cycle would like to have and has at most, and how wide all cycles are.
      NAMES = 110
      CYCLE = 24
      WIDEST = 48
      WIDTH = (640..1400)
      # Vertical: a line of signals, of words, and what is above another scope.
      LINE = 26
      WORDS = 20
      SCOPE = 22
      # What a line is higher by in which something failed, for the name of that, and a letter of it.
      FAILURE = 12
      SMALL = 5.2
      # Levels and boxes inside of a line.
      HIGH = 5
      LOW = 21
      # A letter of 11 points, and the least distance of ticks.
      LETTER = 6.2
      TICK = 64

      GREY = "#4b5563"
      RED = "#b91c1c"
      SHADE = 'fill="#dbeafe"'
      # What is in a box, by its first word, and the meaning of what does not say it.
      FILLS = { "CPU" => "#d1d5db", "fetch" => "#fde68a", "to_device" => "#93c5fd", "from_device" => "#86efac",
                "within" => "#d8b4fe", "memory" => "#d8b4fe", "status" => "#fdba74", "waits" => "white",
                "failed" => "#f87171", "hangs" => "#fca5a5", "nothing" => "white", "A" => "#fef3c7",
                "D" => "#f3f4f6" }.freeze
      MEANINGS = { "A" => "A: address", "D" => "D1, D2 ...: data", "waits" => "waits for the bus" }.freeze
      DEVICES = %w[#99f6e4 #fbcfe8 #d9f99d #c7d2fe #fed7aa].freeze
      private_constant :NAMES, :CYCLE, :WIDEST, :WIDTH, :LINE, :WORDS, :SCOPE, :FAILURE, :SMALL, :HIGH, :LOW, :LETTER,
                       :TICK, :GREY, :RED, :SHADE, :FILLS, :MEANINGS, :DEVICES

      # @param waves [Array] scope, name, kind and changes of each signal
      # @param cycles [Range] what is shown
      # @param frequency [Integer] cycles per second
      def initialize(waves, cycles, frequency)
        @waves = waves
        @cycles = cycles
        @frequency = frequency
        @count = [cycles.end - cycles.begin, 1].max
        @width = [(@count * CYCLE).clamp(WIDTH.begin, WIDTH.end), @count * WIDEST].min
        @scale = @width.fdiv(@count)
        @whole = [NAMES + @width + 36, WIDTH.begin].max
      end

      # @return [String]
      def to_s
        legend, top = legend(48)
        axis = top + (2 * WORDS) - 8
        rows = []
        top = axis
        @waves.chunk_while { |one, other| one[0] == other[0] }.each do |lines|
          rows << text(12, top + 16, lines[0][0], weight: "bold")
          top += SCOPE
          lines.each { |line| rows.concat(row(line, top)) && top += height(line) }
        end
        page([title, *legend, *axis(axis, top), *rows], top + 12)
      end

      private

      def page(parts, height)
        <<~XML
          <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{@whole} #{height}" width="#{@whole}" height="#{height}"
            font-family="sans-serif" font-size="11">
          <rect width="100%" height="100%" fill="white"/>
          #{parts.join("\n")}
          </svg>
        XML
      end

      def title
        span = "cycles #{@cycles.begin} to #{@cycles.end}, #{time(@count)}"
        text(12, 24, "Simulated bus, #{number(@frequency / 1e6)} MHz: #{span}", size: 15, weight: "bold")
      end

      # What there is in this diagram and what it means, and where it ends.
      def legend(top)
        left = 12
        parts = signs.flat_map do |sign, words|
          width = 42 + (words.size * LETTER).ceil
          left, top = 12, top + WORDS if left + width > @whole # rubocop:disable Style/ParallelAssignment
          part = [sign.call(left, top), text(left + 24, top, words)]
          left += width
          part
        end
        [parts, top + WORDS]
      end

      def signs
        texts = @waves.select { |_, _, kind| kind == :text }
        keys = texts.flat_map { |scope, *, changes| changes.map { |_, words| key(words, scope) } }
        boxes = (keys.uniq - [""]).map do |word|
          [->(left, top) { box(left, top - 9, 18, 11, word) }, MEANINGS.fetch(word, word)]
        end
        [*boxes, *line_signs]
      end

      def line_signs
        signs = {
          "asserted: low, as its name ends in #" => [/#\z/, ->(left, top) { rectangle(left, top - 9, 18, 11, SHADE) }],
          "interrupt" => [/irq\z/, ->(left, top) { arrow(left + 9, top - 13) }],
          "lost interrupt" => [/irq_lost\z/, ->(left, top) { cross(left + 9, top - 4) }],
          "terminal count" => [/tc\z/, ->(left, top) { dot(left + 9, top - 4) }]
        }
        seen = @waves.reject { |*, changes| changes.empty? }
        signs.filter_map { |words, (name, sign)| [sign, words] if seen.any? { |wave| wave[1].match?(name) } }
      end

      # Cycles, and the time of each tick.
      def axis(top, bottom)
        step = ticks
        first = -(-@cycles.begin / step) * step
        ticks = first.step(@cycles.end, step).flat_map do |cycle|
          left = place(cycle)
          [text(left, top - 20, cycle, anchor: "middle"),
           text(left, top - 6, time(cycle), anchor: "middle", fill: GREY),
           %(<path d="M#{left} #{top}V#{bottom}" stroke="#d1d5db" stroke-dasharray="2 3"/>)]
        end
        [text(12, top - 20, "cycle"), text(12, top - 6, "time", fill: GREY), *ticks]
      end

      # The least of 1, 2, 5, 10, ... cycles that are far enough apart.
      def ticks
        power = 1
        loop do
          [1, 2, 5].each { |digit| return digit * power if digit * power * @scale >= TICK }
          power *= 10
        end
      end

      def height((_, _, kind, changes))
        kind == :text && changes.any? { |_, words| failure(words) } ? LINE + FAILURE : LINE
      end

      def row((scope, name, kind, changes), top)
        drawn = case kind
                when :level then level(changes, top, low: name.end_with?("#"))
                when :text then boxes(changes, top, scope) + failures(changes, top)
                else changes.map { |cycle| mark(cycle, top, name) }
                end
        [text(NAMES - 8, top + 17, name, anchor: "end"), *drawn]
      end

      # A line, and a shade where it is asserted.
      def level(changes, top, low:)
        shades = spans(changes).filter_map do |from, to, value|
          rectangle(from, top + HIGH, to - from, LOW - HIGH, SHADE) if value != low
        end
        steps = changes.map { |cycle, value| [place(cycle), top + (value ? HIGH : LOW)] }
        path = steps.each_with_index.map { |(left, y), n| n.zero? ? "M#{left} #{y}" : "H#{left}V#{y}" }.join
        [*shades, %(<path d="#{path}H#{place(@cycles.end)}" fill="none" stroke="black" stroke-width="1.4"/>)]
      end

      # Words in boxes, as many as there is room for, and a thin line where there is nothing.
      def boxes(changes, top, scope)
        middle = top + ((HIGH + LOW) / 2)
        spans(changes).map do |from, to, words|
          next %(<path d="M#{from} #{middle}H#{to}" stroke="#9ca3af"/>) if words.empty?

          fitting = [words, words[/\S+/]].find { |some| (some.size * LETTER) + 4 <= to - from }
          inside = text(((from + to) / 2).round(1), middle + 4, fitting, anchor: "middle") if fitting
          drawn = box(from, top + HIGH, to - from, LOW - HIGH, key(words, scope))
          "<g><title>#{escape(words)}</title>#{drawn}#{inside}</g>"
        end
      end

      # The names of what failed, below the boxes, as many as there is room for.
      def failures(changes, top)
        free = 0
        spans(changes).filter_map do |_, to, words|
          name = failure(words)
          next if name.nil? || to - (name.size * SMALL) < free

          free = to + SMALL
          text(to, top + LOW + 10, name, anchor: "end", fill: RED, size: 9)
        end
      end

      def failure(words)
        words[/\Astatus (?!complete)(\w+)/, 1]
      end

      def box(left, top, width, height, key)
        dashes = ' stroke-dasharray="3 2"' if key == "waits"
        rectangle(left, top, width, height, %(fill="#{fill(key)}" stroke="black"#{dashes}))
      end

      # What says the colour: the device, also of a channel on its link; else the first word, without a number.
      def key(words, scope)
        return "failed" if failure(words)

        words.match?(/\Ach\d/) ? scope : words[/\A(?:dev\d+|D(?=\d)|\S+)/].to_s
      end

      def fill(key)
        FILLS.fetch(key) { DEVICES[key[/\d+/].to_i % DEVICES.size] }
      end

      def mark(cycle, top, name)
        case name
        when /lost\z/ then cross(place(cycle), top + 13)
        when /tc\z/ then dot(place(cycle), top + 13)
        else arrow(place(cycle), top + 4)
        end
      end

      def arrow(left, top)
        %(<path d="M#{left} #{top + 17}v-16m-4 6l4 -6l4 6" fill="none" stroke="#{RED}" stroke-width="1.6"/>)
      end

      def cross(left, middle)
        %(<path d="M#{left - 5} #{middle - 5}l10 10m0 -10l-10 10" stroke="#{RED}" stroke-width="1.6"/>)
      end

      def dot(left, middle)
        %(<circle cx="#{left}" cy="#{middle}" r="4" fill="#{RED}"/>)
      end

      # From, to, and what is there, where something is to be seen of it.
      def spans(changes)
        ends = changes.drop(1).map(&:first) << @cycles.end
        changes.zip(ends).filter_map { |(cycle, value), to| [place(cycle), place(to), value] if to > cycle }
      end

      def place(cycle)
        (NAMES + ((cycle - @cycles.begin) * @scale)).round(1)
      end

      # In a unit that suits the whole diagram.
      def time(cycles)
        units = { "ns" => 1e9, "us" => 1e6, "ms" => 1e3, "s" => 1.0 }
        unit = units.find { |_, second| @cycles.end * second / @frequency < 1e4 } || units.to_a.last
        "#{number(cycles * unit[1] / @frequency)} #{unit[0]}"
      end

      def number(value)
        format("%.4g", value)
      end

      def rectangle(left, top, width, height, paint)
        %(<rect x="#{left}" y="#{top}" width="#{width.round(1)}" height="#{height}" #{paint}/>)
      end

      def text(left, top, words, anchor: "start", fill: "black", size: 11, weight: "normal")
        %(<text x="#{left}" y="#{top}" font-size="#{size}" font-weight="#{weight}" text-anchor="#{anchor}" ) +
          %(fill="#{fill}">#{escape(words.to_s)}</text>)
      end

      def escape(words)
        words.encode(xml: :text)
      end
    end
    private_constant :Svg
  end
end
