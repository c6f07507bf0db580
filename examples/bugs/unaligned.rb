# frozen_string_literal: true

# Unaligned: some devices drop the low bits of an address, and say nothing. The bytes arrive, next to where they should.
#
#   ruby -Ilib examples/bugs/unaligned.rb

require_relative "../bare_metal"

module Bugs
  module Unaligned
    ALIGNMENT = 8

    module_function

    # The packet is to lie right behind its length.
    def bug
      receive(2)
    end

    # The packet begins at a multiple of eight bytes.
    def cure
      receive(ALIGNMENT)
    end

    # The memory of the program, in which "08" says how long the packet is, and the packet is to lie at `offset`.
    def receive(offset)
      device = DMA::Sim.new(clock: :manual).device(alignment: ALIGNMENT, misaligned: :truncate)
      device.pio_write("packet 1")
      memory = DMA::Buffer.new(4096)
      memory.set_string("08#{"." * 22}")
      mapping = device.map(memory)
      BareMetal.start(device, 0, mapping.address + offset, 8, BareMetal::FROM_DEVICE)
      device.sim.run_until_idle
      memory.get_string(0, 24)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::Unaligned.bug
  cure = Bugs::Unaligned.cure
  puts "Bug:  the packet was to lie at byte 2, behind its length 08; in memory is #{bug.inspect}."
  puts "Why:  the device takes multiples of eight, and drops the low three bits of 2: it wrote at 0."
  puts "Cure: begin at a multiple of eight; in memory is #{cure.inspect}."
end
