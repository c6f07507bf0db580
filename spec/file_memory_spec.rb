# frozen_string_literal: true

# Streaming takes the memory of what is under way, however long the file is. Each example is a process of its own.
RSpec.describe DMA::File, "memory" do
  # Mostly a hole, with bytes here and there: it takes no time to make, and no room.
  let(:size) { 10 << 30 }
  let(:islands) { [0, 1 << 20, (3 << 30) + 12_345, size - 99_999] }
  let(:path) do
    scratch_file("sparse.bin", "").tap do |path|
      File.open(path, "r+b") do |file|
        file.truncate(size)
        islands.each { |at| file.pwrite(sample(99_999, at), at) }
      end
    end
  end

  # Runs code in a process of its own, and returns what it printed first, and by how many bytes its memory grew at most
  # while a thread looked and as the kernel has it.
  def growth(code)
    answer, *peaks = in_ruby(<<~RUBY).lines
      def kilobytes(name) = Integer(File.read("/proc/self/status")[/^\#{name}:\\s+(\\d+)/, 1])
      # Whatever is only there once.
      DMA::File.open(#{path.dump}) { |file| file.each_chunk(4096, length: 8192, offset: 0) { nil } }
      GC.start
      before = kilobytes("VmRSS")
      File.write("/proc/self/clear_refs", "5") # VmHWM begins anew
      most = 0
      Thread.new { loop { most = [most, kilobytes("VmRSS")].max.tap { sleep 0.002 } } }
      sleep 0.001 while most.zero?
      #{code}
      puts most - before, kilobytes("VmHWM") - before
    RUBY
    [answer.chomp, peaks.map { |peak| Integer(peak) << 10 }]
  end

  # What is asked of any way to stream; that it takes some says that somebody looked.
  def expect_within(limit, peaks)
    expect(peaks).to all(be_between(1, limit))
  end

  def expected_sum
    islands.sum { |at| sample(99_999, at).sum(32) }
  end

  %i[uring threads].product([[1 << 20, 8], [8 << 20, 4]]).each do |engine, (chunk, depth)|
    it "of each_chunk over 10 GiB is that of #{depth} chunks of #{chunk >> 20} MiB, with engine: #{engine}" do
      needs_uring if engine == :uring
      total, peaks = growth(<<~RUBY)
        total = 0
        zeros = DMA::Buffer.new(#{chunk})
        sum = 0
        DMA::File.open(#{path.dump}, engine: #{engine.inspect}) do |file|
          file.each_chunk(#{chunk}, depth: #{depth}) do |buffer, at|
            total += buffer.size
            sum += buffer.get_string.sum(32) unless (buffer <=> zeros).zero?
          end
        end
        puts [total, sum].inspect
      RUBY
      expect(total).to eq([size, expected_sum].inspect)
      expect_within((depth * chunk) + (32 << 20) + chunk, peaks)
    end
  end

  it "of read_many over 10 GiB is that of its reads under way" do
    total, peaks = growth(<<~RUBY)
      total = 0
      DMA::File.open(#{path.dump}) do |file|
        ranges = Array.new(10_240) { |n| [n << 20, (1 << 20) - 1] }
        file.read_many(ranges, depth: 8) { |buffer, _| total += buffer.size }
      end
      puts total
    RUBY
    expect(total).to eq((size - 10_240).to_s)
    expect_within((9 << 20) + (32 << 20), peaks)
  end

  it "of DMA.copy is that of its operations under way, however long the file: 128 MiB of bytes in 10 GiB" do
    from = scratch_file("from.bin", "")
    to = scratch_file("to.bin")
    part = sample(2 << 20)
    places = Array.new(64) { |n| (n * (160 << 20)) + 77 }
    File.open(from, "r+b") { |file| places.each { |at| file.pwrite(part, at) }.then { file.truncate(size) } }
    total, peaks = growth("puts DMA.copy(#{from.dump}, #{to.dump})")
    expect(total).to eq(size.to_s)
    expect_within((16 << 20) + (32 << 20), peaks)
    expect(File.size(to)).to eq(size)
    expect(places.map { |at| File.binread(to, part.bytesize, at) == part }).to all(be(true))
  end
end
