# frozen_string_literal: true
# rubocop:disable all

module Machine
  # How fast a transfer is in each mode, and how long the CPU waits, while it wants the bus more and more.
  module Modes
    TITLE = "Modes: how a transfer and the CPU share the bus"
    NOTE = "n words of w cycles, accesses of the CPU of a cycles with gaps of g behind them. A load of 1 leaves no gap. On PCI " \
           "Express it is memory that they share: a word is 64 bytes, a burst 512."
    ALL = %i[burst cycle_stealing transparent].freeze
    NAMES = { burst: "burst", cycle_stealing: "cycle stealing", transparent: "transparent" }.freeze
    RATES = {
      burst: "n w: as without a CPU", cycle_stealing: "n w + (n / k) a, k = max(1, ceil(g / w))",
      transparent: "(n / k) (a + g), k = floor(g / w); 0: it never ends"
    }.freeze
    STALLS = { burst: "the whole transfer but the first gap: n w - g", cycle_stealing: "(n / k) max(0, k w - g)",
               transparent: "none" }.freeze
    LINK_RATES = {
      burst: "16 of 17.5 cycles are payload: as without a CPU",
      cycle_stealing: "a burst takes what its link or memory takes: n w + (n / k) a, k = max(1, ceil(g / w))",
      transparent: "the same with (n / k) (a + g), k = floor(g / w); 0: it never ends"
    }.freeze
    LINK_STALLS = { burst: "at most the part of the time that memory serves the link: 20 of 35 cycles",
                    cycle_stealing: "at most a word in each access: w / (a + g + w)", transparent: "none" }.freeze

    module_function

    def groups(quick)
      loads = quick ? [0, 0.25, 0.5, 0.75, 1] : (0..20).map { |n| n / 20.0 }
      size = quick ? 16_384 : 65_536
      runs = BUSES.to_h do |key, name|
        [name, [Bus.new(key), ALL.to_h { |mode| [mode, loads.map { |load| run(key, mode, load, size) }] }]]
      end
      runs.each { |name, (bus, modes)| yield rates(name, bus, modes, size) }
      runs.each { |name, (bus, modes)| yield stalls(name, bus, modes, size) }
    end

    # Load that was asked for, seconds, and stats of the machine.
    def run(bus, mode, load, size)
      sim = DMA::Sim.new(clock: :manual, bus: bus, cpu_load: load)
      transfer = sim.device(mode: mode).write_dma("x" * size)
      sim.run_until_idle
      [load, transfer.done? ? sim.time : Float::INFINITY, sim.stats]
    end

    def rates(name, bus, runs, size)
      panel = Panel.new("modes", "#{name}: throughput by mode", Axis.new("CPU load", nil, :linear),
                        Axis.new("throughput", "MB/s", :linear))
      rules = bus.links? ? LINK_RATES : RATES
      runs.each do |mode, points|
        panel.add(NAMES[mode], rules[mode], points.map do |load, seconds, _|
          Point.new(load, size / seconds / 1e6, size / (time(mode, load, bus, size) / bus.frequency) / 1e6)
        end)
      end
      panel
    end

    def stalls(name, bus, runs, size)
      panel = Panel.new("modes", "#{name}: the CPU waits", Axis.new("CPU load", nil, :linear),
                        Axis.new("stall cycles of all cycles", "%", :linear))
      rules = bus.links? ? LINK_STALLS : STALLS
      runs.each do |mode, points|
        ended = points.select { |_, seconds, _| seconds.finite? }
        panel.add(NAMES[mode], rules[mode], ended.map do |load, _, stats|
          share = stats[:cpu_stall_cycles].fdiv(stats[:cycles])
          Point.new(load, 100 * share, load.zero? ? 0.0 : percent(stall(mode, load, bus, size)))
        end)
      end
      panel
    end

    def percent(share)
      share.is_a?(Range) ? (0.0..(100 * share.end)) : 100.0 * share
    end

    # Cycles of a transfer.
    def time(mode, load, bus, size)
      return bus.transfer(size).to_f if load.zero? || (mode == :burst && bus.links?)
      return bus.transfer(size).to_f + bus.access if mode == :burst
      return shared(mode, load, bus, size) unless bus.links?

      # A burst after the other, each of which is over when its link and memory are done.
      bursts = size.fdiv(bus.burst)
      bursts * [bus.cycles(bus.burst), shared(mode, load, bus, bus.burst, others: [])].max
    end

    # What they take where words and accesses take turns.
    def shared(mode, load, bus, size, others: [Bus::DESCRIPTOR, Bus::STATUS])
      words = [size, *others].sum { |bytes| Machine.parts(bytes, bus.unit) }
      gap = bus.gap(load)
      count = fit(mode, gap, bus.steal)
      return Float::INFINITY if count.zero?

      accesses = words.fdiv(count)
      mode == :transparent ? accesses * (bus.access + gap) : (words * bus.steal) + (accesses * bus.access)
    end

    # Words between two accesses.
    def fit(mode, gap, word)
      mode == :transparent ? gap / word : [Machine.parts(gap, word), 1].max
    end

    # The part of the time that the CPU waits.
    def stall(mode, load, bus, size)
      gap = bus.gap(load)
      word = bus.steal
      case mode
      when :transparent then 0
      when :cycle_stealing
        return 0..word.fdiv(bus.access + gap + word) if bus.links?

        count = fit(mode, gap, word)
        [(count * word) - gap, 0].max.fdiv((count * word) + bus.access)
      else
        return 0..bus.memory(bus.burst).fdiv(bus.cycles(bus.burst)) if bus.links?

        [bus.transfer(size) - gap, 0].max / time(mode, load, bus, size)
      end
    end
  end
end
