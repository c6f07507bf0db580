# frozen_string_literal: true

require "benchmark"
require "open3"
require_relative "group"
require_relative "programs"
require_relative "ways"
require_relative "../support"
require_relative "../../spec/support/article"

module Files
  # The article's experiment: what the size of chunks is worth, on File and on DMA::File.
  module Chunk
    SIZES = { "4 KiB" => 4096, "64 KiB" => 65_536, "1 MiB" => 1_048_576 }.freeze
    CLASSES = { ruby: File, dma: DMA::File }.freeze
    # The most that is read under strace, which makes every call slow.
    TRACED = 64 << 20
    # Where the article is not at hand: a method of the same shape.
    OWN = <<~RUBY
      def measure_io_performance(filename, chunk_size)
        File.open(filename, "rb") { |file| nil while file.read(chunk_size) }
      end
    RUBY
    TEXT = if Support::Article::PATH
             Support::Article.program("test.dat")[/^def measure_io_performance.*?^end$/m]
           else
             OWN
           end

    module_function

    # A module whose function is the article's, to which File means this class.
    def program(file_class)
      Module.new do
        extend self
        const_set(:File, file_class)
        module_eval(TEXT)
      end
    end

    def groups(bench)
      source = Support::Article::PATH ? "is the article's" : "stands in for the article's (DMA_ARTICLE is not given)"
      untraced = Programs.missing("strace")
      puts "chunk: the method #{source}; it looks at no bytes"
      puts "no system calls are counted: #{untraced}" if untraced
      traced = traced_files(bench)
      SIZES.keys.product(%i[cold warm]).each do |size, cache|
        group = group(bench, size, cache)
        count_calls(group, traced, SIZES[size], cache) unless untraced
        yield group
      end
    end

    # What is read under strace: a part of the file, and nothing, which tells what all else takes.
    def traced_files(bench)
      %w[traced.bin empty.bin].map { |name| bench.beside(name) }.tap do |full, empty|
        IO.copy_stream(bench.path, full, TRACED)
        File.write(empty, "")
      end
    end

    def group(bench, size, cache)
      prepare = -> { Support.prepare(bench.path, cache) }
      name = "read(#{size}), again and again, #{cache} file"
      Group.new("chunk", name:, bytes: bench.bytes, reference: "File", prepare:) do |group|
        rows(group, bench.path, SIZES[size])
      end
    end

    def rows(group, path, size)
      CLASSES.each do |kind, file_class|
        program = program(file_class)
        group.public_send(kind, file_class.name) { Ways.timed { program.measure_io_performance(path, size) } }
      end
    end

    def count_calls(group, traced, size, cache)
      group.rows.each do |row|
        Support.prepare(traced.first, cache)
        full, empty = traced.map { |path| calls(path, size, row.name) }
        row.calls = (full - empty) * 1e9 / File.size(traced.first)
      end
    end

    # System calls of a process that runs the program once.
    def calls(path, size, file_class)
      Dir.mktmpdir do |directory|
        report = File.join(directory, "calls")
        code = "Files::Chunk.program(#{file_class}).measure_io_performance(ARGV[0], #{size})"
        output, status = Open3.capture2e("strace", "-f", "-c", "-o", report, RbConfig.ruby, "-I",
                                         File.expand_path("../../lib", __dir__), "-r", __FILE__, "-e", code, path)
        raise "strace: #{output}" unless status.success?

        File.read(report)[/^100\.00.*?(\d+)(?:\s+\d+)?\s+total$/, 1].to_i
      end
    end
  end
end
