# frozen_string_literal: true

# Three ways through a file of records: front to back, here and there, all at once. Front to back reads ahead into a
# few buffers that are used again; all at once is one aligned buffer that the disk has filled, with no String in
# between.
#
#   ruby -Ilib examples/access_patterns.rb [FILE]

require "dma"
require "zlib"
require_relative "sample"

# Reads one file in several patterns, and tells which bytes it saw by their checksum.
class RecordReader
  RECORD = 4096

  def initialize(path)
    @path = path
  end

  def front_to_back
    checksum = 0
    DMA::File.open(@path, "rb") do |file|
      # The chunk is lent: its memory is the next chunk's as soon as the block is over. get_string makes a copy.
      file.each_chunk(1 << 20) { |chunk| checksum = Zlib.crc32(chunk.get_string, checksum) }
    end
    checksum
  end

  def here_and_there(offsets)
    DMA::File.open(@path, "rb") do |file|
      offsets.map do |offset|
        file.seek(offset)
        Zlib.crc32(file.read(RECORD) || "")
      end
    end
  end

  def all_at_once
    Zlib.crc32(DMA.read(@path).get_string)
  end
end

Sample.open((5 << 20) + 77) do |path|
  reader = RecordReader.new(path)
  offsets = [0, 512, 4_096, 1_234_567].select { |offset| offset < File.size(path) }
  puts "front to back   #{reader.front_to_back.to_s(16)}"
  puts "all at once     #{reader.all_at_once.to_s(16)}"
  offsets.zip(reader.here_and_there(offsets)) { |offset, sum| puts "record at #{offset}: #{sum.to_s(16)}" }
end
