# frozen_string_literal: true

module Support
  # The rows of docs/article.md.
  module ArticleTable
    ROOT = File.expand_path("../..", __dir__)
    PATH = File.join(ROOT, "docs/article.md")

    # `kind` is that of a piece of the article, or :remark, about what stands under the heading above.
    Row = Struct.new(:kind, :name, :here, :see, :spec, keyword_init: true) do
      def built?
        !here.start_with?("not built")
      end

      # What is to be switched off.
      def mechanism
        here[/\A`([^`]+)`/, 1]
      end

      def file
        spec[%r{\A`(spec/[\w/]+_spec\.rb)`: }, 1]
      end

      # What the example's description contains.
      def example
        spec[/\A`[^`]+`: (.+)/, 1]
      end
    end

    MARKS = { /\A\*\*(.+)\*\*\z/ => :heading, /\A\*(.+)\*\z/ => :remark, /\A`(.+)`\z/ => :code,
              /\A(.+)\z/ => :row }.freeze

    def self.rows
      lines = File.readlines(PATH, chomp: true, encoding: "UTF-8").grep(/\A\|/)
      cells = lines.map { |line| line.delete_prefix("|").split("|").map(&:strip) }
      cells.reject { |first, *| first.match?(/\A(?:the article|-+)\z/) }.map do |name, here, see, spec|
        mark, kind = MARKS.find { |mark, _| name.match?(mark) }
        Row.new(kind: kind, name: name[mark, 1], here: here, see: see, spec: spec)
      end
    end
  end
end
