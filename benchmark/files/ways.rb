# frozen_string_literal: true

module Files
  # Ruby's ways to read a file, each once, as a Sample.
  module Ways
    # IO::Buffer#pread had its arguments in another order at first.
    PREAD = if RUBY_VERSION < "3.2"
              ->(buffer, io, size, offset) { buffer.pread(io, size, offset) }
            else
              ->(buffer, io, size, offset) { buffer.pread(io, offset, size) }
            end

    module_function

    def timed(&)
      Sample.new(*Support.measure(&))
    end

    def look(buffer)
      Support.touch(buffer.address, buffer.size)
    end

    def dma_read(path, looking: true)
      timed { DMA.read(path).tap { |buffer| look(buffer) if looking }.free }
    end

    # Into memory that has been used before.
    def read_into(path, size)
      DMA::Buffer.open(size) do |buffer|
        buffer.clear(1)
        timed { DMA::File.open(path) { |file| file.read_into(buffer) && look(buffer) } }
      end
    end

    def each_chunk(path, looking: true)
      timed do
        DMA::File.open(path, depth: DEPTH) { |file| file.each_chunk(CHUNK) { |buffer, _| look(buffer) if looking } }
      end
    end

    def read_many(path, offsets, depth, looking: true)
      ranges = offsets.map { |offset| [offset, PART] }
      timed do
        DMA::File.open(path) { |file| file.read_many(ranges, depth:) { |buffer, _| look(buffer) if looking } }
      end
    end

    def binread(path, looking: true)
      timed { File.binread(path).tap { |bytes| look_at(bytes) if looking }.clear }
    end

    def map(path)
      timed { Support.map(path).then { |map| Support.touch(Support.address_of(map), map.size) && map.free } }
    end

    # IO#read or DMA::File#read, from the beginning, a part at a time into one String.
    def read(path, part, parts, from: File)
      string = String.new(capacity: part)
      timed { from.open(path, "rb") { |file| parts.times { look_at(file.read(part, string)) } } }
    end

    # IO#pread or DMA::File#pread, the same.
    def pread(path, part, parts, from: File)
      string = String.new(capacity: part)
      timed { from.open(path, "rb") { |file| parts.times { |n| look_at(file.pread(part, n * part, string)) } } }
    end

    # IO#pread of parts at random, by so many threads.
    def pread_threads(path, offsets, threads)
      timed do
        File.open(path, "rb") do |file|
          file.advise(:random)
          in_threads(offsets, threads) do |mine|
            string = String.new(capacity: PART)
            mine.each { |offset| look_at(file.pread(PART, offset, string)) }
          end
        end
      end
    end

    # IO::Buffer#pread of parts at these offsets, by so many threads; past the page cache, if direct.
    def buffer_pread(path, offsets, part: CHUNK, threads: 1, direct: false)
      timed do
        File.open(path, File::RDONLY | (direct ? File::DIRECT : 0)) do |file|
          in_threads(offsets, threads) do |mine|
            buffer = IO::Buffer.new(part)
            address = Support.address_of(buffer)
            mine.each { |offset| Support.touch(address, PREAD.call(buffer, file, part, offset)) }
            buffer.free
          end
        end
      end
    end

    def look_at(string)
      Support.touch(string, string.bytesize)
    end

    # Deals the offsets to threads.
    def in_threads(offsets, threads, &)
      return yield offsets if threads == 1

      Array.new(threads) { |n| Thread.new((n...offsets.size).step(threads).map { |i| offsets[i] }, &) }.each(&:join)
    end
  end
end
