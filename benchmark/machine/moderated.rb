# frozen_string_literal: true

module Machine
  # What becomes of completions that come at equal distances, under a policy and with what an interrupt costs: the
  # formulas of {Interrupts::RULES}, in nanoseconds.
  class Moderated
    # Completions, and nanoseconds, of the policies that are fixed; those of the presets are the kernel's
    # (lib/dim/net_dim.c).
    HOLDS = { "none" => [1, 0], "low latency" => [256, 2000], "16 completions" => [16, 1_000_000_000],
              "50 us" => [1 << 60, 50_000], "throughput" => [64, 64_000] }.freeze
    # An adaptive channel interrupts no more often than this in a second (Linux, e1000.rst) or with as many completions,
    # and holds none back for longer than that.
    FASTEST = 70_000
    MOST = 64
    SLOWEST = 250_000

    def initialize(policy, cost, rate)
      @policy = policy
      @entry = cost[:entry]
      @fixed = cost[:entry] + cost[:exit]
      @deferred = cost[:deferred]
      @distance = 1_000_000_000 / rate
    end

    # @param figure [Symbol] :mean and :worst, in microseconds; :share, in percent
    # @return [Numeric, Range, nil] nil: without end
    def expected(figure)
      return bounds(figure) if @policy == "adaptive"

      held, time = hold
      period = held * @distance
      busy = @fixed + (held * @deferred)
      return full(figure, time) if busy > period

      latencies = Array.new(held) { |n| (time + @entry - (n * @distance)) % period / 1e3 }
      { mean: latencies.sum / held, worst: latencies.max, share: 100.0 * busy / period }[figure]
    end

    private

    # Completions of an interrupt, and for how long the first is held back.
    def hold
      count, time = HOLDS[@policy]
      held = [count, (time / @distance) + 1].min
      return [held, time] if held < count
      return [held, (count - 1) * @distance] if count > 1

      # As long as the handler has not looked, messages of the same channel are one.
      [(@entry / @distance) + 1, 0]
    end

    # Where the CPU has no time left: handlers that follow each other see what came since the last.
    def full(figure, time)
      return (100.0..100.0 if figure == :share) if @deferred >= @distance

      busy = @fixed / (1 - @deferred.fdiv(@distance))
      { mean: 0.0..((((busy + @distance) / 2) + time) / 1e3), worst: 0.0..((busy + @distance + time) / 1e3),
        share: (100 * [1 - (@distance / busy), 0].max)..100.0 }[figure]
    end

    def bounds(figure)
      return 0.0..[100.0 * (@deferred + (@fixed * most)) / @distance, 100].min if figure == :share
      return if @deferred >= @distance

      0.0..((SLOWEST + (@fixed / (1 - @deferred.fdiv(@distance)))) / 1e3)
    end

    # Interrupts of an adaptive channel for each completion.
    def most
      [1, [@distance.fdiv(1_000_000_000 / FASTEST), 1.fdiv(MOST)].max].min
    end
  end
end
