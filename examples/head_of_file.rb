# frozen_string_literal: true

# DMA::File in the place of File: the program stays as it was, and the disk delivers past the page cache.
#
#   ruby -Ilib examples/head_of_file.rb [FILE]

require "dma"
require "digest"
require_relative "sample"

MIB = 1 << 20

Sample.open((3 * MIB) + 5) do |path|
  DMA::File.open(path, "rb") do |file|
    head = file.read(MIB)
    abort "#{path} is empty" unless head

    puts "first #{head.bytesize} of #{file.size} bytes: sha256 #{Digest::SHA256.hexdigest(head)}"
    # What lies in the page cache already, as a sample that was just written, is read from there.
    stats = file.stats
    puts "#{stats[:direct_requests]} requests past the page cache, in blocks of #{file.alignment} bytes; " \
         "#{stats[:buffered_requests]} through it, #{stats[:cached_requests]} of them because it had the bytes already"
  end
end
