# frozen_string_literal: true

require "English"

module DMA
  class << self
    # What becomes of misuse that the checker finds: false (nobody checks), `:raise`, `:warn` or what is called. With a
    # block: it is called with each {MisuseError} from now on, and the program goes on.
    #
    #   DMA.debug = true
    #   DMA.debug { |error| puts error.rule, error.message, error.mapped_at }
    #
    # The rules are those of the kernel's dma-debug and a few more; docs/debug.md has them, and what each costs. As long
    # as it was never switched on, nothing of it is there.
    #
    # @yieldparam error [MisuseError]
    # @return [false, :raise, :warn, #call]
    def debug(&block)
      self.debug = block if block
      Debug.mode
    end

    # Switches the checker on or off. What was mapped or submitted while it was off is not looked at.
    #
    # @param mode [Boolean, Symbol, #call, nil] true is `:raise`
    # @raise [ArgumentError] for what is none of these
    def debug=(mode)
      Debug.mode = mode
    end
  end

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
      attr_reader :mode

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

      # What is known in this process; nil where nobody checks, and while this thread tells of misuse.
      def tracker
        tracker = @tracker
        return if tracker.nil? || Thread.current[:dma_debug_telling]
        return tracker if tracker.pid == Process.pid

        @tracker = Tracker.new
      end

      # Runs the block with what is known, and tells of what it finds: nil, a violation or several.
      def check
        tracker = self.tracker or return
        found = yield(tracker) or return
        found.is_a?(Array) ? found.each { |violation| tell(violation) } : tell(found)
      end

      # A transfer is live while the block submits it and until software is told of its end.
      def submitting(live)
        tracker = self.tracker or return yield
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

      # Tells of a violation. `quiet`: warns instead of raising.
      def tell(violation, quiet: false)
        error = error_for(violation)
        mode = @mode
        return Kernel.raise(error) if mode == :raise && !quiet
        return unless mode

        telling { mode.respond_to?(:call) ? mode.call(error) : Kernel.warn("#{error.backtrace.first}: #{error.message}") }
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

      # What a handler does with memory is not looked at, or it would be called from itself.
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
