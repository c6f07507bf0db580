# frozen_string_literal: true

require "csv"
require "json"
require "rubygems/package"
require "stringio"
require "yaml"
require "zlib"

# Each with more than is read ahead at once, so that reads of every kind meet.
RSpec.describe DMA::File, "with the standard library" do
  def open_file(bytes, mode = "rb", **options, &)
    described_class.open(scratch_file("input.bin", bytes), mode, direct: true, **options, &)
  end

  def output(mode = "w+b", &)
    described_class.open(scratch_file("output.bin"), mode, direct: true, &)
  end

  let(:bytes) { unstressed { sample(300_001) } }
  let(:text) { unstressed { Array.new(6000) { |number| "line #{number} of €\n" }.join } }

  it "Zlib::GzipReader reads it: whole, by lines, and several members in a row" do
    packed = unstressed { Zlib.gzip(bytes) + Zlib.gzip(text) }
    open_file(packed) do |file|
      reader = Zlib::GzipReader.new(file)
      expect(reader.read.b == bytes).to be(true)
      file.pos -= reader.unused.bytesize
      rest = Zlib::GzipReader.new(file, external_encoding: "UTF-8")
      expect(rest.gets).to eq("line 0 of €\n")
      expect(rest.each_line.first(rounds(6000))).to eq(text.lines[1..].first(rounds(6000)))
    end
  end

  it "Zlib::GzipWriter writes it" do
    output do |file|
      writer = Zlib::GzipWriter.new(file)
      writer.write(bytes)
      writer.finish
      file.rewind
      expect(Zlib::GzipReader.new(file).read.b == bytes).to be(true)
    end
    expect(Zlib.gunzip(File.binread(scratch_file("output.bin"))) == bytes).to be(true)
  end

  it "IO.copy_stream copies from it, to a String, a file, a pipe, and from the position" do
    open_file(bytes) do |file|
      expect(IO.copy_stream(file, target = StringIO.new("".b))).to eq(bytes.bytesize)
      expect(target.string == bytes).to be(true)
      file.seek(100)
      plain = scratch_file("plain.bin")
      expect(IO.copy_stream(file, plain)).to eq(bytes.bytesize - 100)
      expect(File.binread(plain) == bytes[100..]).to be(true)
      file.rewind
      file.getbyte
      reader, writer = IO.pipe
      expect(IO.copy_stream(file, writer, 1000)).to eq(1000)
      expect(reader.readpartial(2000)).to eq(bytes[1, 1000])
      expect(file.pos).to eq(1001)
    end
  end

  it "IO.copy_stream copies to it, from a String, a file, a pipe, and another DMA::File" do
    open_file(bytes) do |source|
      output do |file|
        expect(IO.copy_stream(StringIO.new(bytes), file)).to eq(bytes.bytesize)
        expect(IO.copy_stream(source.path, file)).to eq(bytes.bytesize)
        expect(IO.copy_stream(source, file)).to eq(bytes.bytesize)
        reader, writer = IO.pipe
        writer.write("the end")
        writer.close
        expect(IO.copy_stream(reader, file)).to eq(7)
        file.rewind
        expect(file.read == (bytes * 3) << "the end").to be(true)
      end
    end
  end

  it "IO.copy_stream passes the file by requests of its own, direct" do
    open_file(bytes) do |file|
      IO.copy_stream(file, File::NULL)
      expect(file.stats).to include(direct_bytes: (be >= bytes.bytesize), buffered_requests: 0)
    end
  end

  it "CSV reads and writes it" do
    rows = unstressed { Array.new(rounds(6000)) { |number| [number.to_s, "€ \"quoted\", and\nbroken", nil] } }
    output("w+:UTF-8") do |file|
      csv = CSV.new(file)
      rows.each { |row| csv << row }
      expect(file.size).to be > 65_536 unless Support::Stress::ON
      file.rewind
      expect(CSV.new(file).read).to eq(rows)
      file.rewind
      expect(CSV.new(file, headers: %w[a b c]).first["b"]).to eq(rows[0][1])
    end
  end

  it "CSV reads one with a byte order mark and CRLF" do
    content = "\uFEFFname,city\r\nJö,Köln\r\n"
    open_file(content, "r:BOM|UTF-8") do |file|
      expect(CSV.new(file, headers: true).map(&:to_h)).to eq([{ "name" => "Jö", "city" => "Köln" }])
    end
  end

  # What it loads was dumped here.
  # rubocop:disable Security/MarshalLoad
  it "Marshal loads from it and dumps to it, several values in a row" do
    values = [{ "bytes" => bytes, list: (1..rounds(5000)).to_a }, text, 1.5, nil]
    output do |file|
      values.each { |value| Marshal.dump(value, file) }
      file.rewind
      expect(values.map { Marshal.load(file) } == values).to be(true)
      expect { Marshal.load(file) }.to raise_error(EOFError)
    end
  end
  # rubocop:enable Security/MarshalLoad

  it "Gem::Package::TarReader and TarWriter walk it, and seek in it" do
    contents = { "a.bin" => bytes, "b.txt" => text.b, "empty" => "", "c" => "small" }
    output do |file|
      Gem::Package::TarWriter.new(file) do |tar|
        contents.each { |name, content| tar.add_file_simple(name, 0o644, content.bytesize) { |io| io.write(content) } }
      end
      file.rewind
      reader = Gem::Package::TarReader.new(file)
      read = reader.to_h { |entry| [entry.full_name, entry.read || ""] }
      expect(read == contents).to be(true)
      reader.rewind
      expect(reader.map(&:full_name)).to eq(contents.keys)
      reader.rewind
      expect(reader.seek("c", &:read)).to eq("small")
    end
  end

  it "Digest takes it chunk by chunk, as buffers or Strings" do
    expected = Digest::SHA256.hexdigest(bytes)
    open_file(bytes) do |file|
      digest = Digest::SHA256.new
      file.each_chunk(100_000) { |buffer| digest << buffer.get_string }
      expect(digest.hexdigest).to eq(expected)
      file.rewind
      digest.reset
      chunk = +""
      digest << chunk while file.read(70_001, chunk)
      expect(digest.hexdigest).to eq(expected)
    end
  end

  # It works on the to_io of what it is given, which begins at the position and does not move it.
  # rubocop:disable Security/JSONLoad
  it "JSON loads from it, at its position, and dumps to it" do
    value = unstressed { { "text" => text, "list" => (1..5000).to_a } }
    open_file("skipped #{JSON.generate(value)}", "r") do |file|
      file.read(8)
      expect(JSON.load(file) == value).to be(true)
    end
    output("w+:UTF-8") do |file|
      file.write("before ")
      JSON.dump(value, file)
      file.seek(7)
      expect(JSON.parse(file.read) == value).to be(true)
    end
  end
  # rubocop:enable Security/JSONLoad

  it "YAML loads from it and dumps to it" do
    value = unstressed { { "text" => text, "list" => (1..rounds(2000)).to_a } }
    output("w+:UTF-8") do |file|
      YAML.dump(value, file)
      file.rewind
      expect(YAML.safe_load(file) == value).to be(true)
    end
  end

  it "serves what takes a StringIO: each_with_index, first, lazy, puts, print and printf" do
    output("w+:UTF-8") do |file|
      file.puts("one", ["two"], 3)
      file.print("fo", "ur\n")
      file.printf("%s\n", "five")
      file << "s" << "ix" << "\n"
      file.rewind
      expect(file.each_with_index.to_a.last).to eq(["six\n", 5])
      file.rewind
      expect(file.first(2)).to eq(%W[one\n two\n])
      file.rewind
      expect(file.lazy.map(&:chomp).grep(/o/).to_a).to eq(%w[one two four])
    end
  end

  it "what insists on a descriptor takes it by its to_io" do
    open_file(text) do |file|
      file.gets
      expect(Process.wait(spawn("cat", in: file, out: scratch_file("copy.bin")))).to be_positive
      expect(File.binread(scratch_file("copy.bin")) == text.b[text.lines.first.bytesize..]).to be(true)
      expect(file.to_io.gets).to eq("line 1 of €\n".b)
      expect(IO.for_fd(file.fileno, autoclose: false).stat.size).to eq(text.bytesize)
    end
  end
end
