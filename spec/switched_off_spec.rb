# frozen_string_literal: true

require_relative "spec_helper"

# What docs/article.md says of each mechanism: that its example fails without it. spec/switches.rb switches it off.
RSpec.describe "docs/article.md" do
  # The examples run in other processes.
  around { |example| unstressed { example.run } }

  # How the examples of files end whose descriptions contain one of `words`.
  def endings(files, words, mechanism, limit = 60)
    library = "-I#{Support::ArticleTable::ROOT}/lib -r#{__dir__}/switches.rb"
    environment = { "DMA_SWITCHED_OFF" => mechanism, "RUBYOPT" => library, "GC_STRESS" => nil }
    report = scratch_file("report", "")
    command = ["timeout", "--signal=KILL", limit.to_s, RbConfig.ruby, "-S", "rspec", *files,
               *words.flat_map { |description| ["--example", description] },
               "--require", "#{__dir__}/endings.rb", "--format", "Endings", "--out", report]
    output, status = Open3.capture2e(environment, *command, chdir: Support::ArticleTable::ROOT)
    # What failed is 1; a program that does not run, or does not end, is another.
    expect(status.exitstatus).to be <= 1, output
    File.readlines(report, chomp: true)
  end

  rows = Support::ArticleTable.rows.select(&:built?)

  it "names examples that pass as long as nothing is switched off" do
    found = endings(rows.map(&:file).uniq, rows.map(&:example).uniq, nil, 280)
    expect(found.size).to be >= rows.map { |row| [row.file, row.example] }.uniq.size
    expect(found.uniq - ["pending"]).to eq ["passed"]
  end

  rows.group_by { |row| [row.mechanism, row.file, row.example] }.each do |(mechanism, file, words), same|
    it "#{same.map(&:name).uniq.join(", ")}: without `#{mechanism}` fails #{file}, #{words}" do
      found = endings([file], [words], mechanism)
      needs "what #{file} needs", false if found.any? && [found, endings([file], [words], nil)].flatten.all?("pending")
      expect(found).not_to be_empty
      # A switch that is broken itself ends in an error of Ruby's.
      expect(found).to all match(/\Afailed (?:RSpec::|DMA::|Errno::|RuntimeError|ArgumentError)/)
    end
  end
end
