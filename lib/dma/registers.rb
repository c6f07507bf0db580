# frozen_string_literal: true

module DMA
  # Registers of a device, little-endian. Each access is carried out once, at its own width.
  #
  # Those of a simulated device, with their bits:
  #
  #   0x00  ID                  32  0x444d4131
  #   0x04  CHANNELS            32  how many
  #   0x08  MEMORY              64  bytes
  #   0x10  LINK                32  0x01 it is reached
  #   0x14  RESET               32  writing 1 resets the device
  #   0x18  MESSAGE_CONTROL     16  bits 0 to 10 vectors less one, 0x4000 all are masked, 0x8000 always set
  #   0x20  PENDING         4 * 64  a bit for each channel: its interrupt waits to be unmasked
  #
  # Channel n begins at 0x100 + 0x40 * n:
  #
  #   0x00  SOURCE              64  address to read from
  #   0x08  DESTINATION         64  address to write to
  #   0x10  COUNT               32  bytes; counts down
  #   0x14  CONTROL             16  0x01 to the device, 0x02 from it, both: within it; 0x04 interrupt; 0x100 start,
  #                                 0x200 abort, 0x400 reset
  #   0x16  STATUS              16  0x01 busy, 0x02 done, 0x04 error, 0x08 halted; bits 8 to 15 say which error
  #   0x18  POSITION            32  bytes moved of the transfer in hand
  #   0x1c  HEAD                32  the slot of the ring that is fetched next
  #   0x20  RING                64  bus address of the ring
  #   0x28  RING_SIZE           32  its slots; 0: no ring
  #   0x2c  TAIL                32  doorbell: descriptors before this slot are there
  #   0x30  FAULT               64  bus address of the last fault of the IOMMU
  #   0x38  VECTOR_CONTROL      32  0x01 its interrupt is masked
  #
  # Those of a simulated device with 8237 controllers (`controller: :isa`) are the I/O ports of an IBM AT, 0 to 0x3ff:
  #
  #   0x00-0x0f  the controller of channels 0 to 3: address and count of each (low byte, then high byte), 0x08 command
  #              and status, 0x09 request, 0x0a mask of one, 0x0b mode, 0x0c clear flip-flop, 0x0d master clear and
  #              temporary register, 0x0e clear masks, 0x0f all masks
  #   0xc0-0xdf  the same of channels 4 to 7, at every second port
  #   0x80-0x8f  pages: 0x87, 0x83, 0x81, 0x82 of channels 0 to 3; 0x8b, 0x89, 0x8a of channels 5 to 7
  #   0x300 + 0x10 * n  the card on channel n, 32 bits each:
  #     0x0  ADDRESS  where in its memory; counts up
  #     0x4  COUNT    bytes that it asks for; counts down
  #     0x8  CONTROL  0x01 to the device, 0x02 from it; 0x04 goes on past a terminal count; 0x08 pulls EOP with its last
  #                   byte; 0x10 start: asks (DREQ) until it has all or meets the terminal count; 0x20 stop
  #     0xc  STATUS   0x01 busy, 0x02 done, 0x04 error, 0x08 terminal count; bits 8 to 15 say which error
  #
  # Codes of errors, which are also those of the status of a descriptor: 0 pending, 1 complete, 2 aborted, 3 timed_out,
  # 4 not_attempted, 5 bad_source, 6 bad_destination, 7 bad_length, 8 iommu_fault, 9 bus_read_error, 10 bus_write_error,
  # 11 data_poison, 12 descriptor_error, 13 link_down, 14 ring_full, 15 medium_error, 16 device_error; see
  # {Transfer#status}.
  #
  # What the driver of a channel that is in use ({Device#channel}) has is its own, and writing it does nothing: RING,
  # RING_SIZE and TAIL, or the card.
  class Registers
    # How many looks go without a pause between them, and the shortest pause after that, in seconds.
    SPIN = 64
    PAUSE = 5e-5
    # Why a poll without a timeout ends.
    NOTHING_LEFT = "by the time at which the machine had nothing left to do"
    private_constant :SPIN, :PAUSE, :NOTHING_LEFT

    # @!attribute [r] size
    #   @return [Integer] bytes of register space

    { 8 => 1, 16 => 2, 32 => 4, 64 => 8 }.each do |bits, bytes|
      define_method(:"read#{bits}") { |offset| native_read(offset, bytes) }
      define_method(:"write#{bits}") do |offset, value|
        native_write(offset, bytes, value)
        value
      end
    end

    # @!method read8(offset)
    #   @param offset [Integer] in bytes
    #   @return [Integer]
    #   @raise [ArgumentError] outside the registers
    # @!method read16(offset)
    #   @param offset [Integer] a multiple of 2, see {#read8}
    #   @return [Integer]
    #   @raise [AlignmentError]
    # @!method read32(offset)
    #   @param offset [Integer] a multiple of 4, see {#read8}
    #   @return [Integer]
    #   @raise [AlignmentError]
    # @!method read64(offset)
    #   @param offset [Integer] a multiple of 8, see {#read8}
    #   @return [Integer]
    #   @raise [AlignmentError]
    # @!method write8(offset, value)
    #   @param offset [Integer] in bytes
    #   @param value [Integer] unsigned
    #   @return [Integer] the value
    #   @raise [ArgumentError] outside the registers
    #   @raise [RangeError] a value that does not fit
    # @!method write16(offset, value)
    #   See {#write8}
    #   @return [Integer] the value
    # @!method write32(offset, value)
    #   See {#write8}
    #   @return [Integer] the value
    # @!method write64(offset, value)
    #   See {#write8}
    #   @return [Integer] the value

    # Reads a 32-bit register until the bits of `mask` have the value asked for. A machine with a manual clock is
    # stepped meanwhile; otherwise other threads, or fibers of a scheduler, run.
    #
    # @param offset [Integer] a multiple of 4
    # @param mask [Integer] the bits to look at
    # @param value [Integer] what they are to be
    # @param interval [Numeric] seconds between two looks
    # @param timeout [Numeric, nil] seconds, of simulated time where the clock is manual
    # @return [Integer] the whole register
    # @raise [TimeoutError] also where a machine with a manual clock has nothing left to do
    def poll(offset, mask:, value:, interval: 0, timeout: nil)
      deadline = timeout && (seconds + DMA.__send__(:seconds, timeout))
      (0..).each do |looks|
        in_time = pass(looks, interval, deadline)
        read = read32(offset)
        return read if read & mask == value
        next if in_time

        raise TimeoutError, format("register 0x%<offset>x is 0x%<read>x, and its bits 0x%<mask>x did not become " \
                                   "0x%<value>x %<by>s", offset: offset, read: read, mask: mask, value: value,
                                                         by: timeout ? "within #{timeout} s" : NOTHING_LEFT)
      end
    end

    private

    # Lets time pass before the next look; false once it is up.
    def pass(looks, interval, deadline)
      return true if looks.zero?
      return native_step(deadline && (deadline * 1e9).round) if native_now
      return false if deadline && seconds >= deadline

      interval.zero? && looks < SPIN ? Thread.pass : sleep([interval, PAUSE].max)
      true
    end

    def seconds
      (simulated = native_now) ? simulated * 1e-9 : Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
end
