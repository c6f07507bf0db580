# frozen_string_literal: true

RSpec.describe DMA::File, "when a write fails" do
  # What the message of a failed write says: bytes that were left, the offset they would have gone to, bytes that are
  # safe, of how many.
  def figures(message)
    match = /write (\d+) bytes at offset (\d+) \((\d+) of (\d+) bytes are safe\) of #{path}/.match(message)
    expect(match).not_to be_nil, message
    match.captures.map(&:to_i)
  end

  def error_of
    yield
    nil
  rescue SystemCallError => e
    e
  end

  # Writes more than fits, and looks at what the error says and the file has; returns how many bytes are safe.
  def fails_at(offset, bytes, &)
    before = File.binread(path)
    error = error_of(&)
    expect(error).to be_a(Errno::ENOSPC)
    left, at, safe, all = figures(error.message)
    expect([left + safe, at - safe, all]).to eq([bytes.bytesize, offset, bytes.bytesize])
    has(before[0, offset] + bytes[0, safe], at_most: [before.bytesize, offset + safe].max)
    safe
  end

  def has(bytes, at_most:)
    written = File.binread(path)
    expect(written.bytesize).to be <= at_most
    expect(written[0, bytes.bytesize] == bytes).to be(true)
  end

  # 4 MiB of ext4 in an image.
  def small_disk
    needs "mkfs.ext4", system("which mkfs.ext4", out: File::NULL)
    image = scratch_file("disk.img", "").tap { |file| File.truncate(file, 4 << 20) }
    system("mkfs.ext4", "-q", "-O", "^has_journal", image, exception: true)
    mount("ext4", source: image, options: "loop")
  end

  places = { "tmpfs" => -> { mount("tmpfs", options: "size=1m") }, "ext4" => -> { small_disk } }
  places.each do |name, directory|
    [true, false].each do |direct|
      context "on a full #{name}, direct: #{direct}" do
        let(:path) { File.join(instance_exec(&directory), "file.bin") }
        let(:bytes) { unstressed { sample(6 << 20) } }
        let(:file) { described_class.open(path, "w+b", direct: direct) }

        after { file.close }

        [0, 4096, 1001].each do |offset|
          it "write at #{offset} raises ENOSPC, with the offset and the bytes that are safe, and the position stays" do
            file.write("before" * ((offset / 6) + 1))
            file.seek(offset)
            safe = fails_at(offset, bytes) { file.write(bytes) }
            expect(safe).to be > 100_000
            expect(file.pos).to eq(offset)
          end

          it "write_from at #{offset} raises it, too" do
            buffer = DMA::Buffer.new(6 << 20)
            buffer.set_string(bytes)
            file.pwrite("b" * offset, 0)
            expect(fails_at(offset, bytes) { file.write_from(buffer, offset: offset) }).to be > 100_000
            expect(buffer.get_string == bytes).to be(true)
          end

          it "pwrite at #{offset} into a file that is there already keeps its length" do
            file.write("a" * 5000)
            expect(fails_at(offset, bytes) { file.pwrite(bytes, offset) }).to be > 100_000
          end
        end

        it "syswrite writes what fits, as IO's does, and raises when nothing does" do
          written = file.syswrite(bytes[0, 3 << 20])
          written += file.syswrite(bytes[0, 1 << 20]) until error_of { file.syswrite("x" * (1 << 20)) }
          expect(file.pos).to be >= written
          expect(File.size(path)).to be <= file.pos
        end

        it "writes again after space was made" do
          expect(error_of { file.write(bytes) }).to be_a(Errno::ENOSPC)
          file.truncate(0)
          expect(file.write(bytes[0, 500_001])).to eq(500_001)
          file.fdatasync
          expect(File.binread(path) == bytes[0, 500_001]).to be(true)
        end
      end
    end
  end

  context "past RLIMIT_FSIZE" do
    let(:path) { scratch_file("file.bin", "0123456789") }

    [true, false].each do |direct|
      it "raises EFBIG with the bytes that are safe, direct: #{direct}" do
        # The limit is not for this process, nor would it be told: the signal that comes with the error ends a program.
        message = in_ruby(<<~RUBY)
          trap("XFSZ", "IGNORE")
          Process.setrlimit(:FSIZE, 100_000)
          begin
            DMA::File.open(#{path.inspect}, "r+b", direct: #{direct}) { |file| file.pwrite("x" * 300_000, 10) }
          rescue Errno::EFBIG => e
            print e.message
          end
        RUBY
        left, at, safe, all = figures(message)
        expect([left + safe, at - safe, all]).to eq([300_000, 10, 300_000])
        expect(File.binread(path) == "0123456789#{"x" * safe}").to be(true)
        expect(safe).to be_between(90_000, 99_990)
      end
    end
  end
end
