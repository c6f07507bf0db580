# frozen_string_literal: true

require "json"

module Support
  # The programs of the founding article, out of the text that $DMA_ARTICLE names, and how to run one unchanged. The
  # text is not part of this project.
  module Article
    PATH = ENV.fetch("DMA_ARTICLE", nil)

    # Runs a program with File meaning DMA::File: in a module of its own, whose methods are its own functions.
    # Definitions come first, because the text calls before it defines. Afterwards report.json says which files it
    # opened; which calls it made, with their arguments, the bytes that came, and the requests to the kernel that took;
    # and the bytes it saw.
    DRIVER = <<~'RUBY'
      require "json"
      require "digest"
      # The programs' own, here because to load a library under stress takes minutes.
      require "benchmark"
      require "fileutils"

      REPORT = {}

      module Opening
        def open(path, *arguments, **options)
          note = ->(file) { REPORT[file] = { path: path, calls: [], seen: String.new } }
          return super(path, *arguments, **options, &nil).tap(&note) unless block_given?

          super(path, *arguments, **options) do |file|
            note.call(file)
            yield file
          end
        end
      end

      module Calls
        %i[read sysread].each do |name|
          define_method(name) do |*arguments|
            before = stats[:requests]
            super(*arguments).tap do |bytes|
              record = REPORT.fetch(self)
              record[:seen] << bytes if bytes
              record[:calls] << [name, arguments.first, bytes&.bytesize, stats[:requests] - before]
            end
          end
        end

        def each_chunk(*arguments)
          super do |buffer, offset|
            REPORT.fetch(self)[:seen] << buffer.get_string
            REPORT.fetch(self)[:calls] << [:each_chunk, arguments.first, buffer.size]
            yield buffer, offset
          end
        end
      end

      DMA::File.singleton_class.prepend(Opening)
      DMA::File.prepend(Calls)

      module Program
        extend self
        File = DMA::File
      end

      text, definitions, after = JSON.parse(::File.read("program.json"))
      GC.stress = ENV["GC_STRESS"] == "1"
      Program.module_eval(definitions)
      Program.module_eval(text, "program.rb")
      value = Program.module_eval(after)
      GC.stress = false
      files = REPORT.map do |file, record|
        record.merge(seen: Digest::SHA256.hexdigest(record[:seen]), stats: file.stats, closed: file.closed?)
      end
      ::File.write("report.json", JSON.generate(files: files, value: value))
    RUBY

    # Each program of the text: lines of code in a row. Prose begins with a capital; of code that only a constant does,
    # which a dot follows.
    def self.programs
      lines = File.read(PATH, encoding: "UTF-8").lines
      lines.slice_when { |one, two| prose?(one) != prose?(two) }.reject { |run| prose?(run.first) }.map(&:join)
    end

    def self.prose?(line)
      line.match?(/\A[A-Z](?!\w*\.)/)
    end

    # The one program that opens `file`, or fails and says what there is.
    def self.program(file)
      found = programs.select { |text| text.include?("'#{file}'") || text.match?(/class #{file}\b/) }
      raise "#{PATH} has #{found.size} programs with #{file}, not one" unless found.one?

      RubyVM::InstructionSequence.compile(found.first)
      found.first
    rescue SyntaxError => e
      raise "what was taken from #{PATH} for #{file} is no program: #{e.message}"
    end

    # Runs the program in `directory`, then the code in `after`, whose value is reported too. Returns report and output.
    def run_article(file, directory, after = "")
      text = Article.program(file)
      definitions = text.scan(/^def .*?^end$/m).join("\n")
      File.write(File.join(directory, "program.json"), JSON.generate([text, definitions, after]))
      output = in_ruby("Dir.chdir(#{directory.inspect})\n#{DRIVER}")
      [JSON.parse(File.read(File.join(directory, "report.json")), symbolize_names: true), output]
    end
  end
end
