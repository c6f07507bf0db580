# frozen_string_literal: true

module Support
  module Article
    # A heading, a block of code, or a row of a table; `text` is a heading's words, what code defines first (or else the
    # file that it opens), or all cells of a row.
    Piece = Struct.new(:kind, :text)

    # These in the order of the text, whose first line is its site's name. What stands between blank lines is code,
    # which may go on behind them, a table, which is several lines, the first of which names its columns, or a line of
    # its own: a heading, or a paragraph, which ends in a full stop.
    def self.pieces
      parts = File.read(PATH, encoding: "UTF-8").split(/\n{2,}/).drop(1)
      parts.slice_when { |one, two| prose?(one) || prose?(two) }.flat_map do |run|
        next Piece.new(:code, named(run.join("\n"))) unless prose?(run.first)

        line, *rows = run.first.lines(chomp: true)
        next rows.map { |row| Piece.new(:row, row) } unless rows.empty?

        line.end_with?(".") ? [] : Piece.new(:heading, line)
      end
    end

    def self.named(code)
      code[/^(?:class|module|struct|def) (\w+)/, 1] || code[/'([\w.]+)'/, 1]
    end
    private_class_method :named
  end
end
