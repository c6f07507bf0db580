# frozen_string_literal: true

require "async"

# What goes on while a file is closed, and what is left of it.
RSpec.describe DMA::File, "when others use it" do
  let(:bytes) { unstressed { sample(16 << 20) } }
  let(:path) { scratch_file("file.bin", bytes).tap { |path| evict(path) } }

  # Waits for bytes, or for the news that the file was closed.
  def read(file, offset)
    file.pread(1 << 20, offset) == bytes[offset, 1 << 20] ? :read : :other_bytes
  rescue DMA::ClosedError
    :closed
  end

  it "is closed under threads that wait: each has its bytes, or hears that it is closed, whatever the GC does" do
    rounds(10).times do
      file = described_class.open(path, depth: 2)
      threads = Array.new(15) { |n| Thread.new { read(file, n << 20) } }
      Thread.pass
      file.close
      3.times { GC.start }
      expect(threads.map(&:value) - %i[read closed]).to eq([])
      evict(path)
    end
  end

  it "is closed under fibers that wait, as by the block of open" do
    rounds(5).times do
      found = []
      Async do |task|
        described_class.open(path) do |file|
          15.times { |n| task.async { found << read(file, n << 20) } }
        end
        GC.start
      end
      expect(found.size).to eq(15)
      expect(found - %i[read closed]).to eq([])
      evict(path)
    end
  end

  it "raises in many threads that it is closed" do
    file = described_class.open(path).tap(&:close)
    threads = Array.new(4) do
      Thread.new do
        rounds(50_000).times do
          file.size
        rescue DMA::ClosedError
          next
        end
      end
    end
    expect(threads.map { |thread| thread.join(60) }).to eq(threads)
  end

  it "is not waited for in vain, however often waits for it were interrupted" do
    boom = Class.new(StandardError)
    described_class.open(path, direct: true) do |file|
      reader = nil
      rounds(2000).times do
        reader = Thread.new { loop { file.pread(100, 0) } } unless reader&.alive?
        reader.report_on_exception = false
        Thread.pass
        reader.raise(boom)
      end
      expect { reader.join }.to raise_error(boom)
      threads = Array.new(100) { |n| Thread.new { read(file, (n % 16) << 20) } }
      expect(threads.map { |thread| thread.join(60)&.value }).to eq([:read] * 100)
    end
  end

  it "frees the room of a file that was deleted with close" do
    directory = mount("tmpfs", options: "size=3m")
    rounds(10).times do
      DMA.write(File.join(directory, "file"), bytes[0, 2 << 20])
      File.delete(File.join(directory, "file"))
    end
  end
end
