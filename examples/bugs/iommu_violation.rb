# frozen_string_literal: true

# IOMMU violation: a bus address is good for the device that it was mapped for, as long as it is mapped, and for the
# direction that was said. To any other device it leads nowhere.
#
#   ruby -Ilib examples/bugs/iommu_violation.rb

require_relative "../bare_metal"

module Bugs
  module IommuViolation
    module_function

    # The network card is given the address that the disk has for the memory.
    def bug
      receive { |disk, _card, memory| disk.map(memory) }
    end

    # Each device that is to reach the memory has a mapping of its own.
    def cure
      receive { |_disk, card, memory| card.map(memory) }
    end

    # What the network card has written to the memory, and the faults that it made.
    def receive
      sim = DMA::Sim.new(clock: :manual)
      disk, card = Array.new(2) { sim.device }
      card.pio_write("packet")
      memory = DMA::Buffer.new(4096)
      memory.set_string("......")
      mapping = yield disk, card, memory
      BareMetal.start(card, 0, mapping.address, 6, BareMetal::FROM_DEVICE)
      sim.run_until_idle
      [memory.get_string(0, 6), card.stats[:faults]]
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::IommuViolation.bug
  cure = Bugs::IommuViolation.cure
  fault = bug[1].first
  puts "Bug:  a packet came, and in memory is #{bug[0].inspect}: the IOMMU refused the card a #{fault[:access]}."
  puts "Why:  the address 0x#{fault[:address].to_s(16)} was mapped for the disk, and the card has no page there."
  puts "Cure: map the memory for the device that uses it; in memory is #{cure[0].inspect}."
end
