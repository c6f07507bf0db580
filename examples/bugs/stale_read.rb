# frozen_string_literal: true

# Stale read: the device has written to memory, and the CPU reads its cache, where the old bytes are.
#
#   ruby -Ilib examples/bugs/stale_read.rb

require "dma"

module Bugs
  module StaleRead
    module_function

    def bug
      receive { |_mapping| nil }
    end

    # What the cache has of the memory is dropped before the CPU looks.
    def cure
      receive(&:sync_for_cpu)
    end

    # What the program reads, and how often its cache had it.
    def receive
      device = DMA::Sim.new(clock: :manual, coherent: false).device
      device.pio_write("new text")
      memory = DMA::Buffer.new(4096)
      mapping = device.map(memory, type: :consistent)
      mapping.sync_for_cpu
      memory.set_string("old text") # and so the line is in the cache
      mapping.sync_for_device
      device.channel.submit(source: 0, destination: mapping, length: 8).wait
      yield mapping
      hits = device.sim.stats[:cache][:hits]
      [memory.get_string(0, 8), device.sim.stats[:cache][:hits] - hits]
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::StaleRead.bug
  cure = Bugs::StaleRead.cure
  puts "Bug:  the device wrote \"new text\", and the program read #{bug[0].inspect}."
  puts "Why:  the line was in the CPU's cache (#{bug[1]} hit), from before the device wrote to memory."
  puts "Cure: sync_for_cpu drops it first (#{cure[1]} hits); the program read #{cure[0].inspect}."
end
