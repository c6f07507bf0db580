# frozen_string_literal: true

require "digest"
require "optparse"
require "dma"

module DMA
  # The command line. `require "dma"` does not load it; `exe/dma` does.
  class CLI
    # One line, for those who got it wrong.
    USAGE = "usage: dma read FILE... [--chunk 1M] [--depth 8] [--buffered] [--output PATH|-] [--digest sha256]"

    UNITS = { "" => 1, "K" => 1 << 10, "M" => 1 << 20, "G" => 1 << 30 }.freeze
    DIGESTS = %w[md5 sha1 sha256 sha384 sha512].freeze
    # What reading and writing raise where the file, and not this program, is to blame.
    FAILURES = [SystemCallError, IOError, DMA::Error].freeze
    private_constant :UNITS, :DIGESTS, :FAILURES

    # The arguments make no sense.
    class UsageError < StandardError; end
    # The output is lost, and with it the sense of reading on.
    class OutputError < StandardError; end
    private_constant :UsageError, :OutputError

    def initialize
      @chunk = 1 << 20
      @depth = 8
      @direct = :auto
    end

    # Does what the arguments say. What is not the data of `--output -` or a closing line goes to stderr.
    #
    # @param arguments [Array<String>] as in ARGV
    # @return [Integer] the exit status: 0; 1 after an error, with all files tried; 2 for wrong usage
    def run(arguments)
      $stdout.binmode.sync = true # a full disk shows at once, not at exit, where nobody would hear of it
      catch(:answered) do
        # Paths may hold any bytes, which regular expressions refuse in Strings that claim to be text.
        command, *files = parser.permute(arguments.map(&:b))
        raise UsageError, command ? "unknown command: #{command}" : "no command given" unless command == "read"
        raise UsageError, "no file given" if files.empty?

        read_all(files)
      end
    rescue OptionParser::ParseError, UsageError => e
      complain(e.message)
      warn USAGE
      2
    end

    private

    def parser
      OptionParser.new(USAGE) do |o|
        o.separator("\nReads files through aligned memory, past the page cache where the file system can.\n\n")
        o.on("--chunk SIZE", "bytes of one request, with K, M or G (1M)") { |size| @chunk = bytes_of(size) }
        o.on("--depth COUNT", OptionParser::DecimalInteger, "chunks read ahead, 1 to 1024 (8)") do |depth|
          @depth = depth.between?(1, 1024) ? depth : raise(OptionParser::InvalidArgument, "#{depth} (1 to 1024)")
        end
        o.on("--buffered", "read and write through the page cache") { @direct = false }
        o.on("--output PATH", "where to write all that was read; - is stdout") { |path| @output = path }
        o.on("--digest NAME", "one of #{DIGESTS.join(", ")}") { |name| @digest = digest_of(name) }
        o.on("-h", "--help", "print this") { answer(o.help) }
        o.on("--version", "print the version") { answer("dma #{VERSION}") }
      end
    end

    def answer(text)
      puts text
      throw :answered, 0
    end

    def bytes_of(size)
      match = /\A(\d+)([KMG]?)\z/i.match(size)
      bytes = match ? match[1].to_i * UNITS.fetch(match[2].upcase) : 0
      return bytes if bytes.between?(1, 1 << 62)

      raise OptionParser::InvalidArgument, "#{size} (a number of bytes, with K, M or G behind it for more)"
    end

    # Only the whole name: OptionParser would complete sha3, which is another one, to sha384.
    def digest_of(name)
      DIGESTS.include?(name) ? name : raise(OptionParser::InvalidArgument, "#{name} (#{DIGESTS.join(", ")})")
    end

    # @return [Integer] the exit status
    def read_all(files)
      target = @output == "-" ? $stdout : @output
      same = files.find { |path| target && ::File.identical?(path, target) }
      raise OutputError, "#{shown(same)} is the output too: writing would destroy it" if same

      load_bars
      # All are tried, as cat does.
      files.map { |path| read(path) }.max
    rescue OutputError => e
      complain(e.message)
    ensure
      @sink&.close
    end

    # @return [Integer] 0, or 1 where the file could not be read to its end
    def read(path)
      hash = Digest.const_get(@digest.upcase).new if @digest
      before = clocks
      DMA::File.open(path, "rb", direct: @direct, depth: @depth) do |file|
        bytes = pass(file, hash)
        wall, cpu = clocks.zip(before).map { |now, was| now - was }
        report(format("%<path>s: %<bytes>d bytes, %<wall>.3f s, %<rate>.3f GB/s, %<cpu>.3f CPU s, %<taken>s%<digest>s",
                      path: shown(path), bytes: bytes, wall: wall, rate: bytes / wall / 1e9, cpu: cpu,
                      taken: taken(file.stats, file.alignment), digest: (", #{@digest} #{hash}" if hash)))
      end
      0
    rescue *FAILURES => e
      complain(describe(e, path))
    end

    # Wall and CPU seconds: those of all threads, in the program and in the kernel.
    def clocks
      [Process::CLOCK_MONOTONIC, Process::CLOCK_PROCESS_CPUTIME_ID].map { |clock| Process.clock_gettime(clock) }
    end

    # @return [Integer] bytes
    def pass(file, hash)
      writing { open_output }
      bytes = 0
      bar = progress_bar(file)
      file.each_chunk(@chunk) do |buffer, _|
        string = buffer.get_string if hash || @output == "-"
        hash&.update(string)
        writing { @sink ? @sink.write_from(buffer) : $stdout.write(string) } if @output
        bytes += buffer.size
        bar&.progress = [bytes, bar.total].min # the file may grow
      end
      bar&.finish
      bytes
    ensure
      bar&.stop # ends its line
    end

    # Not before there is something to read: a misspelt FILE leaves what is there as it was.
    def open_output
      @sink ||= DMA::File.open(@output, "wb", direct: @direct) if @output && @output != "-"
    end

    def writing
      yield
    rescue *FAILURES => e
      raise OutputError, describe(e, @output == "-" || !@output ? "stdout" : @output)
    end

    # On a terminal that does not show the data, if the gem is there: the library does without it, so does its command.
    # Loaded before the clocks start.
    def load_bars
      return if !$stderr.tty? || (@output == "-" && $stdout.tty?)

      require "ruby-progressbar"
      @bars = true
    rescue LoadError
      @bars = false
    end

    def progress_bar(file)
      return unless @bars && file.size.positive?

      ProgressBar.create(title: shown(::File.basename(file.path)), total: file.size, output: $stderr)
    end

    # The path that the requests took, which is not always the one that was asked for.
    def taken(stats, alignment)
      direct, buffered = stats.values_at(:direct_requests, :buffered_requests)
      path = if direct.positive? && buffered.positive?
               "mixed: #{direct} direct requests and #{buffered} #{buffered_way(stats)}"
             else
               direct.positive? ? "direct" : buffered_way(stats)
             end
      path = "#{path} after direct I/O was refused" if stats[:fallbacks].positive?
      "#{path} (alignment #{alignment})"
    end

    # Whether buffered requests were so because their bytes were there, all of them.
    def buffered_way(stats)
      cached, buffered = stats.values_at(:cached_requests, :buffered_requests)
      buffered.positive? && cached == buffered ? "from the page cache" : "buffered"
    end

    def report(line)
      writing { (@output == "-" ? $stderr : $stdout).puts(line) }
    end

    # @return [1] the exit status
    def complain(message)
      warn "dma: #{shown(message)}"
      1
    end

    # What was tried, on which file, and why it failed; an Errno says "reason @ function - what was tried".
    def describe(error, path)
      reason, tried = error.message.split(/(?: @ \w+)? - /, 2) if error.is_a?(SystemCallError)
      tried = "cannot write to stdout" if tried == "<STDOUT>"
      text = shown(tried ? "#{tried}: #{reason}" : error.message)
      path = shown(path)
      text.match?(/(?<!\S)#{Regexp.escape(path)}(?=[ :]|\z)/) ? text : "#{path}: #{text}"
    end

    # As text of one line, whatever the bytes.
    def shown(name)
      name.dup.force_encoding(Encoding::UTF_8).scrub.gsub(/[[:cntrl:]]/) { |char| char.dump[1..-2] }
    end
  end
end
