# frozen_string_literal: true

module DMA
  # What happened on the bus of a simulated machine, in order; see {Sim#trace}.
  class Trace
    include Enumerable

    # One transaction. `cycle` is when it was over; `what` is `:fetch`, `:to_device`, `:from_device`, `:within`,
    # `:memory` (from one place of it to another), `:status`, `:interrupt`, `:handler` (the CPU is done with an
    # interrupt that takes its time), `:lost_interrupt`, `:terminal_count` or `:hang`; `address` and `length` are those of memory on the bus; `status` is what was written back.
    Event = Struct.new(:cycle, :device, :channel, :what, :address, :length, :status) # rubocop:disable Lint/StructNewOverride

    # @api private
    def initialize(rows)
      @events = rows.map { |*fields, _| Event.new(*fields).freeze }.freeze
      @lines = rows.map(&:last).freeze
    end

    # @yieldparam event [Event]
    # @return [self, Enumerator]
    def each(&block)
      return enum_for(:each) { @events.size } unless block

      @events.each(&block)
      self
    end

    # @return [Integer]
    def size
      @events.size
    end

    # @return [String] a line for each event: cycle, device and channel, what, address, length or status
    def to_s
      @lines.map { |line| "#{line}\n" }.join
    end

    # @return [String] how many events
    def inspect
      "#<#{self.class} #{size} events>"
    end
  end
end
