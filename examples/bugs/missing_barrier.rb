# frozen_string_literal: true

# Missing barrier: a CPU may let the device see its stores in another order than that of the program, the descriptor
# before the data that it leads to.
#
#   ruby -Ilib examples/bugs/missing_barrier.rb

require_relative "../bare_metal"

module Bugs
  module MissingBarrier
    module_function

    def bug
      send_text { nil }
    end

    # What was written before it is seen before what is written after it.
    def cure
      send_text { DMA.write_barrier }
    end

    # What the device has: the text, then its descriptor, then the doorbell.
    def send_text
      device = DMA::Sim.new(clock: :manual, ordering: :weak).device
      ring = BareMetal::Ring.new(device, 4)
      memory = DMA::Buffer.new(4096)
      memory.set_string("old text")
      mapping = device.map(memory)
      memory.set_string("new text")
      yield
      ring.put(0, mapping.address, 0, 8, BareMetal::TO_DEVICE)
      ring.doorbell(1)
      device.sim.run_until_idle
      device.pio_read(8)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::MissingBarrier.bug
  cure = Bugs::MissingBarrier.cure
  puts "Bug:  the program wrote \"new text\", then the descriptor, and the device read #{bug.inspect}."
  puts "Why:  the store of the descriptor, which came last, was seen first; the text was still in the store buffer."
  puts "Cure: a write barrier between the two; the device read #{cure.inspect}."
end
