# frozen_string_literal: true

require_relative "reading"

module Files
  # What the library has to reach, and whether it did.
  module Goals
    # What is wanted, what was measured (nil: it was not), and whether that is enough.
    Goal = Struct.new(:wanted, :measured, :met)

    # A group by its key, or by its name where the key has several; two of its rows, and how much faster the first is.
    SPEEDS = [
      ["sequential", "DMA::File#each_chunk", "fio", 0.95],
      ["sequential", "DMA::File#each_chunk, #{BLIND}", "fio", 0.95],
      [Reading.random_name(32), "DMA::File#read_many", "fio", 0.9],
      [Reading.random_name(32), "DMA::File#read_many, #{BLIND}", "fio", 0.9],
      ["warm", "DMA.read", "File.binread", 3],
      ["warm", "DMA.read, #{BLIND}", "File.binread, #{BLIND}", 3],
      ["copy", "DMA.copy", "cp", 1]
    ].freeze

    module_function

    def table(groups)
      goals = SPEEDS.map { |goal| speed(groups, *goal) } << cpu(groups)
      goals += groups.filter_map { |group| ahead_of_ruby(group) }
      puts "Goals:", ""
      Support.table(%w[goal measured met], goals.map do |goal|
        [goal.wanted, goal.measured || "-", goal.measured ? verdict(goal.met) : "not measured"]
      end)
    end

    def verdict(met)
      met ? "met" : "not met"
    end

    def speed(groups, name, row, other, least)
      group = groups.find { |one| [one.key, one.name].include?(name) }
      ratio = group&.ratio(group.row(row), group.row(other))
      reach("#{name}: #{row} >= #{least} of #{other}", ratio, least)
    end

    # As it is printed: what reads as enough is enough.
    def reach(wanted, ratio, least)
      Goal.new(wanted, ratio&.then { |value| format("%.2f", value) }, ratio && ratio.round(2) >= least)
    end

    # Of the same work: fio looks at no bytes.
    def cpu(groups)
      group = groups.find { |one| one.key == "sequential" }
      ours, fio = ["DMA::File#each_chunk, #{BLIND}", "fio"].map { |name| group&.row(name) }
      wanted = "sequential: CPU of each_chunk, #{BLIND}, <= twice fio's, or 0.01 s/GB more"
      return Goal.new(wanted) unless ours && fio

      costs = [ours, fio].map { |row| group.cpu(row) }
      enough = costs.first <= [costs.last * 2, costs.last + 0.01].max
      Goal.new(wanted, format("%.3f, fio %.3f s/GB", *costs), enough)
    end

    def ahead_of_ruby(group)
      ours, ruby = %i[dma ruby].map { |kind| group.best(kind) }
      return unless ours && ruby

      reach("#{group.name}: #{ours.name} >= #{ruby.name}", group.ratio(ours, ruby), 1)
    end
  end
end
