# frozen_string_literal: true

require_relative "spec_helper"
require "csv"
require "rexml/document"

RSpec.describe "The benchmark of files" do
  # It works in another process.
  around { |example| unstressed { example.run } }

  root = File.expand_path("..", __dir__)
  columns = %w[group row kind reference value unit ratio cpu_s_per_gb syscalls_per_gb largest_gap_ms rounds]

  # A directory of links to programs: whatever else is installed is not found there.
  def only(*programs)
    directory = File.join(scratch, "bin").tap { |path| Dir.mkdir(path) }
    places = ENV.fetch("PATH").split(":")
    programs.each do |program|
      found = places.map { |place| File.join(place, program) }.find { |path| File.executable?(path) }
      File.symlink(found, File.join(directory, program)) if found
    end
    directory
  end

  define_method(:benchmark) do |*options, **environment|
    command = [environment.transform_keys(&:to_s), "timeout", "--signal=KILL", "250", RbConfig.ruby, "-w",
               "-I", File.join(root, "lib"), File.join(root, "benchmark/files.rb"), *options]
    Open3.capture2e(*command, chdir: scratch)
  end

  it "measures every group without the programs that may be missing, and charts each row of its CSV" do
    needs "temporary files on a disk", Open3.capture2("stat", "-f", "-c", "%T", scratch).first != "tmpfs\n"
    path = only("timeout", "dd", "cp", "strace", "mount", "umount", "losetup")
    output, status = benchmark("--size", "4M", "--rounds", "1", PATH: path)
    expect(status).to be_success, output
    expect(output).not_to match(%r{benchmark/.*warning})
    expect(output).to include("| fio | - | - | - | fio is not installed |", "| - | - | - | cargo is not installed |")

    rows = CSV.read(File.join(scratch, "tmp/benchmark/files.csv"), headers: true)
    expect(rows.headers).to eq(columns)
    depths = [1, 8, 32, 128].map { |depth| "random, 4 KiB, depth #{depth}, cold file" }
    chunks = ["4 KiB", "64 KiB", "1 MiB"].product(%w[cold warm]).map do |size, cache|
      "read(#{size}), again and again, #{cache} file"
    end
    groups = ["sequential, 1 MiB, cold file", *depths, "at once or by 1 MiB, file in the page cache",
              "by 4 KiB, file in the page cache", "write, to fdatasync", "copy of a cold file, to fdatasync", *chunks,
              "fibers, 1 MiB, cold file", "fibers, 4 KiB at random, cold file"]
    looped, others = rows.partition { |row| row["group"].end_with?("device in memory") }
    expect(others.map { |row| row["group"] }.uniq).to eq(groups)
    expect(output).to include("loop is left out") if looped.empty?
    expect(rows.map { |row| row["kind"] }.uniq).to match_array(%w[dma ruby program])
    expect(rows.map { |row| [row["value"], row["cpu_s_per_gb"]].map(&:to_f) }.flatten).to all(be_positive)
    references = rows.select { |row| row["row"] == row["reference"] }
    expect(references.map { |row| row["ratio"] }).to all(eq("1"))

    chart = REXML::Document.new(File.read(File.join(scratch, "tmp/benchmark/files.svg")))
    bars = REXML::XPath.match(chart, "//*[@class='bar']")
    expect(bars.size).to eq(rows.size)
    expect(bars.map { |bar| bar["width"].to_f }).to all(be_positive)
    expect(Dir.children(File.join(scratch, "tmp"))).to eq(["benchmark"])
  end

  it "takes ratios within each round, and holds them against the goals" do
    seconds = { "DMA::File#each_chunk" => [2.0, 1.0, 3.0], "fio" => [1.9, 1.0, 1.5], "IO#read(n, buffer)" => [1.0] * 3 }
    output = in_ruby(<<~RUBY)
      %w[support files/group files/report files/goals].each { |file| require File.join(#{root.inspect}, "benchmark", file) }
      group = Files::Group.new("sequential", bytes: 10**9, reference: "fio", prepare: -> {}) do |rows|
        #{seconds}.each do |name, times|
          kind = { "D" => :dma, "I" => :ruby, "f" => :program }.fetch(name[0])
          rows.public_send(kind, name) { Files::Sample.new(times.rotate!.last, 0.5) }
        end
      end
      group.measure(3)
      Files::Report.table(group)
      Files::Goals.table([group])
    RUBY
    expect(output).to include("| DMA::File#each_chunk | 0.95 | 0.50..1.00 | 0.50 | 0.500 |")
    expect(output).to include("| sequential: DMA::File#each_chunk >= 0.95 of fio | 0.95 | met |")
    expect(output).to include("| sequential: DMA::File#each_chunk >= IO#read(n, buffer) | 0.50 | not met |")
    expect(output).to include("| copy: DMA.copy >= 1 of cp | - | not measured |")
  end

  it "refuses groups, sizes and rounds that it cannot measure" do
    [%w[--only nonsense], %w[--size 1000], %w[--rounds 0]].each do |options|
      output, status = benchmark(*options)
      expect([status.success?, output]).to match([false, %r{\Abenchmark/files.rb: }])
    end
  end
end
