# frozen_string_literal: true

require "dma"
begin
  require "ffi"
rescue LoadError => e
  raise unless e.path == "ffi"

  raise LoadError, 'dma_library needs the ffi gem: `gem install ffi`, or `gem "ffi"` in the Gemfile'
end

# The functions of dma.h through the ffi gem, for programs that were written for a C library. They share their state
# with DMA: a pointer into a {DMA::Buffer} that owns its memory serves as well as one from `dma_alloc_buffer`.
#
# Waiting releases the GVL: other threads run. A wait is a C call all the same, which neither `Timeout` nor a Fiber
# scheduler gets into; `dma_wait_completion_timeout` ends by itself. A module of your own that attaches the functions
# without `blocking: true` works too, and keeps every other thread waiting meanwhile.
module DmaLib
  extend FFI::Library
  ffi_lib DMA.library_path

  # To the device: the source is memory, the destination an address of the device.
  TO_DEVICE = 0x01
  # From the device: the source is an address of the device, the destination memory. With {TO_DEVICE}: both are.
  FROM_DEVICE = 0x02
  # The status of a transfer that has not ended.
  PENDING = 0
  # The status of a transfer that went well.
  COMPLETE = 1

  # One transfer: `source_addr`, `dest_addr`, `byte_count`, `flags`. An address of memory is a pointer's `address`.
  class DmaDescriptor < FFI::Struct
    layout :source_addr, :uint64, :dest_addr, :uint64, :byte_count, :uint32, :flags, :uint32
  end

  # @!method self.dma_alloc_buffer(size)
  #   @return [FFI::Pointer] zeroed memory at the start of a page; null where there is none
  attach_function :dma_alloc_buffer, [:size_t], :pointer

  # @!method self.dma_free_buffer(buffer)
  #   Frees what {dma_alloc_buffer} returned; what a transfer uses, when that is over.
  #   @return [nil]
  attach_function :dma_free_buffer, [:pointer], :void

  # @!method self.dma_submit_transfer(descriptor)
  #   @return [Integer] the id of a transfer that has begun, or a negative error
  attach_function :dma_submit_transfer, [DmaDescriptor.by_ref], :int

  # @!method self.dma_wait_completion(id)
  #   Waits until a transfer is over.
  #   @return [nil]
  attach_function :dma_wait_completion, [:int], :void, blocking: true

  # @!method self.dma_wait_completion_timeout(id, nanoseconds)
  #   Waits no longer than that, then gives the transfer up; for ever where it is negative.
  #   @return [Integer] how it ended, or a negative error
  attach_function :dma_wait_completion_timeout, %i[int int64], :int, blocking: true

  # @!method self.dma_transfer_status(id)
  #   @return [Integer] how a transfer ended, {PENDING} if it has not, or a negative error
  attach_function :dma_transfer_status, [:int], :int

  # @!method self.dma_status_name(code)
  #   @return [String] the name of a status or an error
  attach_function :dma_status_name, [:int], :string

  # @!method self.dma_last_error
  #   @return [String] what went wrong in this thread's last call that failed
  attach_function :dma_last_error, [], :string

  # @!method self.dma_open_device(path)
  #   Chooses the device of all later transfers; nil is the simulated one.
  #   @return [Integer] 0 or a negative error
  attach_function :dma_open_device, [:string], :int, blocking: true

  # @!method self.dma_device_size(size)
  #   Stores how many bytes the device has where the pointer leads.
  #   @return [Integer] 0 or a negative error
  attach_function :dma_device_size, [:pointer], :int
end
