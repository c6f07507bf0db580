# frozen_string_literal: true

require_relative "spec_helper"
require_relative "switches"
require "json"

RSpec.describe "The table of the article" do
  # Other processes list the examples.
  around { |example| unstressed { example.run } }

  let(:root) { Support::ArticleTable::ROOT }
  let(:rows) { Support::ArticleTable.rows }
  let(:built) { rows.select(&:built?) }

  # Where rows and pieces of the article part, as a message; nil where they do not.
  def parting(rows, pieces)
    named = rows.reject { |row| row.kind == :remark }
    [named.size, pieces.size].max.times do |n|
      row = named[n]
      piece = pieces[n]
      next if row && piece && row.kind == piece.kind && same_name?(row.name, piece)

      return "row #{n + 1} is #{row ? row.to_h.slice(:kind, :name) : "missing"}, for #{piece.to_h}"
    end
    nil
  end

  # A row of the article's tables is named by its first words.
  def same_name?(name, piece)
    piece.kind == :row ? piece.text.start_with?("#{name} ") : piece.text == name
  end

  context "with the article's text" do
    before { skip "needs the article's text: DMA_ARTICLE=PATH" unless Support::Article::PATH }

    let(:pieces) { Support::Article.pieces }

    it "is of 49 headings, 14 programs and 38 rows of tables" do
      expect(pieces.map(&:kind).tally).to eq(heading: 49, code: 14, row: 38)
    end

    it "has a row for each heading, program and row of a table, in its order, and no other" do
      expect(parting(rows, pieces)).to be_nil
    end

    it "has no row to spare: without any one, or with two in another order, it would not do" do
      rows.each_index do |n|
        next if rows[n].kind == :remark

        expect(parting(rows[...n] + rows[n + 1..], pieces)).to be_a(String)
        expect(parting(rows[..n] + rows[n..], pieces)).to be_a(String)
      end
      expect(parting(rows.rotate, pieces)).to be_a(String)
    end
  end

  it "has four cells in each row, and no row twice below a heading" do
    expect(rows.map { |row| row.to_h.values }.flatten.map(&:to_s)).to all match(/\S/)
    rows.slice_before { |row| row.kind == :heading }.each do |section|
      names = section.map { |row| [row.kind, row.name] }
      expect(names).to eq names.uniq
    end
    expect((rows - built).map { |row| [row.see, row.spec] }.uniq).to eq [["-", "-"]]
    expect((rows - built).map(&:here)).to all match(/\Anot built: \w/)
  end

  it "names a switch in each row, and there is no other" do
    expect(built.map(&:mechanism).uniq).to match_array Switches::ALL.keys
  end

  it "names examples that there are" do
    files = built.map(&:file).uniq
    expect(files.reject { |file| file && File.exist?(File.join(root, file)) }).to eq []
    known = descriptions(files)
    missing = built.reject { |row| known.fetch(row.file).any? { |description| description.include?(row.example) } }
    expect(missing.map { |row| [row.file, row.example] }).to eq []
  end

  # The descriptions of all examples, by file. Another process loads them.
  def descriptions(files)
    command = [RbConfig.ruby, "-S", "rspec", "--dry-run", "--format", "json", "--out", scratch_file("examples.json")]
    output, status = Open3.capture2e(*command, *files, chdir: root)
    expect(status).to be_success, output
    examples = JSON.parse(File.read(scratch_file("examples.json")))["examples"]
    # Those of shared groups have the group's file; which the id of the example says better.
    examples.group_by { |example| example["id"][%r{\A\./(.+)\[}, 1] }
            .transform_values { |same| same.map { |example| example["full_description"] } }
  end

  it "names programs and sections that there are" do
    built.each do |row|
      path, anchor = row.see.match(/\A\[[^\]]+\]\(([^#)]+)(?:#([^)]+))?\)\z/)&.captures
      expect(path).not_to be_nil, row.to_s
      target = File.expand_path(path, File.join(root, "docs"))
      expect(File).to exist(target), path
      expect(anchors(target)).to include(anchor) if anchor
    end
  end

  # Those of its headings, as GitHub makes them.
  def anchors(path)
    File.read(path).scan(/^\#{1,6} (.+)$/).flatten.map { |heading| heading.downcase.gsub(/[^\w\- ]/, "").tr(" ", "-") }
  end
end
