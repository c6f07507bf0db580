# frozen_string_literal: true

# What cannot be read in the middle of a file, and files that are cut while they are read.
RSpec.describe DMA::File, "errors in the middle" do
  let(:size) { 3_000_001 }
  let(:bytes) { unstressed { sample(size) } }
  let(:mib) { 1 << 20 }

  def open_file(path, engine, direct, **options, &)
    needs_uring if engine == :uring
    described_class.open(path, "rb", engine: engine, direct: direct, **options, &)
  end

  # Ranges or chunks of a file as they are passed: bytes by offset.
  def passed(file, call, *arguments, **options)
    found = {}
    file.public_send(call, *arguments, **options) { |part, at| found[at] = part.get_string }
    found
  end

  def right?(found, all = bytes)
    found.any? && found.all? { |at, part| part == all.byteslice(at, part.bytesize) }
  end

  %i[uring threads].product([true, false]).each do |engine, direct|
    context "with engine: #{engine}, direct: #{direct}" do
      it "read_into names offset and length of what is missing, and what came before it is there" do
        path = fuse_file(size, eio: 1_700_000)
        part = guarded(2_000_000)
        figures = /read (\d+) bytes at offset (\d+) \((\d+) of 2000000 bytes were read\) of #{path}/
        open_file(path, engine, direct) do |file|
          expect { file.read_into(part, offset: 500_000) }.to raise_error(Errno::EIO, figures) do |error|
            left, at, safe = error.message.match(figures).captures.map(&:to_i)
            expect([left + safe, at - safe]).to eq([2_000_000, 500_000])
            expect(at).to be <= 1_700_000
            expect(part.get_string(0, safe) == bytes[500_000, safe]).to be(true)
          end
          expect(file.pread(1000, 2_500_000)).to eq(bytes[2_500_000, 1000])
        end
        expect(guards_whole?).to be(true)
        free_guarded
      end

      it "each_chunk passes every chunk before it, and names offset and length" do
        path = fuse_file(size, eio: 1_700_000)
        found = {}
        open_file(path, engine, direct) do |file|
          expect { file.each_chunk(131_072, offset: 0) { |part, at| found[at] = part.get_string } }
            .to raise_error(Errno::EIO, /read \d+ bytes at offset 1\d{6} of #{path}/)
          expect(right?(found)).to be(true)
          expect(found.sum { |_, part| part.bytesize }).to be_between(12 * 131_072, 1_700_000)
          expect(right?(passed(file, :each_chunk, 131_072, offset: 2_000_000))).to be(true)
        end
      end

      it "read_many passes all the rest, and names the range and how many more there are" do
        path = fuse_file(size, eio: 1_700_000)
        ranges = Array.new(29) { |n| [n * 100_000, 9000] } + [[1_699_999, 5], [1_700_000, 1]]
        found = {}
        open_file(path, engine, direct) do |file|
          expect { file.read_many(ranges, depth: 4) { |part, at| found[at] = part.get_string } }
            .to raise_error(Errno::EIO, /read \d+ bytes at offset 1(?:699999|700000) \(and \d more ranges\) of #{path}/)
        end
        expect(found.keys).to include(*ranges.map(&:first).reject { |at| at.between?(1_699_000, 1_700_000) })
        expect(right?(found)).to be(true)
      end

      it "read_into of a file that was cut gives what is left, and touches nothing else" do
        path = scratch_file("file.bin", bytes)
        part = guarded(size)
        open_file(path, engine, direct) do |file|
          file.read_into(part, offset: 0)
          File.truncate(path, 1_234_567)
          expect(file.read_into(part, offset: mib)).to eq(1_234_567 - mib)
          expect(part.get_string(0, 1_234_567 - mib) == bytes[mib...1_234_567]).to be(true)
          expect(file.read_into(part, offset: 2 * mib)).to eq(0)
        end
        expect(guards_whole?).to be(true)
        free_guarded
      end

      it "each_chunk of a file that is cut meanwhile ends there, with the file's bytes and no others" do
        path = scratch_file("file.bin", bytes)
        open_file(path, engine, direct, depth: 2) do |file|
          found = {}
          file.each_chunk(100_000, offset: 0) do |part, at|
            File.truncate(path, 1_234_567) if at == 300_000
            found[at] = part.get_string
          end
          expect(right?(found)).to be(true)
          expect(found.sum { |_, part| part.bytesize }).to eq(1_234_567)
        end
      end

      it "each_chunk goes on with what a file has that is cut and grows again: zeros, not what was there before" do
        path = scratch_file("file.bin", bytes)
        all = bytes[0, 1_234_567] + ("\0" * (size - 1_234_567))
        open_file(path, engine, direct, depth: 2) do |file|
          found = {}
          file.each_chunk(100_000, offset: 0) do |part, at|
            [1_234_567, size].each { |length| File.truncate(path, length) } if at == 300_000
            found[at] = part.get_string
          end
          expect(right?(found, all)).to be(true)
          expect(found.sum { |_, part| part.bytesize }).to eq(size)
        end
      end

      it "read_many of a file that is cut meanwhile passes each range once, shorter where nothing is left" do
        path = scratch_file("file.bin", bytes)
        ranges = Array.new(15) { |n| [n * 200_000, 5000] }
        open_file(path, engine, direct) do |file|
          found = {}
          file.read_many(ranges, depth: 1) do |part, at|
            File.truncate(path, 1_001_000) if found.empty?
            found[at] = part.get_string
          end
          expect(found.keys.sort).to eq(ranges.map(&:first))
          # The next read was under way already.
          sure = found.reject { |at, _| at.between?(1_000_000, 1_200_000) }
          expect(sure).to(be_all { |at, part| part == (at > 1_000_000 ? "" : bytes[at, 5000]) })
          expect(found[1_000_000]).to eq(bytes[1_000_000, found[1_000_000].bytesize])
        end
      end
    end
  end

  it "DMA.copy of a file that is cut meanwhile copies what it has found, and makes up no byte" do
    from = fuse_file(size, hang: 2_500_000)
    to = scratch_file("to.bin")
    copy = Thread.new { DMA.copy(from, to, direct: true) }
    await_hang
    File.truncate(from, 1_234_567)
    release_reads
    copied = copy.value
    expect(copied).to eq(File.size(to))
    expect(copied).to be_between(1_234_567, 2_500_000)
    expect(File.binread(to) == bytes[0, copied]).to be(true)
  end
end
