# frozen_string_literal: true

module DMA
  class File
    # How a file was opened: the mode of ::File.open, understood. `encoding` is nil where the mode names none.
    # @private
    Mode = Struct.new(:flags, :encoding, :binary, :bom, keyword_init: true) do
      def self.parse(mode)
        return of_flags(mode) if mode.is_a?(Integer)
        raise TypeError, "mode #{mode.inspect} is neither a String nor flags" unless mode.respond_to?(:to_str)

        marks, encoding = mode.to_str.split(":", 2)
        kind, *marks = marks.to_s.chars
        known = { "r" => %w[b +], "w" => %w[b + x] }.fetch(kind, [])
        unless %w[r w].include?(kind) && (marks - known).empty? && marks.uniq.size == marks.size
          raise ArgumentError, "mode #{mode.inspect} is not offered#{hint(kind, marks)}"
        end

        new(flags: flags_of(kind, marks), binary: marks.include?("b"), **encoding_of(encoding, marks)).freeze
      end

      # What to say of keywords of ::File.open that are not offered, and of others.
      def self.instead_of(keywords)
        of_file = keywords.intersect?(%i[mode encoding external_encoding])
        "unknown keyword#{"s" if keywords.size > 1}: #{keywords.map(&:inspect).join(", ")}" \
          "#{"; the mode, with the encoding, is the second argument: \"r:utf-8\"" if of_file}"
      end

      def self.of_flags(flags)
        raise ArgumentError, "File::APPEND is not offered#{hint("a", [])}" if flags.anybits?(::File::APPEND)
        raise ArgumentError, "File::DIRECT is not offered; use direct: true" if flags.anybits?(::File::DIRECT)

        new(flags: flags, binary: false, bom: false).freeze
      end

      def self.flags_of(kind, marks)
        access = ::File::RDWR if marks.include?("+")
        return access || ::File::RDONLY if kind == "r"

        access ||= ::File::WRONLY
        access | ::File::CREAT | (marks.include?("x") ? ::File::EXCL : ::File::TRUNC)
      end

      def self.encoding_of(name, marks)
        return { encoding: marks.include?("b") ? Encoding::BINARY : nil, bom: false } unless name

        external = name.sub(/\ABOM\|/i, "")
        if external.include?(":")
          raise ArgumentError, "encodings #{name} are not offered; transcoding is left to String#encode"
        end

        { encoding: Encoding.find(external), bom: external != name }
      end

      def self.hint(kind, marks)
        return "; to append, open with \"r+\" and seek(0, IO::SEEK_END)" if kind == "a"
        return "; newlines are not converted, so leave out the \"t\"" if marks.include?("t")

        "; it is \"r\" or \"w\", then \"b\", \"+\", or (behind \"w\") \"x\", each once, then \":encoding\""
      end
      private_class_method :of_flags, :flags_of, :encoding_of, :hint

      def readable?
        access != ::File::WRONLY
      end

      def writable?
        access != ::File::RDONLY
      end

      # The mode for a second IO over the same file: it neither creates nor cuts it.
      def to_s
        kind = { ::File::RDONLY => "r", ::File::WRONLY => "w" }.fetch(access, "r+")
        encoding ? "#{kind}b:#{encoding}" : kind
      end

      private

      # O_ACCMODE of open(2).
      def access
        flags & (::File::WRONLY | ::File::RDWR)
      end
    end
    private_constant :Mode
  end
end
