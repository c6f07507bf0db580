# frozen_string_literal: true

begin
  require "async"
rescue LoadError
  nil
end

module Files
  # A thousand fibers read one file, while a timer is due each millisecond.
  module Fibers
    FIBERS = 1000
    THREADS = 32
    TICK = 0.001

    # How late a timer comes.
    class Ticker
      def initialize
        @last = now
        @gap = 0.0
      end

      # Ticks for ever, as well as the block can sleep.
      def run
        loop do
          yield TICK
          tick
        end
      end

      # The largest gap, with the one to now, for a timer may not have come at all.
      def gap
        tick
        @gap
      end

      private

      def tick
        time = now
        @gap = [@gap, time - @last].max
        @last = time
      end

      def now
        Process.clock_gettime(Process::CLOCK_MONOTONIC)
      end
    end

    module_function

    def groups(bench, &)
      raise Impossible, "the gem async is not installed" unless defined?(Async)

      chunks = Array.new(bench.bytes / CHUNK) { |n| n * CHUNK }
      yield group(bench, "fibers, 1 MiB, cold file", CHUNK, chunks)
      yield group(bench, "fibers, 4 KiB at random, cold file", PART, bench.offsets)
    end

    def group(bench, name, part, offsets)
      path = bench.path
      prepare = -> { Support.prepare(path, :cold) }
      reference = "IO#pread, #{THREADS} threads"
      Group.new("fibers", name:, bytes: offsets.size * part, reference:, prepare:) do |group|
        group.dma("DMA::File#read_into, #{FIBERS} fibers") { read_into(path, part, offsets) }
        group.ruby("IO#pread, #{FIBERS} fibers") do
          pread(path, part) { |read| in_fibers(offsets) { |offset| read.call(offset) } }
        end
        group.ruby("IO#pread, #{THREADS} threads") do
          pread(path, part) { |read| in_threads(offsets) { |offset| read.call(offset) } }
        end
      end
    end

    def read_into(path, part, offsets)
      pool = DMA::Pool.new(count: [FIBERS, offsets.size].min, size: part, lock: false)
      memory = Array.new(pool.count) { pool.checkout.clear }
      timed do
        DMA::File.open(path) do |file|
          in_fibers(offsets) do |offset, fiber|
            file.read_into(memory[fiber], offset:)
            Ways.look(memory[fiber])
          end
        end
      end
    ensure
      memory&.each(&:free)
    end

    # Yields what reads a part at an offset, and looks at it.
    def pread(path, part)
      timed do
        File.open(path, "rb") { |file| yield ->(offset) { Ways.look_at(file.pread(part, offset)) } }
      end
    end

    # A sample of what returns the largest gap.
    def timed
      gap = nil
      Ways.timed { gap = yield }.tap { |sample| sample.gap = gap }
    end

    # Passes each offset to one of the fibers, with its number. Returns the largest gap.
    def in_fibers(offsets)
      queue = offsets.dup
      Async do |task|
        ticker = Ticker.new
        timer = task.async { ticker.run { |seconds| task.sleep(seconds) } }
        Array.new([FIBERS, offsets.size].min) do |fiber|
          task.async { yield queue.shift, fiber until queue.empty? }
        end.each(&:wait)
        timer.stop
        ticker.gap
      end.wait
    end

    # The same with threads.
    def in_threads(offsets, &)
      ticker = Ticker.new
      timer = Thread.new { ticker.run { |seconds| sleep(seconds) } }
      Ways.in_threads(offsets, THREADS) { |mine| mine.each(&) }
      timer.kill.join
      ticker.gap
    end
  end
end
