# frozen_string_literal: true

require "dma"
require "etc"
require "fiddle"
require "tmpdir"

# What the measurements share: a file whose every byte can be looked at, its place in the page cache, and clocks.
module Support
  # Native functions: the same cheap pass over Strings, maps and DMA buffers.
  FUNCTIONS = {
    memchr: [[Fiddle::TYPE_VOIDP, Fiddle::TYPE_INT, Fiddle::TYPE_SIZE_T], Fiddle::TYPE_UINTPTR_T],
    mincore: [[Fiddle::TYPE_VOIDP, Fiddle::TYPE_SIZE_T, Fiddle::TYPE_VOIDP], Fiddle::TYPE_INT]
  }.freeze
  # They leave the GVL while they run, or keep it: what is small is passed over before another thread gives it back.
  LIBC, HELD = [false, true].map do |need_gvl|
    FUNCTIONS.to_h { |name, types| [name, Fiddle::Function.new(Fiddle::Handle::DEFAULT[name.to_s], *types, need_gvl:)] }
  end
  SMALL = 64 << 10
  UNITS = { "K" => 1 << 10, "M" => 1 << 20, "G" => 1 << 30 }.freeze
  BLOCK = 16 << 20

  module_function

  # "1G" and the like in bytes.
  def bytes(text)
    match = /\A(\d+)([KMG]?)\z/i.match(text) or raise OptionParser::InvalidArgument, text
    match[1].to_i * UNITS.fetch(match[2].upcase, 1)
  end

  # Yields the path of a file of random bytes, none of which is zero; it is on the disk when the block begins.
  def with_file(directory, size)
    Dir.mktmpdir("dma-benchmark", directory) do |scratch|
      path = File.join(scratch, "data.bin")
      File.open(path, "wb") do |file|
        0.step(size - 1, BLOCK) { |offset| file.write(Random.bytes([BLOCK, size - offset].min).tr("\0", "\1")) }
        file.fdatasync
      end
      yield path
    end
  end

  # Reads every byte: looks for the one value that the file does not have.
  def touch(memory, size)
    library = size > SMALL ? LIBC : HELD
    library[:memchr].call(memory, 0, size).zero? or raise "read a zero byte that is not in the file"
    size
  end

  # IO::Buffer tells its address only to people.
  def address_of(io_buffer)
    io_buffer.to_s[/0x\h+/].hex
  end

  def map(path)
    File.open(path, "rb") { |file| IO::Buffer.map(file, nil, 0, IO::Buffer::READONLY) }
  end

  # The part of the file that is in the page cache, 0.0..1.0.
  def cached(path)
    map = map(path)
    pages = "\0" * map.size.fdiv(DMA::PAGE_SIZE).ceil
    LIBC[:mincore].call(address_of(map), map.size, pages).zero? or raise "mincore failed"
    pages.each_byte.count(&:odd?).fdiv(pages.size)
  ensure
    map&.free
  end

  # Touches memory and gives it back: the host of a virtual machine takes free memory away, and bringing it back would
  # be measured in whoever happens to need it first.
  def bring_memory(size)
    DMA::Buffer.open(size, lock: false, &:clear)
  end

  # Puts the file out of the page cache, or all of it in, and makes sure of that. As much memory as the file has bytes
  # is there after.
  def prepare(path, cache)
    # More than once where the kernel has other plans for the page cache.
    5.times do
      File.open(path, "rb") do |file|
        file.fdatasync
        file.advise(:dontneed) if cache == :cold
        IO.copy_stream(file, File::NULL) if cache == :warm
      end
      bring_memory(File.size(path))
      return if cached(path) == (cache == :cold ? 0 : 1)
    end
    raise format("%.1f %% of the file are in the page cache, which should be %s", cached(path) * 100, cache)
  end

  # Seconds by the clock, and of CPU in all threads of this process, that the block takes.
  def measure
    GC.start
    clocks = [Process::CLOCK_MONOTONIC, Process::CLOCK_PROCESS_CPUTIME_ID]
    before = clocks.map { |clock| Process.clock_gettime(clock) }
    yield
    clocks.zip(before).map { |clock, start| Process.clock_gettime(clock) - start }
  end

  def median(values)
    sorted = values.sort
    (sorted[(sorted.size - 1) / 2] + sorted[sorted.size / 2]) / 2.0
  end

  # The part of a DMA::Buffer that the kernel gives huge pages for, 0.0..1.0: on many disks they decide the speed.
  def huge
    DMA::Buffer.open(64 << 20, lock: false) { |buffer| buffer.clear(1).huge_bytes.fdiv(buffer.size) }
  end

  def table(header, rows)
    puts "| #{header.join(" | ")} |", "|#{"---|" * header.size}"
    rows.each { |row| puts "| #{row.join(" | ")} |" }
    puts
  end

  def csv(path, columns, rows)
    File.write(path, [columns, *rows].map { |cells| "#{cells.map { |cell| quoted(cell) }.join(",")}\n" }.join)
  end

  def quoted(cell)
    text = cell.is_a?(Float) ? format("%.6g", cell) : cell.to_s
    text.match?(/[",]/) ? "\"#{text.gsub('"', '""')}\"" : text
  end

  def thousands(number)
    number.round.to_s.gsub(/(?<=\d)(?=(\d{3})+$)/, " ")
  end

  # What the figures depend on.
  def machine
    cpu = File.read("/proc/cpuinfo")[/^model name\s*: (.*)/, 1]
    "Ruby #{RUBY_VERSION}, dma #{DMA::VERSION}, Linux #{Etc.uname[:release]}, #{Etc.nprocessors} x #{cpu}"
  end
end
