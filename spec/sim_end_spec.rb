# frozen_string_literal: true

require "fiddle"

# Ruby frees objects in any order when a process ends: each of these is made many times, so that some are freed in the
# wrong one.
RSpec.describe DMA::Sim, "at the end of the process" do
  include Support::Experimental

  def memories
    foreign = Array.new(50) { Fiddle::Pointer.malloc(1 << 20, Fiddle::RUBY_FREE) }
    foreign.map { |pointer| DMA::Buffer.wrap(pointer) } + Array.new(50) { DMA::Buffer.wrap(IO::Buffer.new(1 << 16)) }
  end

  # What was mapped is in a constant, so that no GC takes it before.
  def ends(&block)
    in_forked_child(leave: true) { Object.const_set(:KEPT_TO_THE_END, block.call).size }
  end

  it "writes nothing that was in the cache to memory that is gone" do
    answer = ends do
      device = described_class.new(coherent: false).device
      memories.map do |buffer|
        device.map(buffer, type: :streaming, direction: :to_device).tap { buffer.set_string("dirty") }
      end
    end
    expect(answer).to eq "100"
  end

  it "copies nothing between bounce buffers and memory that is gone" do
    answer = ends do
      device = described_class.new(iommu: false, ram: 64 << 20).device(memory: 1 << 20, address_bits: 24)
      memories.map { |buffer| device.map(buffer.slice(0, 4096), type: :streaming) }
    end
    expect(answer).to eq "100"
  end
end
