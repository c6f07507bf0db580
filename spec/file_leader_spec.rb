# frozen_string_literal: true

require "async"

# Whoever waits first for a file reaps for all. It may be kept from that for as long as it likes.
RSpec.describe DMA::File, "whose first reader cannot run" do
  let(:size) { 4_000_000 }
  let(:hang) { 3_000_000 }
  let!(:path) { fuse_file(size, hang: hang) }
  let(:bytes) { sample(size) }

  # Opens the file, has a fiber of a reactor read what hangs, and then keeps the reactor's thread, for all of the block.
  def kept(engine)
    described_class.open(path, engine: engine) do |file|
      Async do |task|
        first = task.async { file.pread(1000, hang) }
        await_hang
        value = Fiber.new(blocking: true) { yield file }.resume
        release_reads
        expect(first.wait).to eq bytes.byteslice(hang, 1000)
        value
      end.wait
    end
  end

  %i[uring threads].each do |engine|
    context "with engine: #{engine}" do
      before { needs_uring if engine == :uring }

      it "serves another thread, for which the reactor waits" do
        read = kept(engine) { |file| Thread.new { file.pread(1000, 5) }.join(60)&.value }
        expect(read).to eq bytes.byteslice(5, 1000)
      end

      it "serves fibers of another reactor" do
        read = kept(engine) do |file|
          Thread.new do
            Async { |task| Array.new(3) { |n| task.async { file.pread(1000, n) } }.map(&:wait) }.wait
          end.join(60)&.value
        end
        expect(read).to eq(Array.new(3) { |n| bytes.byteslice(n, 1000) })
      end

      it "serves the handler of a signal in its own thread" do
        expect(in_ruby(<<~RUBY)).to eq("#{bytes.byteslice(5, 1000).sum}\n#{bytes.byteslice(hang, 1000).sum}\n")
          file = DMA::File.open(#{path.dump}, engine: #{engine.inspect})
          trap(:USR1) do
            puts file.pread(1000, 5).sum
            Process.kill(:USR1, #{@fuse.pid})
          end
          Thread.new { Thread.pass until Thread.main.stop?; Process.kill(:USR1, $$) }
          puts file.pread(1000, #{hang}).sum
        RUBY
      end
    end
  end
end
