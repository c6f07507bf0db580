# frozen_string_literal: true

require_relative "spec_helper"
require "dma_library"

RSpec.describe DmaLib do
  complete = DmaLib::COMPLETE

  # Begins a transfer; its id or error.
  def submit(source, destination, count, flags)
    descriptor = DmaLib::DmaDescriptor.new
    values = { source_addr: source, dest_addr: destination, byte_count: count, flags: flags }
    values.each { |name, value| descriptor[name] = value }
    DmaLib.dma_submit_transfer(descriptor)
  end

  def send_bytes(pointer, place, count)
    submit(pointer.address, place, count, DmaLib::TO_DEVICE)
  end

  def fetch(place, pointer, count)
    submit(place, pointer.address, count, DmaLib::FROM_DEVICE)
  end

  def wait(id)
    DmaLib.dma_wait_completion_timeout(id, -1)
  end

  # The bytes of the device.
  def device_bytes(place, count)
    DMA::Buffer.open(count) do |buffer|
      expect(wait(fetch(place, buffer, count))).to eq(DmaLib::COMPLETE)
      buffer.get_string
    end
  end

  def refusal(code)
    [DmaLib.dma_status_name(code), DmaLib.dma_last_error]
  end

  it "is the extension, which is named by an absolute path" do
    expect(DMA.library_path).to eq(File.realpath(DMA.library_path)).and end_with("/dma/dma_ext.so")
    expect(described_class.ffi_libraries.map(&:name)).to eq([DMA.library_path])
  end

  it "moves a buffer to the device and back" do
    bytes = sample(4096)
    out = described_class.dma_alloc_buffer(4096)
    out.write_bytes(bytes)
    id = send_bytes(out, 0x1000, 4096)
    expect(described_class.dma_wait_completion(id)).to be_nil
    expect(described_class.dma_transfer_status(id)).to eq(complete)
    described_class.dma_free_buffer(out)
    expect(device_bytes(0x1000, 4096)).to eq(bytes)
  end

  it "shares memory with DMA::Buffer, at any place in it, until it is freed" do
    buffer = DMA::Buffer.new(10_000)
    buffer.set_string("one two three")
    expect(wait(send_bytes(buffer.slice(4), 0x3000, 3))).to eq(complete)
    expect(wait(fetch(0x3000, buffer.slice(9_997), 3))).to eq(complete)
    expect(buffer.get_string(9_997)).to eq("two")
    inside = buffer.to_ptr
    described_class.dma_free_buffer(inside)
    expect(described_class.dma_last_error).to include("a buffer of Ruby's, which frees it itself")
    view = buffer.view
    buffer.free
    expect(refusal(send_bytes(inside, 0, 16))).to match(["error_memory", /is in no buffer: it was freed/])
    expect(view).not_to be_valid
  end

  it "shares the buffers of a pool while they are out" do
    pool = DMA::Pool.new(count: 1, size: 100)
    pointer = pool.checkout do |buffer|
      buffer.clear(7)
      expect(wait(send_bytes(buffer, 0x4000, 100))).to eq(complete)
      buffer.address
    end
    expect(device_bytes(0x4000, 100)).to eq("\a" * 100)
    expect(refusal(submit(pointer, 0, 100, 1))).to match(["error_memory", /is in no buffer/])
  end

  it "refuses pointers and ids that are none of its own" do
    expect(refusal(described_class.dma_submit_transfer(nil))).to eq(["error_argument", "the descriptor is NULL"])
    odd = described_class::DmaDescriptor.new(FFI::MemoryPointer.new(32) + 1)
    expect(refusal(described_class.dma_submit_transfer(odd))).to match(["error_alignment", /no multiple of 8/])
    expect(refusal(send_bytes(FFI::Pointer::NULL, 0, 16))).to match(["error_memory", /source_addr 0x0 is in no buffer/])
    expect(refusal(fetch(0, FFI::MemoryPointer.new(16), 16))).to match(["error_memory", /neither from dma_alloc_b/])
    wrapped = DMA::Buffer.wrap(FFI::MemoryPointer.new(16))
    expect(refusal(fetch(0, wrapped, 16))).to match(["error_memory", /DMA::Buffer that owns its memory/])
    expect(refusal(wait(-1))).to match(["error_id", /they are positive/])
    expect(refusal(wait((1 << 31) - 1))).to match(["error_id", /no transfer has the id 2147483647/])
  end

  it "refuses what passes the end of a buffer or of the device" do
    size = FFI::MemoryPointer.new(:uint64)
    expect(described_class.dma_device_size(size)).to eq(0)
    buffer = DMA::Buffer.new(100)
    expect(refusal(send_bytes(buffer, 0, 101))).to match(["error_memory", /only 100 are left there/])
    expect(refusal(send_bytes(buffer, size.read_uint64 - 99, 100))).to match(["error_argument", /outside the device's/])
    expect(refusal(submit(0, 0, 1, 8))).to match(["error_argument", /flags 0x8 are none of/])
  end

  it "chooses a file as its device, and the simulated one again" do
    path = scratch_file("disk", sample(8192))
    expect(described_class.dma_open_device(path)).to eq(0)
    expect(device_bytes(4096, 4096)).to eq(sample(8192)[4096..])
    expect(refusal(described_class.dma_open_device("/none"))).to match(["error_os", /cannot open .none: No such/])
  ensure
    expect(described_class.dma_open_device(nil)).to eq(0)
  end

  it "shares a device that DMA::Sim.attach put at a path with DMA::Device, in flight and after" do
    path = File.join(scratch, "xdma0")
    machine = DMA::Sim.attach(path, memory: 1 << 20)
    expect(described_class.dma_open_device(path)).to eq(0)
    DMA::Device.open(path) do |device|
      device.write_dma("from Ruby", at: 64)
      device.wait_completion
      expect(device_bytes(64, 9)).to eq("from Ruby")
      buffer = DMA::Buffer.new(16).clear(3)
      machine.inject(:hang)
      id = send_bytes(buffer, 64, 16)
      expect { buffer.free }.to raise_error(DMA::BusyError)
      expect(refusal(described_class.dma_wait_completion_timeout(id, 1_000_000)))
        .to match(["error_timed_out", /took longer than 0.001 s/])
      expect(described_class.dma_status_name(wait(id))).to eq("timed_out")
      expect(wait(send_bytes(buffer, 64, 16))).to eq(complete)
      expect(device.read_dma(16, at: 64)).to eq("\3" * 16)
    end
  ensure
    expect(described_class.dma_open_device(nil)).to eq(0)
    DMA::Sim.detach(path)
  end

  it "serves threads at once" do
    threads = Array.new(4) do |number|
      Thread.new do
        DMA::Buffer.open(4096) do |buffer|
          rounds(50).times do |round|
            buffer.clear((number * 50) + round)
            sent = send_bytes(buffer, 0x10_000 + (number * 4096), 4096)
            expect([wait(sent), described_class.dma_transfer_status(sent)]).to eq([complete] * 2)
            expect(device_bytes(0x10_000 + (number * 4096), 4096)).to eq(buffer.get_string)
          end
        end
      end
    end
    threads.each(&:join)
  end

  it "lets other threads run while it waits, and the buffer not be freed" do
    expect(described_class.dma_open_device(fuse_file(8192, hang: 4096))).to eq(0)
    buffer = DMA::Buffer.new(4096)
    id = fetch(4096, buffer, 4096)
    await_hang
    waiter = Thread.new { wait(id) }
    expect(described_class.dma_transfer_status(id)).to eq(DmaLib::PENDING)
    expect { buffer.free }.to raise_error(DMA::BusyError, /in flight/)
    release_reads
    expect(waiter.value).to eq(complete)
    expect(buffer.get_string).to eq(sample(8192)[4096..])
    expect(buffer.free).to be_freed
  ensure
    expect(described_class.dma_open_device(nil)).to eq(0)
  end

  it "gives the child of a fork an error code for whatever it inherited" do
    buffer = DMA::Buffer.new(4096)
    address = buffer.address
    id = submit(address, 0x1000, 4096, 1)
    expect(wait(id)).to eq(complete)
    reader, writer = IO.pipe
    child = fork do
      own = DMA::Buffer.new(16)
      codes = [wait(id), submit(address, 0, 16, 1), send_bytes(own, 0, 16)]
      codes << described_class.dma_open_device(nil) << wait(send_bytes(own, 0, 16))
      writer.write(codes.map { |code| described_class.dma_status_name(code) }.join(" "))
    ensure
      exit!(true)
    end
    writer.close
    Process.wait(child)
    expect(reader.read).to eq("error_id error_memory error_closed pending complete")
  end

  it "says what is missing where ffi is" do
    message = "dma_library needs the ffi gem: `gem install ffi`, or `gem \"ffi\"` in the Gemfile\n"
    expect(in_ruby(<<~RUBY, RUBYOPT: "--disable-gems")).to eq(message)
      $LOAD_PATH.reject! { |path| File.exist?(File.join(path, "ffi.rb")) }
      begin
        require "dma_library"
      rescue LoadError => e
        puts e.message
      end
    RUBY
  end

  it "runs the article's program unchanged but for the library's name" do
    skip "needs the article's text: DMA_ARTICLE=PATH" unless Support::Article::PATH

    text = Support::Article.program("DmaDescriptor")
    named = text.sub(/^ *ffi_lib .*$/, "ffi_lib DMA.library_path")
    expect(named.lines.zip(text.lines).count { |one, other| one != other }).to eq(1)
    bytes = sample(4096)
    File.binwrite(scratch_file("bytes"), bytes)
    expect(in_ruby(<<~RUBY)).to eq("true\n")
      #{named}
      bytes = File.binread(#{scratch_file("bytes").dump})
      # The program sends what a new buffer holds: something to be told from zeros.
      DmaLib.singleton_class.prepend(Module.new do
        define_method(:dma_alloc_buffer) { |size| super(size).tap { |buffer| buffer.write_bytes(bytes) } }
      end)
      DmaLib.transfer_example
      back = DMA::Buffer.new(4096)
      descriptor = DmaLib::DmaDescriptor.new
      descriptor[:source_addr] = 0x1000
      descriptor[:dest_addr] = back.address
      descriptor[:byte_count] = 4096
      descriptor[:flags] = 0x02
      DmaLib.dma_wait_completion(DmaLib.dma_submit_transfer(descriptor))
      puts back.get_string == bytes
    RUBY
  end
end
