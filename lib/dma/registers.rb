# frozen_string_literal: true

module DMA
  # Registers of a device, little-endian. Each access is carried out once, at its own width.
  #
  # Those of a simulated device: at 0x00 an ID (32 bits, 0x444d4131), at 0x04 how many channels (32), at 0x08 bytes of
  # memory (64), at 0x10 whether it is reached (32, bit 0), at 0x14 reset (32, writing 1). Channel n begins at
  # 0x100 + 0x40 * n:
  #
  #   0x00  SOURCE       64  address to read from
  #   0x08  DESTINATION  64  address to write to
  #   0x10  COUNT        32  bytes; counts down
  #   0x14  CONTROL      16  0x01 to the device, 0x02 from it, both: within it; 0x04 interrupt; 0x100 start,
  #                          0x200 abort, 0x400 reset
  #   0x16  STATUS       16  0x01 busy, 0x02 done, 0x04 error, 0x08 halted; bits 8 to 15 say which error
  #   0x18  POSITION     32  bytes moved of the transfer in hand
  #   0x1c  HEAD         32  the slot of the ring that is fetched next
  #   0x20  RING         64  bus address of the ring
  #   0x28  RING_SIZE    32  its slots; 0: no ring
  #   0x2c  TAIL         32  doorbell: descriptors before this slot are there
  #   0x30  FAULT        64  bus address of the last fault of the IOMMU
  #
  # Ring, size and tail of a channel that is in use ({Device#channel}) are its driver's: writing them does nothing.
  class Registers
    # How many looks go without a pause between them, and the shortest pause after that, in seconds.
    SPIN = 64
    PAUSE = 5e-5
    private_constant :SPIN, :PAUSE

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
                                   "0x%<value>x in time", offset: offset, read: read, mask: mask, value: value)
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
