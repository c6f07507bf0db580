# frozen_string_literal: true

# Lost interrupt: the device has done its work, and nobody is told. Who looks only when an interrupt comes never looks.
#
#   ruby -Ilib examples/bugs/lost_interrupt.rb

require "dma"
require "io/wait"

module Bugs
  module LostInterrupt
    module_function

    # The driver looks when an interrupt has come.
    def bug
      receive do |channel, transfer|
        channel.device.sim.step(1_000_000)
        transfer.done? if channel.to_io.wait_readable(0)
      end
    end

    # It looks by itself, too, when none has come for a while. This is what Transfer#wait does.
    def cure
      receive { |_channel, transfer| transfer.wait(timeout: 0.001).done? }
    end

    # Three packets arrive, and the interrupt of the second is lost. What the program has taken, and what is in memory.
    def receive
      device = DMA::Sim.new(clock: :manual).device
      device.pio_write("onetwosix")
      device.sim.inject(:lost_interrupt, descriptor: 1)
      memory = DMA::Buffer.new(4096)
      taken = [0, 3, 6].select do |at|
        yield device.channel, device.channel.submit(source: at, destination: memory.slice(at, 3))
      end
      device.close # all is done, as far as the program knows
      [taken.map { |at| memory.get_string(at, 3) }, memory.get_string(0, 9)]
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::LostInterrupt.bug
  cure = Bugs::LostInterrupt.cure
  puts "Bug:  the program has taken the packets #{bug[0].join(", ")}; in memory is #{bug[1].inspect}."
  puts "Why:  the interrupt of the second was lost, and the program looks only when one has come."
  puts "Cure: look after a while in any case; the program has taken #{cure[0].join(", ")}."
end
