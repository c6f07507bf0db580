# frozen_string_literal: true

# Freed too early: the driver gives a transfer up, and its memory to the next who asks. Nobody told the device, which
# still writes there.
#
#   ruby -Ilib examples/bugs/freed_too_early.rb

require_relative "../bare_metal"

module Bugs
  module FreedTooEarly
    CONTROL = 0x114
    ABORT = 0x200

    module_function

    # "It takes too long", and the memory is free.
    def bug
      receive { |_device| nil }
    end

    # The transfer is stopped first; or waited for, where the device cannot stop it.
    def cure
      receive { |device| device.registers.write16(CONTROL, ABORT) }
    end

    # A packet takes longer than its driver waits. What becomes of a letter in the memory that was freed.
    def receive
      device = DMA::Sim.new(clock: :manual).device
      device.pio_write("packet 1")
      memory = DMA::Buffer.new(4096)
      mapping = device.map(memory) # once, for whatever the memory is used for
      free = []
      BareMetal.start(device, 0, mapping.address, 8, BareMetal::FROM_DEVICE)
      yield device
      free.push(memory)
      letter = free.pop
      letter.set_string("Dear Ada")
      device.sim.run_until_idle
      letter.get_string(0, 8)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::FreedTooEarly.bug
  cure = Bugs::FreedTooEarly.cure
  puts "Bug:  a letter was written into memory that was free, and now it says #{bug.inspect}."
  puts "Why:  the driver had given up a transfer and freed its memory, and the device had not given up."
  puts "Cure: stop the transfer before its memory is freed; the letter says #{cure.inspect}."
end
