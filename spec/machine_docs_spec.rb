# frozen_string_literal: true

RSpec.describe "docs/machine.md" do
  # The library works in other processes.
  around { |example| unstressed { example.run } }

  let(:root) { File.expand_path("..", __dir__) }
  let(:text) { File.read(File.join(root, "docs/machine.md")) }

  File.read(File.expand_path("../docs/machine.md", __dir__)).scan(/^## (.+?)$(.*?)(?=^## |\z)/m) do |heading, body|
    body.scan(/^```ruby\n(.*?)^```\s+(?:^```text\n(.*?)^```)?/m) do |program, said|
      it "has a program under #{heading.inspect} that runs and says what is below it" do
        output, status = Open3.capture2e(RbConfig.ruby, "-Ilib", "-rdma", "-e", program, chdir: root)
        expect(status).to be_success, output
        expect(output).to eq said
      end
    end
  end

  it "names only specs, examples and sources that there are, and so does docs/article.md" do
    pages = text + File.read(Support::ArticleTable::PATH)
    paths = pages.scan(%r{`((?:spec|examples|ext|docs|benchmark)/[\w./]+)`}).flatten.uniq
    expect(paths.size).to be > 10
    expect(paths.reject { |path| File.exist?(File.join(root, path)) }).to eq []
  end

  it "leaves registers and errors to DMA::Registers, which has those of the core" do
    core = File.read(File.join(root, "ext/dma_core/src/engine/sim/registers.rs"))
    documented = File.read(File.join(root, "lib/dma/registers.rb"))
    there = core.scan(%r{^//! \| 0x(\h\h) \| ([A-Z_]+) \| (\d+(?: x \d+)?) })
    listed = documented.scan(/^  #   0x(\h\h)  ([A-Z_]+) +(\d+(?: \* \d+)?) /)
    expect(there.size).to be 19
    expect(listed).to eq(there.map { |*place, bits| [*place, bits.sub("x", "*")] })

    names = File.read(File.join(root, "ext/dma_core/src/transfer.rs"))[/^const NAMES.*?^\];/m].scan(/"(\w+)"/).flatten
    codes = documented[/Codes of errors.*?see$/m].scan(/(\d+) ([a-z]+(?:_[a-z]+)*)/)
    expect(codes).to eq(names.each_with_index.map { |name, code| [code.to_s, name] })
  end

  it "leaves options to the README, whose table has each of a machine and of a device" do
    table = File.read(File.join(root, "README.md"))[/^### The simulated machine$.*?^### /m]
    listed = table.scan(/^\| .*$/).join.scan(/`(\w+):`/).flatten.uniq
    options = [DMA::Sim.method(:new), DMA::Sim.instance_method(:device)].flat_map(&:parameters)
    expect(options.filter_map { |kind, name| name.to_s if kind == :key } - listed).to eq []
  end

  it "leads to the rows of the article, whose references spec/article_table_spec.rb looks up" do
    expect(text[/^## The article, row by row$.*\z/m]).to include("(article.md)")
  end
end
