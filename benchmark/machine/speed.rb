# frozen_string_literal: true

require "open3"

module Machine
  # What the simulation itself takes, in real time: 1 GiB in descriptors of 4 KiB in burst mode with a manual clock, and
  # memcpy of the same blocks. They take turns (ext/dma_core/examples/timed.rs).
  module Speed
    TITLE = "Speed: what the simulation takes in real time"
    NOTE = "1 GiB in descriptors of 4 KiB, in burst mode, with a manual clock, in turns with memcpy of the same blocks."
    BUSES = { "ideal" => "a bus that costs nothing", "pcie" => "PCI Express 3.0 x16" }.freeze
    COMMAND = ["cargo", "run", "--release", "--quiet", "-p", "dma-core", "--example", "timed", *BUSES.keys].freeze
    ROOT = File.expand_path("../..", __dir__)
    # As many times memcpy's time as it may take.
    GOAL = 5
    RULE = "the goal: at most #{GOAL}".freeze

    module_function

    def groups(quick)
      return puts "speed is left out: it takes 2 GiB of memory and real time", "" if quick
      return puts "speed is left out: cargo is not installed", "" unless cargo?

      output, status = Open3.capture2(*COMMAND, chdir: ROOT)
      raise "#{COMMAND.join(" ")} failed" unless status.success?

      rounds = output.lines.map(&:split).group_by(&:first).transform_values do |lines|
        lines.map { |_, simulated, copied, _| [simulated.to_f, copied.to_f] }
      end
      yield panel(rounds)
      goal(rounds)
    end

    def cargo?
      ENV.fetch("PATH").split(":").any? { |directory| File.executable?(File.join(directory, "cargo")) }
    end

    def panel(rounds)
      panel = Panel.new("speed", "time of a simulated GiB", Axis.new("round", nil, :linear),
                        Axis.new("memcpy of the same blocks = 1", nil, :linear))
      rounds.each do |bus, times|
        panel.add(BUSES[bus], RULE, times.each_with_index.map do |(simulated, copied), n|
          Point.new(n + 1, simulated / copied, 0.0..GOAL.to_f)
        end)
      end
      panel
    end

    def goal(rounds)
      rows = rounds.map do |bus, times|
        ratio = Support.median(times.map { |simulated, copied| simulated / copied })
        seconds = times.transpose.map { |all| format("%.3f", Support.median(all)) }
        [BUSES[bus], format("%.2f", ratio), *seconds, ratio <= GOAL ? "met" : "not met"]
      end
      Support.table(["medians", "memcpy = 1", "simulated, s", "memcpy, s", "goal: <= #{GOAL}"], rows)
    end
  end
end
