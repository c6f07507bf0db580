# frozen_string_literal: true

# A loop over a binary file that fills the same String again and again, so that a long file leaves no garbage behind.
#
#   ruby -Ilib examples/byte_histogram.rb [FILE]

require "dma"
require_relative "sample"

BLOCK = 4096

def tally(block, counts)
  block.each_byte { |byte| counts[byte] += 1 }
end

Sample.open(300_001) do |path|
  counts = Array.new(256, 0)
  DMA::File.open(path, "rb") do |file|
    block = String.new(capacity: BLOCK)
    tally(block, counts) while file.read(BLOCK, block)
  end
  byte, times = counts.each_with_index.max.reverse
  puts "#{counts.sum} bytes; most frequent is 0x#{byte.to_s(16)}, #{times} times"
end
