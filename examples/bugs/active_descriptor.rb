# frozen_string_literal: true

# Active descriptor overwritten: a descriptor is the device's from the doorbell on until its status is there. Who
# changes it meanwhile does not know what the device fetches: the old one, the new one, or half of each.
#
#   ruby -Ilib examples/bugs/active_descriptor.rb

require_relative "../bare_metal"

module Bugs
  module ActiveDescriptor
    OLD = "good morning, "
    NEW = "hi"

    module_function

    # "There is better to say": the descriptor gets another source and another length, and is fetched in between.
    def bug
      say do |ring, sim, address|
        ring.source(0, address)
        sim.step(5)
        ring.length(0, NEW.size)
      end
    end

    # What was handed over is let alone: the next message has a descriptor of its own, and goes behind it.
    def cure
      say do |ring, _sim, address|
        ring.put(1, address, OLD.size, NEW.size, BareMetal::TO_DEVICE)
        ring.doorbell(2)
      end
    end

    # What the device has been told in the end; both messages lie in one buffer, and something private behind them.
    def say
      device = DMA::Sim.new(clock: :manual).device
      device.pio_write("." * 20)
      ring = BareMetal::Ring.new(device, 4)
      memory = DMA::Buffer.new(4096)
      memory.set_string("#{OLD}#{NEW}, PIN is 1234")
      mapping = device.map(memory)
      ring.put(0, mapping.address, 0, OLD.size, BareMetal::TO_DEVICE)
      ring.doorbell(1)
      yield ring, device.sim, mapping.address + OLD.size
      device.sim.run_until_idle
      device.pio_read(20)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::ActiveDescriptor.bug
  cure = Bugs::ActiveDescriptor.cure
  puts "Bug:  \"hi\" was put in the place of \"good morning, \", and the device has #{bug.inspect}."
  puts "Why:  it fetched the descriptor between the two stores: the new address, and still the old length."
  puts "Cure: leave it alone, and take the next slot; the device has #{cure.inspect}."
end
