# frozen_string_literal: true

# Shared cache line: a buffer for a device and a variable of the program lie in one line of 64 bytes. The line can be
# written back, which spoils what the device wrote, or dropped, which spoils the variable.
#
#   ruby -Ilib examples/bugs/shared_cache_line.rb

require "dma"

module Bugs
  module SharedCacheLine
    LINE = 64

    module_function

    # The counter lies behind the packet.
    def bug
      receive(8)
    end

    # The counter has a line of its own.
    def cure
      receive(LINE)
    end

    # The packet that the program reads, and its counter, which it sets to "count 1" while the packet is on its way.
    def receive(counter)
      device = DMA::Sim.new(clock: :manual, coherent: false).device
      device.pio_write("packet 1")
      memory = DMA::Buffer.new(4096)
      memory.set_string("count 0", counter)
      mapping = device.map(memory.slice(0, 8), type: :streaming, direction: :from_device)
      transfer = device.channel.submit(source: 0, destination: mapping)
      memory.set_string("count 1", counter)
      transfer.wait
      mapping.unmap
      [memory.get_string(0, 8), memory.get_string(counter, 7)]
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::SharedCacheLine.bug
  cure = Bugs::SharedCacheLine.cure
  puts "Bug:  packet 1 came and the program counted to 1: it reads #{bug[0].inspect} and #{bug[1].inspect}."
  puts "Why:  both lie in one line of the cache; the unmap drops it for the packet, and the counter with it."
  puts "Cure: a line of its own for the counter; the program reads #{cure[0].inspect} and #{cure[1].inspect}."
end
