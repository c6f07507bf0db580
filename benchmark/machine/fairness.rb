# frozen_string_literal: true
# rubocop:disable all

module Machine
  # Three masters on PCI that always want the bus, one for long blocks, one for short ones, one for middling ones.
  module Fairness
    TITLE = "Fairness: three masters of PCI that always want the bus"
    NOTE = "One moves blocks of 4096 bytes, one of 4, one of 400. Round robin with a latency timer of 16, 32 or 128 cycles."
    BLOCKS = { "blocks of 4096 bytes" => 4096, "of 4 bytes" => 4, "of 400 bytes" => 400 }.freeze
    ROTATING = "rotating"
    ARBITRATIONS = { "fixed" => { arbitration: :fixed }, ROTATING => { arbitration: :rotating },
                     **[16, 32, 128].to_h do |latency|
                       ["round robin, #{latency}", { arbitration: :round_robin, latency_timer: latency }]
                     end }.freeze
    # Of PCI's transactions the longest that is not cut: the fetch of a descriptor.
    FETCH = 13
    SHARES = "fixed: all for the first; rotating: as the cycles of a transaction of each; round robin: a third, " \
             "give or take a fetch that began before the timer ran out"
    WAITS = "fixed: none, or for ever; rotating: at most a transaction of each other; round robin: at most the timer of each " \
            "other, and the fetch that began before it ran out"
    JAIN = "(sum x)^2 / (n sum x^2) of the shares (Jain, Chiu, Hawe, DEC-TR-301, 1984)"

    module_function

    def groups(quick, &)
      cycles = quick ? 8000 : 80_000
      runs = ARBITRATIONS.transform_values { |options| run(options, cycles) }
      shares = panel("share of the bus", Axis.new("of the cycles of all", "%", :linear), SHARES, runs) do |all, name, n|
        [100.0 * all[n][:cycles] / all.sum { |one| one[:cycles] }, share(name, n)]
      end
      waits = panel("longest wait for the bus", Axis.new("wait", "cycles", :log), WAITS, runs) do |all, name, n|
        [all[n][:longest_wait], wait(name, n, cycles)]
      end
      [shares, waits, jain(runs)].each(&)
    end

    def run(options, cycles)
      sim = DMA::Sim.new(clock: :manual, bus: :pci, **options)
      device = sim.device(channels: BLOCKS.size, ring_size: 8192)
      BLOCKS.values.each_with_index do |size, n|
        buffer = DMA::Buffer.new(size)
        # More than they get done.
        (2 + (cycles / Bus.new(:pci).transfer(size))).times { device.channel(n).submit(source: buffer, destination: 0) }
      end
      sim.step(cycles)
      sim.stats[:masters]
    end

    def panel(name, axis, rule, runs)
      panel = Panel.new("fairness", name, Axis.new("arbitration", nil, :names), axis)
      BLOCKS.each_key.with_index do |blocks, n|
        panel.add(blocks, rule, runs.map { |key, all| Point.new(key, *yield(all, key, n)) })
      end
      panel
    end

    def jain(runs)
      panel = Panel.new("fairness", "Jain's index of fairness", Axis.new("arbitration", nil, :names),
                        Axis.new("index, 1/3 to 1", nil, :linear))
      panel.add("index", JAIN, runs.map { |key, all| Point.new(key, index(all.map { |one| one[:cycles] }), fair(key)) })
      panel
    end

    def index(shares)
      (shares.sum**2) / (shares.size * shares.sum { |share| share**2 }).to_f
    end

    def fair(name)
      longest, *others = lengths(name)
      longest.is_a?(Range) ? index([longest.end, *others.map(&:begin)])..1.0 : index(lengths(name))
    end

    # In percent; the bounds are where one's turns are as long as they can be, or those of the others.
    def share(name, master)
      mine = lengths(name)[master]
      others = lengths(name).reject.with_index { |_, n| n == master }
      return 100.0 * mine / (mine + others.sum) unless mine.is_a?(Range)

      least, most = [[mine.begin, others.sum(&:end)], [mine.end, others.sum(&:begin)]].map do |own, rest|
        100.0 * own / (own + rest)
      end
      least..most
    end

    # How long each has the bus in turn.
    def lengths(name)
      case name
      when "fixed" then [1, 0, 0]
      when ROTATING then turns.map { |cycles| cycles.sum.fdiv(cycles.size) }
      else [(name[/\d+/].to_i..(name[/\d+/].to_i + FETCH - 1))] * BLOCKS.size
      end
    end

    # Cycles of each transaction of a block, for each master.
    def turns
      bus = Bus.new(:pci)
      BLOCKS.values.map do |size|
        whole, rest = size.divmod(116)
        [Bus::DESCRIPTOR, *([116] * whole), *([rest] if rest.positive?), Bus::STATUS].map { |bytes| bus.cycles(bytes) }
      end
    end

    def wait(name, master, cycles)
      others = turns.each_with_index.reject { |_, n| n == master }.map(&:first)
      case name
      when "fixed" then master.zero? ? 0 : cycles
      when ROTATING then 0..others.sum(&:max)
      else 0..((name[/\d+/].to_i + FETCH - 1) * others.size)
      end
    end
  end
end
