# frozen_string_literal: true

module DMA
  class File
    # The bits of the flags that say whether reading, writing or both (O_ACCMODE of open(2)).
    ACCESS = ::File::WRONLY | ::File::RDWR
    private_constant :ACCESS

    # How a file was opened: the mode of ::File.open, understood.
    # @private
    Mode = Struct.new(:flags, :encoding) do
      def self.parse(mode)
        return new(mode, Encoding.default_external).freeze if mode.is_a?(Integer)

        match = /\A(?<kind>[rw])(?<marks>[bt+x]*)(?::(?:BOM\|)?(?<encoding>[^:]+))?\z/i.match(mode)
        raise ArgumentError, "mode #{mode.inspect} is not offered#{hint(mode)}" unless match

        new(flags_of(match), encoding_of(match)).freeze
      end

      def self.flags_of(match)
        marks = match[:marks]
        access = ::File::RDWR if marks.include?("+")
        return access || ::File::RDONLY if match[:kind] == "r"

        access ||= ::File::WRONLY
        access | ::File::CREAT | (marks.include?("x") ? ::File::EXCL : ::File::TRUNC)
      end

      def self.encoding_of(match)
        return Encoding.find(match[:encoding]) if match[:encoding]

        match[:marks].include?("b") ? Encoding::BINARY : Encoding.default_external
      end

      def self.hint(mode)
        return "; to append, open with \"r+\" and seek(0, IO::SEEK_END)" if mode.to_s.start_with?("a")
        return "; transcoding is left to String#encode" if mode.to_s.count(":") > 1

        ""
      end
      private_class_method :flags_of, :encoding_of, :hint

      def readable?
        flags & ACCESS != ::File::WRONLY
      end

      def writable?
        flags & ACCESS != ::File::RDONLY
      end

      # The mode for a second IO over the same file: it neither creates nor cuts it.
      def to_s
        access = { ::File::RDONLY => "r", ::File::WRONLY => "w", ::File::RDWR => "r+" }[flags & ACCESS]
        "#{access}b:#{encoding}"
      end
    end
    private_constant :Mode
  end
end
