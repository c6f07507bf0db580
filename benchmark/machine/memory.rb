# frozen_string_literal: true
# rubocop:disable all

module Machine
  # Devices on links of their own, which share memory with each other and with the CPU.
  module Memory
    TITLE = "Memory: devices on links of PCI Express 3.0 x16, which share it with each other and the CPU"
    NOTE = "Each moves bursts of 512 bytes at 14.4 GB/s, if memory can; it serves a burst in B whole cycles, an access of " \
           "the CPU in a."
    # GB/s of memory, and the CPU's load.
    WAYS = [[12.8, 0], [25.6, 0], [51.2, 0], [25.6, 0.1], [25.6, 0.5]].freeze
    DEVICES = (1..8)
    PLAIN = "min(devices x 14.4, memory)"
    LOADED = "min(devices x 14.4, memory x B / (B + a / k)), k = max(1, ceil(gap / B))"

    module_function

    def groups(quick)
      devices = quick ? [1, 2, 8] : DEVICES.to_a
      totals = WAYS.to_h { |way| [way, devices.map { |count| [count, run(*way, count, 1 << (quick ? 16 : 18))] }] }
      yield panel("of all", totals) { |rate, _| rate }
      yield panel("of each device", totals) { |rate, count| rate / count }
    end

    def panel(name, totals)
      panel = Panel.new("memory", "bandwidth #{name}",
                        Axis.new("devices, each with a link", nil, :linear), Axis.new("bandwidth", "GB/s", :linear))
      totals.each do |(memory, load), rates|
        name = load.zero? ? "#{memory} GB/s" : "#{memory} GB/s, CPU load #{load}"
        panel.add(name, load.zero? ? PLAIN : LOADED, rates.map do |count, rate|
          Point.new(count, yield(rate, count), yield(expected(memory, load, count), count))
        end)
      end
      panel
    end

    # GB/s of so many devices, until the first of them is done.
    def run(memory, load, count, size)
      sim = DMA::Sim.new(clock: :manual, bus: :pcie, memory_bandwidth: (memory * 1e9).round, cpu_load: load)
      devices = Array.new(count) { sim.device(controller: :pcie) }
      devices.each { |device| device.write_dma("x" * size) }
      sim.run_until_idle
      count * size / sim.time / 1e9
    end

    def expected(memory, load, count)
      bus = Bus.new(:pcie, memory: memory * 1e9)
      links = count * bus.burst * bus.frequency / bus.cycles(bus.burst) / 1e9
      return [links, memory].min if load.zero?

      burst = bus.memory(bus.burst)
      bursts = [Machine.parts(bus.gap(load), burst), 1].max
      [links, memory * burst / (burst + bus.access.fdiv(bursts))].min
    end
  end
end
