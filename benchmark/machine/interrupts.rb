# frozen_string_literal: true

module Machine
  # What waiting for company is worth: how long a completion waits until an interrupt's handler looks, and what of the
  # CPU's time the interrupts take, under each policy, while more and more completions come.
  #
  # Completions come at equal distances. A policy holds k = min(n, floor(t / T) + 1) of them back, where T is that
  # distance, n its count and t its time; then a handler takes entry + exit + k deferred of the CPU.
  module Interrupts
    COSTS = { "a PC of 1998" => { entry: 10_500, exit: 10_500, deferred: 11_500 },
              "a cost of 1.6 us" => { entry: 1000, exit: 500, deferred: 100 } }.freeze
    POLICIES = { "none" => :none, "low latency" => :low_latency, "count: 16" => { count: 16 },
                 "time: 50 us" => { time: 50e-6 }, "throughput" => :throughput, "adaptive" => :adaptive }.freeze
    # Completions, and nanoseconds, of each that is fixed; those of the presets are the kernel's (lib/dim/net_dim.c).
    HOLDS = { "none" => [1, 0], "low latency" => [256, 2000], "count: 16" => [16, 1_000_000_000],
              "time: 50 us" => [1 << 60, 50_000], "throughput" => [64, 64_000] }.freeze
    # An adaptive channel interrupts at most as often as this in a second (Linux, e1000.rst) or with as many completions, and
    # holds nothing back for longer than that.
    FASTEST = 70_000
    MOST = 64
    SLOWEST = 250_000
    RATES = { "a PC of 1998" => [1e3, 5e3, 10e3, 20e3, 30e3, 50e3, 70e3, 100e3, 200e3],
              "a cost of 1.6 us" => [1e3, 10e3, 50e3, 100e3, 200e3, 500e3, 1e6, 2e6, 5e6] }.freeze
    FULL = "B = (entry + exit) / (1 - deferred / T)"
    RULES = {
      mean: "mean over j < k of (held + entry - j T) mod k T; where the CPU has no time left, at most (B + T) / 2 + held, " \
            "#{FULL}; where deferred >= T, it grows without end",
      worst: "max over j < k of (held + entry - j T) mod k T; where the CPU has no time left, at most B + T + held, " \
             "#{FULL}; where deferred >= T, it grows without end",
      share: "((entry + exit) / k + deferred) / T; where that is 1 or more, all but T / B of the time or more: the livelock " \
             "of Mogul and Ramakrishnan (TOCS 15(3), 1997)"
    }.freeze
    ADAPTIVE = { mean: "at most 250 us, and what the handlers take", worst: "at most 250 us, and what the handlers take",
                 share: "at most 70,000 interrupts a second, or one for 64 completions" }.freeze

    # When a handler looked, the numbers and cycles of completions that it was the first to see, and how long it goes on.
    Look = Struct.new(:cycle, :seen, :after)
    # What became of completions: how many interrupts a second, microseconds, and percent of the CPU's time.
    Result = Struct.new(:rate, :interrupts, :mean, :worst, :share)

    module_function

    def groups(quick)
      COSTS.each do |name, cost|
        results = POLICIES.to_h do |policy, options|
          [policy, RATES[name].map { |rate| run(options, cost, rate, quick ? 512 : 4096) }]
        end
        yield panel("#{name}: mean latency", "completion to handler, mean", "us", results, cost, :mean)
        yield panel("#{name}: worst latency", "completion to handler, longest", "us", results, cost, :worst)
        yield panel("#{name}: time for interrupts", "of the CPU's time", "%", results, cost, :share)
      end
    end

    # The mean stands over the interrupts that there were in the chart, the rest over the completions.
    def panel(name, what, unit, results, cost, figure)
      completions, interrupts = %w[completions interrupts].map { |thing| Axis.new("#{thing} a second", nil, :log) }
      mean = figure == :mean
      panel = Panel.new("interrupts", name, completions, Axis.new(what, unit, unit == "%" ? :linear : :log),
                        along: mean ? interrupts : completions)
      results.each do |policy, all|
        points = all.map do |result|
          Point.new(result.rate, result[figure], expected(policy, cost, result.rate, figure), (result.interrupts if mean))
        end
        panel.add(policy, policy == "adaptive" ? ADAPTIVE[figure] : RULES[figure], points)
      end
      panel
    end

    def run(policy, cost, rate, count)
      sim = DMA::Sim.new(clock: :manual, interrupt_cost: cost)
      channel = sim.device(coalesce: policy).channel
      buffer = DMA::Buffer.new(64)
      distance = (1e9 / rate).round
      trace = sim.trace do
        count.times do
          channel.submit(source: buffer, destination: 0)
          sim.step(distance)
          channel.process_completions
        end
        sim.run_until_idle
      end
      measure(trace, cost, rate, count)
    end

    # Of the handlers that were the first to see any of the middle half, from one's look to another's.
    def measure(trace, cost, rate, count)
      looks = looks(trace, cost).select { |look| look.seen.any? }
      middle = ((count / 4)..(count * 3 / 4))
      inside = looks.each_index.select { |n| looks[n].seen.any? { |number, _| middle.cover?(number) } }
      before = looks[[inside.first - 1, 0].max]
      looks = looks[[inside.first, 1].max..inside.last]
      latencies = looks.flat_map { |look| look.seen.map { |_, cycle| look.cycle - cycle } }
      # One nanosecond a cycle.
      time = looks.last.cycle - before.cycle
      busy = [before, *looks[..-2]].sum(&:after) + (looks.size * cost[:entry])
      Result.new(rate, looks.size * 1e9 / time, latencies.sum / 1e3 / latencies.size, latencies.max / 1e3, 100.0 * busy / time)
    end

    # Each handler's look. Events stand in the order in which they happened, which for a handler is its look; it is over
    # later, by what it does for the completions that its messages told of.
    def looks(trace, cost)
      looks = []
      seen = []
      number = told = due = 0
      trace.each do |event|
        case event.what
        when :status then seen << [(number += 1) - 1, event.cycle]
        when :interrupt then due, told = due + number - told, number
        when :handler
          after = cost[:exit] + (cost[:deferred] * due)
          looks << Look.new(event.cycle - after, seen, after)
          seen = []
          due = 0
        end
      end
      looks
    end

    # Microseconds, or percent.
    def expected(policy, cost, rate, figure)
      fixed, deferred = cost[:entry] + cost[:exit], cost[:deferred]
      distance = (1e9 / rate).round
      return bounds(figure, fixed, deferred, distance) if policy == "adaptive"

      count, time = HOLDS[policy]
      held = [count, (time / distance) + 1].min
      time = (count - 1) * distance if held == count
      # As long as the handler has not looked, messages of the same channel are one.
      held = [held, (cost[:entry] / distance) + 1].max if time.zero?
      busy = fixed + (held * deferred)
      return full(figure, fixed, deferred, distance, time) if busy > held * distance

      latencies = Array.new(held) { |n| (time + cost[:entry] - (n * distance)) % (held * distance) / 1e3 }
      { mean: latencies.sum / held, worst: latencies.max, share: 100.0 * busy / (held * distance) }[figure]
    end

    # Where the CPU has no time left: handlers that follow each other see what came since the last.
    def full(figure, fixed, deferred, distance, time)
      return (100.0..100.0 if figure == :share) if deferred >= distance

      batch = fixed / (1 - deferred.fdiv(distance))
      { mean: 0.0..((((batch + distance) / 2) + time) / 1e3), worst: 0.0..((batch + distance + time) / 1e3),
        share: (100 * [1 - (distance / batch), 0].max)..100.0 }[figure]
    end

    def bounds(figure, fixed, deferred, distance)
      if figure == :share
        interrupts = [[1e9 / (1_000_000_000 / FASTEST), 1e9 / distance / MOST].max, 1e9 / distance].min
        return 0.0..[100 * (deferred.fdiv(distance) + (fixed * interrupts * 1e-9)), 100].min
      end
      return if deferred >= distance

      0.0..((SLOWEST + (fixed / (1 - deferred.fdiv(distance)))) / 1e3)
    end
  end
end
