# frozen_string_literal: true

require "pty"
require "dma/cli"

RSpec.describe "the command line" do
  root = File.expand_path("..", __dir__)
  command = [RbConfig.ruby, "-I", File.join(root, "lib"), File.join(root, "exe/dma")]

  let(:command) { command }

  # The work is done by other processes; the one example that does it in this one turns GC.stress on again.
  before { GC.stress = false }

  # What the executable prints to stdout and stderr, and its exit status.
  def dma(*arguments, **options)
    out, err, status = Open3.capture3(*command, *arguments, binmode: true, **options)
    [out, err, status.exitstatus]
  end

  # Its stdout, where it succeeds and stderr is silent.
  def done(*arguments)
    out, err, status = dma(*arguments)
    expect([err, status]).to eq(["", 0])
    out
  end

  # Its one line on stderr, where it fails with status 1.
  def failure(*arguments)
    _, err, status = dma(*arguments)
    expect([err.count("\n"), status]).to eq([1, 1]), err
    expect(err).to start_with("dma: ")
    err
  end

  # Runs it with a terminal as stderr, or as both; what the terminal showed, and what went to stdout.
  def on_terminal(*arguments, ruby: [], both: false)
    terminal, slave = PTY.open
    stdout = scratch_file("stdout", "")
    pid = spawn(command[0], *ruby, *command[1..], *arguments, err: slave, out: both ? slave : stdout)
    slave.close
    shown = +""
    begin
      loop { shown << terminal.readpartial(4096) }
    rescue Errno::EIO, EOFError
      # That is how Linux says that nobody has the other end any more.
    end
    expect(Process.wait2(pid).last).to be_success, shown
    [shown, File.binread(stdout)]
  ensure
    terminal.close
  end

  # Starts it with data going to a pipe that is full at once; yields pid and pipe after the first byte.
  def into_full_pipe
    input = scratch_file("big", sample(4 << 20))
    reader, writer = IO.pipe
    error = scratch_file("stderr")
    pid = spawn(*command, "read", input, "--output", "-", out: writer, err: error)
    writer.close
    expect(reader.read(1)).to eq(File.binread(input, 1))
    yield pid, reader
    [Process.wait2(pid).last, File.read(error)]
  ensure
    reader.close
  end

  [0, 1, 511, 512, 513, 4096, 1_000_001, 3 << 20].each do |size|
    it "copies #{size} bytes to stdout and to a file unchanged, with a digest that is the last token" do
      bytes = sample(size)
      input = scratch_file("in", bytes)
      output = scratch_file("out", "what was there before" * 100)
      digest = Digest::SHA256.hexdigest(bytes)

      out, err, status = dma("read", input, "--output", "-", "--digest", "sha256")
      expect([out == bytes, status, err.lines.size, err.split.last]).to eq([true, 0, 1, digest]), err

      out = done("read", input, "--output", output, "--digest", "sha256")
      expect([File.binread(output) == bytes, out.lines.size, out.split.last]).to eq([true, 1, digest])
    end
  end

  it "says bytes, seconds, rate, CPU seconds and path of each file in one line" do
    input = scratch_file("in", sample(5000))
    figures = "5000 bytes, N s, N GB/s, N CPU s, ".gsub("N", '\d+\.\d+')
    way = /(direct|buffered.*|from the page cache) \(alignment \d+\)/
    expect(done("read", input)).to match(/\A#{input}: #{figures}#{way}\n\z/)
  end

  it "says the path that the requests really took" do
    input = scratch_file("in", sample(10_000))
    path, alignment = DMA::File.open(input) { |file| [file.direct? ? "direct" : "buffered", file.alignment] }
    # What was just written is in the page cache, and is read from there.
    way = path == "direct" ? "(direct|from the page cache)" : "buffered.*"
    expect(done("read", input)).to match(/ CPU s, #{way} \(alignment #{alignment}\)$/)
    # The kernel has no direct I/O for this one, and gives it no size either.
    expect(done("read", "/proc/cpuinfo"))
      .to match(/: [1-9]\d+ bytes, .* buffered after direct I.O was refused \(alignment 1\)$/)
    cached = { direct_requests: 0, buffered_requests: 2, cached_requests: 2, fallbacks: 0 }
    expect(DMA::CLI.new.__send__(:taken, cached, 512)).to eq("from the page cache (alignment 512)")
    expect(DMA::CLI.new.__send__(:taken, cached.merge(direct_requests: 1), 512))
      .to eq("mixed: 1 direct requests and 2 from the page cache (alignment 512)")
    both = DMA::CLI.new.__send__(:taken, { direct_requests: 7, buffered_requests: 2, fallbacks: 2 }, 512)
    expect(both).to eq("mixed: 7 direct requests and 2 buffered after direct I/O was refused (alignment 512)")
  end

  it "reads through the page cache with --buffered, and says so, of an empty file too" do
    [sample(10_000), ""].each do |bytes|
      out, err, = dma("read", "--buffered", scratch_file("in", bytes), "--output", "-")
      expect(out).to eq(bytes)
      expect(err).to end_with(", buffered (alignment 1)\n")
    end
  end

  it "knows each digest by its whole name only" do
    bytes = sample(5000)
    input = scratch_file("in", bytes)
    expected = { "md5" => Digest::MD5, "sha1" => Digest::SHA1, "sha256" => Digest::SHA256, "sha384" => Digest::SHA384,
                 "sha512" => Digest::SHA512 }
    expected.each do |name, digest|
      expect(done("read", input, "--digest", name).split.last(2)).to eq([name, digest.hexdigest(bytes)])
    end
    expect(dma("read", input, "--digest", "sha3").last).to eq(2)
  end

  it "takes chunks of any size and depth, with K, M and G" do
    bytes = sample(300_001)
    input = scratch_file("in", bytes)
    output = scratch_file("out")
    [%w[1000 8], %w[4k 1], %w[64K 1024], %w[3M 2], %w[1G 1]].each do |chunk, depth|
      done("read", input, "--output", output, "--chunk", chunk, "--depth", depth)
      expect(File.binread(output) == bytes).to be(true), chunk
    end
  end

  it "joins several files in one output, with a line for each" do
    parts = [sample(5001, 1), "", sample(513, 2), sample(8192, 3)]
    inputs = parts.each_with_index.map { |bytes, i| scratch_file("in#{i}", bytes) }
    output = scratch_file("out")
    lines = done("read", *inputs, "--output", output, "--digest", "md5").lines
    expect(File.binread(output)).to eq(parts.join)
    expect(lines.map { |line| line.split.last }).to eq(parts.map { |bytes| Digest::MD5.hexdigest(bytes) })
    expect(lines.zip(inputs)).to all(satisfy { |line, input| line.start_with?("#{input}: ") })
  end

  it "goes on with the other files after an error, and exits with 1" do
    first = scratch_file("first", "1" * 5000)
    second = scratch_file("second", "2")
    out, err, status = dma("read", first, scratch_file("missing"), scratch, second, "--output", "-")
    expect([out, status]).to eq(["#{"1" * 5000}2", 1])
    expect(err.lines.grep(/\Adma: /)).to contain_exactly(
      "dma: cannot open #{scratch}/missing: No such file or directory\n",
      "dma: cannot open #{scratch}: Is a directory\n"
    )
    expect(err.lines.size).to eq(4)
  end

  it "says in one line what is wrong with a file" do
    expect(failure("read", scratch_file("missing"))).to include("missing: No such file or directory")
    expect(failure("read", scratch)).to include("#{scratch}: Is a directory")
    expect(failure("read", "/dev/ptmx")).to include("/dev/ptmx has no addresses")
    expect(failure("read", "")).to include("No such file or directory")
    expect(failure("read", "two\nlines")).to include("two\\nlines: No such file or directory")
  end

  it "takes a chunk larger than memory for all that there is" do
    input = scratch_file("in", sample(10))
    expect(done("read", input, "--chunk", (1 << 62).to_s)).to start_with("#{input}: 10 bytes")
  end

  it "takes names that are no text, in a locale that has only ASCII" do
    input = scratch_file("\xFF\xC3\xA9".b, "bytes")
    out, err, status = Open3.capture3({ "LC_ALL" => "C" }, *command, "read", input, "--output", "-", binmode: true)
    expect([out, err.lines.size, status.exitstatus]).to eq(["bytes", 1, 0])
  end

  it "says in one line what is wrong with the output" do
    input = scratch_file("in", sample(5000))
    expect(failure("read", input, "--output", scratch)).to include("Is a directory")
    expect(failure("read", input, input, "--output", File.join(scratch, "no/where"))).to include("No such file")
    File.open("/dev/full", "w") do |full|
      [%w[--output -], []].each do |how|
        reader, writer = IO.pipe
        pid = spawn(*command, "read", input, input, *how, out: full, err: writer)
        writer.close
        expect(reader.read).to eq("dma: cannot write to stdout: No space left on device\n")
        expect(Process.wait2(pid).last.exitstatus).to eq(1)
      end
    end
  end

  it "leaves the output alone while there is nothing to read" do
    output = scratch_file("out", "precious")
    failure("read", scratch_file("missing"), "--output", output)
    expect(File.read(output)).to eq("precious")
  end

  it "refuses an output that is one of the files, by whatever name, before anything is written" do
    other = scratch_file("other", "other")
    input = scratch_file("in", "precious")
    File.link(input, link = scratch_file("link"))
    File.symlink(input, symlink = scratch_file("symlink"))
    [input, link, symlink].each do |output|
      expect(failure("read", other, input, "--output", output)).to include("#{input} is the output too")
    end
    File.open(input, "a") do |appended|
      pid = spawn(*command, "read", input, "--output", "-", out: appended, err: File::NULL)
      expect(Process.wait2(pid).last.exitstatus).to eq(1)
    end
    expect(File.read(input)).to eq("precious")
  end

  it "answers wrong usage with one reason, the usage, and status 2, and reads nothing" do
    input = scratch_file("in", sample(10))
    output = scratch_file("out")
    wrong = [[], ["read"], ["frobnicate", input], ["read", input, "--frobnicate"], ["read", input, "--chunk"],
             ["read", input, "--digest", "crc"], ["read", input, "--depth", "0"], ["read", input, "--depth", "1025"],
             ["read", input, "--depth", "many"], ["read", input, "--\xFF".b]]
    wrong += %w[0 -1 1.5M M 1T 1KB 0x10 99999999999G].map { |size| ["read", input, "--chunk", size] }
    wrong.each do |arguments|
      out, err, status = dma(*arguments, "--output", output)
      expect([out, status]).to eq(["", 2]), arguments.inspect
      expect(err).to match(/\Adma: .+\nusage: dma read FILE\.\.\. .+\n\z/)
      expect(File.exist?(output)).to be(false)
    end
  end

  it "tells its usage and its version when asked" do
    expect(done("--help")).to match(/\Ausage: dma read FILE.*--chunk.*--depth.*--buffered.*--output.*--digest/m)
    expect(done("read", "-h")).to eq(done("--help"))
    expect(done("--version")).to eq("dma #{DMA::VERSION}\n")
  end

  it "does the same when called from Ruby" do
    bytes = sample(10_001)
    input = scratch_file("in", bytes)
    output = scratch_file("out")
    line = /\A#{input}: 10001 bytes, .* sha1 #{Digest::SHA1.hexdigest(bytes)}\n\z/
    GC.stress = Support::Stress::ON
    run = -> { DMA::CLI.new.run(["read", input, "--chunk", "4K", "--output", output, "--digest", "sha1"]) }
    expect { expect(run.call).to eq(0) }.to output(line).to_stdout
    expect(File.binread(output)).to eq(bytes)
  end

  it "ends without a word when nobody reads its output any more" do
    status, error = into_full_pipe { |_, reader| reader.close }
    expect([status.termsig, error]).to eq([Signal.list["PIPE"], ""])
  end

  it "ends without a word at Ctrl-C, with status 130" do
    status, error = into_full_pipe { |pid, _| Process.kill(:INT, pid) }
    expect([status.exitstatus, error]).to eq([130, ""])
  end

  describe "the progress bar" do
    before { needs "ruby-progressbar", Gem::Specification.find_all_by_name("ruby-progressbar").any? }

    it "is on stderr where that is a terminal, for each file that has bytes" do
      input = scratch_file("in.bin", sample(3 << 20))
      shown, out = on_terminal("read", input, scratch_file("empty", ""), "--digest", "sha1")
      expect(shown).to match(/in\.bin: \|=+\|\r\n\z/)
      expect(shown).not_to include("empty")
      expect(out.lines.map { |line| line.split.last })
        .to eq([Digest::SHA1.file(input).hexdigest, Digest::SHA1.hexdigest("")])
    end

    it "stays out of data on stdout" do
      input = scratch_file("in.bin", sample(5000))
      shown, out = on_terminal("read", input, "--output", "-")
      expect(out).to eq(sample(5000))
      expect(shown).to match(/in\.bin: \|=+\|\r\n#{input}: 5000 bytes, [^\n]+\r\n\z/)

      shown, = on_terminal("read", scratch_file("words", "some words\n"), "--output", "-", both: true)
      expect(shown).to match(/\Asome words\r\n[^\n]+words: 11 bytes, [^\n]+\r\n\z/)
    end

    it "is not there, and not missed, where the gem is not installed" do
      scratch_file("ruby-progressbar.rb", "raise LoadError, 'not installed'")
      shown, out = on_terminal("read", scratch_file("in.bin", sample(5000)), ruby: ["-I", scratch])
      expect([shown, out.lines.size]).to eq(["", 1])
    end
  end
end
