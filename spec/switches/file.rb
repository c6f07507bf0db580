# frozen_string_literal: true

# What files do.
module Switches
  off("DMA::File#gets") { instead(DMA::File, :gets) { |*, **| nil } }
  off("DMA::File#read") { instead(DMA::File, :read) { |length = nil, _out = nil| length && ("\0" * length) } }
  off("file.read") do
    # Nothing is read ahead: a request for each.
    instead(DMA::File, :read) do |length = nil, *out|
      seek(0, IO::SEEK_CUR)
      length ? sysread(length, *out) : super(length, *out)
    rescue EOFError
      nil
    end
  end
  off("file.read(n, string)") do
    instead(DMA::File, :read) do |length = nil, out = nil|
      bytes = super(length)
      out && bytes ? out.replace(bytes) : bytes
    end
  end
  off("file.sysread") { instead(DMA::File, :sysread) { |length, *out| read(length, *out) } }
  off("file.readpartial") do
    instead(DMA::File, :readpartial) { |*given| seek(0, IO::SEEK_CUR) && super(*given) }
  end
  off("file.read_nonblock") do
    instead(DMA::File, :read_nonblock) { |*given| seek(0, IO::SEEK_CUR) && super(*given) }
  end
  off("file.seek") { instead(DMA::File, :seek) { |*| 0 } }
  off("file.each_chunk") do
    instead(DMA::File, :each_chunk) { |*size, **options, &block| super(*size, **options, offset: 0, &block) }
  end
  off("file.read_into", "direct: true") { file { |options| options.merge(direct: false) } }
  off("direct: :auto") { file { |options| options.merge(direct: true) } }
  off("engine: :uring") do
    file { |options| options[:engine] == :uring ? options.merge(engine: :threads) : options }
  end
  off("depth:") { instead(DMA::File, :read_many) { |ranges, **, &block| super(ranges, &block) } }
end
