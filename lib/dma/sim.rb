# frozen_string_literal: true

require_relative "sim/options"

module DMA
  # A simulated machine: a bus, devices with memory and descriptor rings on it, an IOMMU, a clock, and faults on
  # demand.
  #
  #   machine = DMA::Sim.new(clock: :manual, seed: 42)
  #   dev = machine.device(channels: 2)
  #   machine.inject(:bus_error, descriptor: 3)
  #
  # With a free clock a thread of its own moves the bytes, as fast as memory is. With a manual clock nothing happens
  # unless somebody waits for a transfer or lets time pass ({#step}, {#run_until_idle}), and the same calls give the
  # same result, to the byte and the cycle.
  class Sim
    # The options of a machine; others are a device's.
    OPTIONS = %i[clock iommu seed bus cpu_load arbitration latency_timer memory_bandwidth interrupt_cost coherent
                 cache_size cache_injection ordering invalidation cpus ram fragmentation].freeze
    # Bits of a device's numbers, where they are not 32.
    WIDTHS = { memory: 63, alignment: 63, channels: 16 }.freeze
    # What a controller has where nothing else is said; the bus is that of a machine that is made with its device.
    CONTROLLERS = {
      ring: { channels: 4, address_bits: 48, prefetch: 1, bus: :ideal },
      pci: { channels: 1, address_bits: 32, prefetch: 1, bus: :pci },
      pcie: { channels: 4, address_bits: 48, prefetch: 8, bus: :pcie },
      isa: { channels: 8, address_bits: 24, prefetch: 1, memory: 64 << 20, bus: :isa }
    }.each_value(&:freeze).freeze
    # Bytes of a device's memory, where nothing else is said.
    MEMORY = 64 << 20
    # Nanoseconds.
    SECOND = 1_000_000_000
    # Bytes of a cache, where nothing else is said.
    CACHE = 32 << 10
    # Bytes of memory that is fragmented, where nothing else is said.
    FRAGMENTED = 64 << 20
    extend Options
    private_constant :Options, :OPTIONS, :WIDTHS, :MEMORY, :CONTROLLERS, :SECOND, :CACHE, :FRAGMENTED

    class << self
      # @param clock [:free, :manual] who lets time pass: a thread, or {#step} and whoever waits
      # @param iommu [Boolean] devices reach memory through an IOMMU, at bus addresses that are valid while mapped;
      #   without one at simulated physical addresses, where pages do not lie together
      # @param seed [Integer] decides where physical pages lie, and when faults with a probability happen
      # @param bus [Symbol, Hash] `:ideal`, eight bytes a nanosecond and nothing else; `:isa`, 16 bits at 8 MHz;
      #   `:pci`, 32 bits at 33 MHz; `:pcie`, 3.0 with 16 lanes; or a Hash: `preset:`, one of these, and what is
      #   different: `width:` in bytes, `frequency:` in whole Hz, `beat:` cycles for as many bytes, `setup:` cycles and
      #   `overhead:` bytes of each transaction, `payload:`, the most bytes of one, nil: a burst's, `dual:` cycles more
      #   at an address of more than 32 bits, `read:` cycles more that the CPU waits for what it reads from a device,
      #   and `links:`, whether each device has one of its own, and shares memory
      #   with the others, not the bus
      # @param cpu_load [Numeric] the part of the time, from 0 to 1, for which the CPU wants the bus, a line of 64 bytes
      #   at a time; how a channel shares it is a device's `mode:`
      # @param arbitration [:rotating, :fixed, :round_robin] who has the bus next, of the channels that ask for it: the
      #   one behind the last, a transaction each; the one with the lowest number, of its device, then of itself; the
      #   one behind the last, but who has it keeps it until its latency timer runs out
      # @param latency_timer [Integer, nil] cycles, for `:round_robin`; nil: 32
      # @param memory_bandwidth [Integer, Float, nil] bytes, whole ones, that memory serves in a second, for all masters
      #   together; nil: more than anybody asks for, and with links 25.6 GB/s, a channel of DDR4-3200
      # @param interrupt_cost [Symbol, Hash, nil] what an interrupt takes of the CPU's time, in nanoseconds: `entry:`,
      #   before its handler looks for completions, which is when whoever waits knows of them; `deferred:`, for each
      #   completion; `exit:`, after the last; or a preset: `:pc1998`, a PC of that time; `:none`. The CPU handles one
      #   interrupt after the other
      # @param coherent [Boolean] the CPU's cache follows what devices do; without, software flushes and invalidates it
      # @param cache_size [Integer, nil] bytes of that cache, in lines of 64, where there is a model of it; nil: 32 KiB
      # @param cache_injection [Boolean, nil] what devices write goes into the cache, or makes what it has of it
      #   invalid; nil: where it is coherent, there is no model of it
      # @param ordering [:strong, :weak] `:weak`: its stores and loads pass each other, as far as barriers let them:
      #   {DMA.write_barrier}, {DMA.read_barrier}
      # @param invalidation [:strict, :lazy] when what was unmapped leaves the IOMMU's IOTLB: at once, or `:lazy`, with
      #   all else, when 256 unmaps of a device wait for that, or the first of them has for 10 ms of simulated time, or
      #   no other bus addresses are left, or {#flush_iotlb} is called; until then a device reaches what it has there
      # @param cpus [Integer] CPUs, up to 1024, that handle interrupts ({Channel#affinity=})
      # @param ram [Integer, nil] bytes of physical memory, without an IOMMU. Pages are drawn from it whatever a device
      #   reaches, and bounced where that is too little; what nobody has mapped is memory of the machine's own, which
      #   any device may read and write. nil: pages lie where their device reaches them, and elsewhere is nothing
      # @param fragmentation [Numeric] the part of it, from 0 to 1, that others occupy, a page here and there; without
      #   `ram:` it has 64 MiB then
      # @return [Sim]
      # @raise [ArgumentError] for what cannot be, also an option of {#device}
      def new(clock: :free, iommu: true, seed: 0, bus: :ideal, cpu_load: 0, arbitration: :rotating, latency_timer: nil,
              memory_bandwidth: nil, interrupt_cost: nil, coherent: true, cache_size: nil, cache_injection: nil,
              ordering: :strong, invalidation: :strict, cpus: 1, ram: nil, fragmentation: 0, **others)
        elsewhere(others, instance_method(:device), "Sim#device")
        boolean(iommu, "iommu")
        DMA.__send__(:natural, latency_timer, "latency_timer", 64) unless latency_timer.nil?
        memory_bandwidth = whole(memory_bandwidth, "memory_bandwidth", "bytes a second") unless memory_bandwidth.nil?
        memory = memory(coherent: coherent, cache_size: cache_size, cache_injection: cache_injection,
                        ordering: ordering, invalidation: invalidation, cpus: cpus, ram: ram,
                        fragmentation: fragmentation)

        native_new([clock, iommu, DMA.__send__(:natural, seed, "seed")], timing(bus), fraction(cpu_load, "cpu_load"),
                   [arbitration, latency_timer], cost(interrupt_cost), [memory_bandwidth, memory])
      end

      # Puts a simulated device at a path: {Device.open} of the path, to the letter, opens it, as often as wanted, and
      # its memory stays between. Nothing is made in the file system; what is there is hidden, and a device that was
      # attached there before is replaced.
      #
      # @param path [String, #to_path]
      # @param options those of {.new} and {#device}; without `bus:` the machine has that of the `controller:` (`:isa`,
      #   `:pci`, `:pcie`), or `:ideal`
      # @return [Sim] the machine of the device
      def attach(path, **options)
        raise TypeError, "a path is needed to attach a device" if path.nil?

        device = with_device(path: path, **options)
        device.close
        device.sim
      end

      # Takes away what {.attach} put at a path. Who has the device open keeps it.
      #
      # @param path [String, #to_path]
      # @return [Boolean] whether there was one
      def detach(path)
        native_detach(path)
      end

      private

      # Refuses options that there are none of, and says of which method they are.
      def elsewhere(others, method, name)
        return if others.empty?

        known = others.keys & method.parameters.filter_map { |kind, option| option if kind == :key }
        hint = "; #{name} has #{known.join(":, ")}:" unless known.empty?
        raise ArgumentError, "unknown keyword#{"s" if others.size > 1}: #{others.keys.map(&:inspect).join(", ")}#{hint}"
      end

      # A machine with one device; each gets the options that are its own. The device's controller says what bus it has,
      # where nothing else does.
      def with_device(**options)
        bus = CONTROLLERS.fetch(options.fetch(:controller, :ring), {}).slice(:bus)
        new(**bus, **options.slice(*OPTIONS)).device(**options.except(*OPTIONS))
      end
    end

    # @!attribute [r] clock
    #   @return [:free, :manual]

    # @!attribute [r] seed
    #   @return [Integer]

    # @!attribute [r] cycles
    #   @return [Integer] cycles of the bus's clock since the machine was made

    # @!attribute [r] time
    #   @return [Float] the same in seconds of simulated time

    # @!attribute [r] bus
    #   @return [Hash{Symbol => Integer, nil}] what the bus is like, see {.new}

    # @!attribute [r] stats
    #   What happened on the bus since the machine was made.
    #   @return [Hash{Symbol => Object}] `:cycles`; `:dma_cycles`, for which channels had the bus; `:cpu_load`, which
    #     was asked for, in whole cycles; `:cpu_accesses` that have begun, `:cpu_cycles` that they take, also of the one
    #     that is not over yet, and `:cpu_stall_cycles` that the CPU waited for the bus; `:cpu_operations`, its loads
    #     and stores of devices ({Device#pio_write}), of descriptors and doorbells, and for interrupts; `:masters`, a
    #     Hash for each channel: `:device` and `:channel`, their numbers (no channel: the 8237s of a device, which are
    #     one master), `:grants` of the bus, `:cycles` that it had it, `:wait_cycles` between asking for it and having
    #     it, until now where it still waits, and the `:longest_wait` of them; `:interrupts` whose handlers have
    #     looked, and `:interrupt_cycles` of the CPU's time that these have taken so far: nearly as many as `:cycles`,
    #     where it has time for nothing else; `:cache`, what the CPU's cache did with memory that is mapped, a Hash,
    #     counted for each line of an access (nil: there is no model of it): `:hits`, `:misses`, of these `:dma_misses`
    #     of lines that a device wrote since they were last there, `:miss_cycles`, 100 ns each, which no time passes
    #     for, `:evictions` of lines that had to make room, `:write_backs` of dirty ones, and accesses to `:uncached`
    #     memory; `:interrupts_by_cpu`, those `:interrupts` for each of the `cpus:`; of messages that
    #     came by a transfer, `:spurious_interrupts` that a CPU has heard and `:blocked_interrupts` that the IOMMU let
    #     none hear; `:fault_overflows`, see {#faults}

    # @!method iommu?
    #   @return [Boolean]

    # @!method run_until_idle
    #   Lets everything happen that can, as long as no driver looks. What waits for its driver to look for completions
    #   ({Channel#poll}, {Transfer#done?}, any wait) still waits: what is behind a fence, whether what comes before it
    #   has failed or not, and what found no room in the ring.
    #   @return [Integer] how many cycles that took
    #   @raise [MisuseError] on a machine with a free clock

    # Adds a device.
    #
    # @param controller [:ring, :pci, :pcie, :isa] what is its own where the keyword says nil: `:ring` and `:pcie`, 4
    #   channels and 48 address bits; `:pci`, a channel and 32 address bits, with more of which it takes a second
    #   address phase for addresses that need them; `:pcie` fetches up to 8 descriptors at once, the others one. `:isa`:
    #   not its own, but the two 8237 of an IBM AT, which software programs through {Registers}. They have channels 0 to
    #   3, which move bytes, and 5 to 7, which move words of 16 bits; channel 4 is their cascade. They reach 16 MiB of
    #   physical memory, with no IOMMU between: the driver splits transfers at 64 KiB (128 KiB) and bounces memory that
    #   is not mapped ({Device#map})
    # @param memory [Integer, nil] bytes of its own memory; nil: 64 MiB, or what it has addresses for. Pages that nobody
    #   writes to take none of the host's
    # @param channels [Integer, nil] independent of each other
    # @param ring_size [Integer] slots of each channel's descriptor ring, or of what the driver of 8237s queues, of
    #   which one stays free
    # @param alignment [Integer] what device addresses, lengths and addresses of memory must be a multiple of; others
    #   are refused
    # @param address_bits [Integer, nil] 16..48; what lies above is not reached: with `ram:` memory there is bounced
    # @param max_length [Integer, nil] bytes of one descriptor: longer transfers are split, longer copies within the
    #   device refused; nil: as many as a descriptor can say
    # @param max_segments [Integer] elements of a scatter-gather list; without an IOMMU also pieces of memory that one
    #   descriptor reaches: longer transfers are split
    # @param prefetch [Integer, nil] descriptors of its ring, 1..64, that a channel fetches at once
    # @param misaligned [:refuse, :truncate] what it does with addresses that are no multiple of its alignment:
    #   `:truncate`, it drops their low bits, and tells nobody
    # @param mode [Symbol, Array<Symbol>] how its channels, or each of them, share the bus with the CPU: `:burst`, the
    #   bus is a channel's until its block is done; `:cycle_stealing`, a CPU that waits has it after each word (on PCI
    #   Express, after 64 bytes); `:transparent`, words go only while the CPU does not want the bus. The driver of 8237s
    #   programs demand mode for `:burst`, single mode for `:cycle_stealing`, and has nothing else
    # @param coalesce [Symbol, Hash, Array<Symbol, Hash>] when its channels, or each of them, interrupt: `:none`, for
    #   each completion; `:low_latency`, 2 us after the first that nobody was told of; `:throughput`, for each 64, or
    #   64 us after the first; `:adaptive`, at once where few come and ever less often where many do; or `count:`
    #   completions, `time:` in seconds after the first (nil: 1 s, the most), or both, whichever is reached first
    # @param path [String, #to_path, nil] where {Device.open} finds it, see {.attach}
    # @return [Device]
    # @raise [ArgumentError, AlignmentError] for what is out of range, with the range
    def device(controller: :ring, memory: nil, channels: nil, ring_size: 256, alignment: 1, address_bits: nil,
               max_length: nil, max_segments: 64, prefetch: nil, misaligned: :refuse, mode: :burst, coalesce: :none,
               path: nil, **others)
      Sim.__send__(:elsewhere, others, Sim.method(:new), "DMA::Sim.new")
      own = CONTROLLERS.fetch(controller) do
        raise ArgumentError, "controller: #{controller.inspect} is none of #{CONTROLLERS.keys.inspect[1..-2]}"
      end
      channels ||= own[:channels]
      numbers = Sim.__send__(:numbers, own, memory: memory, channels: channels, ring_size: ring_size,
                                            alignment: alignment, address_bits: address_bits,
                                            max_segments: max_segments, prefetch: prefetch)
      policies = each_channel(coalesce, channels, "coalesce").map { |policy| Sim.__send__(:coalesce, policy) }
      unless %i[refuse truncate].include?(misaligned)
        raise ArgumentError, "misaligned: #{misaligned.inspect} is none of :refuse, :truncate"
      end

      max_length &&= DMA.__send__(:natural, max_length, "max_length")
      kind = [controller == :isa, misaligned == :truncate, max_length]
      native_device(numbers, kind, each_channel(mode, channels, "mode"), policies, path)
    end

    # @return [Cache] that of the CPU
    def cache
      @cache ||= Cache.new(self)
    end

    # Lets time pass, with everything that ends by then.
    #
    # @param cycles [Integer]
    # @return [self]
    # @raise [MisuseError] on a machine with a free clock
    def step(cycles = 1)
      native_step(DMA.__send__(:natural, cycles, "cycles"))
      self
    end

    # Makes something go wrong.
    #
    # @param kind [Symbol] `:bus_error` (bytes do not come or are not taken), `:poison` (they come marked as spoiled),
    #   `:iommu_fault`, `:lost_interrupt`, `:hang` (the transfer never ends), `:link_down` (the device is not reached
    #   until it is reset)
    # @param descriptor [Integer, nil] at the one with this number, counted from 0 from now on; the next one, where
    #   nothing else is said
    # @param address [Integer, nil] where bytes at this bus or device address are moved; those before it are
    # @param probability [Float, nil] at any descriptor, with this probability
    # @param device [Integer, nil] number of a device of this machine, from 0 on; nil: any
    # @param channel [Integer, nil] nil: any
    # @param count [Integer, nil] how often; nil: once, or with a probability for ever
    # @return [self]
    # @raise [ArgumentError] for a device or a channel that there is not, with those that there are, and for an address
    #   that no device reaches
    def inject(kind, descriptor: nil, address: nil, probability: nil, device: nil, channel: nil, count: nil)
      unless count.nil? || (count.is_a?(Integer) && count.positive?)
        raise ArgumentError, "count: #{count.inspect} is not 1 or more"
      end

      descriptor ||= 0 unless address || probability
      count ||= 1 unless probability
      probability &&= Sim.__send__(:fraction, probability, "probability")
      native_inject(kind, [descriptor, address, probability], device, channel, count)
      self
    end

    # Lets nothing more go wrong of what was injected.
    #
    # @return [self]
    def clear_faults
      native_clear_faults
      self
    end

    # Moves pages of physical memory that are mapped with `pin: false` only ({Device#map}), as the kernel does to
    # compact memory, and as the seed says. Devices go on with the addresses that they were told, where the next owner
    # of these pages may be by then.
    #
    # @param pages [Integer, nil] how many at most; nil: all
    # @return [Integer] how many have moved: with an IOMMU none, for memory is pinned
    def migrate(pages = nil)
      native_migrate(pages && DMA.__send__(:natural, pages, "pages"))
    end

    # @!attribute [r] faults
    #   What the IOMMU refused, the oldest first: the last 256; those before are counted (`stats[:fault_overflows]`).
    #   @return [Array<Hash{Symbol => Object}>] `:device` and `:channel`, their numbers; `:address`, on the bus;
    #     `:access`, `:read` or `:write`; `:cycle`; `:reason`: `:not_mapped`, `:no_read`, `:no_write` (it is mapped for
    #     the other direction), `:out_of_range` (more bits than there are), `:interrupt_blocked` (a write where
    #     interrupt messages go, which is none that the device may send)

    # Empties the IOTLBs of all devices: what was unmapped with `invalidation: :lazy` is not reached any more. Without
    # an IOMMU it does nothing.
    #
    # @return [self]
    def flush_iotlb
      native_flush_iotlb
      self
    end

    # Writes down what happens on the bus while the block runs.
    #
    # @return [Trace]
    def trace
      native_start_trace
      begin
        yield
      ensure
        trace = native_take_trace
      end
      trace
    end

    # @return [String] clock, bus (a preset, or width and clock), IOMMU, seed, and what is unusual about memory
    def inspect
      bus = native_bus_name || "#{8 * self.bus[:width]} bits, #{self.bus[:frequency]} Hz"
      memory = native_memory.map { |name, value| " #{name}: #{value}" }.join
      "#<#{self.class} clock: #{clock} bus: #{bus} iommu: #{iommu?} seed: #{seed}#{memory}>"
    end

    private

    def each_channel(option, channels, name)
      return Array.new(channels, option) unless option.is_a?(Array)
      return option if option.size == channels

      raise ArgumentError, "#{name}: #{option.size} for #{channels} channels; give one for each, or one for all"
    end
  end
end
