# frozen_string_literal: true

module Support
  # GC_STRESS=1 runs a GC at every allocation inside each example. Each costs milliseconds, so loops are bounded; the bound is
  # printed.
  module Stress
    ON = ENV["GC_STRESS"] == "1"
    BOUND = Integer(ENV.fetch("GC_STRESS_BOUND", 20))
    puts "GC_STRESS: loops are bounded to #{BOUND} rounds" if ON

    def self.around(example)
      GC.stress = true if ON
      example.run
    ensure
      GC.stress = false
    end

    # How many rounds a loop of `count` runs.
    def rounds(count)
      ON ? [count, BOUND].min : count
    end

    # Runs preparation that is not under test without stress.
    def unstressed
      stressed = GC.stress
      GC.stress = false
      yield
    ensure
      GC.stress = stressed
    end
  end
end
