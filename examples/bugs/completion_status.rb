# frozen_string_literal: true

# Wrong completion status: a descriptor that has ended has not ended well. Who looks only at whether the device has gone
# on takes for data what lay in memory before.
#
#   ruby -Ilib examples/bugs/completion_status.rb

require_relative "../bare_metal"

module Bugs
  module CompletionStatus
    module_function

    # The head has gone on, so the packet is there, is it not?
    def bug
      receive do |ring, sim|
        ring.doorbell(1)
        sim.step until ring.head == 1
      end
    end

    # The status says how it ended. What failed is asked for once more.
    def cure
      receive do |ring, sim, address|
        ring.doorbell(1)
        sim.step while ring.status(0) == BareMetal::PENDING
        next if ring.status(0) == BareMetal::COMPLETE

        ring.put(1, 0, address, 7, BareMetal::FROM_DEVICE)
        ring.doorbell(2)
        sim.step while ring.status(1) == BareMetal::PENDING
      end
    end

    # The bytes that the program takes for the packet. An error of the bus strikes the first transfer.
    def receive
      device = DMA::Sim.new(clock: :manual).device
      device.pio_write("pay Bob")
      memory = DMA::Buffer.new(4096)
      memory.set_string("pay Eve")
      ring = BareMetal::Ring.new(device, 4)
      mapping = device.map(memory)
      ring.put(0, 0, mapping.address, 7, BareMetal::FROM_DEVICE)
      device.sim.inject(:bus_error)
      yield ring, device.sim, mapping.address
      memory.get_string(0, 7)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::CompletionStatus.bug
  cure = Bugs::CompletionStatus.cure
  puts "Bug:  the device sends \"pay Bob\", and the program reads #{bug.inspect}, the packet before."
  puts "Why:  the transfer ended with an error of the bus: the head went on, and not a byte was written."
  puts "Cure: read the status, and repeat what failed; the program reads #{cure.inspect}."
end
