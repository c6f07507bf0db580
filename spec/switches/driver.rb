# frozen_string_literal: true

# What a driver calls.
module Switches
  # The CPU moves the bytes, and nothing is left for the device.
  off("dev.write_dma", "sim.stats[:cpu_operations]") do
    instead(DMA::Device, :write_dma) do |data, at: 0, **others|
      pio_write(data, at: at) if sim && data.is_a?(String)
      super("", at: at, **others)
    end
  end
  off("dev.read_dma") { instead(DMA::Device, :read_dma) { |size = nil, into: nil, **| into || ("\0" * size) } }
  off("dev.pio_write") do
    instead(DMA::Device, :pio_write) { |data, at: 0, **| super(data, at: at, width: 8) }
  end
  off("DMA::Device.open(path)") { instead(DMA::Channel, :native_submit) { |_, *rest| super([[0, 0, 0]], *rest) } }
  off("channels:") { instead(DMA::Device, :channel) { |_index = 0| super(0) } }
  off("dev.capabilities") { instead(DMA::Device, :capabilities) { {} } }

  # Memory and its addresses.
  off("mapping.address") { instead(DMA::Mapping, :address) { buffer.address } }
  off("mapping.segments") { instead(DMA::Mapping, :segments) { super().first(1) } }
  off("mapping.handle") { instead(DMA::Mapping, :handle) { 1 } }
  off("direction:") { mapping { |options| options.except(:type, :direction) } }
  off("dev.map") do
    require "fiddle"
    unlock = Fiddle::Function.new(Fiddle.dlopen(nil)["munlock"], [Fiddle::TYPE_VOIDP, Fiddle::TYPE_SIZE_T],
                                  Fiddle::TYPE_INT)
    instead(DMA::Device, :native_map) do |buffer, *rest|
      super(buffer, *rest).tap { unlock.call(buffer.address, buffer.size) }
    end
  end
  off("DMA::BusyError") do
    instead(DMA::Buffer, :free) do
      super()
    rescue DMA::BusyError
      self
    end
  end
  off("align:") { buffer { |options| options.except(:align) } }
  off("lock: true") { buffer { |options| options.merge(lock: false) } }
  off("buffer.to_ptr") { instead(DMA::Buffer, :to_ptr) { FFI::MemoryPointer.new(size).put_bytes(0, get_string) } }
  off("buffer.view") do
    instead(DMA::Buffer, :view) { |*part| IO::Buffer.new(size).tap { |copy| copy.set_string(get_string(*part)) } }
  end

  # What programs tell the cache, and the order of their accesses. Each operation of the cache is taken for one that is
  # nearly the same.
  off("sim.cache") { instead(DMA::Cache, :operate) { |*| self } }
  { flush: :write_back, invalidate: :flush, write_back: :flush, clean: :write_back }.each do |operation, other|
    off("cache.#{operation}") { instead(DMA::Cache, operation) { |*range| __send__(other, *range) } }
  end
  off("mapping.sync_for_device") { instead(DMA::Mapping, :sync_for_device) { |*| self } }
  off("mapping.sync_for_cpu") { instead(DMA::Mapping, :sync_for_cpu) { |*| self } }
  off("type:", "type: :streaming", "type: :consistent") { mapping { |options| options.except(:type) } }
  off("type: :coherent") do
    mapping { |options| options.fetch(:type, :coherent) == :coherent ? options.merge(type: :consistent) : options }
  end
  off("DMA.write_barrier") { instead(DMA.singleton_class, :write_barrier) { nil } }
  off("DMA.read_barrier") { instead(DMA.singleton_class, :read_barrier) { nil } }
  off("channel.affinity =") { instead(DMA::Channel, :affinity=) { |_| nil } }
  off("DMA.debug =") do
    %i[debug= debug].each { |name| instead(DMA.singleton_class, name) { |*| false } }
  end
  off("dev.unmap(address, size, direction:)") { instead(DMA::Device::BusAddresses, :unmap) { |*, **| nil } }
  off("Mutex") { instead(Mutex, :synchronize) { |&block| block.call } }

  # Transfers.
  off("channel.submit") do
    instead(DMA::Channel, :submit) do |list = nil, **options|
      super(list.is_a?(Array) ? list.first(1) : list, **options).tap do |transfer|
        transfer.wait(timeout: 0.1)
      rescue DMA::Error
        nil # it has waited
      end
    end
  end
  off("transfer.on_complete") { instead(DMA::Transfer, :on_complete) { self } }
  off("channel.to_io") { instead(DMA::Channel, :to_io) { @always ||= File.open("/dev/zero") } }

  # Descriptors. A copy is what the device reads and marks.
  off("DMA::Ring", "descriptor.status") do
    ways = { 1 => :to_device, 2 => :from_device, 3 => :within }
    instead(DMA::Channel, :submit) do |list = nil, **options|
      next super(list, **options) unless list.is_a?(DMA::Ring)

      copy = DMA::Ring.new(list.size)
      list.to_a.each { |one| copy.add_transfer(*one.to_a.first(3), direction: ways[one.flags & 3]) }
      super(copy, **options)
    end
  end
  off("DMA::Ring#add_transfer") { descriptor { |source, destination, *rest| [destination, source, *rest] } }
  off("descriptor.source") { descriptor { |_, *rest| [0, *rest] } }
  off("descriptor.destination") { descriptor { |source, _, *rest| [source, 0, *rest] } }
  off("descriptor.length") { descriptor { |source, destination, _, flags| [source, destination, 0, flags] } }
  off("descriptor.flags") { descriptor { |*fields, _| [*fields, 0] } }
  off("descriptor.next") do
    instead(DMA::Buffer, :set_values) do |types, offset, values|
      super(types, offset, types.size == 6 ? values.dup.tap { |fields| fields[4] = 0 } : values)
    end
  end
  off("dev.configure_transfer") do
    instead(DMA::Device, :configure_transfer) do |source, *rest|
      super(source, *rest).merge(source_phys: source.respond_to?(:address) ? source.address : source)
    end
  end
  off("DMA::RingFullError") do
    instead(DMA::Ring, :add_transfer) { |*fields, **options| full? ? head : super(*fields, **options) }
  end
  off("ring.process_completions") do
    instead(DMA::Ring, :process_completions) { |&block| to_a.each(&block).size }
  end
  off("DmaLib.dma_submit_transfer") do
    require "dma_library"
    instead(DmaLib.singleton_class, :dma_submit_transfer) { |_| 1 }
  end

  # The driver of 8237s would not bounce what is mapped.
  off("dev.stats[:bounced_bytes]") do
    instead(DMA::Device, :write_dma) do |data, **options|
      buffer = DMA::Buffer.new(data.bytesize).tap { |memory| memory.set_string(data) }
      (@mapped ||= []) << map(buffer)
      super(buffer, **options)
    end
  end
end
