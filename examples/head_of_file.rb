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
    puts "#{file.direct? ? "direct, blocks of #{file.alignment} bytes" : "through the page cache"}: #{file.stats}"
  end
end
