# frozen_string_literal: true
# rubocop:disable all

module Machine
  # What is left of the 16 GB/s of PCI Express 3.0 x16, by the payload of its packets, and what makes it 10 to 12.
  module Payload
    TITLE = "PCI Express 3.0 x16: nearly 16 GB/s in theory, and what is left of them"
    NOTE = "Descriptors lie ready, and are fetched eight at a time. Two channels of a device take turns, a packet each."
    SIZES = [64, 128, 256, 512].freeze
    # Bytes of a block, and channels that take turns; packets of one alone follow each other without a gap.
    WAYS = { "one long block" => [1 << 20, 1], "blocks of 4 KiB" => [4096, 1], "blocks of 1500 bytes" => [1500, 1],
             "blocks of 512 bytes" => [512, 1], "two channels, blocks of 4 KiB" => [4096, 2],
             "two channels, blocks of 512 bytes" => [512, 2] }.freeze
    LINK = "p / (p + 24) of 15.75 GB/s"
    BLOCKS = "block, status and an eighth of a fetch of 8 descriptors, by the formula of the bus"
    TURNS = "the same, but each packet takes whole cycles: ceil((p + 24) / 16)"
    # From the article.
    PRACTICE = (10.0..12.0)
    PREFETCH = 8

    module_function

    def groups(quick)
      panel = Panel.new("payload", "throughput by the payload of a packet",
                        Axis.new("payload of a packet", "bytes", :log), Axis.new("throughput", "GB/s", :linear), band: PRACTICE)
      WAYS.each do |name, (block, channels)|
        rule = if channels > 1 then TURNS
               else
                 block > 4096 ? LINK : BLOCKS
               end
        panel.add(name, rule, SIZES.map { |payload| point(payload, block, channels, rule, quick ? 64 : 240) })
      end
      yield panel
      verdict(panel)
    end

    def point(payload, block, channels, rule, count)
      count = 8 if block > 4096
      expected = if rule == LINK
                   16 * payload / (payload + 24.0) * Bus.new(:pcie).frequency / 1e9
                 else
                   formula(payload,
                           block, rule)
                 end
      Point.new(payload, run(payload, block, channels, count), expected)
    end

    def run(payload, block, channels, count)
      # As much memory as anybody may want.
      sim = DMA::Sim.new(clock: :manual, bus: { preset: :pcie, payload: payload }, memory_bandwidth: 1 << 40)
      device = sim.device(controller: :pcie, channels: channels)
      buffer = DMA::Buffer.new(block)
      device.map(buffer) do |mapping|
        channels.times { |n| count.times { device.channel(n).submit(source: mapping, destination: 0) } }
        sim.run_until_idle
      end
      channels * count * block / sim.time / 1e9
    end

    # GB/s of descriptors that are fetched eight at a time.
    def formula(payload, block, rule)
      bus = Bus.new({ preset: :pcie, payload: payload })
      cycles = if rule == TURNS
                 (block / payload * bus.cycles(payload)) + bus.cycles(block % payload) + bus.cycles(Bus::STATUS)
               else
                 bus.cycles(block) + bus.cycles(Bus::STATUS)
               end
      cycles += bus.cycles(Bus::DESCRIPTOR * PREFETCH).fdiv(PREFETCH)
      block / cycles * bus.frequency / 1e9
    end

    def verdict(panel)
      inside = panel.series.flat_map do |series|
        series.points.select { |point| PRACTICE.cover?(point.value) }.map { |point| "#{series.name} with #{point.x}" }
      end
      puts "10 to 12 GB/s, as the article has it: #{inside.join(", ")}", ""
    end
  end
end
