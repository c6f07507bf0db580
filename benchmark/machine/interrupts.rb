# frozen_string_literal: true

require_relative "moderated"

module Machine
  # What waiting for company is worth: how long a completion waits until an interrupt's handler looks, and what of the
  # CPU's time the interrupts take, under each policy, while more and more completions come.
  module Interrupts
    TITLE = "Interrupts: latency against rate under each coalescing policy"
    NOTE = "A completion every T. A policy holds k = min(count, floor(time / T) + 1) of them back, for \"held\": " \
           "(k - 1) T where they are count, otherwise time. Then the CPU is busy for entry + exit + k deferred, and " \
           "looks after entry."
    COSTS = { "a PC of 1998" => { entry: 10_500, exit: 10_500, deferred: 11_500 },
              "a cost of 1.6 us" => { entry: 1000, exit: 500, deferred: 100 } }.freeze
    POLICIES = { "none" => :none, "low latency" => :low_latency, "16 completions" => { count: 16 },
                 "50 us" => { time: 5e-5 }, "throughput" => :throughput, "adaptive" => :adaptive }.freeze
    # Completions a second.
    RATES = { "a PC of 1998" => [1000, 5000, 10_000, 20_000, 30_000, 50_000, 70_000, 100_000, 200_000],
              "a cost of 1.6 us" => [1000, 10_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000] }
            .freeze
    BUSY = "B = (entry + exit) / (1 - deferred / T); where deferred >= T, it grows without end"
    RULES = {
      mean: "mean over j < k of (held + entry - j T) mod k T; where the CPU has no time left, at most " \
            "(B + T) / 2 + held, #{BUSY}",
      worst: "max over j < k of (held + entry - j T) mod k T; where the CPU has no time left, at most B + T + held, " \
             "#{BUSY}",
      share: "((entry + exit) / k + deferred) / T; where that is 1 or more, all but T / B of the time or more: the " \
             "livelock of Mogul and Ramakrishnan (TOCS 15(3), 1997)"
    }.freeze
    LATE = "at most 250 us, and what the handlers take"
    ADAPTIVE = { mean: LATE, worst: LATE,
                 share: "at most 70,000 interrupts a second, or one for 64 completions" }.freeze
    PANELS = { mean: ["mean latency", Axis.new("completion to handler, mean", "us", :log)],
               worst: ["worst latency", Axis.new("completion to handler, longest", "us", :log)],
               share: ["the CPU's time for interrupts", Axis.new("of the CPU's time", "%", :linear)] }.freeze

    # When a handler looked, the numbers and cycles of what it was the first to see, and how long it went on.
    Look = Struct.new(:at, :seen, :after)
    # What became of completions: interrupts a second, microseconds, and percent of the CPU's time.
    Result = Struct.new(:rate, :interrupts, :mean, :worst, :share)

    module_function

    def groups(quick)
      COSTS.each do |name, cost|
        results = POLICIES.transform_values do |policy|
          RATES[name].map { |rate| run(policy, cost, rate, quick ? 512 : 4096) }
        end
        PANELS.each_key { |figure| yield panel(name, figure, results) }
      end
    end

    # In the chart the mean stands over the interrupts that there were, the rest over the completions.
    def panel(name, figure, results)
      what, axis = PANELS[figure]
      completions, interrupts = %w[completions interrupts].map { |thing| Axis.new("#{thing} a second", nil, :log) }
      along = figure == :mean ? interrupts : completions
      panel = Panel.new("interrupts", "#{name}: #{what}", completions, axis, along: along)
      results.each do |policy, all|
        rule = (policy == "adaptive" ? ADAPTIVE : RULES)[figure]
        panel.add(policy, rule, all.map do |result|
          expected = Moderated.new(policy, COSTS[name], result.rate).expected(figure)
          Point.new(result.rate, result[figure], expected, (result.interrupts if along == interrupts))
        end)
      end
      panel
    end

    # A cycle is a nanosecond.
    def run(policy, cost, rate, count)
      sim = DMA::Sim.new(clock: :manual, interrupt_cost: cost)
      channel = sim.device(coalesce: policy).channel
      buffer = DMA::Buffer.new(64)
      trace = sim.trace do
        count.times do
          channel.submit(source: buffer, destination: 0)
          sim.step(1_000_000_000 / rate)
          channel.process_completions
        end
        sim.run_until_idle
      end
      result(rate, *middle(looks(trace, cost[:entry]), count), cost[:entry])
    end

    # Each handler's look, which sees all that was completed by then and that no other saw.
    def looks(trace, entry)
      completed = trace.select { |event| event.what == :status }.each_with_index.map { |event, n| [n, event.cycle] }
      trace.select { |event| event.what == :handler }.map do |event|
        at = event.begin + entry
        seen = completed.take_while { |_, cycle| cycle <= at }
        completed = completed.drop(seen.size)
        Look.new(at, seen, event.cycle - at)
      end
    end

    # Of those that were the first to see something the one before the middle half of completions, and all that saw it.
    def middle(looks, count)
      looks = looks.select { |look| look.seen.any? }
      inside = looks.each_index.select { |n| looks[n].seen.any? { |k, _| (count / 4..count * 3 / 4).cover?(k) } }
      first = [inside.first, 1].max
      [looks[first - 1], looks[first..inside.last]]
    end

    # From the look before to the last one.
    def result(rate, before, looks, entry)
      time = looks.last.at - before.at
      busy = [before, *looks[..-2]].sum(&:after) + (looks.size * entry)
      latencies = looks.flat_map { |look| look.seen.map { |_, cycle| look.at - cycle } }
      Result.new(rate, looks.size * 1e9 / time, latencies.sum / 1e3 / latencies.size, latencies.max / 1e3,
                 100.0 * busy / time)
    end
  end
end
