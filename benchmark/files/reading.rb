# frozen_string_literal: true

module Files
  # Groups that read what is not in the page cache.
  module Reading
    DEPTHS = [1, 8, 32, 128].freeze

    module_function

    def sequential(bench)
      path, size = bench.to_a
      cold = -> { Support.prepare(path, :cold) }
      name = "sequential, 1 MiB, cold file"
      yield(Group.new("sequential", name:, bytes: size, reference: "fio", prepare: cold) do |group|
        through_dma(group, path)
        group.dma("DMA::File#read_into") { Ways.read_into(path, size) }
        through_ruby(group, path, size)
        group.program("dd", Programs.missing("dd")) { Programs.dd(path, File::NULL) }
        group.program("dd iflag=direct", Programs.missing("dd")) { Programs.dd(path, File::NULL, "iflag=direct") }
        through_programs(group, path, size)
      end)
    end

    def random(bench)
      path = bench.path
      cold = -> { Support.prepare(path, :cold) }
      DEPTHS.each do |depth|
        yield(parts("random", random_name(depth), depth, bench, path, prepare: cold) do |group|
          group.ruby("IO#pread, threads: #{depth}") { Ways.pread_threads(path, bench.offsets, depth) }
          group.ruby("IO::Buffer#pread, O_DIRECT, threads: #{depth}") do
            Ways.buffer_pread(path, bench.offsets, part: PART, threads: depth, direct: true)
          end
        end)
      end
    end

    def random_name(depth)
      "random, 4 KiB, depth #{depth}, cold file"
    end

    # What reads whole files, of the page cache or not.
    def through_dma(group, path)
      group.dma("DMA::File#each_chunk") { Ways.each_chunk(path) }
      group.dma("DMA::File#each_chunk, #{BLIND}") { Ways.each_chunk(path, looking: false) }
      group.dma("DMA.read") { Ways.dma_read(path) }
    end

    def through_ruby(group, path, size)
      chunks = size / CHUNK
      group.ruby("IO#read(n, buffer)") { Ways.read(path, CHUNK, chunks) }
      group.ruby("IO::Buffer#pread") { Ways.buffer_pread(path, Array.new(chunks) { |n| n * CHUNK }) }
      group.ruby("File.binread") { Ways.binread(path) }
      group.ruby("IO::Buffer.map") { Ways.map(path) }
    end

    # With O_DIRECT and io_uring.
    def through_programs(group, path, size)
      group.program("fio", Programs::Fio.missing) { Programs::Fio.read(path, size) }
      group.program("glommio", Programs::Glommio.missing) { Programs::Glommio.read(path, size) }
    end

    # The group of random reads from `path`; the block adds rows.
    def parts(key, name, depth, bench, path, prepare:)
      offsets = bench.offsets
      list = bench.beside("offsets").tap { |file| File.binwrite(file, offsets.pack("Q<*")) }
      reads = offsets.size
      Group.new(key, name:, bytes: reads * PART, reads:, reference: "fio", prepare:) do |group|
        group.dma("DMA::File#read_many") { Ways.read_many(path, offsets, depth) }
        group.dma("DMA::File#read_many, #{BLIND}") do
          Ways.read_many(path, offsets, depth, looking: false)
        end
        yield group if block_given?
        group.program("fio", Programs::Fio.missing) { Programs::Fio.random(path, bench.bytes, reads, depth) }
        group.program("glommio", Programs::Glommio.missing) { Programs::Glommio.random(path, list, depth) }
      end
    end
  end

  # Groups that read what is in the page cache.
  module Warm
    module_function

    def groups(bench)
      warm = -> { Support.prepare(bench.path, :warm) }
      yield whole(bench, warm)
      yield small(bench, warm)
    end

    def whole(bench, prepare)
      path, size = bench.to_a
      name = "at once or by 1 MiB, file in the page cache"
      Group.new("warm", name:, bytes: size, reference: "File.binread", prepare:) do |group|
        Reading.through_dma(group, path)
        Reading.through_ruby(group, path, size)
        group.dma("DMA.read, #{BLIND}") { Ways.dma_read(path, looking: false) }
        group.ruby("File.binread, #{BLIND}") { Ways.binread(path, looking: false) }
        group.program("dd", Programs.missing("dd")) { Programs.dd(path, File::NULL) }
        group.program("fio", Programs::Fio.missing) { Programs::Fio.read(path, size, direct: false) }
      end
    end

    def small(bench, prepare)
      path = bench.path
      parts = [bench.bytes / PART, PARTS].min
      name = "by 4 KiB, file in the page cache"
      Group.new("warm", name:, bytes: parts * PART, reads: parts, reference: "IO#read(n, buffer)", prepare:) do |group|
        group.dma("DMA::File#read(n, buffer)") { Ways.read(path, PART, parts, from: DMA::File) }
        group.dma("DMA::File#pread") { Ways.pread(path, PART, parts, from: DMA::File) }
        group.ruby("IO#read(n, buffer)") { Ways.read(path, PART, parts) }
        group.ruby("IO#pread") { Ways.pread(path, PART, parts) }
        group.ruby("IO::Buffer#pread") do
          Ways.buffer_pread(path, Array.new(parts) { |n| n * PART }, part: PART)
        end
      end
    end
  end
end
