# frozen_string_literal: true

# Random calls on a DMA::File and on a ::File over a copy, side by side. `rspec --seed N` repeats them.
RSpec.describe DMA::File, "against a plain File" do
  # One run: the two files, and the calls by name.
  walk = Struct.new(:file, :plain, :random, :most, :log, keyword_init: true) do
    def step
      name = calls[random.rand(calls.size)]
      log << [name]
      same(name, *public_send(name))
      same("position after #{name}", file.pos, plain.pos)
    end

    def calls
      @calls ||= %i[pread pread pwrite pwrite read_into read_into write_from write_from truncate seek read read_out
                    write gets getc unget readpartial eof sizes read_all]
    end

    def same(what, ours, theirs)
      return if ours == theirs

      shown = [ours, theirs].map { |value| value.is_a?(String) ? "#{value.bytesize} bytes" : value.inspect }
      if ours.is_a?(String) && theirs.is_a?(String)
        at = (0..ours.bytesize).find { |index| ours.getbyte(index) != theirs.getbyte(index) }
        shown << "first difference at #{at}"
      end
      raise "#{what}: #{shown.join(", ")}; the last calls: #{log.last(6).inspect}"
    end

    # Mostly small, sometimes of the largest size; around block boundaries more often than chance has it.
    def amount(limit = most)
      number = random.rand(random.rand(3).zero? ? limit : [limit, 3000].min)
      random.rand(4).zero? ? [number - (number % 512) + random.rand(3) - 1, 0].max : number
    end

    def place
      random.rand(8).zero? ? plain.size + amount(2000) : random.rand(plain.size + 1)
    end

    def text(size)
      return random.bytes(size) if size > 10_000 && random.rand(2).zero?

      (lines * ((size / lines.bytesize) + 2)).byteslice(random.rand(lines.bytesize), size)
    end

    def lines
      @lines ||= Array.new(500) { ["line\nab", "\xC3\xA4\n\n...", "1234567"][random.rand(3)].b }.join
    end

    def note(*arguments)
      log.last.concat(arguments)
    end

    # plain's pread and pwrite pass its read-ahead by; asking for the position drops that.
    def around_buffer
      plain.pos
      yield
    end

    def attempt
      yield
    rescue EOFError => e
      e.class
    end

    def pread
      note(length = amount, offset = place)
      [attempt { file.pread(length, offset) }, attempt { plain.pread(length, offset) }]
    end

    def pwrite
      string = text(amount)
      note(string.bytesize, offset = place)
      [file.pwrite(string, offset), around_buffer { plain.pwrite(string, offset) }]
    end

    # Memory at any distance from a boundary.
    def memory(size)
      before = [0, 0, 512, 1, random.rand(5000)][random.rand(5)]
      whole = DMA::Buffer.new(before + size + 700, lock: false)
      whole.clear(0xA5)
      [whole, whole.slice(before, size), before]
    end

    # Behind the end of the file the kernel may fill the last block of what was asked for, but never more.
    def read_into
      whole, part, before = memory(amount)
      note(part.size, offset = random.rand(2).zero? ? place : nil, before)
      bytes = file.read_into(part, offset: offset)
      expected = (offset ? File.binread(plain.path, part.size, offset) : plain.read(part.size)) || ""
      same("bytes of read_into", part.get_string(0, bytes), expected)
      guards = whole.get_string(0, before) + whole.get_string(before + part.size)
      [guards, "\xA5".b * guards.bytesize]
    end

    def write_from
      _, part, before = memory(amount)
      part.set_string(string = text(part.size))
      length = random.rand(3).zero? ? random.rand(part.size + 1) : part.size
      note(part.size, length, offset = random.rand(2).zero? ? place : nil, before)
      ours = file.write_from(part, offset: offset, length: length)
      same("the source of write_from", part.get_string, string)
      string = string[0, length]
      [ours, offset ? around_buffer { plain.pwrite(string, offset) } : plain.write(string)]
    end

    def truncate
      note(size = random.rand(4).zero? ? amount : [plain.size + random.rand(1500) - 750, 0].max)
      [file.truncate(size), around_buffer { plain.truncate(size) }]
    end

    def seek
      arguments = [[place], [place, IO::SEEK_SET], [random.rand(plain.pos + 1) - plain.pos, IO::SEEK_CUR],
                   [-random.rand(plain.size + 1), IO::SEEK_END]][random.rand(4)]
      note(*arguments)
      [file.seek(*arguments), plain.seek(*arguments)]
    end

    def read
      note(length = amount)
      [file.read(length), plain.read(length)]
    end

    def read_out
      note(length = amount)
      ours = +"something"
      theirs = +"something"
      [[file.read(length, ours), ours], [plain.read(length, theirs), theirs]]
    end

    def read_all
      note(offset = [plain.size - amount, 0].max)
      [file, plain].map do |io|
        io.seek(offset)
        io.read
      end
    end

    def write
      strings = Array.new(1 + random.rand(2)) { text(amount) }
      note(*strings.map(&:bytesize))
      [file.write(*strings), plain.write(*strings)]
    end

    def gets
      arguments = [[], ["ab"], [10], ["\n", 5], [""]][random.rand(5)]
      note(*arguments)
      [file, plain].map { |io| io.gets(*arguments) }
    end

    def getc
      [file, plain].map { |io| [io.getc, io.getbyte, io.getc] }
    end

    # Pushed back and read again at once: plain drops what waits when it is asked for its position.
    def unget
      note(bytes = [65, 0x1FF, "xyz".b][random.rand(3)])
      [file, plain].map do |io|
        io.ungetbyte(bytes)
        io.read(bytes.is_a?(String) ? 5 : 1)
      end
    end

    # How much one brings is its own affair.
    def readpartial
      note(length = amount)
      ours = attempt { file.readpartial(length) }
      [ours, ours == EOFError ? attempt { plain.readpartial(length) } : plain.read(ours.bytesize)]
    end

    def eof
      [file.eof?, plain.eof?]
    end

    def sizes
      [[file.size, file.lineno], [plain.size, plain.lineno]]
    end
  end

  def compare(walk, steps, every:)
    steps.times do |step|
      walk.step
      next unless (step % every).zero? || step == steps - 1

      walk.same("content", File.binread(walk.file.path), File.binread(walk.plain.path))
    rescue StandardError => e
      raise e.class, "seed #{RSpec.configuration.seed}, step #{step}: #{e.message}"
    end
  end

  [true, false].each do |direct|
    { "small files" => [2, 4000, 64 << 10, 50], "files of megabytes" => [1, 300, 3 << 20, 10] }
      .each do |name, (runs, steps, size, every)|
      it "gives the same bytes, positions and sizes over random calls on #{name}, direct: #{direct}" do
        runs.times do |run|
          random = Random.new(RSpec.configuration.seed + run)
          bytes = unstressed { random.bytes(random.rand(size)) }
          ours, theirs = %w[ours theirs].map { |whose| scratch_file("#{whose}-#{run}", bytes) }
          described_class.open(ours, "r+b", direct: direct) do |file|
            File.open(theirs, "r+b") do |plain|
              plain.sync = true
              pair = walk.new(file: file, plain: plain, random: random, most: run.zero? ? size / 2 : 2000, log: [])
              compare(pair, rounds(steps), every: every)
            end
          end
        end
      end
    end
  end
end
