# frozen_string_literal: true

require_relative "device/bus_addresses"

module DMA
  # A device that moves bytes between its own memory and ours: a simulated one; a PCI function through VFIO; a file, a
  # block device or a character device, whose device addresses are the offsets in it.
  #
  #   DMA::Device.open(:sim) do |dev|
  #     dev.write_dma("x" * 1024, at: 4096)
  #     dev.wait_completion
  #     dev.read_dma(1024, at: 4096)
  #   end
  #
  # Transfers of one channel that use the same bytes are carried out in the order in which they were submitted; those
  # of several channels are independent. A device may be used by any number of threads and fibers. In the child of a
  # fork, devices of the parent raise {ClosedError}.
  #
  # A character device is one whose read(2) and write(2) are DMA, as those of Xilinx's XDMA driver
  # (`/dev/xdma0_h2c_0`). Every element of a transfer is one read(2) or write(2), up to 2 GiB - 4 KiB, from or to its
  # memory; within a channel reads wait for each other, and writes too. A read that comes short ends the transfer: at
  # the end of the device, or of a packet where it streams. A stream that is read and written at the same address wants
  # two channels: one would keep the order.
  class Device
    include BusAddresses

    class << self
      # Opens a device; with a block, closes it after it and returns its value.
      #
      # @param device [:sim, String, #to_path] `:sim` makes a simulated machine with one device; `"0000:01:00.0"` takes
      #   the PCI function with this address through VFIO; a path names a device that {Sim.attach} put there, a regular
      #   file, a block device or a character device. Of a pair `.._h2c_N`, `.._c2h_N` both are opened by either name:
      #   the one is written, the other read
      # @param direct [true, :auto, false] of a file: past the page cache, or an error; where it can; never
      # @param options of a simulated device: those of {Sim.new} and {Sim#device}, without `bus:` the bus of the
      #   `controller:`, see {Sim.attach}; of a file: `:engine`, as for {File.open}; of a PCI function:
      # @option options [:auto, false] :driver `:auto` drives an NVMe disk or QEMU's edu device; `false`, as for all
      #   other functions: nobody does but the program, by {#registers}, {#wait_interrupt} and {#map}
      # @option options [Integer, nil] :address_bits bits of a bus address that the device can say; nil: what its driver
      #   knows, or 64
      # @option options [:auto, :msix, :msi, :intx] :interrupts the kind of its interrupts; `:auto`: the best there is
      # @option options [Integer, nil] :namespace of an NVMe disk; nil: the first
      # @yieldparam device [Device]
      # @return [Device, Object]
      # @raise [UnsupportedError] for what this cannot drive, with what is missing and the line that mends it
      # @raise [BusyError] for a PCI function that this process has open
      # @raise [SystemCallError] where there is none, or it may not be opened
      def open(device, direct: :auto, **options)
        opened = device == :sim ? Sim.__send__(:with_device, **options) : open_path(device, direct, options)
        return opened unless block_given?

        begin
          yield opened
        ensure
          opened.close
        end
      end

      # Opens a device; see {.open}.
      #
      # @return [Device]
      def new(device, **options)
        self.open(device, **options)
      end

      # The PCI functions of this computer, whoever has them, and what is in the way of opening each.
      #
      # @return [Array<Hash{Symbol => Object}>] by address: `:address`, `:vendor`, `:device`, `:class`, `:driver` (nil:
      #   none is bound), `:iommu_group`, `:ready` (whether {.open} can take it), `:missing` and `:remedy` (what is in
      #   the way, and what to do about it; nil where it is ready)
      def list
        native_list
      end

      private

      def open_path(path, direct, options)
        unless path.respond_to?(:to_str) || path.respond_to?(:to_path)
          raise TypeError, "#{path.inspect} is no device: give a path (String, #to_path), the address of a PCI " \
                           "function, or :sim, for a simulated one"
        end
        return open_pci(path, direct, **options) if path.is_a?(String) && native_pci?(path)

        others = options.keys - [:engine]
        unless others.empty?
          raise ArgumentError, "#{others.join(", ")}: options of a simulated device are given to " \
                               "DMA::Sim.attach, and a file has none but direct: and engine:"
        end

        native_open(path, direct, options.fetch(:engine, :auto))
      end

      def open_pci(address, direct, driver: :auto, address_bits: nil, interrupts: :auto, namespace: nil)
        raise ArgumentError, "direct: is for files, and #{address} is a PCI function" unless direct == :auto

        namespace &&= DMA.__send__(:natural, namespace, "namespace")
        address_bits &&= DMA.__send__(:natural, address_bits, "address_bits")
        native_open_pci(address, address_bits, interrupts, driver, namespace)
      end
    end

    # @!attribute [r] name
    #   @return [String] what it was opened as

    # @!attribute [r] capabilities
    #   What the device takes, by name: `:engine`, `:coherent` (whether CPU and device see what the other wrote
    #   without {Mapping#sync_for_device}: true of files, and of PCI functions on x86; on other platforms that is not
    #   known, nil), `:size` (bytes of device memory; nil where it does not say),
    #   `:channels`, `:capacity` (descriptors of a channel), `:alignment` (of device addresses and lengths),
    #   `:memory_alignment`, `:strict` (whether what is not aligned is refused), `:max_length` (bytes of one descriptor;
    #   longer transfers are split), `:max_segments`, `:operations`; of a simulated device `:ring_size`,
    #   `:address_bits`, `:iommu`, `:clock`, `:word_channels` (those of 8237s, which take even addresses and lengths
    #   only); of a file `:direct`, and `:character`, whether it is a character device; of a PCI function `:driver`
    #   (nil: none), `:vendor`, `:device`, `:class`, `:iommu_group`, `:bars` (bytes of each), `:interrupts` (their
    #   kind), `:vectors`; of an NVMe disk `:model`, `:serial`, `:firmware`, `:namespace`, `:block_size`, `:namespaces`.
    #   @return [Hash{Symbol => Object}]

    # @!method closed?
    #   @return [Boolean]

    # @return [Sim, nil] the machine that a simulated device is part of
    def sim
      @sim ||= native_sim
    end

    # @param index [Integer] from 0 on
    # @return [Channel] always the same one
    # @raise [ArgumentError] where there is no such channel
    # @raise [BusyError] where an aborted transfer still has the channel
    def channel(index = 0)
      native_channel(DMA.__send__(:natural, index, "channel"))
    end

    # Begins to write to the device, and does not wait for it.
    #
    # @param data [String, Buffer, Mapping, IO::Buffer] a String, and an IO::Buffer that is no view of a Buffer, is
    #   copied to memory of our own first; a Buffer must not be changed before the transfer is over
    # @param at [Integer] device address
    # @param channel [Integer]
    # @return [Transfer]
    # @raise [AlignmentError] where the device takes aligned addresses and lengths only
    # @raise [ArgumentError] outside the device
    # @raise [RingFullError] where the channel has no room
    # @raise [UnsupportedError] of a character device that is not written: the other half of its pair is not there, or
    #   its permissions do not allow it
    def write_dma(data, at: 0, channel: 0)
      self.channel(channel).__send__(:write, data, DMA.__send__(:natural, at, "at"))
    end

    # Reads from the device, and waits for it.
    #
    # @param size [Integer, nil] bytes; nil: as many as `into` has
    # @param at [Integer] device address
    # @param into [Buffer, Mapping, IO::Buffer, nil] memory to fill instead of a new String; without a copy, unless it
    #   is an IO::Buffer that is no view of a Buffer
    # @param timeout [Numeric, nil] seconds, of simulated time where the machine has a manual clock
    # @param channel [Integer]
    # @return [String, Object] the bytes, fewer at the end of a file; or `into`
    # @raise [TransferError] where it failed
    # @raise [TimeoutError] after which it was given up
    # @raise [UnsupportedError] of a character device that is not read, as for {#write_dma}
    def read_dma(size = nil, at: 0, into: nil, timeout: nil, channel: 0)
      raise ArgumentError, "size is needed where there is no memory to read into" unless size || into

      size = DMA.__send__(:natural, size, "size") if size
      at = DMA.__send__(:natural, at, "at")
      self.channel(channel).__send__(:read, size, at, into, DMA.__send__(:seconds, timeout))
    end

    # Writes to a simulated device's memory by programmed I/O: the CPU stores each word itself, and has done so when
    # this returns. It is what DMA is compared with; {Sim#stats} counts the words, and the time they take.
    #
    # @param data [String]
    # @param at [Integer] device address
    # @param width [1, 2, 4, 8] bytes of a word
    # @return [Integer] bytes
    # @raise [ArgumentError] outside the device
    # @raise [UnsupportedError] of a device that is not simulated; see {#registers}
    def pio_write(data, at: 0, width: 1)
      raise TypeError, "#{data.class} is no String" unless data.is_a?(String)

      native_pio_write(data, DMA.__send__(:natural, at, "at"), DMA.__send__(:natural, width, "width"))
    end

    # Reads from a simulated device's memory in the same way. A device that is not reached reads as all ones.
    #
    # @param size [Integer] bytes
    # @param at [Integer] device address
    # @param width [1, 2, 4, 8] bytes of a word
    # @return [String]
    # @raise [ArgumentError] outside the device
    # @raise [UnsupportedError] of a device that is not simulated
    def pio_read(size, at: 0, width: 1)
      size = DMA.__send__(:natural, size, "size")
      native_pio_read(size, DMA.__send__(:natural, at, "at"), DMA.__send__(:natural, width, "width"))
    end

    # Waits for all transfers of this device that are outstanding. Those that went well need not be asked for after
    # this: {Channel#process_completions} passes them no more.
    #
    # @param timeout [Numeric, nil] seconds, for all together; those that are not over by then are given up
    # @return [self]
    # @raise [TransferError] for the first transfer that failed and that nobody was told of; all of them are in
    #   {TransferError#failures}
    # @raise [TimeoutError]
    def wait_completion(timeout: nil)
      native_check
      deadline = deadline(timeout)
      channels = native_channels
      channels.each { |channel| channel.__send__(:drain_until, deadline, timeout) }
      failures = channels.flat_map { |channel| channel.__send__(:take_failures) }
      raise failures.first.__send__(:error, failures) unless failures.empty?

      self
    end

    # Describes a transfer as the device would be told of it, without beginning it: memory is mapped, as `:coherent`,
    # and a ring filled with a descriptor for each piece of it. `channel.submit(configuration[:descriptor_ring])`
    # carries it out.
    #
    # @param source [Buffer, Mapping, Integer] memory, or a device address
    # @param destination [Buffer, Mapping, Integer] the same; one of the two is memory
    # @param length [Integer] bytes
    # @return [Hash{Symbol => Object}] `:descriptor_ring` ({Ring}), `:source_phys` and `:dest_phys` (bus address of
    #   memory, address in the device), `:byte_count`, `:flags` (`:interrupt_on_completion`, `:scatter_gather`, and
    #   `:coherent`: what was given as a {Mapping} is to be synced where that is false)
    def configure_transfer(source, destination, length)
      if capabilities.key?(:direct)
        raise UnsupportedError, "a file fetches no descriptors; give the memory to DMA::Channel#submit"
      end

      ring = Ring.__send__(:describe, self, source, destination, DMA.__send__(:natural, length, "length"))
      first = ring[ring.head]
      coherent = ring.mappings.all? { |mapping| mapping.type == :coherent || capabilities[:coherent] }
      {
        descriptor_ring: ring,
        source_phys: first.source,
        dest_phys: first.destination,
        byte_count: length,
        flags: { interrupt_on_completion: true, scatter_gather: ring.pending > 1, coherent: coherent }
      }
    end

    # The device's registers.
    #
    # @param bank [Integer, :config] the number of a PCI function's BAR, or its configuration space; a simulated device
    #   has one bank, number 0
    # @return [Registers] always the same
    # @raise [UnsupportedError] where it has none
    # @raise [ArgumentError] where it has none in this bank
    def registers(bank = 0)
      native_check
      number = bank == :config ? nil : DMA.__send__(:natural, bank, "bank")
      raise ArgumentError, "bank #{number}: a PCI function has BARs 0 to 5 and :config" if number && number > 5

      (@registers ||= {})[number] ||= native_registers(number)
    end

    # Whether a PCI function may begin transactions: reach memory, and interrupt by messages (MSI-X, MSI).
    #
    # @return [Boolean]
    # @raise [UnsupportedError] of a device that is no PCI function
    def bus_master?
      native_bus_master
    end

    # Lets a PCI function begin transactions, or waits until it does not. A driver of this library does it by itself. A
    # function without one is no bus master when it is opened: what somebody before may have begun goes on in a device
    # that has no reset, and would reach the memory that is mapped first. Switch it on once the device is quiet.
    #
    # @param on [Boolean]
    # @raise [UnsupportedError] of a device that is no PCI function
    def bus_master=(on)
      native_set_bus_master(on ? true : false)
    end

    # Waits for an interrupt of a PCI function that has no driver here. Other threads run meanwhile, or other fibers.
    #
    # Interrupts are counted from when the device is opened, so that none is lost between telling the device to work and
    # waiting for it. A line of the bus (`interrupts: :intx`) is masked from when it comes until it is waited for again:
    # tell the device before that to take its request back.
    #
    # @param vector [Integer, :error, :removal] a vector of the device; an error that the bus reports of it; the wish of
    #   somebody (who unbinds or unplugs it) to have it back, upon which it should be closed. The last two can be
    #   waited for on devices with a driver as well.
    # @param timeout [Numeric, nil] seconds
    # @return [Integer] how often it came since it was last waited for
    # @raise [TimeoutError]
    # @raise [ArgumentError] where it has no such vector
    # @raise [UnsupportedError] for a device that is no PCI function, and for vectors of a device that has a driver
    def wait_interrupt(vector = 0, timeout: nil)
      native_wait_interrupt(vector, DMA.__send__(:seconds, timeout)) ||
        raise(TimeoutError, "no interrupt (#{vector}) of #{name} within #{timeout} s")
    end

    # Running totals. `:submitted` transfers are `:completed`, `:failed` or `:outstanding`, and `:statuses` says how
    # each ended; `:lost_interrupts` are transfers that a wait found ended though no interrupt had told of them: none
    # had come for a while, or, on a machine with a manual clock, nothing was left to happen before its timeout; polling
    # counts none; `:channels` has the same for each channel in use. Of a simulated device also `:iommu_faults` and
    # `:faults`, the last of them with address and access; `:mappings`, `:cycles`, and of each channel `:interrupts`
    # that it sent; `:iommu`, what its IOMMU has and did: `:pages_4k` and `:pages_2m` that are mapped, `:iotlb_hits` and
    # `:iotlb_misses` of pages that were looked up, `:invalidations` of an unmap by itself, `:flushes` of all at once,
    # and unmaps `:queued` for that. With 8237 controllers also what they cost: `:port_reads` and `:port_writes` of
    # software, `:programmings` of a channel by the driver (12 writes each), `:terminal_counts`; and `:bounced_bytes`,
    # as of a file.
    #
    # @return [Hash{Symbol => Object}]
    def stats
      stats = native_stats
      totals = stats[:channels].reduce({}) do |sums, channel|
        sums.merge(channel) { |_, one, two| one.is_a?(Hash) ? one.merge(two) { |*, a, b| a + b } : one + two }
      end
      empty = { submitted: 0, completed: 0, failed: 0, outstanding: 0, bytes: 0, lost_interrupts: 0, statuses: {} }
      empty.merge(totals, stats)
    end

    # Aborts what is under way on all channels, and waits a moment for all to end; brings the link of a simulated device
    # up again, resets an NVMe controller, and a PCI function without a driver. The channels can be used as before.
    #
    # @return [self]
    # @raise [BusyError] where something does not end
    # @raise [UnsupportedError] for a PCI function that has no reset of its own
    def reset
      idle = native_reset
      native_channels.each(&:poll)
      raise BusyError, "#{name} has not let go of an aborted transfer yet; try again later" unless idle

      self
    end

    # Gives up what is under way and closes the device. Memory that the device does not let go of stays until it does.
    # A device that others have open too, by {Sim.attach}, goes on for them.
    #
    # @return [nil]
    def close
      native_close
    end

    # @return [String] class, name and state
    def inspect
      "#<#{self.class} #{name}#{" closed" if closed?}>"
    end

    private

    # Seconds of the device's clock: simulated ones where somebody has to let time pass.
    def now
      sim&.clock == :manual ? sim.time : Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end

    def deadline(timeout)
      timeout && (now + DMA.__send__(:seconds, timeout))
    end
  end
end
