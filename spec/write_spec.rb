# frozen_string_literal: true

require "pathname"

RSpec.describe DMA, ".write" do
  let(:bytes) { unstressed { sample(300_001) } }
  let(:path) { scratch_file("file.bin") }

  def buffer_of(bytes)
    DMA::Buffer.new(bytes.bytesize).tap { |buffer| buffer.set_string(bytes) }
  end

  it "writes a String, a Buffer or an IO::Buffer, and returns the bytes" do
    [true, :auto, false].product([bytes, buffer_of(bytes), buffer_of(bytes).view]) do |direct, data|
      File.binwrite(path, "before" * 100_000)
      expect(described_class.write(path, data, direct: direct)).to eq(300_001)
      expect(File.binread(path) == bytes).to be(true)
    end
  end

  it "does what File.binwrite does with the same arguments" do
    other = scratch_file("other.bin")
    [["one", nil], ["two", 1], ["", 2], ["three", 100], [:four, 0], [5, nil], ["ü".encode("UTF-16"), nil], ["", nil]]
      .each do |data, offset|
        expect(described_class.write(path, data, offset: offset)).to eq(File.binwrite(other, data, offset))
        expect(File.binread(path)).to eq(File.binread(other))
      end
  end

  it "makes a file with the permissions that perm says, less the umask" do
    described_class.write(path, "x", perm: 0o640)
    expect(File.stat(path).mode & 0o777).to eq(0o640 & ~File.umask)
    expect { described_class.write(scratch_file("none/file"), "x") }.to raise_error(Errno::ENOENT, %r{none/file})
  end

  it "keeps what lies around bytes that are written at an offset" do
    File.binwrite(path, bytes)
    expect(described_class.write(Pathname(path), buffer_of("x" * 5000), offset: 4095)).to eq(5000)
    expect(File.binread(path) == bytes.dup.tap { |all| all[4095, 5000] = "x" * 5000 }).to be(true)
    expect { described_class.write(path, "x", offset: -1) }.to raise_error(ArgumentError, /offset must be an Integer/)
    expect(File.size(path)).to eq(300_001)
  end

  it "says how many bytes are safe when there is no room" do
    full = File.join(mount("tmpfs", options: "size=1m"), "file")
    expect { described_class.write(full, "x" * (2 << 20)) }
      .to raise_error(Errno::ENOSPC, /\(\d+ of 2097152 bytes are safe\) of #{full}/)
  end
end
