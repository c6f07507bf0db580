# frozen_string_literal: true

# sysread makes one request to the kernel per call and reads nothing ahead; read keeps more than it was asked for.
# They do not mix: while bytes that were read ahead wait, sysread refuses, because it would skip them.
#
#   ruby -Ilib examples/unbuffered.rb [FILE]

require "dma"
require_relative "sample"

SECTOR = 512

def requests(file)
  before = file.stats[:requests]
  yield
  file.stats[:requests] - before
end

Sample.open(64 * SECTOR) do |path|
  DMA::File.open(path, "rb") do |file|
    puts "4 x sysread(#{SECTOR}): #{requests(file) { 4.times { file.sysread(SECTOR) } }} requests"
    puts "4 x read(#{SECTOR}):    #{requests(file) { 4.times { file.read(SECTOR) } }} requests"
    begin
      file.sysread(SECTOR)
    rescue IOError => e
      puts "sysread now: #{e.message}"
    end
    file.seek(-SECTOR, IO::SEEK_END)
    puts "last #{file.read(SECTOR).bytesize} bytes, then #{file.read(1).inspect}"
  rescue EOFError
    puts "#{path} ends here: it is shorter than #{4 * SECTOR} bytes"
  end
end
