# frozen_string_literal: true

# The same random program on a machine whose cache follows devices and on one whose cache does not.
RSpec.describe "a non-coherent machine" do
  # A program, by its seed: buffers, cut into slices that are mapped, each for a direction, and steps that use them.
  program = Class.new do
    # @param sync [Boolean] whether it does what a machine that is not coherent needs
    # @param address_bits [Integer] of the device, past which there is no coherent memory for it
    def initialize(machine, seed, sync:, address_bits: 48)
      @random = Random.new(seed)
      @device = machine.device(memory: 1 << 16, address_bits: address_bits)
      @sync = sync
      @buffers = Array.new(3) { DMA::Buffer.new(1024) }
      @seen = []
      @kinds = [%i[streaming to_device], %i[streaming from_device], %i[consistent bidirectional]]
      @kinds << %i[coherent bidirectional] if address_bits == 48
    end

    # @return [Array<String>] what the program read, what buffers have in the end, and the device's memory
    def run
      @parts = @buffers.flat_map { |buffer| cut(buffer) }
      120.times { step }
      @parts.each { |part| unmap(part) }
      @seen + @buffers.map { |buffer| buffer.view.get_string } + [@device.read_dma(1 << 16)]
    end

    private

    # Slices of whole lines, mapped.
    def cut(buffer)
      cuts = [0, *Array.new(2) { 64 * @random.rand(1...16) }, 1024].uniq.sort
      cuts.each_cons(2).map { |low, high| map({ slice: buffer.slice(low, high - low) }) }
    end

    # What is mapped for the device to write is its own from then on: the program does not look before it has done so.
    def map(part)
      type, direction = @kinds.sample(random: @random)
      part.merge!(type: type, direction: direction,
                  mapping: @device.map(part[:slice], type: type, direction: direction))
      transfer(part, part[:slice].size) if direction == :from_device
      part
    end

    def step
      part = @parts.sample(random: @random)
      case @random.rand(8)
      when 0..2 then write(part)
      when 3, 4 then @seen << part[:slice].get_string(*range(part[:slice].size))
      when 5 then transfer(part)
      when 6 then plain(part)
      when 7 then remap(part)
      end
    end

    # What only the device writes, the program does not: it would be lost.
    def write(part)
      return if part[:direction] == :from_device

      offset, length = range(part[:slice].size)
      part[:slice].set_string(@random.bytes(length), offset)
    end

    # By its mapping, to the device or from it: whole lines, which the program hands over and takes back.
    def transfer(part, length = 64 * @random.rand(1..part[:slice].size / 64))
      address = @random.rand((1 << 16) - length)
      to_device = part[:direction] == :to_device || (part[:direction] == :bidirectional && @random.rand < 0.5)
      ends = to_device ? [part[:mapping], address] : [address, part[:mapping]]
      part[:mapping].sync_for_device(0, length) if @sync
      @device.channel.submit(source: ends[0], destination: ends[1], length: length).wait
      part[:mapping].sync_for_cpu(0, length) if @sync
    end

    # By the buffer itself, which needs nothing; but what is the device's is not written by another.
    def plain(part)
      offset, length = range(part[:slice].size)
      some = part[:slice].slice(offset, length)
      return @device.write_dma(some, at: offset).wait unless part[:direction] == :bidirectional

      @device.read_dma(into: some, at: @random.rand(1 << 15))
    end

    def remap(part)
      unmap(part)
      map(part)
    end

    def unmap(part)
      part[:mapping].sync_for_device if @sync && part[:type] == :consistent
      part[:mapping].unmap
    end

    def range(size)
      offset = @random.rand(size)
      [offset, @random.rand(1..size - offset)]
    end
  end

  define_method(:outcome) do |seed, sync: true, address_bits: 48, **options|
    program.new(DMA::Sim.new(clock: :manual, seed: seed, **options), seed, sync: sync, address_bits: address_bits).run
  end

  # A cache that lines leave at random, all the time, and one that keeps all.
  sizes = [64, 256, 1024, 32 << 10]

  it "ends with the same bytes everywhere as a coherent one, where the program syncs" do
    rounds(120).times do |seed|
      expected = outcome(seed)
      size = sizes[seed % 4]
      agrees = outcome(seed, coherent: false, cache_size: size) == expected
      expect(agrees).to be(true), "seed #{seed}, cache of #{size} bytes"
      agrees = outcome(seed, coherent: false, cache_size: size, ordering: :weak) == expected
      expect(agrees).to be(true), "seed #{seed}, cache of #{size} bytes, weakly ordered"
      expect(outcome(seed, sync: false) == expected).to be true
    end
  end

  it "does so where memory is in pieces as well, out of a device's reach and bounced" do
    rounds(60).times do |seed|
      physical = { iommu: false, ram: 64 << 20, address_bits: seed.even? ? 22 : 48 }
      agrees = outcome(seed, **physical, coherent: false, cache_size: sizes[seed % 4]) == outcome(seed, **physical)
      expect(agrees).to be(true), "seed #{seed}"
    end
  end

  it "ends with others where it does not" do
    differ = rounds(20).times.count { |seed| outcome(seed, sync: false, coherent: false) != outcome(seed) }
    expect(differ).to be > rounds(20) * 3 / 4
  end
end
