# frozen_string_literal: true

require "tmpdir"

# A file for an example to work on: the one named on the command line, or a sample that is gone afterwards.
module Sample
  def self.open(size)
    return yield ARGV.first unless ARGV.empty?

    Dir.mktmpdir("dma-example") do |directory|
      path = File.join(directory, "sample.bin")
      File.binwrite(path, Random.new(1).bytes(size))
      yield path
    end
  end
end
