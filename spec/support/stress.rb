# frozen_string_literal: true

module Support
  # GC_STRESS=1 collects the young generation at every allocation inside each example, and everything every few
  # milliseconds from another thread: whatever somebody forgot to mark dies soon. (Collecting everything at every
  # allocation takes hours.) Loops are bounded; the bound is printed.
  module Stress
    ON = ENV["GC_STRESS"] == "1"
    BOUND = Integer(ENV.fetch("GC_STRESS_BOUND", 20))
    puts "GC_STRESS: loops are bounded to #{BOUND} rounds" if ON

    NO_MAJOR_GC = 0x01

    def self.around(example)
      return example.run unless ON

      begin
        GC.stress = NO_MAJOR_GC
        collector = Thread.new { loop { GC.start.then { sleep 0.02 } } }
        example.run
      ensure
        collector.kill
        GC.stress = false
      end
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
