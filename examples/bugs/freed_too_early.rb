# frozen_string_literal: true

# Freed too early: the driver gives a transfer up, and takes its memory away. Nobody told the device, which still writes
# to that page, whosever it is by then.
#
#   ruby -Ilib examples/bugs/freed_too_early.rb

require "dma"

module Bugs
  module FreedTooEarly
    module_function

    # "It takes too long", and the memory is free.
    def bug
      receive { |_transfer| nil }
    end

    # The transfer has ended first.
    def cure
      receive(&:wait)
    end

    # A packet takes longer than its driver waits. What becomes of a letter that gets the page which was freed last.
    def receive
      sim = DMA::Sim.new(clock: :manual, iommu: false, ram: 16 << 20)
      device = sim.device
      device.pio_write("packet 1")
      memory, letter = Array.new(2) { DMA::Buffer.new(4096) }
      mapping = device.map(memory)
      yield device.channel.submit(source: 0, destination: mapping, length: 8)
      mapping.unmap
      letter.set_string("Dear Ada, hello")
      device.map(letter) { sim.run_until_idle }
      letter.get_string(0, 15)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::FreedTooEarly.bug
  cure = Bugs::FreedTooEarly.cure
  puts "Bug:  a letter to Ada got the page of memory that was freed, and now it says #{bug.inspect}."
  puts "Why:  the driver gave a transfer up and took its memory away; the device did not give up."
  puts "Cure: wait for the transfer, or stop it, before its memory goes; the letter says #{cure.inspect}."
end
