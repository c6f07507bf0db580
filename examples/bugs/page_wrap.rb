# frozen_string_literal: true

# 64 KiB wrap: the 8237 counts 16 bits of an address. Past the end of a page of 64 KiB it goes on at its beginning.
#
#   ruby -Ilib examples/bugs/page_wrap.rb

require_relative "../bare_metal"

module Bugs
  module PageWrap
    PAGE = 1 << 16
    SOUND = "ABCDEFGH"

    module_function

    def bug
      record { |card, address| BareMetal.record(card, address, SOUND.size) }
    end

    # No transfer passes the end of a page: there are two.
    def cure
      record do |card, address|
        first = [PAGE - (address % PAGE), SOUND.size].min
        BareMetal.record(card, address, first)
        card.pio_write(SOUND[first..])
        BareMetal.record(card, address + first, SOUND.size - first)
      end
    end

    # Two pages of memory that belong to the program; the sound is to lie across the end of the first.
    def record
      card = DMA::Sim.new(clock: :manual, bus: :isa).device(controller: :isa)
      memory = DMA::Buffer.new(2 * PAGE).clear(".".ord)
      card.pio_write(SOUND)
      card.map(memory) { |mapping| yield card, mapping.address + PAGE - 4 }
      memory.get_string
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::PageWrap.bug
  cure = Bugs::PageWrap.cure
  puts "Bug:  ABCDEFGH was to lie at 65532: #{bug[65_532, 8]} lies there, and #{bug[0, 4]} at 0, over what was there."
  puts "Why:  the 8237 has 16 bits of address; after 0xffff comes 0x0000 of the same 64 KiB page."
  puts "Cure: a transfer for each page; #{cure[65_532, 8]} lies at 65532, and #{cure[0, 4]} at 0."
end
