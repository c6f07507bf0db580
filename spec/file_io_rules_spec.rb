# frozen_string_literal: true

RSpec.describe DMA::File, "by IO's rules" do
  # The same calls on both kinds of file over the same content; what each gave, or raised, with its encoding.
  def same(content, mode = "r", &)
    theirs, ours = [File, described_class].map do |kind|
      kind.open(scratch_file("rules.bin", content), mode) { |io| outcome(io, &) }
    end
    expect(ours).to eq(theirs)
  end

  def outcome(file)
    described(yield(file))
  rescue StandardError => e
    e.class
  end

  def error_of
    yield
  rescue StandardError => e
    e.class
  end

  def described(value)
    case value
    when String then [value.b, value.encoding]
    when Array then value.map { |element| described(element) }
    else value
    end
  end

  def requests(file)
    before = file.stats[:requests]
    yield
    file.stats[:requests] - before
  end

  text = "häl\nwörld\r\n\n\n\n€ 😀 end\nlast"

  describe "lines" do
    arguments = [[], [nil], [""], ["\n"], ["ö"], ["d\r\n"], [1], [2], [3], [5], [7], [100], [0], [-1],
                 ["\n", 2], ["l", 4], ["", nil], ["\n", -1], [nil, 4], [nil, nil], [nil, -1]]

    arguments.product(["r", "rb:UTF-8", "r:ISO-8859-1"]) do |given, mode|
      it "gets(#{given.map(&:inspect).join(", ")}) gives the same lines, line numbers and positions in mode #{mode}" do
        unstressed do # other examples read lines under stress
          # A separator must be of the file's encoding.
          given = given.map { |one| one == "ö" && mode.end_with?("1") ? one.encode("ISO-8859-1") : one }
          same(text, mode) { |io| Array.new(12) { [io.gets(*given), io.lineno, io.pos] } }
        end
      end
    end

    [[], ["\n"], ["d\r\n"], ["\r\n"], [""], [5], ["\n", 7]].each do |given|
      it "gets(#{given.map(&:inspect).join(", ")}, chomp: true) leaves out the same" do
        same(text) { |io| Array.new(12) { io.gets(*given, chomp: true) } }
        same(text) { |io| io.each_line(*given, chomp: true).to_a }
      end
    end

    it "gets(nil, chomp: true) leaves out nothing, as in Ruby 3.2, whichever runs" do
      same(text) { |io| io.gets(nil, chomp: true) }
      described_class.open(scratch_file("rules.bin", "a\nb\n")) do |file|
        expect(file.gets(nil, chomp: true)).to eq("a\nb\n")
        file.rewind
        expect(file.readlines(nil, chomp: true)).to eq(["a\nb\n"])
      end
    end

    it "readlines, each_line, readline and foreach-like use give the same" do
      same(text, &:readlines)
      same(text) { |io| io.readlines("l") }
      same(text) { |io| io.each_line(4).map { |line| [line, io.lineno] } }
      same(text) { |io| Array.new(9) { io.readline } }
      same(text) { |io| io.each_with_index.to_a }
      same(text) { |io| [io.lineno = 7, io.gets, io.lineno, io.rewind, io.lineno] }
    end

    it "refuses the same arguments" do
      same(text) { |io| io.gets("a", "b") }
      same(text) { |io| io.gets(:a) }
      same(text) { |io| io.gets(1, 2, 3) }
      same(text) { |io| io.each_line(0, &:size) }
      same(text) { |io| io.readlines(0) }
      same(text) { |io| io.gets("ö".encode("ISO-8859-1")) }
      same(text, "rb") { |io| io.gets("ö") }
    end

    it "uses the separator that $/ names" do
      verbose = $VERBOSE
      default = $/
      $VERBOSE = nil # to change it is deprecated
      $/ = "d"
      same(text) { |io| [io.gets, io.gets(chomp: true), io.gets(nil)] }
    ensure
      $/ = default
      $VERBOSE = verbose
    end

    it "finds lines of wide characters, and no newline across two of them" do
      same("a\n\u{A41}\u{100}b\nc".encode("UTF-16LE"), "rb:UTF-16LE") { |io| Array.new(4) { io.gets } }
      same("a\nb\n".encode("UTF-32BE"), "rb:UTF-32BE") { |io| [io.gets, io.getc, io.gets, io.read] }
      same("a\nbc".encode("UTF-16BE"), "rb:UTF-16BE") { |io| [io.gets("b".encode("UTF-16BE")), io.gets(chomp: true)] }
    end

    it "gives lines longer than what is read ahead at once, whole" do
      line = unstressed { "#{"x€" * 40_000}\r\n" }
      same(line * 3) { |io| Array.new(4) { io.gets&.size } }
      same(line * 3) { |io| [io.gets(100_001).bytesize, io.gets("€", 70_000), io.gets("\r\n").size, io.pos] }
    end

    it "finds a separator that lies across the end of what was read ahead" do
      content = "#{"x" * (described_class::FILL - 2)}<end>rest<end>"
      same(content) { |io| Array.new(3) { io.gets("<end>")&.size } }
      same(content) { |io| [io.read(1), io.gets("<end>", chomp: true).size, io.gets("<end>")] }
    end
  end

  describe "characters" do
    it "getc, readchar and each_char give whole characters, and what is none byte by byte" do
      broken = "a\xFFb\xE3ab\xE3\x81ab\xF0\x9F\x98c€\xE3\x81".b
      %w[r rb r:UTF-8 r:ISO-8859-1 r:Shift_JIS].each do |mode|
        same(text, mode) { |io| [io.each_char.to_a, io.getc] }
        same(broken, mode) { |io| [io.each_char.to_a, io.getc] }
      end
      same("ab") { |io| [io.readchar, io.readchar, io.readchar] }
    end

    it "never cuts a character in two at a limit" do
      10.times { |limit| same("a€😀\xFFb€".b) { |io| [io.gets(limit), io.gets(limit), io.gets(limit)] } }
    end

    it "reads again what ungetc and ungetbyte push back" do
      same(text) { |io| [io.getc, io.getc, io.ungetc("ö"), io.read(5), io.getc] }
      same(text) { |io| [io.ungetc(0xE4), io.ungetc("xyz"), io.gets] }
      same(text) { |io| [io.ungetbyte(300), io.ungetbyte(-1), io.gets] }
      same(text) { |io| [io.ungetbyte("ab\n"), io.ungetbyte(nil), io.gets, io.gets] }
      same(text, "rb") { |io| [io.getc, io.ungetc("ö"), io.getbyte, io.read] }
      same(text) { |io| [io.read(4), io.ungetbyte("abc"), io.read(2), io.seek(1), io.read(3), io.pos] }
      same(text) { |io| [io.read, io.ungetc("end"), io.eof?, io.read, io.eof?] }
    end

    it "bytes come one by one, with the same end" do
      same(text) { |io| [io.getbyte, io.readbyte, io.each_byte.first(3), io.read.size, io.getbyte, io.eof?] }
      same("") { |io| [io.getbyte, io.getc, io.gets, io.each_byte.to_a, io.eof?] }
      same("", &:readbyte)
      same("", &:readchar)
      same("", &:readline)
    end
  end

  describe "bytes" do
    [nil, 0, 1, 5, 4096, 70_000, 200_000].each do |length|
      it "read(#{length.inspect}) gives the same, until the end and behind it, in the same encodings" do
        content = unstressed { text * 5000 }
        same(content) { |io| Array.new(4) { [io.read(length), io.pos] } }
        same(content, "rb") { |io| [io.getc, io.read(length), io.eof?] }
        same(content, "r:ISO-8859-1") { |io| [io.seek(-7, IO::SEEK_END), io.read(length), io.read(length)] }
      end
    end

    %i[read readpartial sysread read_nonblock].each do |call|
      it "#{call} fills a String that is given, clears it at the end, and leaves a frozen one alone" do
        [+"held", "held".b, (+"held").force_encoding("Shift_JIS")].each do |out|
          same(text) { |io| [io.public_send(call, 3, out).equal?(out), out.dup, io.pos] }
          same(text) { |io| [io.seek(0, IO::SEEK_END), error_of { io.public_send(call, 3, out) }, out.dup] }
          same(text) { |io| [io.public_send(call, 0, out), out.dup] }
        end
        same(text) { |io| io.public_send(call, 3, "frozen") }
        same(text) { |io| io.public_send(call, -1) }
        same("") { |io| io.public_send(call, 0) }
        same("") { |io| io.public_send(call, 1) }
      end
    end

    it "read(nil, out) takes the encoding of the file, as read without one does" do
      same(text) { |io| io.read(nil, "".b) }
      same(text, "r:ISO-8859-1") { |io| io.read(nil, +"") }
    end

    it "pread reads at an offset, whatever was read ahead, and leaves the position" do
      same(text) { |io| [io.getc, io.pread(4, 2), io.pread(100, 20), io.pread(0, 1000), io.getc, io.pos] }
      same(text) { |io| [io.pread(4, 1, out = +"x"), out] }
      same(text) { |io| io.pread(1, 1000) }
      same(text) { |io| io.pread(-1, 0) }
    end

    it "read_nonblock does not raise at the end with exception: false" do
      same("ab") { |io| [io.read_nonblock(9, exception: false), io.read_nonblock(9, exception: false)] }
    end
  end

  describe "the position" do
    it "moves by seek, pos=, rewind and sysseek alike" do
      same(text) { |io| [io.seek(5), io.pos, io.read(2), io.seek(-1, IO::SEEK_CUR), io.tell, io.getc] }
      same(text) { |io| [io.seek(-4, :END), io.read, io.seek(3, :SET), io.read(1), io.seek(1, :CUR), io.pos] }
      same(text) { |io| [io.gets, io.rewind, io.lineno, io.gets, io.pos = 3, io.pos, io.getc] }
      same(text) { |io| [io.sysseek(4), io.sysread(3), io.sysseek(-1, IO::SEEK_CUR), io.sysread(99), io.pos] }
      same(text) { |io| [io.seek(1000), io.pos, io.read(1), io.read, io.eof?, io.gets] }
    end

    it "refuses what lies before the start, or past the largest offset, and stays" do
      same(text) { |io| [io.getc, error_of { io.seek(-1) }, error_of { io.seek(-9, :CUR) }, io.pos] }
      described_class.open(scratch_file("rules.bin", text)) do |file|
        file.read(2)
        expect { file.seek(2**63) }.to raise_error(Errno::EINVAL, /seek to #{2**63} in .*rules.bin.*2\*\*63 - 1/)
        expect { file.seek("1") }.to raise_error(TypeError)
        expect { file.seek(0, 9) }.to raise_error(ArgumentError, /whence 9 is none of IO::SEEK_SET/)
        expect(file.pos).to eq(2)
      end
    end

    it "sees what others have written since, once it has moved" do
      same("old content") do |io|
        before = io.read(3)
        File.binwrite(io.path, "new")
        [before, io.seek(0), io.read(3)]
      end
    end
  end

  describe "encodings" do
    %w[r rb r+ r+b r:ISO-8859-1 r+:ISO-8859-1 rb:UTF-8 r:binary rb:BOM|UTF-8].each do |mode|
      it "mode #{mode} has the same encodings, before and after binmode and set_encoding" do
        same(text, mode) { |io| [io.external_encoding, io.internal_encoding, io.binmode?, io.read, io.getc] }
        same(text, mode) { |io| [io.binmode.equal?(io), io.external_encoding, io.binmode?, io.read] }
        same(text, mode) { |io| [io.set_encoding("EUC-JP").equal?(io), io.external_encoding, io.getc] }
        same(text, mode) { |io| [io.set_encoding(Encoding::UTF_8), io.set_encoding(nil), io.external_encoding].last }
      end
    end

    it "passes a byte order mark where the mode says so, and takes the encoding it tells" do
      %w[UTF-8 UTF-16LE UTF-16BE UTF-32LE UTF-32BE].each do |encoding|
        same("\uFEFFabc".encode(encoding), "rb:BOM|UTF-8") { |io| [io.pos, io.external_encoding, io.read] }
      end
      same("\uFEFFabc", "r:bom|utf-8", &:gets)
      same("\uFEFFabc", "r:utf-8", &:gets)
      same("\xEF\xBB", "r:bom|utf-8") { |io| [io.pos, io.read] }
      same("", "r:bom|utf-8") { |io| [io.pos, io.read] }
    end

    it "says that it does not transcode what it reads" do
      described_class.open(scratch_file("rules.bin", text)) do |file|
        expect { file.set_encoding("UTF-8", "UTF-16LE") }.to raise_error(ArgumentError, /UTF-16LE.*String#encode/)
        expect { file.set_encoding("UTF-8:UTF-16LE") }.to raise_error(ArgumentError, /String#encode/)
        expect(file.set_encoding("UTF-8:UTF-8").internal_encoding).to be_nil
      end
    end
  end

  describe "writing" do
    def written(mode, &)
      results = [File, described_class].map do |kind|
        path = scratch_file("rules.bin", "0123456789")
        [kind.open(path, mode) { |io| outcome(io, &) }, File.binread(path)]
      end
      expect(results.last).to eq(results.first)
    end

    it "write, print, puts, printf and << write the same bytes" do
      written("w") { |io| [io.write("a", :b, 3, nil), io.write, io.write(""), io.print("x", 1), io.pos] }
      written("w") { |io| [io.puts, io.puts([]), io.puts(nil, [1, [nil, "a\n"]], []), io.puts("a", "b\n"), io.pos] }
      written("w") { |io| [(io << "a" << 1).equal?(io), io.printf("%03d|%s", 7, "z"), io.printf("plain")] }
      written("w") { |io| io.puts([1].tap { |array| array << array }) }
      written("r+") { |io| [io.read(3), io.write("XY"), io.read(2), io.syswrite("Z"), io.pwrite("A", 9), io.pos] }
      written("r+") { |io| [io.seek(20), io.write("far"), io.rewind, io.read] }
    end

    it "putc writes the first character, or a byte, and returns what was given" do
      written("w") { |io| [io.putc("äb"), io.putc(""), io.putc(65), io.putc(66.7), io.pos] }
      written("w") { |io| [io.putc(0x1E4), io.putc(-1), io.pos] }
      written("w:ISO-8859-1") { |io| [io.putc("äb"), io.putc("b"), io.pos] }
      written("w") { |io| io.putc(nil) }
      written("r") { |io| io.putc("a") }
    end

    it "converts to the encoding that the mode names, and no other" do
      latin = "ä".encode("ISO-8859-1")
      ["w", "wb", "w:ISO-8859-1", "wb:ISO-8859-1", "w:UTF-8", "wb:UTF-16LE", "r+:ISO-8859-1"].each do |mode|
        written(mode) { |io| [io.write("ä"), io.write(latin), io.write("ascii".b), io.puts("ö"), io.print("a", latin)] }
        written(mode) { |io| [io.syswrite("ä"), io.pwrite(latin, 5)] }
        written(mode) { |io| io.write("ä".b) }
        written(mode) { |io| io.write("€") }
      end
    end

    it "flush, sync and sync= are there, for nothing is held back" do
      written("w") { |io| [io.write("a"), io.flush.equal?(io), io.fsync, io.fdatasync] }
      described_class.open(scratch_file("rules.bin"), "w") do |file|
        file.sync = false
        expect(file.sync).to be(true)
        file.write("here")
        expect(File.binread(file.path)).to eq("here")
      end
    end
  end

  describe "requests to the kernel" do
    [true, false].each do |direct|
      context "with direct: #{direct}" do
        let(:content) { unstressed { sample(200_000) } }
        let(:file) { described_class.open(scratch_file("rules.bin", content), "r+b", direct: direct) }

        after { file.close }

        it "after read(1), the next bytes cost none" do
          expect(requests(file) { file.read(1) }).to eq(1)
          cost = requests(file) { [file.read(99), file.getbyte, file.gets("never", 500), file.getc, file.eof?] }
          expect(cost).to eq(0)
          expect(file.pos).to eq(602)
        end

        it "10,000 read(1) cost two at most" do
          count = rounds(10_000)
          bytes = +""
          expect(requests(file) { count.times { bytes << file.read(1) } }).to be <= 2
          expect(bytes).to eq(content[0, count])
        end

        it "each sysread and syswrite costs exactly one, at any offset and length" do
          file.sysseek(511)
          [1, 512, 3, 4096, 100_000].each { |length| expect(requests(file) { file.sysread(length) }).to eq(1) }
          expect(file.pos).to eq(105_123)
          [1, 512, 3, 4096, 20_000].each { |length| expect(requests(file) { file.syswrite("x" * length) }).to eq(1) }
          expect(file.pos).to eq(129_735)
        end

        it "sysread gives what is there, however much is asked" do
          expect(file.sysread(1 << 30)).to eq(content)
        end

        it "readpartial and read_nonblock cost none while bytes wait, and one otherwise" do
          file.read(1)
          expect(requests(file) { expect(file.readpartial(1000)).to eq(content[1, 1000]) }).to eq(0)
          expect(requests(file) { expect(file.read_nonblock(1 << 20)).to eq(content[1001...65_536]) }).to eq(0)
          expect(requests(file) { expect(file.readpartial(1000)).to eq(content[65_536, 1000]) }).to eq(1)
          expect(requests(file) { expect(file.read_nonblock(500)).to eq(content[66_536, 500]) }).to eq(1)
        end

        it "sysread and sysseek raise while bytes that were read ahead wait, say so, and seek ends that" do
          file.read(1)
          wait = /buffered IO: 65535 bytes of .*rules.bin that were read ahead wait at 1; .*drop them by seek/
          expect { file.sysread(1) }.to raise_error(IOError, /sysread for #{wait.source}/)
          expect { file.sysseek(1) }.to raise_error(IOError, /sysseek for #{wait.source}/)
          file.seek(0, IO::SEEK_CUR)
          expect(file.sysread(2)).to eq(content[1, 2])
        end

        it "sysread after getc raises as IO's does" do
          same("some bytes") { |io| [io.getc, io.sysread(1)] }
          same("some bytes") { |io| [io.eof?, io.sysread(1)] }
        end
      end
    end

    it "a pwrite elsewhere leaves what was read ahead; one into it is seen" do
      described_class.open(scratch_file("rules.bin", "a" * 100_000), "r+") do |file|
        file.read(1)
        file.pwrite("b", 80_000)
        expect(requests(file) { expect(file.read(10)).to eq("a" * 10) }).to eq(0)
        file.pwrite("c", 11)
        expect(file.read(2)).to eq("ca")
        buffer = DMA::Buffer.new(4096).tap { |memory| memory.set_string("d") }
        file.write_from(buffer, offset: 13, length: 1)
        expect(file.read(2)).to eq("da")
      end
    end
  end

  it "gives the same for random calls on random text" do
    random = Random.new(RSpec.configuration.seed)
    pieces = ["a", "b", "\n", "\n", "\r\n", "\r", "ä", "€", "😀", " ", "\n\n\n"]
    rounds(400).times do |round|
      content = Array.new(random.rand(60)) { pieces.sample(random: random) }.join
      mode = %w[r rb r+ r:ISO-8859-1 r:UTF-8 rb:UTF-8].sample(random: random)
      calls = Array.new(12) { random_call(random, content.bytesize) }
      same(content, mode) { |io| calls.map { |call, arguments, options| io.public_send(call, *arguments, **options) } }
    rescue RSpec::Expectations::ExpectationNotMetError => e
      raise "seed #{random.seed}, round #{round}, #{mode}, #{content.inspect}, #{calls.inspect}: #{e.message}"
    end
  end

  # Not: a limit together with a separator of several bytes, by which IO's own lines become longer than the limit; nil
  # with chomp, which Ruby 3.2 changed.
  def random_call(random, size)
    limit = [nil, 1, 2, 3, 5, 8, 20, -1].sample(random: random)
    separator = ["\n", "a", "b\n", "\r\n", "", "ab", nil].sample(random: random)
    line = separator && separator.bytesize != 1 ? [separator] : [separator, limit]
    chomp = separator ? { chomp: random.rand(2).zero? } : {}
    [
      [:gets, line, chomp], [:gets, line, chomp], [:gets, [limit].compact, {}], [:readlines, line, chomp],
      [:read, [[nil, 0, 1, 5, 100].sample(random: random)], {}], [:seek, [random.rand(size + 3)], {}],
      [:getc, [], {}], [:getbyte, [], {}], [:eof?, [], {}], [:lineno, [], {}], [:pos, [], {}]
    ].sample(random: random)
  end
end
