# frozen_string_literal: true

RSpec.describe "DMA.debug" do
  %i[free manual].each do |clock|
    context "of a simulated device with a #{clock} clock" do
      let(:open_device) { DMA::Device.open(:sim, memory: 1 << 20, max_length: 4096, clock: clock) }

      it_behaves_like "a device that the checker knows"
    end
  end

  context "of a simulated device without an IOMMU, whose segments are pages" do
    let(:open_device) { DMA::Device.open(:sim, memory: 1 << 20, iommu: false) }

    it_behaves_like "a device that the checker knows", except: [:segment_limit]
  end

  %i[uring threads].each do |engine|
    context "of a file through #{engine}" do
      let(:open_device) { DMA::Device.open(scratch_file("device.bin", "\0" * (1 << 20)), engine: engine) }

      it_behaves_like "a device that the checker knows"
    end
  end

  let(:device) { DMA::Device.open(:sim, memory: 1 << 20, clock: :manual) }
  let(:memory) { DMA::Buffer.new(8192) }
  let(:stream) { { type: :streaming, direction: :from_device } }

  after do
    DMA.debug = false
    device.close
  end

  # What the block raises.
  def caught
    yield
    nil
  rescue DMA::MisuseError => e
    e
  end

  describe "its modes" do
    it "says which it is in" do
      handler = proc {}
      modes = [true, :raise, :warn, handler, false, nil].map { |mode| (DMA.debug = mode) && DMA.debug }
      expect(modes).to eq [:raise, :raise, :warn, handler, false, nil]
      expect(DMA.debug).to be false
      expect(DMA.debug { nil }).to respond_to(:call)
      expect { DMA.debug = :loud }.to raise_error(ArgumentError, /:loud is none of true, false, :raise, :warn/)
      expect { DMA.debug = 1 }.to raise_error(ArgumentError)
    end

    it "hooks nothing before it is first switched on" do
      output = in_ruby(<<~RUBY)
        DMA.debug = false
        puts DMA.debug, DMA::Buffer.ancestors.first, DMA.const_defined?(:Monitor), $LOADED_FEATURES.grep(/dma.debug.hooks/)
        DMA.debug = true
        puts DMA::Buffer.ancestors.first == DMA::Buffer
      RUBY
      expect(output).to start_with "false\nDMA::Buffer\n"
      expect(output).to end_with "false\n"
      expect(output).not_to include "hooks"
    end

    it "warns with the line, and goes on" do
      DMA.debug = :warn
      device.map(memory, **stream) do
        expect { expect(memory.get_value(:U8, 0)).to eq 0 }
          .to output(/\A#{__FILE__}:#{__LINE__ - 1}.*: DMA misuse \(cpu_access\): the CPU reads a byte/).to_stderr
      end
    end

    it "warns also where Ruby's own warnings are off" do
      DMA.debug = :warn
      verbose = $VERBOSE
      $VERBOSE = nil
      expect { device.unmap(1 << 40) }.to output(/DMA misuse \(unmapped\).*\n\z/).to_stderr
    ensure
      $VERBOSE = verbose
    end

    it "calls a block with each, which may do what it likes with the memory" do
      bytes = []
      DMA.debug { |error| bytes << [error.rule, memory.get_string(0, 3)] }
      device.map(memory, **stream) { memory.set_string("abc") }
      expect(bytes).to eq [[:cpu_access, "\0\0\0"]]
      expect(memory.get_string(0, 3)).to eq "abc"
    end

    it "does what it did before once it is switched off, and knows nothing of what was done meanwhile" do
      DMA.debug = true
      before = device.map(memory, **stream)
      DMA.debug = false
      memory.clear
      between = device.map(memory, **stream)
      DMA.debug = true
      expect([memory.get_string(0, 1), before.unmap, before.unmap, between.sync_for_cpu.unmap]).to all be_truthy
      expect { device.unmap(between.segments) }.to raise_error(DMA::MisuseError, /taken away/)
      DMA.debug = false
      expect(caught { device.unmap(4096) }.rule).to be_nil
    end
  end

  describe "what it tells" do
    before { DMA.debug = true }

    it "has the lines of the mapping and of the access, and the way out" do
      mapping = device.map(memory, **stream)
      error = caught { memory.slice(4000).hexdump }
      expect(error.mapped_at.first).to start_with "#{__FILE__}:#{__LINE__ - 2}:"
      expect(error.backtrace.first).to start_with "#{__FILE__}:#{__LINE__ - 2}:"
      at = format("0x%x", memory.address + 4000)
      expect(error.message)
        .to eq "DMA misuse (cpu_access): the CPU reads 16 bytes at #{at} that belong to the device, " \
               "mapped at #{__FILE__}:#{__LINE__ - 7}; call sync_for_cpu for them first, or unmap"
      mapping.unmap
    end

    access = {
      "get_value" => ->(memory) { memory.get_value(:u32, 0) }, "get_values" => ->(m) { m.get_values(%i[U8], 0) },
      "get_string" => :get_string.to_proc, "each" => ->(memory) { memory.each(:U8).first },
      "each_byte" => ->(memory) { memory.each_byte.first }, "values" => ->(memory) { memory.values(:U8) },
      "hexdump" => :hexdump.to_proc, "==" => ->(memory) { memory == DMA::Buffer.new(8192) },
      "<=> of another" => ->(memory) { DMA::Buffer.new(8192) <=> memory },
      "copy from it" => ->(memory) { DMA::Buffer.new(8192).copy(memory) },
      "a slice of a slice" => ->(memory) { memory.slice(10).slice(10).get_string }
    }
    change = {
      "set_value" => ->(memory) { memory.set_value(:U8, 0, 1) }, "set_values" => ->(m) { m.set_values(%i[U8], 0, [1]) },
      "set_string" => ->(memory) { memory.set_string("x") }, "clear" => :clear.to_proc,
      "copy to it" => ->(memory) { memory.copy(DMA::Buffer.new(8)) }
    }

    access.merge(change).each do |name, code|
      it "sees #{name}" do
        before = memory.get_string
        device.map(memory, **stream) { expect(caught { code.call(memory) }.rule).to eq :cpu_access }
        device.map(memory, **stream, direction: :to_device) do
          expect(caught { code.call(memory) }&.rule).to eq(change.key?(name) ? :cpu_access : nil)
        end
        expect(memory.get_string).to eq before
        code.call(memory)
      end
    end

    it "lets the CPU have what was synced, to the byte" do
      mapping = device.map(memory, **stream)
      mapping.sync_for_cpu(100, 100)
      memory.set_string("." * 100, 100)
      expect([99, 200].map { |at| caught { memory.get_value(:U8, at) }.rule }).to eq %i[cpu_access] * 2
      mapping.sync_for_device(150, 10)
      expect([149, 150, 159, 160].map { |at| caught { memory.get_value(:U8, at) }&.rule })
        .to eq [nil, :cpu_access, :cpu_access, nil]
      mapping.unmap
    end

    it "is told of ends by whatever tells software" do
      ends = [
        :wait.to_proc, :done?.to_proc, :status.to_proc, :bytes.to_proc,
        ->(_) { device.channel.drain }, ->(_) { device.wait_completion },
        ->(_) { device.channel.process_completions }, ->(_) { device.channel.reset }, ->(_) { device.reset },
        ->(_) { device.channel.poll || device.channel.state },
        ->(_) { device.channel.submit(source: 0, destination: DMA::Buffer.new(8), fence: true).wait }
      ]
      ends.each do |told|
        transfer = device.channel.submit(source: 0, destination: memory)
        expect(caught { memory.get_value(:U8, 9) }.rule).to eq :cpu_access
        device.sim.run_until_idle
        expect(caught { memory.get_value(:U8, 9) }.rule).to eq :cpu_access
        told.call(transfer)
        expect(caught { memory.clear }).to be_nil
      end
      device.channel.submit(source: 0, destination: memory).on_complete { memory.clear }.wait
    end
  end
end
