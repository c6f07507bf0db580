# frozen_string_literal: true

RSpec.describe "docs/debug.md" do
  # The library works in other processes.
  around { |example| unstressed { example.run } }

  let(:root) { File.expand_path("..", __dir__) }
  let(:text) { File.read(File.join(root, "docs/debug.md")) }

  it "has a row for each rule, of which each has a program that breaks it" do
    rows = text[/^\| Rule .*?^$/m].scan(/^\| `:(\w+)` \|/).flatten.map(&:to_sym)
    documented = File.read(File.join(root, "lib/dma/error.rb"))[/# @return \[Symbol, nil\].*?nil where/m]
    expect(rows).to match_array Support::Misuse::PROGRAMS.keys
    expect(documented.scan(/`:(\w+)`/).flatten.map(&:to_sym)).to match_array rows
  end

  it "has a program that says what is below it" do
    program, said = text.match(/^```ruby\n(.*?)^```\n^```text\n(.*?)^```/m).captures
    output, status = Open3.capture2e(RbConfig.ruby, "-Ilib", "-rdma", "-e", program, chdir: root)
    expect([status.success?, output]).to eq [true, said]
  end

  it "names only files that there are" do
    paths = text.scan(%r{`((?:spec|lib|benchmark)/[\w./]+)`}).flatten
    expect(paths.reject { |path| File.exist?(File.join(root, path)) }).to eq []
  end
end
