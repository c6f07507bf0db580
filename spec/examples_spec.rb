# frozen_string_literal: true

require_relative "spec_helper"
require "zlib"

RSpec.describe "The examples" do
  # The library works in other processes.
  around { |example| unstressed { example.run } }

  root = File.expand_path("..", __dir__)
  directory = File.join(root, "examples")
  # edu_driver.rb runs where there is such a device: spec/guest/edu_spec.rb; bugs have spec/bugs_spec.rb.
  names = Dir.children(directory) - ["README.md", "sample.rb", "edu_driver.rb", "bare_metal.rb", "bugs"]

  # How to start an example. What is in C is compiled first, as it says at its head.
  define_method(:program) do |name|
    path = File.join(directory, name)
    case File.extname(name)
    when ".rb" then [RbConfig.ruby, "-w", "-I", File.join(root, "lib"), path]
    when ".py"
      needs "python3", system("python3 --version", out: File::NULL, err: File::NULL)
      ["python3", path]
    when ".c"
      built = File.join(@built = Dir.mktmpdir("dma-spec"), "example")
      line = File.read(path)[/gcc .* -o/].sub("$PWD", root)
      output, status = Open3.capture2e("#{line} #{built} -Wall -Wextra -Werror", chdir: root)
      raise output unless status.success?

      [built]
    end
  end

  after { FileUtils.remove_entry(@built) if @built }

  # Runs an example in a process of its own, with warnings; what it says on stderr is a failure.
  define_method(:example) do |name, *arguments|
    output, errors, status = Open3.capture3(*program(name), *arguments)
    raise "#{status}: #{errors}" unless status.success? && errors.empty?

    output
  end

  names.each do |name|
    it "#{name} runs without a file, and leaves none behind" do
      expect(Dir).to exist(scratch)
      output, status = Open3.capture2e({ "TMPDIR" => scratch }, *program(name))
      expect([status, output]).to match([be_success, /\w/])
      expect(Dir).to be_empty(scratch)
    end
  end

  it "are all in the list" do
    listed = File.read(File.join(directory, "README.md")).scan(/^- \[(.*?)\]\((.*?)\): \S/)
    expect(listed.map(&:uniq)).to match_array([*names, "edu_driver.rb"].map { |name| [name] })
  end

  it "read the head of a file" do
    bytes = sample((1 << 20) + 1)
    digest = Digest::SHA256.hexdigest(bytes[0, 1 << 20])
    output = example("head_of_file.rb", scratch_file("data", bytes))
    expect(output).to start_with("first 1048576 of 1048577 bytes: sha256 #{digest}\n")
    told = /^(\d+) requests past the page cache, in .*; (\d+) through it, (\d+) of them because/
    direct, buffered, cached = output.match(told).captures.map(&:to_i)
    expect([direct + buffered, cached <= buffered]).to eq([1, true])
  end

  it "show what small reads cost" do
    output = example("small_reads.rb", scratch_file("data", sample(200_000)))
    expect(output).to match(/\Aread\(1\): 1 bytes, [12] requests\nread\(100\): 100 bytes, 0 requests\n/)
    expect(output).to match(/^read\(10485760\): 199899 bytes, \d+ requests\nposition 200000\n\z/)
  end

  it "count the bytes of a file" do
    bytes = sample(10_000) + ("\xfe".b * 1_000)
    times = bytes.count("\xfe".b)
    output = example("byte_histogram.rb", scratch_file("data", bytes))
    expect(output).to eq("11000 bytes; most frequent is 0xfe, #{times} times\n")
  end

  it "read front to back, here and there, and all at once" do
    bytes = sample(1_300_000)
    output = example("access_patterns.rb", scratch_file("data", bytes))
    sums = [[0, 1_300_000], [0, 1_300_000], [0, 4096], [512, 4096], [4096, 4096], [1_234_567, 4096]]
           .map { |offset, size| Zlib.crc32(bytes[offset, size]).to_s(16) }
    expect(output.lines.map { |line| line.split.last }).to eq(sums)
  end

  it "tell sysread from read" do
    output = example("unbuffered.rb", scratch_file("data", sample(10_000)))
    expect(output).to match(/^4 x sysread\(512\): 4 requests\n4 x read\(512\): +[12] requests\n/)
    expect(output).to match(/^sysread now: sysread for buffered IO.*\nlast 512 bytes, then nil\n\z/)
  end

  it "poll a register until it is ready" do
    output = example("poll_register.rb", scratch_file("status", [1, 0x1_0001, 0xabc2, 3].pack("L*")))
    expect(output).to eq("1. 0x00000001: busy\n2. 0x00010001: busy\nready: 0x0000abc2\n")
  end

  it "time reads of three sizes, all of which read the whole file" do
    output = example("chunk_sizes.rb", scratch_file("data", sample(1_500_000)))
    figures = output.lines.map { |line| line.scan(/(\d+) (?:bytes|requests)/).flatten.map(&:to_i) }
    sizes, totals, requests = figures.transpose
    expect(sizes).to eq([4096, 65_536, 1_048_576])
    expect(totals).to all(eq(1_500_000))
    expect(requests).to match([be <= 25, be <= 25, be <= 4])
  end

  it "send to a device and receive from it" do
    expect(example("dma_device.rb")).to eq("1048576 bytes came back, equal\n")
    path = scratch_file("disk", "\0" * (1 << 20))
    expect(example("dma_device.rb", path)).to eq("1048576 bytes came back, equal\n")
    expect(File.binread(path)).to eq(Random.new(1).bytes(1 << 20))
  end

  it "learn in four ways that a transfer has ended" do
    expect(example("notification.rb").lines(chomp: true))
      .to eq(["waited: complete", "polled: complete", "called back: complete, 1048576 bytes",
              "readable: complete, 4096 bytes"])
  end

  it "show the same steps of a descriptor ring in every run" do
    output = example("descriptor_ring.rb")
    expect(output).to start_with("#<DMA::Ring 3/7>\ncycle 5: fetch 0x").and end_with("complete\nequal\n")
    expect(output.scan(/^slot (\d): 4096 bytes complete$/).flatten).to eq(%w[0 1 2])
    expect(output.scan(/^cycle \d+: status/).size).to eq(4)
    expect(example("descriptor_ring.rb")).to eq(output)
  end

  it "write the signals that the documentation shows" do
    Dir.mkdir(File.join(scratch, "traces"))
    expect(example("trace.rb", File.join(scratch, "traces"))).to include("pci: 8 events, cycles 0 to 48\n")
    shown = Dir.glob(File.join(root, "docs/traces/*")).to_h { |path| [File.basename(path), File.read(path)] }
    expect(Dir.glob(File.join(scratch, "traces/*")).to_h { |path| [File.basename(path), File.read(path)] }).to eq shown
  end

  it "go on after every fault" do
    expect(example("faults.rb")).to eq(<<~TEXT)
      hang: DMA::TimeoutError
      IOMMU fault: the device wanted to write memory, and 0 bytes were moved
      batch with a fence at 2: complete, bus_read_error, not_attempted, complete
      and then: complete
      3 complete, 1 timed_out, 1 not_attempted, 1 iommu_fault, 1 bus_read_error
    TEXT
  end

  it "drive a channel through its registers" do
    expect(example("register_driver.rb"))
      .to eq("through the registers\nstatus 0x0804: no write at an address that is not mapped\n")
  end

  it "move bytes to a device and back through ffi" do
    lines = example("dma_library.rb").lines(chomp: true)
    expect(lines[0, 3]).to eq(["to the device: complete", "from the device: complete", "the same bytes"])
    expect(lines[3]).to eq("in a DMA::Buffer: #{Random.new(1).bytes(8).unpack1("H*")}...")
  end

  %w[transfer.c transfer.py].each do |name|
    it "move bytes to a file and back without Ruby (#{name})" do
      path = scratch_file("disk", "\0" * 8192)
      expect(example(name, path)).to end_with("to the device: complete\nfrom the device: complete\nthe same bytes\n")
      expect(File.binread(path)).to match(/\A\0{4096}(?!\0{4096}).{4096}\z/mn)
    end

    it "say what is wrong without Ruby (#{name})" do
      output, errors, status = Open3.capture3(*program(name), "/nonexistent/device")
      expect([output, errors, status.exitstatus])
        .to eq(["", "cannot open /nonexistent/device: No such file or directory\n", 1])
    end
  end
end
