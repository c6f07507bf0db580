# frozen_string_literal: true

# The programs in examples/bugs: each shows a bug, with wrong bytes that are the same every time, and its cure.
RSpec.describe "The programs of bugs" do
  include Support::Misuse

  root = File.expand_path("..", __dir__)
  paths = Dir.glob(File.join(root, "examples/bugs/*.rb")).to_h { |path| [File.basename(path, ".rb"), path] }
  paths.each_value { |path| require path }

  # Memory of 128 KiB with bytes at some offsets, and dots everywhere else.
  memory = lambda do |parts|
    parts.each_with_object("." * (128 << 10)) { |(offset, text), bytes| bytes[offset, text.size] = text }
  end

  # What the bug ends with, what the cure ends with, and the words about each that the program prints.
  endings = {
    "ActiveDescriptor" => ["hi, PIN is 123......", "good morning, hi....", "hi, PIN is 123...", "good morning, hi...."],
    "CompletionRace" => [%w[one one six], %w[one two six], "one, one, six", "one, two, six"],
    "CompletionStatus" => ["pay Eve", "pay Bob", '"pay Eve"', '"pay Bob"'],
    "FreedTooEarly" => ["packet 1, hello", "Dear Ada, hello", '"packet 1, hello"', '"Dear Ada, hello"'],
    "IommuViolation" => [["......", [{ address: 0x1000, access: :write }]], ["packet", []], '"......"', '"packet"'],
    "LeakedDescriptor" => ["......", "...DEF", '"......"', '"...DEF"'],
    "Limit16m" => [["-----", "SOUNDAda,", 0x117_0000], ["SOUND", "Dear Ada,", 0x117_0000], '"SOUNDAda,"', '"SOUND"'],
    "LostInterrupt" => [[%w[one six], "onetwosix"], [%w[one two six], "onetwosix"], "one, six", "one, two, six"],
    "MissingBarrier" => ["old text", "new text", 'read "old text"', 'read "new text"'],
    "PageWrap" => [memory[{ 65_532 => "ABCD", 0 => "EFGH" }], memory[{ 65_532 => "ABCDEFGH" }],
                   "ABCD.... lies there, and EFGH at 0", "ABCDEFGH lies at 65532, and .... at 0"],
    "PointerNotAdvanced" => [%w[one one one], %w[one two six], "one, one, one", "one, two, six"],
    "RingOverrun" => ["....E", "ABCDE", '"....E"', '"ABCDE"'],
    "SharedCacheLine" => [["packet 1", "count 0"], ["packet 1", "count 1"], '"packet 1" and "count 0"', '"count 1"'],
    "StaleRead" => [["old text", 1], ["new text", 0], 'read "old text"', 'read "new text"'],
    "StaleWrite" => [["old text", true], ["new text", false], 'read "old text"', 'read "new text"'],
    "Starvation" => [[".....", 1000, false], ["music", 32, true], "for 1000 of them", '"music"'],
    "Unaligned" => ["packet 1................", "08......packet 1........", '"packet 1....', '"08......packet 1....'],
    "Unpinned" => [["........", "packet 1, hello", 1], ["packet 1", "Dear Ada, hello", 0], '"packet 1, hello"',
                   '"Dear Ada, hello"']
  }

  # The bugs that DMA.debug finds, and its rules for them.
  found = { "FreedTooEarly" => :in_flight, "LostInterrupt" => :leak, "SharedCacheLine" => :cpu_access,
            "StaleRead" => :cpu_access, "StaleWrite" => :device_access, "Starvation" => :cpu_access }

  files = endings.keys.to_h { |name| [name, name.gsub(/(?<=[a-z])(?=[A-Z\d])/, "_").downcase] }

  endings.each do |name, (wrong, right, *told)|
    it "#{name}: the wrong bytes, the same every time, and the right ones" do
      program = Bugs.const_get(name)
      expect([program.bug, program.cure]).to eq [wrong, right]
      expect([program.cure, program.bug]).to eq [right, wrong]
    end

    it "#{name}: tells it in three lines" do
      output, status = Open3.capture2e(RbConfig.ruby, "-w", "-I", File.join(root, "lib"), paths.fetch(files[name]))
      expect([status, output]).to match([be_success, /\ABug:  .+\nWhy:  .+\nCure: .+\n\z/])
      expect(output.lines.values_at(0, 2)).to match(told.map { |words| include(words) })
      expect(output.lines.map(&:size)).to all(be <= 121)
    end

    it "#{name}: DMA.debug finds #{found[name]&.inspect || "nothing"} in the bug, and nothing in the cure" do
      program = Bugs.const_get(name)
      errors = misuse { expect(program.bug).to eq wrong }
      expect(errors.map(&:rule)).to eq [*found[name]]
      expect(errors.map { |error| error.backtrace.first }).to all(start_with("#{paths[files[name]]}:"))
      expect(misuse { expect(program.cure).to eq right }).to eq []
    end
  end

  it "are all here, and each has a row in the list of the examples" do
    expect(files.values).to match_array(paths.keys)
    list = File.read(File.join(root, "examples/README.md"))
    rows = list.scan(%r{^\| [^|]+ \| \[(\w+)\.rb\]\(bugs/\1\.rb\) \| [^|]+ \| [^|]+ \| (?:-|`:(\w+)`[^|]*) \|$})
    expect(rows).to match_array(files.map { |name, file| [file, found[name]&.to_s] })
  end
end
