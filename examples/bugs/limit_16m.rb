# frozen_string_literal: true

# 16 MiB limit: the 8237 has 24 bits of address. It does not reach what lies above; it reaches what lies 16 MiB below.
#
#   ruby -Ilib examples/bugs/limit_16m.rb

require_relative "../bare_metal"

module Bugs
  module Limit16m
    # One with which the letter has its page 16 MiB below that of the recording.
    SEED = 6012

    module_function

    def bug
      record { |card, address, _| BareMetal.record(card, address, 5) }
    end

    # A bounce buffer: the card records into memory that it reaches, and the CPU copies.
    def cure
      record do |card, _, recording|
        bounce = DMA::Buffer.new(4096)
        card.map(bounce) { |mapping| BareMetal.record(card, mapping.address, 5) }
        recording.copy(bounce, 0, 5)
      end
    end

    # The recording, which lies above 16 MiB, and a letter that the card has nothing to do with.
    def record
      sim = DMA::Sim.new(clock: :manual, bus: :isa, iommu: false, seed: SEED)
      card = sim.device(controller: :isa)
      card.pio_write("SOUND")
      recording, letter = Array.new(2) { DMA::Buffer.new(4096) }
      recording.set_string("-----")
      letter.set_string("Dear Ada,")
      other = sim.device(address_bits: 25, memory: 4096)
      mappings = [card.map(letter), other.map(recording)]
      yield card, mappings[1].address, recording
      [recording.get_string(0, 5), letter.get_string(0, 9), mappings[1].address]
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::Limit16m.bug
  cure = Bugs::Limit16m.cure
  puts "Bug:  the recording is #{bug[0].inspect}, and a letter in other memory begins with #{bug[1].inspect}."
  puts "Why:  the card was given address 0x#{bug[2].to_s(16)}; 24 bits of it are 0x#{(bug[2] % (1 << 24)).to_s(16)}."
  puts "Cure: a bounce buffer below 16 MiB; the recording is #{cure[0].inspect}, and the letter #{cure[1].inspect}."
end
