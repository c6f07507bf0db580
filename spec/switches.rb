# frozen_string_literal: true

# What docs/article.md names first in a row's "here", and how to do without it: a machine that leaves an option out, a
# register that takes nothing, a method as it would be without the mechanism. spec/switched_off_spec.rb runs each row's
# example in a process with
#
#   DMA_SWITCHED_OFF="coalesce:" RUBYOPT="-I.../lib -r.../spec/switches.rb"
#
# and expects it to fail. All processes that the example starts are without it, too.

require_relative "../lib/dma"

module Switches
  ALL = {} # rubocop:disable Style/MutableConstant -- it is filled below

  class << self
    private

    def off(*names, &change)
      names.each { |name| ALL.key?(name) ? raise("#{name} has two switches") : ALL[name] = change }
    end

    # Has a method replaced; its `super` is what there was.
    def instead(owner, name, &)
      front = Module.new
      front.define_method(name, &)
      owner.prepend(front)
    end

    # Has machines, or devices, made with other options than were asked for.
    def machine
      instead(DMA::Sim.singleton_class, :new) { |**options| super(**yield(options)) }
    end

    def device
      instead(DMA::Sim, :device) { |**options| super(**yield(options)) }
    end

    # Has memory mapped so, buffers made so, and files opened.
    def mapping
      instead(DMA::Device, :map) do |memory, size = nil, **options, &block|
        super(memory, size, **yield(options), &block)
      end
    end

    def buffer
      instead(DMA::Buffer.singleton_class, :new) { |size, **options| super(size, **yield(options)) }
    end

    def file
      instead(DMA::File.singleton_class, :open) { |*names, **options, &block| super(*names, **yield(options), &block) }
    end

    # Has what is written to a register lost.
    def lost
      instead(DMA::Registers, :native_write) do |offset, bytes, value|
        super(offset, bytes, value) unless yield(offset, value)
      end
    end

    # Has registers read as this value.
    def read_as(value)
      instead(DMA::Registers, :native_read) { |offset, bytes| yield(offset) ? value : super(offset, bytes) }
    end

    # The same as {lost}, of a channel's register.
    def lost_of_channel(register)
      lost { |offset, _| offset >= 0x100 && (offset - 0x100) % 0x40 == register }
    end

    # Has descriptors written with other fields.
    def descriptor
      instead(DMA::Ring, :native_add) { |*fields| super(*yield(*fields)) }
    end
  end

  require_relative "switches/machine"
  require_relative "switches/driver"
  require_relative "switches/file"
end

name = ENV.fetch("DMA_SWITCHED_OFF", nil)
Switches::ALL.fetch(name).call if name
