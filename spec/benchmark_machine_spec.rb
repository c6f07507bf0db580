# frozen_string_literal: true

require_relative "spec_helper"
require "csv"
require "rexml/document"

RSpec.describe "The benchmark of the simulated machine" do
  # It works in another process.
  around { |example| unstressed { example.run } }

  root = File.expand_path("..", __dir__)
  columns = %w[group panel series x axis at value unit expected deviation rule]

  define_method(:benchmark) do |*options, **environment|
    command = [environment.transform_keys(&:to_s), "timeout", "--signal=KILL", "120", RbConfig.ruby, "-w",
               "-I", File.join(root, "lib"), File.join(root, "benchmark/machine.rb"), *options]
    Open3.capture2e(*command, chdir: scratch)
  end

  define_method(:rows) { CSV.read(File.join(scratch, "tmp/benchmark/machine.csv"), headers: true) }
  define_method(:chart) { REXML::Document.new(File.read(File.join(scratch, "tmp/benchmark/machine.svg"))) }

  it "measures every group, each figure of which follows its formula" do
    output, status = benchmark("--quick")
    expect(status).to be_success, output
    expect(output).not_to match(%r{benchmark/.*warning})
    expect(output).to include("speed is left out: ", "90 of 90 sizes are what the formulas give")
    expect(output).not_to include("outside")

    expect(rows.headers).to eq(columns)
    expect(rows.map { |row| row["group"] }.uniq).to eq(%w[modes interrupts pio payload fairness memory])
    expect(rows.map { |row| row["rule"].to_s }).to all(match(/\w/))
    # Whole cycles of memory are 1.6 % of a burst; the first gap and access of a CPU 1.1 % of a short transfer.
    points, relative = rows.select { |row| row["deviation"] }.partition { |row| row["unit"] == "%" }
    expect(points.map { |row| row["deviation"].to_f }).to all(be <= 1.1)
    expect(relative.map { |row| row["deviation"].to_f }).to all(be <= 0.02)
    # Nothing is said only of latency where more comes than the CPU has time for.
    unsaid = rows.reject { |row| row["expected"] }
    expect(unsaid.map { |row| [row["group"], row["panel"][/\w+ latency/]] }.uniq)
      .to eq([["interrupts", "mean latency"], ["interrupts", "worst latency"]])
    expect(unsaid.map { |row| row["x"].to_i }.uniq).to eq([100_000, 200_000])

    expect(REXML::XPath.match(chart, "//*[@class='mark']").size).to eq(rows.size)
    expect(REXML::XPath.match(chart, "//*[@class='panel']").size)
      .to eq(rows.map { |row| row.values_at("group", "panel") }.uniq.size)
    expect(REXML::XPath.match(chart, "//text").map(&:text)).to include(*rows.map { |row| row["panel"] })
  end

  it "gives the same figures each time" do
    figures = Array.new(2) do
      output, status = benchmark("--quick", "--only", "interrupts,fairness")
      expect(status).to be_success, output
      rows.to_s
    end
    expect(figures.uniq.size).to eq 1
  end

  it "says what the article's figures hold for" do
    output, = benchmark("--quick", "--only", "pio,payload,fairness")
    expect(output).to include("| PCI, write | 4 | 25 | 69 | 509 | 53 | **1 081** | 185 |",
                              "10 to 12 GB/s, as the article has it: one long block with 64,")
    operations = rows.select { |row| row["panel"] == "what the CPU does for a write" && row["x"] == "1048576" }
    expect(operations.to_h { |row| [row["series"], row["value"]] })
      .to include("PIO, by 1" => "1048576", "DMA" => "47")
    starved = rows.select { |row| row["panel"] == "longest wait for the bus" && row["x"] == "fixed" }
    expect(starved.map { |row| row["value"].to_i }).to eq [0, 8000, 8000]
  end

  it "holds the speed of the simulation against its goal" do
    directory = File.join(scratch, "bin").tap { |path| Dir.mkdir(path) }
    times = "ideal 0.3 0.1 7\\nideal 0.2 0.1 7\\nideal 0.4 0.1 7\\npcie 0.6 0.1 7\\n"
    File.write(File.join(directory, "cargo"), "#!/bin/sh\nprintf '#{times}'\n", perm: 0o755)
    output, status = benchmark("--only", "speed", PATH: "#{directory}:#{ENV.fetch("PATH")}")
    expect(status).to be_success, output
    expect(output).to include("| a bus that costs nothing | 3.00 | 0.300 | 0.100 | met |",
                              "| PCI Express 3.0 x16 | 6.00 | 0.600 | 0.100 | not met |")
    expect(rows.map { |row| row["value"].to_f }).to eq [3, 2, 4, 6]
  end

  it "refuses groups that it does not have" do
    output, status = benchmark("--only", "nonsense")
    expect([status.success?, output]).to match([false, %r{\Abenchmark/machine.rb: no group nonsense}])
  end
end
