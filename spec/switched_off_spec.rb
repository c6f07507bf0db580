# frozen_string_literal: true

require_relative "spec_helper"
require "json"

# What docs/article.md says of each mechanism: that its example fails without it. spec/switches.rb switches it off.
RSpec.describe "docs/article.md" do
  # The examples run in other processes.
  around { |example| unstressed { example.run } }

  # How each example of `file` ends whose description contains `words`.
  def results(file, words, mechanism)
    options = "-I#{Support::ArticleTable::ROOT}/lib -r#{__dir__}/switches.rb"
    environment = { "DMA_SWITCHED_OFF" => mechanism, "RUBYOPT" => options, "GC_STRESS" => nil }
    report = scratch_file("report.json")
    command = ["timeout", "--signal=KILL", "120", RbConfig.ruby, "-S", "rspec", file, "--example", words,
               "--format", "json", "--out", report]
    output, = Open3.capture2e(environment, *command, chdir: Support::ArticleTable::ROOT)
    JSON.parse(File.read(report))["examples"]
  rescue SystemCallError, JSON::ParserError
    raise "#{command.join(" ")} came to no end: #{output}"
  end

  rows = Support::ArticleTable.rows.select(&:built?)
  rows.group_by { |row| [row.mechanism, row.file, row.example] }.each do |(mechanism, file, words), same|
    it "#{same.map(&:name).uniq.join(", ")}: without `#{mechanism}` #{file} fails, which #{words}" do
      examples = results(file, words, mechanism)
      pending = examples.select { |example| example["status"] == "pending" }
      needs pending.first["pending_message"], false if pending.any? && pending == examples
      failed = examples - pending
      expect(failed.map { |example| example["status"] }.uniq).to eq ["failed"]
      # A switch that is broken itself shows as one of these.
      broken = %w[NameError NoMethodError LoadError SyntaxError FrozenError Timeout::Error]
      expect(failed.map { |example| example["exception"]["class"] } & broken).to eq []
    end
  end
end
