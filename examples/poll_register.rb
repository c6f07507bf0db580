# frozen_string_literal: true

# Polls a status register until the device is ready: 32-bit words, of which bit 0 means busy. Here the register's
# values lie one behind the other in a file, so that each sysread sees the next, as with a device that streams them.
#
#   ruby -Ilib examples/poll_register.rb [FILE]

require "dma"
require "tmpdir"

BUSY = 0x01

# The first word that is not busy. EOFError where the file ends before.
def poll(path, pause: 0.001)
  DMA::File.open(path, "rb") do |device|
    1.step do |tries|
      # What was read ahead would be what the register was, not what it is.
      word = device.sysread(4).unpack1("L")
      return word if (word & BUSY).zero?

      puts format("%<tries>d. 0x%<word>08x: busy", tries: tries, word: word)
      sleep pause
    end
  end
end

def with_registers
  return yield ARGV.first unless ARGV.empty?

  Dir.mktmpdir("dma-example") do |directory|
    path = File.join(directory, "status")
    File.binwrite(path, [0x8000_0001, 0x4000_0001, 0xc0de_0000].pack("L*"))
    yield path
  end
end

with_registers do |path|
  puts format("ready: 0x%08x", poll(path))
rescue EOFError
  abort "#{path} ended, and the device was still busy"
end
