# frozen_string_literal: true

# Leaked descriptor: a slot that is taken and not given back on every path. One way out of the driver, mostly that of an
# error, forgets it, until none is left.
#
#   ruby -Ilib examples/bugs/leaked_descriptor.rb

require_relative "../bare_metal"

module Bugs
  module LeakedDescriptor
    SLOTS = 4

    module_function

    # Only a transfer that went well gives its slot back.
    def bug
      send_letters { |status, free| status == BareMetal::COMPLETE ? free + 1 : free }
    end

    # Each transfer that ended gives its slot back.
    def cure
      send_letters { |_status, free| free + 1 }
    end

    # Six letters, the first three of which meet an error of the bus; what the device has of them.
    def send_letters
      device = DMA::Sim.new(clock: :manual).device
      device.pio_write("......")
      device.sim.inject(:bus_error, count: 3)
      ring = BareMetal::Ring.new(device, SLOTS)
      memory = DMA::Buffer.new(4096)
      memory.set_string("ABCDEF")
      mapping = device.map(memory)
      free = SLOTS - 1
      6.times do |n|
        next if free.zero? # "the ring is full": the letter is dropped

        free -= 1
        ring.put(n % SLOTS, mapping.address + n, n, 1, BareMetal::TO_DEVICE)
        ring.doorbell((n + 1) % SLOTS)
        device.sim.run_until_idle
        free = yield ring.status(n % SLOTS), free
      end
      device.pio_read(6)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::LeakedDescriptor.bug
  cure = Bugs::LeakedDescriptor.cure
  puts "Bug:  of ABCDEF the first three letters met an error of the bus, and the device has #{bug.inspect}."
  puts "Why:  transfers that failed kept their slots; after three the driver takes an empty ring for a full one."
  puts "Cure: give the slot back however a transfer ended; the device has #{cure.inspect}."
end
