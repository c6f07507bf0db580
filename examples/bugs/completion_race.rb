# frozen_string_literal: true

# Completion race: two threads take what is complete off one ring. Between the look of the one at the head and its
# advance the other takes the same packet.
#
#   ruby -Ilib examples/bugs/completion_race.rb

require_relative "../bare_metal"

module Bugs
  module CompletionRace
    # The side of the driver. The block of `take` is where another thread may run.
    Driver = Struct.new(:ring, :head, :taken) do
      def take
        slot = head
        return unless ring.status(slot) == BareMetal::COMPLETE

        yield if block_given?
        taken << ring.packet(slot)
        self.head = ring.after(head)
      end
    end

    module_function

    def bug
      driver = Driver.new(BareMetal::Inbox.new(%w[one two six]), 0, [])
      driver.take { meanwhile { driver.take } }
      driver.take
      driver.taken
    end

    # Whoever takes a packet has the lock from the look to the advance.
    def cure
      driver = Driver.new(BareMetal::Inbox.new(%w[one two six]), 0, [])
      lock = Mutex.new
      other = nil
      lock.synchronize { driver.take { other = meanwhile { lock.synchronize { driver.take } } } }
      other.join
      lock.synchronize { driver.take }
      driver.taken
    end

    # Lets another thread run until it has done its work or waits for the lock.
    def meanwhile(&)
      Thread.new(&).tap { |thread| Thread.pass until thread.stop? }
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::CompletionRace.bug
  cure = Bugs::CompletionRace.cure
  puts "Bug:  the packets one, two, six have come, and two threads have taken #{bug.join(", ")}."
  puts "Why:  the second took a packet between the first one's look at the head and its advance."
  puts "Cure: a lock around both; the threads have taken #{cure.join(", ")}."
end
