# frozen_string_literal: true

RSpec.describe "docs/machine.md" do
  # The library works in other processes.
  around { |example| unstressed { example.run } }

  let(:root) { File.expand_path("..", __dir__) }
  let(:text) { File.read(File.join(root, "docs/machine.md")) }

  File.read(File.expand_path("../docs/machine.md", __dir__)).scan(/^## (.+?)$(.*?)(?=^## |\z)/m) do |heading, body|
    body.scan(/^```ruby\n(.*?)^```/m) do |(program)|
      it "has a program under #{heading.inspect} that runs and says something" do
        output, status = Open3.capture2e(RbConfig.ruby, "-Ilib", "-rdma", "-e", program, chdir: root)
        expect(output).not_to be_empty
        expect(status).to be_success, output
      end
    end
  end

  it "names only specs, examples and sources that there are" do
    paths = text.scan(%r{`((?:spec|examples|ext|docs|benchmark)/[\w./]+)`}).flatten.uniq
    expect(paths.size).to be > 10
    expect(paths.reject { |path| File.exist?(File.join(root, path)) }).to eq []
  end

  it "has a section for each that it refers to" do
    headings = text.scan(/^## (.+)$/).flatten
    rows = text[/^## The article, row by row$.*\z/m]
    referred = rows.scan(/\| "([^"]+)"/).flatten.uniq
    expect(referred - headings).to eq []
  end
end
