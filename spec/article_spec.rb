# frozen_string_literal: true

require_relative "spec_helper"

# Not `needs`: the text is nobody's to hand out, so that its absence is no failure anywhere.
RSpec.describe "The file programs of the founding article, unchanged, with File meaning DMA::File" do
  include Support::Article

  # The programs run under stress, in processes of their own; what starts them does not.
  around { |example| unstressed { example.run } }

  before { skip "needs the article's text: DMA_ARTICLE=PATH" unless Support::Article::PATH }

  def sha256(bytes)
    Digest::SHA256.hexdigest(bytes)
  end

  it "reads as an application does" do
    bytes = sample((1 << 20) + 777)
    scratch_file("large_file.bin", bytes)
    report, = run_article("large_file.bin", scratch)
    file = report[:files].first
    expect(file).to include(path: "large_file.bin", closed: true, seen: sha256(bytes[0, 1 << 20]))
    expect(file[:calls]).to eq([["read", 1 << 20, 1 << 20, 1]])
    expect(file[:stats]).to include(requests: 1, bounced_bytes: 0)
  end

  it "serves small reads from what was read ahead, and large ones from the file" do
    bytes = sample(11 << 20)
    scratch_file("data.bin", bytes)
    report, = run_article("data.bin", scratch)
    expect(report[:files]).to match([a_hash_including(closed: true, seen: sha256(bytes[0, 101 + (10 << 20)]))])
    first, second, large = report[:files].first[:calls]
    expect(first).to match(["read", 1, 1, be_between(1, 2)])
    expect(second).to eq(["read", 100, 100, 0])
    expect(large).to match(["read", 10 << 20, 10 << 20, be_positive])
  end

  it "fills one String again and again" do
    bytes = sample((10 * 4096) + 123)
    scratch_file("large_video.mp4", bytes)
    report, = run_article("large_video.mp4", scratch)
    expect(report[:files]).to match([a_hash_including(closed: true, seen: sha256(bytes))])
    sizes = report[:files].first[:calls].map { |_, _, size, _| size }
    expect(sizes).to eq(([4096] * 10) + [123, nil])
  end

  it "makes one request for each sysread, and polls a register until bit 0 is clear" do
    bytes = sample(2048)
    words = [0x11, 0xffff_ffff, 0x3, 0x10, 0x1].pack("L*")
    scratch_file("raw_device", bytes)
    scratch_file("registers", words)
    report, = run_article("raw_device", scratch, "read_device_registers('registers')")
    device, registers = report[:files]
    expect(device).to include(path: "raw_device", closed: true, seen: sha256(bytes[0, 512]))
    expect(device[:calls]).to eq([["sysread", 512, 512, 1]])
    expect(registers).to include(path: "registers", closed: true, seen: sha256(words[0, 16]))
    expect(registers[:calls]).to eq([["sysread", 4, 4, 1]] * 4)
  end

  it "measures chunks of three sizes" do
    bytes = sample((4096 * rounds(512)) + 3)
    scratch_file("test.dat", bytes)
    report, output = run_article("test.dat", scratch)
    expect(report[:files]).to all(include(path: "test.dat", closed: true, seen: sha256(bytes)))
    sizes = report[:files].map { |file| file[:calls].map { |_, size, *| size }.uniq }
    expect(sizes).to eq([[4096], [65_536], [1_048_576]])
    expect(output.lines.size).to eq(3)
    expect(output.lines).to all(match(/\d+\.\d+ \( *\d+\.\d+\)$/))
  end

  it "reads in sequence, at random and directly" do
    bytes = sample((3 << 20) + 4097)
    scratch_file("storage.dat", bytes)
    offsets = [4096, 1_000_001, 0, 3 << 20]
    report, = run_article("StorageAccessPatterns", scratch, <<~RUBY)
      patterns = StorageAccessPatterns.new
      patterns.sequential_read("storage.dat")
      patterns.random_access("storage.dat", #{offsets})
      patterns.direct_io_concept("storage.dat").bytesize
    RUBY
    sequence, random, direct = report[:files]
    expect(report[:files]).to all(include(closed: true))
    expect(sequence).to include(seen: sha256(bytes))
    expect(sequence[:calls].map(&:last)).to eq([1 << 20, 1 << 20, 1 << 20, 4097])
    expect(random).to include(seen: sha256(offsets.map { |offset| bytes[offset, 4096] }.join))
    expect(direct).to include(seen: sha256(bytes))
    expect(report[:value]).to eq(bytes.bytesize)
  end
end
