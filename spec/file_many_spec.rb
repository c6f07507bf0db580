# frozen_string_literal: true

require "async"

RSpec.describe DMA::File, "#read_many" do
  let(:bytes) { unstressed { sample(300_001) } }
  let(:path) { scratch_file("file.bin", bytes) }

  def open_file(mode = "rb", **options, &)
    described_class.open(path, mode, **options, &)
  end

  # What a read of these ranges passes, in the order of the file.
  def passed(file, ranges, **options)
    found = []
    file.read_many(ranges, **options) { |buffer, offset| found << [offset, buffer.get_string] }
    found.sort
  end

  def parts(ranges)
    ranges.map { |offset, length| [offset, bytes[offset, length] || ""] }.sort
  end

  it "passes each range once, whatever their order, and leaves the position" do
    ranges = [[299_000, 1001], [0, 1], [77, 4096], [77, 4096], [4096, 100_000], [5000, 3], [0, 300_001]]
    [:auto, false].each do |direct|
      open_file(direct: direct) do |file|
        file.seek(9)
        expect(file.read_many(ranges) { |buffer, _| buffer }).to equal(file)
        [1, 2, 8].each { |depth| expect(passed(file, ranges, depth: depth) == parts(ranges)).to be(true) }
        expect(file.pos).to eq(9)
      end
    end
  end

  it "passes random ranges of all sizes, as pread reads them" do
    random = Random.new(7)
    open_file do |file|
      rounds(30).times do
        ranges = Array.new(random.rand(40)) { [random.rand(310_000), random.rand([1, 600, 9000, 200_000].sample)] }
        expect(passed(file, ranges, depth: random.rand(1..40)) == parts(ranges)).to be(true), ranges.inspect
      end
    end
  end

  it "gives a shorter buffer at the end of the file, an empty one behind it and for no bytes" do
    open_file do |file|
      expect(passed(file, [[300_000, 10], [300_001, 10], [9 << 40, 5], [7, 0], [(1 << 63) - 1, 0], [0, (1 << 63) - 1]]))
        .to eq([[0, bytes], [7, ""], [300_000, bytes[-1]], [300_001, ""], [9 << 40, ""], [(1 << 63) - 1, ""]])
      expect(file.read_many([]) { raise "there is none" }).to equal(file)
    end
    File.truncate(path, 0)
    open_file { |file| expect(passed(file, [[0, 10], [5, 0]])).to eq([[0, ""], [5, ""]]) }
  end

  it "reads files that have bytes but no size" do
    described_class.open("/proc/self/limits") do |file|
      all = File.read("/proc/self/limits")
      expect(passed(file, [[0, 10_000], [100, 20]])).to eq([[0, all], [100, all[100, 20]]])
    end
  end

  it "reads neighbours by one request for each MiB, and copies nothing" do
    unstressed { File.binwrite(path, sample(3 << 20)) }
    pages = Array.new(768) { |n| [n * 4096, 4096] }.shuffle(random: Random.new(3))
    open_file do |file|
      count = 0
      file.read_many(pages) { count += 1 }
      expect([count, file.stats[:requests], file.stats[:bounced_bytes]]).to eq([768, 3, 0])
    end
  end

  it "gives neighbours slices of the same memory, each of which ends with its own block" do
    open_file do |file|
      kept = []
      file.read_many([[0, 512], [512, 512], [100, 100]], depth: 1) do |buffer, offset|
        expect(kept).to all(be_freed)
        kept << buffer << buffer.slice(0, 10)
        expect(buffer.get_string == bytes[offset, buffer.size]).to be(true)
        expect(buffer.address % buffer.alignment).to eq(0)
        view = buffer.view
        expect([view.size, view.get_string == buffer.get_string]).to eq([buffer.size, true])
      end
      expect(kept.size).to eq(6)
      kept.each { |buffer| expect { buffer.get_string }.to raise_error(DMA::ClosedError, /inside its block/) }
    end
  end

  it "leaves what is retained as it is, while other memory is used again" do
    open_file(depth: 2) do |file|
      kept = {}
      neighbours = Array.new(60) { |n| [(n * 4096) + (n % 3), 4096] }
      rounds(5).times do
        file.read_many(neighbours) { |buffer, offset| kept[offset] = buffer.retain if (offset % 5).zero? }
        file.read_many(neighbours.select { |offset, _| offset.even? }, depth: 3) { |buffer, _| buffer.clear(0xEE) }
      end
      expect(kept).not_to be_empty
      expect(kept).to(be_all { |offset, buffer| buffer.get_string == bytes[offset, 4096] })
      kept.each_value(&:free)
    end
  end

  it "holds no more memory than the reads under way, as many that have come, and the one that is passed" do
    open_file do |file|
      addresses = []
      file.read_many(Array.new(70) { |n| [n * 4096, 100] }, depth: 4) { |buffer, _| addresses << buffer.address }
      expect(addresses.size).to eq(70)
      expect(addresses.uniq.size).to be <= 9
      expect(addresses.uniq.max - addresses.uniq.min).to be < 9 * 4096
    end
  end

  it "has as many reads under way as depth says, whatever the file's own" do
    hanging = fuse_file(1 << 20, hang: 0)
    described_class.open(hanging, direct: true, depth: 1) do |file|
      found = []
      reader = Thread.new do
        file.read_many(Array.new(10) { |n| [n * 65_536, 512] }, depth: 2) { |_, offset| found << offset }
      end
      await_hang
      sleep(0.001) until found.size == 9
      release_reads
      reader.join
      expect(found.last).to eq(0)
    end
  end

  it "without a block gives an Enumerator" do
    open_file do |file|
      ranges = [[0, 10], [100_000, 10]].each
      expect(file.read_many(ranges, depth: 1).map { |buffer, offset| [offset, buffer.get_string] }.sort)
        .to eq([[0, bytes[0, 10]], [100_000, bytes[100_000, 10]]])
    end
  end

  it "takes a great many ranges" do
    open_file do |file|
      count = rounds(200_000)
      sum = 0
      file.read_many(Array.new(count) { |n| [n * 7919 % 300_000, n % 2] }) { |buffer, _| sum += buffer.size }
      expect(sum).to eq(count / 2)
    end
  end

  it "leaves nothing behind when the block breaks or raises, or the file is closed in it" do
    pages = Array.new(70) { |n| [n * 4096, 100] }
    open_file do |file|
      rounds(50).times do
        expect(file.read_many(pages, depth: 16) { |buffer, _| break buffer.size }).to eq(100)
        expect { file.read_many(pages, depth: 16) { raise "in the block" } }.to raise_error("in the block")
      end
      expect(passed(file, pages) == parts(pages)).to be(true)
      expect { file.read_many(pages) { file.close } }.to raise_error(DMA::ClosedError, /was closed/)
    end
  end

  it "refuses what has no ranges, with a block and without" do
    open_file do |file|
      [nil, 5, "ab"].each do |ranges|
        told = [TypeError, /#{ranges.inspect} is no Enumerable of ranges, each of them \[offset, length\]/]
        expect { file.read_many(ranges) { nil } }.to raise_error(*told)
        expect { file.read_many(ranges) }.to raise_error(*told)
      end
      expect(file.stats[:requests]).to eq(0)
    end
  end

  it "refuses what is no range before anything is read, and says which" do
    open_file do |file|
      [[0], [0, 1, 2], [-1, 5], [5, -1], [0, 1 << 63], [1 << 62, 1 << 62], [0.5, 1], ["0", 1], nil, 3, [1 << 70, 0]]
        .each do |range|
          expect { file.read_many([[0, 1], range]) { raise "was read" } }
            .to raise_error(ArgumentError, /\Arange 1 is #{Regexp.escape(range.inspect)}: it should be \[offset, len/)
        end
      expect { file.read_many([], depth: 0) { nil } }.to raise_error(ArgumentError, /depth: 0 is not in 1\.\.1024/)
      expect { file.read_many(3) { nil } }.to raise_error(TypeError, /3 is no Enumerable/)
      expect(file.stats[:requests]).to eq(0)
    end
    open_file("r+") { |file| expect(file.read_many([[0, 1]]) { nil }).to equal(file) }
    described_class.open(scratch_file("other"), "w") do |file|
      expect { file.read_many([[0, 1]]) { nil } }.to raise_error(IOError, /not opened for reading/)
    end
  end

  describe "of a file that cannot be read everywhere" do
    let(:path) { fuse_file(300_001, eio: 200_000) }

    [true, false].each do |direct|
      it "passes what can be read, neighbours too, and raises once, after it: direct: #{direct}" do
        blocks = Array.new(73) { |n| [n * 4096, 4096] }
        around = [[199_999, 1], [199_990, 20], [200_001, 512], [0, 0]]
        good = blocks.reject { |offset, _| offset.between?(195_905, 200_000) } + [[0, 0]]
        found = []
        open_file(direct: direct) do |file|
          expect { file.read_many(blocks + around, depth: 2) { |buffer, offset| found << [offset, buffer.get_string] } }
            .to raise_error(Errno::EIO, /cannot read 4096 bytes at offset 196608 \(and \d more ranges\) of #{path}/)
          expect(found).to include(*parts(good))
          expect(found - parts(blocks + around)).to be_empty
          expect { file.read_many([[200_000, 1]]) { nil } }.to raise_error(Errno::EIO, /1 bytes at offset 200000 of/)
          expect(passed(file, [[0, 9]])).to eq([[0, bytes[0, 9]]])
        end
      end
    end
  end

  describe "of a file that does not answer" do
    let(:path) { fuse_file(300_001, hang: 100_000) }

    it "is ended by Timeout, and goes on when the file does" do
      open_file(direct: true) do |file|
        ranges = [[0, 100], [100_000, 10], [250_000, 10]]
        found = []
        expect { Timeout.timeout(0.2) { file.read_many(ranges) { |_, offset| found << offset } } }
          .to raise_error(Timeout::Error)
        expect(found).to contain_exactly(0, 250_000)
        release_reads
        expect(passed(file, ranges) == parts(ranges)).to be(true)
      end
    end

    it "lets other fibers run" do
      open_file(direct: true) do |file|
        order = []
        Async do |task|
          reader = task.async { file.read_many([[100_000, 10]]) { order << :read } }
          task.async do
            task.sleep 0.001
            order << :ticked
            release_reads
          end
          reader.wait
        end
        expect(order).to eq(%i[ticked read])
      end
    end
  end

  it "gives shorter buffers when the file is cut meanwhile" do
    open_file do |file|
      sizes = []
      file.read_many(Array.new(30) { |n| [n * 10_000, 10_000] }, depth: 1) do |buffer, offset|
        File.truncate(path, 150_000) if sizes.empty?
        sizes << [offset, buffer.size]
      end
      expect(sizes.size).to eq(30)
      # One operation brings them all.
      expect(sizes.sum(&:last)).to eq(300_000)
      expect(passed(file, [[140_000, 20_000]])).to eq([[140_000, bytes[140_000, 10_000]]])
    end
  end
end
