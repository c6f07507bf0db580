# frozen_string_literal: true

module Machine
  # Programmed I/O beside DMA: time, operations of the CPU, and from which size on DMA is the better one.
  module Pio
    TITLE = "Programmed I/O beside DMA: from which size on is DMA worth it?"
    NOTE = "Time until the CPU is done with the last word, or its handler looks. An interrupt takes nothing of the " \
           "CPU, or 1.6 us (1 us before its handler looks), or 32.5 us (10.5 us), as on a PC of 1998."
    WIDTHS = [1, 4, 8].freeze
    COSTS = { "interrupts at no cost" => nil, "at 1.6 us" => Interrupts::COSTS["a cost of 1.6 us"],
              "at 32.5 us (a PC of 1998)" => Interrupts::COSTS["a PC of 1998"] }.freeze
    SIZES = (4..20).step(2).map { |power| 1 << power }.freeze
    # From the article: DMA is worth it above 1 KB.
    ARTICLE = 1024
    WORDS = "ceil(n / width) words, each a transaction of the bus, and what a read waits for"
    BLOCKS = "descriptor, block and status by the formula of the bus, and what is before the handler looks"
    OPERATIONS = "ceil(n / width); DMA: five words, a doorbell, a status, forty of an interrupt"
    HEADER = ["", "PIO by", "time, #{COSTS.keys[0]}", "time, #{COSTS.keys[1]}", "time, 32.5 us", "CPU time, 1.6 us",
              "CPU time, 32.5 us", "operations"].freeze

    module_function

    def groups(quick)
      sizes = quick ? SIZES.values_at(0, 3, 8) : SIZES
      [false, true].product(BUSES.to_a).each { |reads, (key, name)| yield times(key, name, reads, sizes) }
      yield operations(sizes)
      crossovers
    end

    def times(key, name, reads, sizes)
      panel = Panel.new("pio", "#{name}: a #{reads ? "read" : "write"}", Axis.new("size", "bytes", :log),
                        Axis.new("time", "us", :log))
      way = Way.new(key, reads)
      WIDTHS.each do |width|
        panel.add("PIO, #{width} #{width == 1 ? "byte" : "bytes"} at a time", WORDS, sizes.map do |size|
          Point.new(size, way.microseconds(way.programmed(size, width)), way.microseconds(way.words(size, width)))
        end)
      end
      COSTS.each do |cost, parts|
        panel.add("DMA, #{cost}", BLOCKS, sizes.map do |size|
          Point.new(size, way.microseconds(way.dma(size, parts).first), way.microseconds(way.block(size, parts)))
        end)
      end
      panel
    end

    def operations(sizes)
      panel = Panel.new("pio", "what the CPU does for a write", Axis.new("size", "bytes", :log),
                        Axis.new("loads and stores", nil, :log))
      way = Way.new(:pci, false)
      WIDTHS.each do |width|
        panel.add("PIO, by #{width}", OPERATIONS, sizes.map do |size|
          Point.new(size, way.operations { |device| device.pio_write("x" * size, width: width) },
                    Machine.parts(size, width))
        end)
      end
      panel.add("DMA", OPERATIONS, sizes.map do |size|
        Point.new(size, way.operations { |device| device.write_dma("x" * size).wait }, 47)
      end)
      panel
    end

    # Sizes from which on DMA takes less: of time, of the CPU's time, of its operations.
    def crossovers
      puts "From how many bytes on DMA is faster than programmed I/O, or takes less of the CPU's time, or fewer of its",
           "operations; in bold, where that is above 1 KB:", ""
      ways = BUSES.keys.product([false, true], WIDTHS).to_h { |way| [way, found(*way)] }
      Support.table(HEADER, ways.map do |(key, reads, width), found|
        [BUSES[key] + (reads ? ", read" : ", write"), width, *found.map { |pair| bytes(pair.first) }, (46 * width) + 1]
      end)
      all = ways.values.flatten(1)
      right = all.count { |measured, formula| measured == formula }
      puts "#{right} of #{all.size} sizes are what the formulas give", ""
    end

    # For each of the columns the size that was measured, and the one that the formulas give.
    def found(key, reads, width)
      way = Way.new(key, reads)
      times = COSTS.values.map do |cost|
        [first { |size| way.dma(size, cost).first <= way.programmed(size, width) },
         first { |size| way.block(size, cost) <= way.words(size, width) }]
      end
      times + COSTS.values.compact.map do |cost|
        [first { |size| way.dma(size, cost).last <= way.programmed(size, width) },
         first { |size| way.whole(cost.values.sum) <= way.words(size, width) }]
      end
    end

    def bytes(size)
      return "never" unless size

      size <= ARTICLE ? Report.value(size) : "**#{Report.value(size)}**"
    end

    # Cost of both grows with the size, that of DMA by less.
    def first(&)
      (1..SIZES.last).bsearch(&)
    end

    # A bus and a direction, measured and by the formulas, in cycles.
    class Way
      def initialize(key, reads)
        @key = key
        @reads = reads
        @bus = Bus.new(key)
        @devices = {}
      end

      def microseconds(cycles)
        cycles * 1e6 / @bus.frequency
      end

      def programmed(size, width)
        timed(device(nil)) do |device|
          @reads ? device.pio_read(size, width: width) : device.pio_write("x" * size, width: width)
        end
      end

      def words(size, width)
        Machine.parts(size, width) * @bus.word(width, @reads)
      end

      # Until who waits knows, and of the CPU's time.
      def dma(size, cost)
        device = device(cost)
        before = device.sim.stats[:interrupt_cycles]
        cycles = timed(device) { @reads ? device.read_dma(size) : device.write_dma("x" * size).wait }
        # The handler goes on behind its look.
        device.sim.step(whole(cost.values.sum)) if cost
        [cycles, device.sim.stats[:interrupt_cycles] - before]
      end

      def block(size, cost)
        @bus.transfer(size) + whole(cost ? cost[:entry] : 0)
      end

      # Nanoseconds in whole cycles.
      def whole(nanoseconds)
        Machine.parts(nanoseconds * @bus.frequency, 1_000_000_000)
      end

      def operations
        device = device(nil)
        before = device.sim.stats[:cpu_operations]
        yield device
        device.sim.stats[:cpu_operations] - before
      end

      private

      # Each has its own machine.
      def device(cost)
        @devices[cost] ||= DMA::Sim.new(clock: :manual, bus: @key, interrupt_cost: cost).device(memory: 2 << 20)
      end

      # From when the CPU is done with the interrupt before.
      def timed(device)
        device.sim.step(100_000)
        before = device.sim.cycles
        yield device
        device.sim.cycles - before
      end
    end
  end
end
