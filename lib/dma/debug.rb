# frozen_string_literal: true

require "English"

module DMA
  # The misuse checker: {Tracker} knows what is mapped and under way, {Hooks} tell it of calls and ask it.
  # @private
  module Debug
    # A rule that was broken.
    # @!attribute [r] what
    #   @return [String] what was asked, and of what
    # @!attribute [r] entry
    #   @return [Mapped, Live, nil] whose backtrace is shown
    # @!attribute [r] remedy
    #   @return [String] the way out
    Violation = Struct.new(:rule, :what, :entry, :remedy)

    # Frames of this library are nobody's fault.
    OWN = ["#{__dir__}/", ::File.expand_path("../dma.rb", __dir__), "<internal:"].freeze
    # Frames that are kept of the call that mapped or submitted.
    FRAMES = 24
    private_constant :OWN, :FRAMES

    @mode = false

    class << self
      # @return [false, :raise, :warn, #call]
      def mode
        @mode
      rescue Ractor::IsolationError
        false
      end

      def mode=(mode)
        mode = { true => :raise, nil => false }.fetch(mode, mode)
        unless [false, :raise, :warn].include?(mode) || mode.respond_to?(:call)
          raise ArgumentError, "debug: #{mode.inspect} is none of true, false, :raise, :warn, and cannot be called"
        end

        install if mode
        @tracker = nil unless mode
        @tracker ||= Tracker.new if mode
        @mode = mode
      end

      # What is known in this process; nil where nobody checks, in Ractors but the main one, and in the handler of
      # a signal, which may lock nothing.
      def tracker
        tracker = @tracker
        return tracker if tracker.nil? || (tracker.pid == Process.pid && tracker.free?)

        @tracker = Tracker.new unless tracker.pid == Process.pid
      rescue Ractor::IsolationError
        nil
      end

      # Runs the block with what is known, and tells of what it finds: nil, a violation or several. `quiet`: see {tell}.
      def check(quiet: false)
        tracker = self.tracker or return
        found = yield(tracker) or return
        found.is_a?(Array) ? found.each { |violation| tell(violation) } : tell(found, quiet: quiet)
      end

      # A transfer is live while the block submits it and until software is told of its end; nil: nobody checks.
      def submitting(live)
        tracker = live && self.tracker or return yield
        begin
          found = [*tracker.unfit(live), tracker.submit(live)].compact
          found.each { |violation| tell(violation) }
          transfer = live.transfer = yield
        ensure
          tracker.forget(live) unless transfer
        end
        transfer
      end

      # Software is told of the end of those transfers, as soon as the block has run well.
      def ending(which)
        tracker = self.tracker or return yield
        lives = tracker.lives(&which)
        yield.tap { lives.each { |live| tracker.forget(live) } }
      end

      # Tells of a violation. `quiet`: warns instead of raising. What whoever is told does is told to nobody, or he
      # would be called again for it.
      def tell(violation, quiet: false)
        return if Thread.current[:dma_debug_telling]

        error = error_for(violation)
        mode = @mode
        return Kernel.raise(error) if mode == :raise && !quiet
        return unless mode

        call = mode.respond_to?(:call) ? mode : ->(e) { Warning.warn("#{e.backtrace.first}: #{e.message}\n") }
        telling { call.call(error) }
      end

      # The rest is what the hooks of transfers ask and tell.

      # A transfer of a channel that is about to begin; nil where nobody checks.
      def live(channel, fence: false, ring: nil)
        tracker = self.tracker or return
        coherent = tracker.limits_of(channel.device)[:coherent] != false
        Live.new(tracker, channel: channel, fence: fence, ring: ring, coherent: coherent)
      end

      # The same of a file, with the first `length` bytes of its memory.
      def live_file(memory, length, written:)
        tracker = self.tracker or return

        Live.new(tracker).tap do |live|
          Array(memory).each do |buffer|
            part = [buffer.size, length].min
            length -= part
            live.use(buffer, part, written: written) unless buffer.freed?
          end
        end
      end

      # A transfer that lasts as long as the block; nil: nobody checks.
      def lasting(live)
        return yield unless live

        tracker = self.tracker
        submitting(live) { yield || true }
      ensure
        tracker&.forget(live)
      end

      # Which transfers are a channel's.
      def of(channel)
        id = channel.__id__
        ->(live) { live.channel == id }
      end

      # Software knows that a channel has nothing under way.
      def ended(channel)
        ending(of(channel)) { nil }
      end

      # Software knows that a transfer has ended.
      def told(transfer)
        live = transfer.instance_variable_get(:@debug) or return
        live.over = true
        tracker&.forget(live)
      end

      # Where the program calls this library now.
      def here
        caller_locations(3, FRAMES)
      end

      # A backtrace that begins in the program.
      def trace(locations)
        locations.drop_while { |location| (location.absolute_path || location.path).start_with?(*OWN) }.map(&:to_s)
      end

      private

      def install
        return if defined?(Hooks)

        require_relative "debug/hooks"
        require_relative "debug/transfers"
        Hooks.constants.each { |name| DMA.const_get(name).prepend(Hooks.const_get(name)) }
      end

      def error_for(violation)
        entry = violation.entry
        at = entry && trace(entry.locations)
        message = "DMA misuse (#{violation.rule}): #{violation.what}"
        message += ", #{entry.verb} at #{at.first[/\A.*?:\d+/]}" if at&.any?
        error = MisuseError.new("#{message}; #{violation.remedy}", rule: violation.rule, mapped_at: at)
        error.set_backtrace(trace(caller_locations(1)))
        error
      end

      def telling
        Thread.current[:dma_debug_telling] = true
        yield
      ensure
        Thread.current[:dma_debug_telling] = nil
      end
    end
  end
  private_constant :Debug
end
