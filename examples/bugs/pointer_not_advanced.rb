# frozen_string_literal: true

# Ring pointer not advanced: the device goes round the ring, and its driver looks at the same slot for ever.
#
#   ruby -Ilib examples/bugs/pointer_not_advanced.rb

require_relative "../bare_metal"

module Bugs
  module PointerNotAdvanced
    module_function

    # For each of three interrupts: what the program is handed.
    def bug
      ring = BareMetal::Inbox.new(%w[one two six])
      head = 0
      Array.new(3) { ring.packet(head) if ring.status(head) == BareMetal::COMPLETE }
    end

    def cure
      ring = BareMetal::Inbox.new(%w[one two six])
      head = 0
      Array.new(3) do
        next unless ring.status(head) == BareMetal::COMPLETE

        packet = ring.packet(head)
        head = ring.after(head)
        packet
      end
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::PointerNotAdvanced.bug
  cure = Bugs::PointerNotAdvanced.cure
  puts "Bug:  the packets one, two, six have come, and the program was handed #{bug.join(", ")}."
  puts "Why:  the driver looks at slot 0 each time, which is complete, and stays so."
  puts "Cure: go on to the next slot with each that was taken; it was handed #{cure.join(", ")}."
end
