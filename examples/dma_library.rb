# frozen_string_literal: true

# A C library for DMA through the ffi gem: a buffer goes to the device's memory at 0x1000 and comes back into another.
#
#   ruby -Ilib examples/dma_library.rb

require "dma_library"

SIZE = 4096
PLACE = 0x1000

# Begins a transfer and waits for it.
def transfer(source, destination, flags)
  descriptor = DmaLib::DmaDescriptor.new
  descriptor[:source_addr] = source
  descriptor[:dest_addr] = destination
  descriptor[:byte_count] = SIZE
  descriptor[:flags] = flags
  id = DmaLib.dma_submit_transfer(descriptor)
  abort "not begun: #{DmaLib.dma_last_error}" if id.negative?

  DmaLib.dma_wait_completion(id)
  status = DmaLib.dma_transfer_status(id)
  abort "failed: #{DmaLib.dma_last_error}" unless status == DmaLib::COMPLETE

  DmaLib.dma_status_name(status)
end

out = DmaLib.dma_alloc_buffer(SIZE)
back = DmaLib.dma_alloc_buffer(SIZE)
out.write_bytes(Random.new(1).bytes(SIZE))

puts "to the device: #{transfer(out.address, PLACE, DmaLib::TO_DEVICE)}"
puts "from the device: #{transfer(PLACE, back.address, DmaLib::FROM_DEVICE)}"
puts back.read_bytes(SIZE) == out.read_bytes(SIZE) ? "the same bytes" : "other bytes"
[out, back].each { |buffer| DmaLib.dma_free_buffer(buffer) }

# The same device, memory of Ruby's.
buffer = DMA::Buffer.new(SIZE)
transfer(PLACE, buffer.address, DmaLib::FROM_DEVICE)
puts "in a DMA::Buffer: #{buffer.get_string(0, 8).unpack1("H*")}..."
