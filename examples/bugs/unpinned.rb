# frozen_string_literal: true

# Unpinned: the kernel moves pages, to free a row of them for example. A device that was told where they were goes on
# writing there, to what is somebody else's by then.
#
#   ruby -Ilib examples/bugs/unpinned.rb

require "dma"

module Bugs
  module Unpinned
    module_function

    def bug
      receive(pin: false)
    end

    # Pinned pages stay where they are for as long as they are mapped.
    def cure
      receive(pin: true)
    end

    # The memory for a packet, and a letter that got the page that became free; and how many pages were moved.
    def receive(pin:)
      sim = DMA::Sim.new(clock: :manual, iommu: false, ram: 16 << 20)
      device = sim.device
      device.pio_write("packet 1")
      memory, letter = Array.new(2) { DMA::Buffer.new(4096) }
      memory.set_string("........")
      letter.set_string("Dear Ada, hello")
      mapping = device.map(memory, pin: pin)
      moved = sim.migrate
      device.map(letter) { device.channel.submit(source: 0, destination: mapping, length: 8).wait }
      [memory.get_string(0, 8), letter.get_string(0, 15), moved]
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::Unpinned.bug
  cure = Bugs::Unpinned.cure
  puts "Bug:  packet 1 came; in its memory is #{bug[0].inspect}, and a letter elsewhere says #{bug[1].inspect}."
  puts "Why:  #{bug[2]} page was moved after the device was told its address; the letter got the one that was free."
  puts "Cure: pin it (#{cure[2]} pages moved); in it is #{cure[0].inspect}, and the letter says #{cure[1].inspect}."
end
