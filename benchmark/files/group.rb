# frozen_string_literal: true

# The benchmark of files: what is measured, and how.
module Files
  # Requests in flight where a row does not say otherwise: the default of DMA::File.open.
  DEPTH = 8
  CHUNK = 1 << 20
  # Of random reads; the most that there are.
  PART = 4096
  PARTS = 32_768
  # Ends the names of rows that do only what fio does.
  BLIND = "bytes not looked at"

  # Seconds by the clock, CPU seconds, and the largest gap of a timer in seconds where one ran.
  Sample = Struct.new(:seconds, :cpu, :gap)

  # A group that this machine cannot run; the message says why.
  class Impossible < StandardError; end

  # The file that is read. Whatever else a group writes lies beside it.
  Bench = Struct.new(:path, :bytes) do
    # A path for another file on the same file system.
    def beside(name)
      File.join(File.dirname(path), name)
    end

    # Where the random reads begin, the same in each run. No two are neighbours.
    def offsets
      @offsets ||= (0...(bytes / (2 * PART))).to_a.sample(PARTS, random: Random.new(0)).map { |n| n * 2 * PART }
    end
  end

  # A way to do what its group is about. `kind` is :dma, :ruby or :program; `missing` says why it cannot be had.
  Row = Struct.new(:name, :kind, :missing, :work) do
    attr_accessor :calls # system calls per GB

    def samples
      @samples ||= []
    end

    def measured?
      samples.any?
    end

    def median(&)
      Support.median(samples.map(&))
    end

    def gap
      median(&:gap) if measured? && samples.first.gap
    end
  end

  # Rows that do the same work and take turns.
  class Group
    attr_reader :key, :name, :bytes, :unit, :reference, :rows, :rounds

    # @param reads [Integer, nil] what is counted per second; nil: bytes
    # @param reference [String] the row that ratios are to
    # @param prepare [Proc] called before each measurement
    def initialize(key, bytes:, reference:, prepare:, name: key, reads: nil)
      @key = key
      @name = name
      @bytes = bytes
      @reference = reference
      @prepare = prepare
      @amount = reads || (bytes / 1e9)
      @unit = reads ? "reads/s" : "GB/s"
      @rows = []
      yield self
    end

    # Each takes a block that does the work once and returns the {Sample}.
    %i[dma ruby program].each do |kind|
      define_method(kind) { |name, missing = nil, &work| rows << Row.new(name, kind, missing, work) }
    end

    def measure(rounds)
      @rounds = rounds
      order = Random.new(0)
      (rounds + 1).times do |round|
        rows.reject(&:missing).shuffle(random: order).each do |row|
          @prepare.call
          sample = row.work.call
          row.samples << sample unless round.zero?
        end
      end
    end

    def measured
      rows.select(&:measured?)
    end

    def row(name)
      measured.find { |row| row.name == name }
    end

    # The fastest of a kind that looks at its bytes; nil without any.
    def best(kind)
      measured.select { |row| row.kind == kind && !row.name.end_with?(BLIND) }.max_by { |row| value(row) }
    end

    def value(row)
      row.median { |sample| @amount / sample.seconds }
    end

    # CPU seconds per GB.
    def cpu(row)
      row.median(&:cpu) * 1e9 / bytes
    end

    # How many times as fast as another row this one is in each round; nil if either was not measured.
    def ratios(row, other = row(reference))
      return unless row&.measured? && other&.measured?

      row.samples.zip(other.samples).map { |mine, its| its.seconds / mine.seconds }
    end

    def ratio(...)
      ratios(...)&.then { |values| Support.median(values) }
    end
  end
end
