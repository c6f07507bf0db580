# frozen_string_literal: true

module Machine
  BUSES = { isa: "ISA", pci: "PCI", pcie: "PCI Express 3.0 x16" }.freeze

  module_function

  # How many parts of a size something takes.
  def parts(whole, part)
    -(-whole / part)
  end

  # The formulas of docs/machine.md for a bus, with nothing of the machine in them but its parameters.
  class Bus
    DESCRIPTOR = 40
    STATUS = 4
    LINE = 64
    DDR4 = 25_600_000_000

    def initialize(bus, memory: nil)
      @bus = DMA::Sim.new(clock: :manual, bus: bus).bus
      @memory = memory || (DDR4 if links?)
    end

    def links?
      @bus[:links]
    end

    def frequency
      @bus[:frequency]
    end

    def cycles(bytes)
      transactions = Machine.parts(bytes, @bus[:payload])
      (transactions * @bus[:setup]) + (Machine.parts(bytes + (transactions * @bus[:overhead]),
                                                     @bus[:width]) * @bus[:beat])
    end

    # A transfer of one descriptor.
    def transfer(bytes)
      cycles(DESCRIPTOR) + cycles(bytes) + cycles(STATUS)
    end

    # A load or store of the CPU.
    def word(width, reads)
      cycles(width) + (reads ? @bus[:read] : 0)
    end

    # Cycles that memory takes.
    def memory(bytes)
      (bytes * frequency / @memory).ceil
    end

    # Bytes of what cycle stealing and transparent transfers move at a time: a word, or a small packet.
    def unit
      links? ? LINE : @bus[:width]
    end

    # Bytes of a burst with a manual clock: packets that fill whole cycles.
    def burst
      packet = @bus[:payload] + @bus[:overhead]
      packets = (1..@bus[:width]).find { |count| (count * packet % @bus[:width]).zero? }
      Machine.parts(256, packets * @bus[:payload]) * packets * @bus[:payload]
    end

    # Cycles of an access of the CPU and of the gap behind it, and of a unit, on what they share.
    def access
      links? ? memory(LINE) : cycles(LINE)
    end

    def gap(load)
      ((access / load.to_f) - access).round
    end

    def steal
      links? ? memory(unit) : cycles(unit)
    end
  end
end
