# frozen_string_literal: true

# Starvation: with a fixed priority the devices behind one that always has something to do never get the bus.
#
#   ruby -Ilib examples/bugs/starvation.rb

require "dma"

module Bugs
  module Starvation
    module_function

    def bug
      record(:fixed)
    end

    # Everybody has a turn.
    def cure
      record(:round_robin)
    end

    # A sound card records next to a disk that is written without a pause. What is in memory after 1,000 cycles, how
    # many of them the card has waited for the bus, and whether it was done.
    def record(arbitration)
      sim = DMA::Sim.new(clock: :manual, bus: :pci, arbitration: arbitration)
      disk, card = Array.new(2) { sim.device }
      card.pio_write("music")
      block, memory = Array.new(2) { DMA::Buffer.new(4096) }
      20.times { disk.channel.submit(source: block, destination: 0) }
      memory.set_string(".....")
      recording = card.channel.submit(source: 0, destination: memory, length: 5)
      sim.step(1000)
      done = recording.done?
      [memory.get_string(0, 5), sim.stats[:masters].find { |master| master[:device] == 1 }[:wait_cycles], done]
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::Starvation.bug
  cure = Bugs::Starvation.cure
  puts "Bug:  after 1000 cycles #{bug[0].inspect} is recorded; for #{bug[1]} of them the sound card waited for the bus."
  puts "Why:  the disk comes first by a fixed priority, and has always something to do."
  puts "Cure: arbitration in turns, a latency timer each; #{cure[0].inspect} is recorded, after it waited #{cure[1]}."
end
