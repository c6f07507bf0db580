# frozen_string_literal: true

# A fork in the middle of transfers, and between them: the child has rings and workers of its own, the parent's go on.
RSpec.describe DMA::File, "and fork" do
  let(:size) { 4_000_001 }
  let(:bytes) { unstressed { sample(size) } }
  let!(:path) { unstressed { scratch_file("file.bin", bytes) } }

  def open_file(engine, path = self.path, **options, &)
    needs_uring if engine == :uring
    described_class.open(path, "rb", engine: engine, direct: true, **options, &)
  end

  # All ways to read a file that a child opens, as one text.
  def read_in_all_ways(path, engine)
    described_class.open(path, "rb", engine: engine, direct: true) do |file|
      buffer = DMA::Pool.new(count: 1, size: 1 << 20).checkout
      file.read_into(buffer, offset: 4096)
      chunks = file.each_chunk(100_000, offset: 0).map { |chunk, _| chunk.get_string }
      many = file.read_many([[7, 5000], [3_000_000, 4096]]).map { |part, at| [at, part.get_string] }
      Digest::SHA256.hexdigest([buffer.get_string, *chunks, *many.sort.map(&:last), file.pread(100, 1)].join)
    end
  end

  # What they are.
  def digest
    Digest::SHA256.hexdigest([bytes[4096, 1 << 20], bytes, bytes[7, 5000], bytes[3_000_000, 4096], bytes[1, 100]].join)
  end

  %i[uring threads].each do |engine|
    context "with engine: #{engine}" do
      it "gives the child a ring of its own, whatever its parent had open, and the grandchild another" do
        open_file(engine) do |file|
          file.pread(10, 0)
          file.each_chunk(1 << 20, offset: 0) { nil } # leaves a ring for the next
          child = in_forked_child do
            [read_in_all_ways(path, engine), in_forked_child { read_in_all_ways(path, engine) }].uniq
          end
          expect(child).to eq([digest].to_s)
          expect(file.pread(size, 0) == bytes).to be(true)
        end
      end

      it "serves the child nothing that was read ahead, by no method, and closes it there as the parent's" do
        calls = [
          [:gets], [:read, 10], [:read], [:read, 70_000], [:pread, 10, 0], [:getc], [:getbyte], [:readpartial, 10],
          [:eof?], [:ungetc, "a"], [:readlines], [:sysread, 1], [:pos], [:seek, 0], [:rewind], [:lineno], [:to_io],
          [:fileno], [:size], [:direct?], [:alignment], [:fsync]
        ]
        open_file(engine) do |file|
          file.gets
          file.to_io
          answers = calls.map { |call| in_forked_child { file.public_send(*call) } }
          expect(answers).to all(match(/\ADMA::ClosedError: .*parent process.*open it anew/))
          expect(in_forked_child { [file.closed?, file.inspect, file.close, file.closed?] })
            .to eq([true, "#<DMA::File #{path} (closed)>", nil, true].to_s)
          expect(file.closed?).to be(false)
          expect(file.read(10)).to eq(bytes[bytes.index("\n") + 1, 10])
        end
      end

      it "takes nothing that the child wants to have written where the parent writes" do
        described_class.open(path, "r+b", engine: engine) do |file|
          calls = [[:write, "x"], [:pwrite, "x", 0], [:syswrite, "x"], [:flush], [:truncate, 0], [:fallocate, 1]]
          expect(calls.map { |call| in_forked_child { file.public_send(*call) } }).to all(match(/\ADMA::ClosedError/))
        end
        expect(::File.binread(path) == bytes).to be(true)
      end

      it "disturbs no stream of the parent, and no batch: the child's copies refuse, and leave, harmlessly" do
        open_file(engine, depth: 4) do |file|
          answers = []
          passed = +""
          file.each_chunk(500_000, offset: 0) do |chunk, _|
            passed << chunk.get_string
            answers << in_forked_child { file.each_chunk(10, offset: 0) { nil } } if answers.size < 2
          end
          expect(passed == bytes).to be(true)
          ranges = Array.new(20) { |n| [n * 199_999, 5000] }
          found = ranges.to_h { |at, _| [at, nil] }
          file.read_many(ranges, depth: 4) do |part, at|
            found[at] = part.get_string
            answers << in_forked_child { file.read_many([[0, 1]]) { nil } } if answers.size < 4
          end
          expect(found.all? { |at, part| part == bytes[at, 5000] }).to be(true)
          expect(answers).to all(match(/DMA::ClosedError.*parent process.*open it anew/))
        end
      end

      it "lets the child end through its finalizers, block and all, while chunks are under way in the parent" do
        open_file(engine, depth: 4) do |file|
          passed = +""
          file.each_chunk(500_000, offset: 0) do |chunk, at|
            passed << chunk.get_string
            next unless at.zero?

            pid = fork { GC.start.then { exit(0) } }
            expect(Process.wait2(pid).last).to be_success
          end
          expect(passed == bytes).to be(true)
          expect(file.pread(100, 1)).to eq(bytes[1, 100])
        end
      end

      it "leaves a read that is under way to the parent, and memory that it fills; the child's is another" do
        hanging = fuse_file(size, hang: 2_000_000)
        open_file(engine, hanging) do |file|
          part = guarded(1 << 20)
          reader = Thread.new { file.read_into(part, offset: 1_500_000) }
          await_hang
          expect(in_forked_child { read_in_all_ways(path, engine) }).to eq(digest)
          expect(in_forked_child { part.get_string(0, 1) }).to match(/\ADMA::ClosedError/)
          release_reads
          expect(reader.value).to eq(1 << 20)
          expect(part.get_string == bytes[1_500_000, 1 << 20]).to be(true)
          expect(guards_whole?).to be(true)
        end
        free_guarded
      end

      it "goes on in the parent while children come and go" do
        open_file(engine) do |file|
          stop = false
          readers = Array.new(2) do |id|
            random = Random.new(id)
            all = bytes
            Thread.new do
              right = true
              until stop
                at = random.rand(3_900_000)
                right &&= file.pread(50_000, at) == all.byteslice(at, 50_000)
              end
              right
            end
          end
          answers = Array.new(rounds(10)) { in_forked_child { read_in_all_ways(path, engine) } }
          stop = true
          expect(readers.map(&:value)).to eq([true, true])
          expect(answers.uniq).to eq([digest])
        end
      end
    end
  end
end
