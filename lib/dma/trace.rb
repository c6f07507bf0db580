# frozen_string_literal: true

require_relative "trace/svg"

module DMA
  # What happened on the bus of a simulated machine, in the order of cycles; see {Sim#trace}. {#to_vcd} and {#to_svg}
  # show it as signals.
  class Trace
    include Enumerable

    # One transaction. `cycle` is when it was over; `what` is `:fetch`, `:to_device`, `:from_device`, `:within`,
    # `:memory` (from one place of it to another), `:status`, `:interrupt`, `:handler` (the CPU is done with an
    # interrupt that takes its time), `:lost_interrupt`, `:terminal_count` or `:hang`; `address` and `length` are those
    # of memory on the bus; `status` is what was written back. `asked` is when the channel asked for the bus, `begin`
    # its first cycle on it, and `waits` are the cycles that memory kept it waiting.
    Event = Struct.new(:cycle, :device, :channel, :what, :address, :length, :status, # rubocop:disable Lint/StructNewOverride
                       :asked, :begin, :waits)

    # Who had the bus from a cycle to another: a device and its channel, or neither, which is the CPU.
    Tenure = Struct.new(:device, :channel, :begin, :end)

    # The most changes of a signal in a diagram.
    CHANGES = 400
    private_constant :CHANGES

    # @!method size
    #   @return [Integer]

    # @!method to_s
    #   @return [String] a line for each event: cycle, device and channel, what, address, length or status

    # @yieldparam event [Event]
    # @return [self, Enumerator]
    def each(&block)
      return enum_for(:each) { size } unless block

      @events ||= native_events.map { |row| Event.new(*row).freeze }.freeze
      @events.each(&block)
      self
    end

    # Who had the bus, in the order in which they got it.
    #
    # @return [Array<Tenure>]
    # @raise [ArgumentError] for more than 1,048,576: a CPU goes on for as long as time passes
    def tenures
      native_tenures.map { |row| Tenure.new(*row).freeze }
    end

    # What happened as signals, in a value change dump, which GTKWave opens. Scopes are `bus` and `dev0`, `dev1` and so
    # on: who has the bus, what each channel does, its interrupts; and on a bus with address phases, as PCI, FRAME#, AD,
    # IRDY#, TRDY#, DEVSEL#, and REQ# and GNT# of each device.
    #
    # @param from [Integer, nil] the first cycle that is shown; nil: that of the trace
    # @param to [Integer, nil] where it ends; nil: where the trace does
    # @return [String]
    # @raise [ArgumentError] if the bus changes hands more than 1,048,576 times from one to the other; for cycles of
    #   which none are the trace's
    def to_vcd(from: nil, to: nil)
      native_vcd(*window(from, to))
    end

    # The same signals as a timing diagram.
    #
    # @param from [Integer, nil] the first cycle that is shown; nil: that of the trace
    # @param to [Integer, nil] where it ends; nil: where the trace does
    # @return [String] SVG
    # @raise [ArgumentError] if a signal changes more than 400 times from one to the other: nobody could read it; for
    #   cycles of which none are the trace's
    def to_svg(from: nil, to: nil)
      from, to = window(from, to)
      waves = native_waves(from, to)
      check(waves, from, to)
      Svg.new(waves, from..to, native_frequency).to_s
    end

    # @return [String] how many events
    def inspect
      "#<#{self.class} #{size} events>"
    end

    private

    def window(from, to)
      first, last = native_cycles
      from = from.nil? ? first : DMA.__send__(:natural, from, "from")
      to = to.nil? ? last : DMA.__send__(:natural, to, "to")
      return [from, to] if from <= to && from <= last && to >= first

      raise ArgumentError, "from: #{from}, to: #{to} show nothing; the trace is of cycles #{first}..#{last}"
    end

    def check(waves, from, to)
      counts = waves.map { |_, name, _, changes| [changes.size, name] }
      count, name = counts.max
      return if waves.empty? || count <= CHANGES

      cycles = waves.filter_map { |*, changes| changes[CHANGES] }.map { |change| Array(change).first }
      raise ArgumentError, "#{name} changes #{count} times from cycle #{from} to #{to}, and a diagram shows " \
                           "#{CHANGES}; give a window with from: and to:, as from: #{from}, to: #{cycles.min}"
    end
  end
end
