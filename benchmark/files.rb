# frozen_string_literal: true

# How fast are files through DMA, and at what cost in CPU, beside Ruby's other ways and beside programs that are made
# for speed: fio and glommio with io_uring, dd, cp?
#
#   ruby -Ilib benchmark/files.rb [--size 1G] [--rounds 9] [--only GROUP,...] [--dir DIR] [--csv FILE] [--svg FILE]
#
# Groups:
#   sequential  a file that is not in the page cache, 1 MiB at a time, as many requests in flight for all who can
#   random      4 KiB of it at random, 1, 8, 32 and 128 in flight (threads, where that is how Ruby does it)
#   warm        a file that is in the page cache: all of it at once or by 1 MiB, and by 4 KiB
#   write       a new file, no room given to it before, to the end of fdatasync(2)
#   copy        from a file that is not in the page cache to a new one, to the end of fdatasync
#   loop        sequential and random on a loop device over memory, past the limits of the disk; as root
#   chunk       the chunk sizes of the article that DMA_ARTICLE names, by its own program, on File and on DMA::File
#   fibers      a thousand fibers read one file, and the largest gap between the ticks of a timer, due each millisecond
#
# All rows of a group take turns, in an order of its own in each round; the first round is discarded. A ratio is taken
# within a round, the table has the medians; where the reference is not there, it has none. Before each single
# measurement mincore(2) makes sure that no page of the file is in the page cache, or that all are, and memory is taken
# and given back, so that nobody has to wait for the host of a virtual machine to bring it.
#
# Bytes are random, so that nothing on the way can make them fewer. Every Ruby row, and glommio's, looks at every byte
# that it reads: memchr(3) searches for one that is not in the file. fio, dd, cp and the article's program look at
# nothing, and fio leaves out its own start: "bytes not looked at" is the same work as fio's. Random reads are the same
# for all but fio, which draws its own; ours are never of neighbours, which would be read together.
#
# CPU is user and system time, io_uring's workers included but not the loop device's: of this process, of a child, or as
# fio reports it.
# System calls are counted by strace(1) in a run of its own, which is not timed, and without what Ruby does to start.
#
# fio takes huge pages for its buffers where the system has some reserved (sysctl vm.nr_hugepages), as DMA has them. It
# is installed if that can be done; glommio's program, benchmark/peers/glommio, is built by cargo.

require "fileutils"
require "optparse"
require_relative "support"
Dir[File.join(__dir__, "files", "*.rb")].each { |file| require file }

GROUPS = {
  "sequential" => Files::Reading.method(:sequential), "random" => Files::Reading.method(:random),
  "warm" => Files::Warm.method(:groups), "write" => Files::Writing.method(:write),
  "copy" => Files::Writing.method(:copy), "loop" => Files::Memory.method(:groups),
  "chunk" => Files::Chunk.method(:groups), "fibers" => Files::Fibers.method(:groups)
}.freeze

options = { size: "1G", rounds: 9, only: GROUPS.keys, dir: "tmp", csv: "tmp/benchmark/files.csv",
            svg: "tmp/benchmark/files.svg" }
OptionParser.new do |parser|
  parser.on("--size SIZE", "of the file, whole MiB: 256M, 1G") { |text| options[:size] = text }
  parser.on("--rounds N", Integer, "that count") { |n| options[:rounds] = n }
  parser.on("--only GROUP,...", Array, GROUPS.keys.join(", ")) { |keys| options[:only] = keys }
  parser.on("--dir DIR", "where the file is made, default tmp") { |path| options[:dir] = path }
  parser.on("--csv FILE", "default #{options[:csv]}") { |path| options[:csv] = path }
  parser.on("--svg FILE", "default #{options[:svg]}") { |path| options[:svg] = path }
end.parse!
unknown = options[:only] - GROUPS.keys
abort "benchmark/files.rb: no group #{unknown.join(", ")}; there are #{GROUPS.keys.join(", ")}" if unknown.any?
size = Support.bytes(options[:size])
abort "benchmark/files.rb: --size takes whole MiB, 4M or more" unless size >= 4 << 20 && (size % (1 << 20)).zero?
abort "benchmark/files.rb: --rounds takes 1 or more" unless options[:rounds].positive?

Warning[:experimental] = false # IO::Buffer is, in the Ruby versions that there are
$stdout.sync = true
FileUtils.mkdir_p([options[:dir], *options.values_at(:csv, :svg).map { |path| File.dirname(path) }])
notes = [Support.machine, *Files::Programs.notes,
         "#{size >> 20} MiB, #{Files::DEPTH} requests in flight where no depth is said, medians of #{options[:rounds]}"]
puts notes, format("%<part>d %% of a DMA::Buffer lie in huge pages", part: Support.huge * 100), ""

groups = []
Support.with_file(options[:dir], size) do |path|
  bench = Files::Bench.new(path, size)
  options[:only].each do |key|
    GROUPS.fetch(key).call(bench) do |group|
      group.measure(options[:rounds])
      Files::Report.table(group)
      groups << group
    end
  rescue Files::Impossible => e
    puts "#{key} is left out: #{e.message}", ""
  end
end
Files::Goals.table(groups)
Files::Report.csv(groups, options[:csv])
File.write(options[:svg], Files::Chart.new(groups, notes.join("; ")).svg)
puts "#{options[:csv]} has these figures, #{options[:svg]} is their chart"
