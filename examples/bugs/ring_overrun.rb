# frozen_string_literal: true

# Ring overrun: more descriptors than the ring holds. The tail passes the head, and what the device has not fetched is
# written over and forgotten.
#
#   ruby -Ilib examples/bugs/ring_overrun.rb

require_relative "../bare_metal"

module Bugs
  module RingOverrun
    module_function

    def bug
      send_letters { |_ring, _tail| nil }
    end

    # One slot stays free: where the next tail is the head, the ring is full, and the device has to go on first.
    def cure
      send_letters do |ring, tail, sim|
        ring.doorbell(tail)
        sim.step while ring.after(tail) == ring.head
      end
    end

    # Sends five letters, each by a descriptor of a ring of four; what the device has of them.
    def send_letters
      device = DMA::Sim.new(clock: :manual).device
      device.pio_write(".....")
      ring = BareMetal::Ring.new(device, 4)
      memory = DMA::Buffer.new(4096)
      memory.set_string("ABCDE")
      letters = device.map(memory)
      tail = 0
      5.times do |n|
        yield ring, tail, device.sim
        ring.put(tail, letters.address + n, n, 1, BareMetal::TO_DEVICE)
        tail = ring.after(tail)
      end
      ring.doorbell(tail)
      device.sim.run_until_idle
      device.pio_read(5)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::RingOverrun.bug
  cure = Bugs::RingOverrun.cure
  puts "Bug:  ABCDE was sent, a descriptor a letter, and the device has #{bug.inspect}."
  puts "Why:  the ring has four slots: the tail came round to the head, and the fifth descriptor lies on the first."
  puts "Cure: wait for a free slot before each descriptor; the device has #{cure.inspect}."
end
