# frozen_string_literal: true

module Support
  # Programs that break a rule of DMA.debug each, and programs that do the same right. They are the same for every
  # engine: each is called with a device and a page of memory.
  module Misuse
    # Bytes of a transfer.
    SIZE = 2048
    STREAM = { type: :streaming, direction: :from_device }.freeze
    OUT = { type: :streaming, direction: :to_device }.freeze

    # By rule: what breaks it, and what does not. The last closes the device.
    PROGRAMS = {
      unmapped: [
        ->(device, _) { device.unmap(1 << 40) },
        lambda do |device, memory|
          mapping = device.map(memory)
          device.unmap(mapping.address, memory.size, direction: :bidirectional)
        end
      ],
      double_unmap: [
        ->(device, memory) { device.map(memory).unmap.unmap },
        ->(device, memory) { device.map(memory, &:unmap) }
      ],
      wrong_size: [
        lambda do |device, memory|
          mapping = device.map(memory)
          device.unmap(mapping.address, memory.size - 1)
        end,
        lambda do |device, memory|
          mapping = device.map(memory)
          device.unmap(mapping.address, memory.size)
        end
      ],
      wrong_direction: [
        lambda do |device, memory|
          device.map(memory, **STREAM) do |mapping|
            device.sync_for_cpu(mapping.address, SIZE, direction: :to_device)
          end
        end,
        lambda do |device, memory|
          device.map(memory, **STREAM) do |mapping|
            device.sync_for_cpu(mapping.address, SIZE, direction: :from_device)
          end
          device.map(memory, type: :consistent) do |mapping|
            device.sync_for_device(mapping.address, SIZE, direction: :to_device)
          end
        end
      ],
      sync_outside: [
        lambda do |device, memory|
          device.map(memory, **STREAM) { |mapping| device.sync_for_cpu(mapping.address + 1, memory.size) }
        end,
        lambda do |device, memory|
          device.map(memory, **STREAM) { |mapping| device.sync_for_cpu(mapping.address + 1, memory.size - 1) }
        end
      ],
      error_unchecked: [
        ->(device, memory) { device.map(memory, exception: false).unmap },
        lambda do |device, memory|
          mapping = device.map(memory, exception: false)
          mapping.unmap unless mapping.error?
        end
      ],
      cpu_access: [
        ->(device, memory) { device.map(memory, **OUT) { memory.set_string("late", 10) } },
        lambda do |device, memory|
          device.map(memory, **OUT) do |mapping|
            memory.get_string(0, 10)
            mapping.sync_for_cpu(0, 64)
            memory.set_string("in time", 10)
          end
          device.map(memory) { memory.set_string("coherent", 10) }
        end
      ],
      device_access: [
        lambda do |device, memory|
          device.map(memory.slice(0, SIZE), **OUT) do |mapping|
            mapping.sync_for_cpu(100, 10)
            device.write_dma(mapping).wait
          end
        end,
        lambda do |device, memory|
          device.map(memory.slice(0, SIZE), **OUT) do |mapping|
            mapping.sync_for_cpu(100, 10)
            mapping.sync_for_device(100, 10)
            device.write_dma(mapping).wait
          end
        end
      ],
      in_flight: [
        lambda do |device, memory|
          device.map(memory.slice(0, SIZE)) { |mapping| device.write_dma(mapping) }
          device.channel.drain.process_completions
        end,
        lambda do |device, memory|
          device.map(memory.slice(0, SIZE)) do |mapping|
            device.map(memory.slice(0, SIZE), &:unmap)
            device.write_dma(mapping).wait
          end
        end
      ],
      overlap: [
        lambda do |device, memory|
          device.channel.enqueue(source: memory, destination: 0, length: SIZE)
          DMA::Device.open(:sim, memory: SIZE) { |other| other.read_dma(SIZE, into: memory.slice(SIZE - 4)) }
          device.wait_completion
        end,
        lambda do |device, memory|
          device.channel.enqueue(source: memory, destination: 0, length: SIZE)
          DMA::Device.open(:sim, memory: SIZE) { |other| other.write_dma(memory.slice(0, SIZE)).wait }
          device.channel.enqueue(source: 0, destination: memory, length: SIZE)
          device.wait_completion
        end
      ],
      segment_limit: [
        lambda do |device, _|
          device.map(DMA::Buffer.new(device.capabilities[:max_length] + 4096), &:unmap)
        end,
        ->(device, memory) { device.map(memory.slice(0, [memory.size, device.capabilities[:max_length]].min), &:unmap) }
      ],
      leak: [
        lambda do |device, memory|
          kept = device.map(memory)
          device.close
          kept
        end,
        lambda do |device, memory|
          device.map(memory) { |mapping| device.write_dma(mapping).wait }
          device.write_dma(memory.slice(0, SIZE))
          device.wait_completion
          device.close
        end
      ]
    }.freeze

    # The errors that the block gives rise to.
    def misuse
      errors = []
      DMA.debug { |error| errors << error }
      yield
      errors
    ensure
      DMA.debug = false
    end
  end
end

# Whoever includes it defines `open_device`, whose longest descriptor is of some MiB at most. `except`: rules that it
# cannot break.
RSpec.shared_examples "a device that the checker knows" do |except: []|
  programs = Support::Misuse::PROGRAMS.except(*except)

  let(:device) { open_device }
  let(:memory) { DMA::Buffer.new(Support::Misuse::SIZE * 2) }

  after do
    DMA.debug = false
    device.close
  end

  programs.each do |rule, (broken, clean)|
    it "tells of #{rule}, with the lines that it is between" do
      errors = misuse { broken.call(device, memory) }
      expect(errors.map(&:rule)).to eq [rule]
      expect(errors.first.backtrace.first).to start_with "#{__dir__}/misuse.rb:"
      expect(errors.first.mapped_at&.first || __dir__).to start_with __dir__
    end

    it "raises for #{rule}, before it happens" do
      DMA.debug = true
      expect { broken.call(device, memory) }.to raise_error(DMA::MisuseError) { |error| expect(error.rule).to eq rule }
    end

    it "does not tell of #{rule} where there is none" do
      expect(misuse { clean.call(device, memory) }).to eq []
    end
  end

  # What is told of all broken programs, one after the other.
  def report(device, programs)
    errors = misuse { programs.each_value { |broken, _| broken.call(device, memory) } }
    errors.map do |error|
      message = error.message.gsub(/0x\h+/, "ADDRESS").gsub(device.name, "DEVICE")
      [error.rule, message, error.backtrace.first, error.mapped_at&.first]
    end
  end

  it "tells the same as of a simulated device, in the same order" do
    simulated = DMA::Device.open(:sim, memory: 4096, max_length: device.capabilities[:max_length])
    told = report(device, programs)
    expect(told.map(&:first)).to eq programs.keys
    expect(told).to eq report(simulated, programs)
  end
end
