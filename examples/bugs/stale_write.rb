# frozen_string_literal: true

# Stale write: what the CPU wrote is in its cache, and the device reads memory, where the old bytes are.
#
#   ruby -Ilib examples/bugs/stale_write.rb

require "dma"

module Bugs
  module StaleWrite
    module_function

    def bug
      send_text { |_mapping| nil }
    end

    # The lines that were written go to memory before the device looks.
    def cure
      send_text(&:sync_for_device)
    end

    # What the device has, and whether the line of the text was dirty when it was sent.
    def send_text
      device = DMA::Sim.new(clock: :manual, coherent: false).device
      memory = DMA::Buffer.new(4096)
      memory.set_string("old text")
      mapping = device.map(memory, type: :streaming, direction: :to_device)
      mapping.sync_for_cpu
      memory.set_string("new text")
      yield mapping
      dirty = device.sim.cache.lines(memory, 0, 8).first[:dirty]
      device.channel.submit(source: mapping, destination: 0, length: 8).wait
      [device.pio_read(8), dirty]
    end
  end
end

if $PROGRAM_NAME == __FILE__
  bug = Bugs::StaleWrite.bug
  cure = Bugs::StaleWrite.cure
  line = ->(dirty) { dirty ? "dirty" : "clean" }
  puts "Bug:  the program wrote \"new text\", and the device read #{bug[0].inspect}."
  puts "Why:  the new bytes were in the CPU's cache (the line is #{line[bug[1]]}), and the device reads memory."
  puts "Cure: sync_for_device first writes it back (it is #{line[cure[1]]}); the device read #{cure[0].inspect}."
end
