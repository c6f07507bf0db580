# frozen_string_literal: true

# What the options of simulated machines and their devices do.
module Switches
  off("controller:", "controller: :isa") { device { |options| options.except(:controller) } }
  off("mode: :burst") do
    device { |options| options.fetch(:mode, :burst) == :burst ? options.merge(mode: :transparent) : options }
  end
  off("mode:", "mode: :cycle_stealing", "mode: :transparent") { device { |options| options.except(:mode) } }
  off("arbitration:", "latency_timer:") { machine { |options| options.except(:arbitration, :latency_timer) } }
  off("links: true") do
    machine { |options| options.merge(bus: { preset: options.fetch(:bus), links: false }) }
  end
  off("bus:", "bus: :pci", "bus: :pcie") { machine { |options| options.except(:bus) } }
  off("bus: { preset: :pcie, payload: 64 }") do
    machine { |options| options[:bus].is_a?(Hash) ? options.merge(bus: options[:bus].fetch(:preset, :ideal)) : options }
  end
  off("memory_bandwidth:") { machine { |options| options.except(:memory_bandwidth) } }
  off("address_bits:") { device { |options| options.except(:address_bits) } }
  off("prefetch:") { device { |options| options.except(:prefetch) } }
  off("alignment:") { device { |options| options.except(:alignment) } }
  off("coalesce:", "coalesce: :low_latency") { device { |options| options.except(:coalesce) } }
  off("interrupt_cost:") { machine { |options| options.except(:interrupt_cost) } }
  off("interrupt_cost: { deferred: 1000 }") do
    machine do |options|
      entry, exit, = DMA::Sim.__send__(:cost, options[:interrupt_cost])
      options.merge(interrupt_cost: { entry: entry, exit: exit })
    end
  end
  off("iommu: true") { machine { |options| options.merge(iommu: false) } }

  # Memory as the CPU sees it, and what the IOMMU keeps.
  off("coherent: false") { machine { |options| options.except(:coherent) } }
  off("coherent: true") { machine { |options| { coherent: false, **options } } }
  off("cache_size:") { machine { |options| options.except(:cache_size) } }
  off("cache_injection: false") do
    machine { |options| options[:cache_injection] == false ? options.merge(cache_injection: true) : options }
  end
  off("cache_injection: true") do
    machine { |options| options[:cache_injection] ? options.merge(cache_injection: false) : options }
  end
  off("ordering: :weak") { machine { |options| options.except(:ordering) } }
  off("invalidation: :lazy") { machine { |options| options.except(:invalidation) } }
  off("cpus:") { machine { |options| options.except(:cpus) } }
  off("sim.faults") { instead(DMA::Sim, :faults) { [] } }
  off("sim.inject") { instead(DMA::Sim, :inject) { |*, **| self } }
  off("sim.step") { instead(DMA::Sim, :step) { |_cycles = 1| self } }

  # Physical memory.
  off("fragmentation:") { machine { |options| options.except(:fragmentation) } }
  off("sim.migrate") { instead(DMA::Sim, :migrate) { |_pages = nil| 0 } }
  off("misaligned: :truncate") { device { |options| options.except(:misaligned) } }

  # Registers; those of the 8237 are ports.
  off("dev.registers", "CONTROL") { lost_of_channel(0x14) }
  off("SOURCE") { lost_of_channel(0x00) }
  off("DESTINATION") { lost_of_channel(0x08) }
  off("COUNT") { lost_of_channel(0x10) }
  off("VECTOR_CONTROL") { lost_of_channel(0x38) }
  off("RING") { lost_of_channel(0x20) }
  off("HEAD") { read_as(0xffff) { |offset| offset % 0x40 == 0x1c } }
  off("STATUS") { read_as(0) { |offset| offset % 0x40 == 0x16 } }
  off("interrupt: true") do
    instead(DMA::Registers, :native_write) do |offset, bytes, value|
      super(offset, bytes, offset % 0x40 == 0x14 ? value & ~0x04 : value)
    end
  end
  off("0xd4") { lost { |port, _| port == 0xd4 } }
  off("0x81") { lost { |port, _| port.between?(0x80, 0x8f) } }
  off("0x01") { lost { |port, _| port < 8 && port.odd? } }
  off("0x0b") do
    instead(DMA::Registers, :native_write) do |port, bytes, value|
      super(port, bytes, port == 0x0b ? (value & 0x3f) | 0x40 : value) # all single
    end
  end
  off("0x08") { lost { |port, _| port == 0x08 } }

  # Signals stay high.
  %w[REQ# GNT# FRAME# IRDY# TRDY#].each do |signal|
    off(signal) do
      instead(DMA::Trace, :to_vcd) do |**window|
        dump = super(**window)
        ids = dump.scan(/^\$var \w+ \d+ (\S+) #{signal} /).flatten
        dump.gsub(/^0(?:#{Regexp.union(ids)})$/) { |change| change.sub("0", "1") }
      end
    end
  end
  off("trace.to_vcd") { instead(DMA::Trace, :to_vcd) { |**window| super(**window)[/.*^#0$/m] } }
end
