# frozen_string_literal: true

require "fiddle"
require "io/nonblock"

# Memory of a buffer in the hands of others, and memory of others in a buffer.
RSpec.describe DMA::Buffer do
  include Support::Experimental

  let(:buffer) { described_class.new(64, lock: false).tap { |it| it.set_string("the bytes of it") } }

  def needs_ffi
    needs "the ffi gem", !Gem::Specification.find_all_by_name("ffi").empty?
  end

  def collect
    unstressed { 3.times { GC.start } }
  end

  describe "#view" do
    it "is an IO::Buffer over the same memory, or a part of it" do
      view = buffer.view(4, 8)
      expect(view).to be_a(IO::Buffer)
      expect([view.size, view.get_string]).to eq([8, "bytes of"])
      view.set_string("BYTES")
      buffer.set_value(:U8, 9, "-".ord)
      expect([buffer.get_string(0, 12), view.get_string]).to eq(["the BYTES-of", "BYTES-of"])
    end

    it "of a slice is a part of that slice" do
      part = buffer.slice(4, 8)
      expect([part.view.get_string, part.view(6).get_string]).to eq(["bytes of", "of"])
      expect { part.view(0, 9) }.to raise_error(ArgumentError)
    end

    it "keeps the memory while buffer, slices and other views are garbage" do
      views = Array.new(rounds(200)) do |i|
        whole = described_class.new(8192, lock: false)
        whole.set_value(:U64, 4096, i)
        i.even? ? whole.view(4096, 8) : whole.slice(4096).view.slice(0, 8)
      end
      collect
      expect(views.map { |view| view.get_value(:U64, 0) }).to eq([*0...views.size])
    end

    it "becomes invalid with free, and all slices of it do" do
      views = [buffer.view, buffer.view(0, 0), buffer.slice(3).view, buffer.view.slice(1, 2)]
      buffer.free
      expect(views.map(&:valid?)).to eq([false] * 4)
      expect { views.first.get_string }.to raise_error(IO::Buffer::InvalidatedError)
      expect { buffer.view }.to raise_error(DMA::ClosedError)
    end

    it "becomes invalid when the block of open ends" do
      view = described_class.open(64, &:view)
      expect { view.set_string("a") }.to raise_error(IO::Buffer::InvalidatedError)
    end

    it "that was freed, transferred or resized by its user harms neither buffer nor other views" do
      others = [buffer.view, buffer.slice(2).view]
      buffer.view.free
      moved = buffer.view.transfer
      buffer.view.resize(4096)
      buffer.view.resize(0)
      expect(moved.get_string(0, 9)).to eq("the bytes")
      expect([buffer, *others].map { |it| it.get_string(0, 9) }).to eq(["the bytes", "the bytes", "e bytes o"])
      buffer.free
      expect { moved.get_string }.to raise_error(IO::Buffer::InvalidatedError)
    end

    it "that was transferred keeps the memory, too" do
      moved = Array.new(rounds(50)) { |i| described_class.new(4096).clear(i).view.transfer }
      collect
      expect(moved.each_with_index.map { |view, i| view.get_value(:U8, 4095) - i }.uniq).to eq([0])
    end

    it "gives the memory back with free, although the view is held" do
      size = 64 << 20
      whole = described_class.new(size, lock: false, huge: :never).clear(1)
      view = whole.view
      resident = -> { File.read("/proc/self/statm").split[1].to_i * DMA::PAGE_SIZE }
      before = resident.call
      whole.free
      expect(before - resident.call).to be > size * 3 / 4
      expect(view.valid?).to be(false)
    end

    it "in another thread's read(2) while free is called takes the bytes nowhere" do
      # As IO::Buffer#read does from Ruby 3.3 on: without the GVL, into the address that the view had.
      types = [Fiddle::TYPE_INT, Fiddle::TYPE_VOIDP, Fiddle::TYPE_SIZE_T]
      read = Fiddle::Function.new(Fiddle.dlopen(nil)["read"], types, Fiddle::TYPE_SSIZE_T)
      rounds(10).times do
        whole = described_class.new(1 << 20, lock: false).clear(7)
        IO.pipe do |reader, writer|
          reader.nonblock = false
          thread = Thread.new(whole.view, whole.address) do |view, address|
            [read.call(reader.fileno, address, 65_536), view.valid?]
          end
          Thread.pass until thread.stop?
          whole.free
          others = Array.new(8) { described_class.new(1 << 20, lock: false) }
          writer.write("x" * 65_536)
          expect(thread.value).to eq([65_536, false])
          expect(others.map { |other| other.get_string.count("x") }).to eq([0] * 8)
        end
      end
    end
  end

  describe "MemoryView" do
    it "is read and written in place by other extensions" do
      export = Fiddle::MemoryView.new(buffer)
      expect([export.byte_size, export.readonly?, export.format, export[4]]).to eq([64, false, nil, "b".ord])
      buffer.set_value(:U8, 4, 0xFF)
      expect(export[4] & 0xFF).to eq(0xFF)
      expect(export.to_s.bytesize).to eq(64)
      export.release
    end

    it "of a slice is that slice" do
      Fiddle::MemoryView.export(buffer.slice(4, 5)) { |export| expect(export.to_s).to eq("bytes") }
    end

    it "free refuses while one is out, and frees when all are back" do
      exports = [Fiddle::MemoryView.new(buffer), Fiddle::MemoryView.new(buffer.slice(3))]
      exports.each do |export|
        expect { buffer.free }.to raise_error(DMA::BusyError, /MemoryView .* release it/)
        export.release
      end
      expect(buffer.free).to be_freed
      expect { Fiddle::MemoryView.new(buffer) }.to raise_error(ArgumentError)
    end

    it "keeps its bytes when the block of open ends" do
      kept = nil
      export = described_class.open(16) { |open| Fiddle::MemoryView.new((kept = open).clear(9)) }
      expect(kept).to be_freed
      expect(export.to_s.bytes.uniq).to eq([9])
      export.release
    end

    it "that nobody released is garbage with its buffer, and not before it" do
      kept = described_class.new(64, lock: false)
      rounds(50).times do |i|
        Fiddle::MemoryView.new(kept)
        Fiddle::MemoryView.new(described_class.new(4096).clear(i)).to_s
      end
      collect
      dropped = Array.new(10) { Fiddle::MemoryView.new(described_class.new(4096).clear(5)) }
      collect
      expect(dropped.map { |export| export.to_s.bytes.uniq }.uniq).to eq([[5]])
    end
  end

  it "a process ends in order with views, MemoryViews, pointers and wraps out, in whatever order they are freed" do
    rounds(3).times do
      expect(in_ruby(<<~'RUBY', "env", "RUBYOPT=-W0")).to eq("end\n")
        require "fiddle"
        buffers = Array.new(500) { DMA::Buffer.new(100, lock: false) }
        KEPT = buffers.map { |buffer| Fiddle::MemoryView.new(buffer) } + buffers.map(&:view) + buffers.map(&:to_ptr)
        KEPT.concat(Array.new(100) { DMA::Buffer.wrap(IO::Buffer.new(100)).slice(3).view })
        KEPT.concat(Array.new(100) { Fiddle::MemoryView.new(DMA::Buffer.wrap(IO::Buffer.new(100))) })
        puts "end"
      RUBY
    end
  end

  describe "#to_ptr" do
    it "is Fiddle's pointer, with the size, where ffi is not loaded" do
      expect(in_ruby(<<~'RUBY')).to eq("[Fiddle::Pointer, true, 64]\n5 hello hellO\n")
        buffer = DMA::Buffer.new(64)
        buffer.set_string("hello")
        pointer = buffer.to_ptr
        p [pointer.class, pointer.to_i == buffer.address, pointer.size]
        strlen = Fiddle::Function.new(Fiddle.dlopen(nil)["strlen"], [Fiddle::TYPE_VOIDP], Fiddle::TYPE_SIZE_T)
        print strlen.call(buffer), " ", pointer.to_s, " "
        pointer[4] = "O".ord
        puts buffer.get_string(0, 5)
      RUBY
    end

    it "is ffi's pointer where ffi is loaded: functions take the buffer itself, and bounds are checked" do
      needs_ffi
      expect(in_ruby(<<~'RUBY')).to eq("5 hello hellO IndexError\n")
        require "ffi"
        module C
          extend FFI::Library
          ffi_lib FFI::Library::LIBC
          attach_function :strlen, [:pointer], :size_t
        end
        buffer = DMA::Buffer.new(64)
        buffer.set_string("hello")
        pointer = buffer.to_ptr
        print C.strlen(buffer), " ", pointer.read_string(5), " "
        pointer.put_char(4, "O".ord)
        print buffer.get_string(0, 5), " "
        begin
          pointer.get_char(64)
        rescue IndexError
          puts "IndexError"
        end
      RUBY
    end

    it "keeps the memory while the buffer is garbage" do
      pointers = Array.new(rounds(50)) { |i| described_class.new(4096, lock: false).clear(i).to_ptr }
      collect
      # Another spec may have loaded ffi: either's pointer.
      last = pointers.map { |pointer| Fiddle::Pointer.new(pointer.to_i)[4095] }
      expect(last).to eq([*0...pointers.size])
    end
  end

  describe ".wrap" do
    it "makes a buffer of an IO::Buffer's memory" do
      memory = IO::Buffer.new(1 << 16)
      wrapped = described_class.wrap(memory)
      wrapped.set_string("in place")
      expect([memory.get_string(0, 8), wrapped.size]).to eq(["in place", 1 << 16])
      expect([wrapped.residency, wrapped.address % wrapped.alignment]).to eq([:pageable, 0])
      expect(described_class.wrap(IO::Buffer.new(100), 10).size).to eq(10)
    end

    it "locks an IO::Buffer until it is freed itself, so that the memory cannot go first" do
      memory = IO::Buffer.new(100)
      wrapped = described_class.wrap(memory, 10)
      %i[free transfer].each { |name| expect { memory.__send__(name) }.to raise_error(IO::Buffer::LockedError) }
      expect { memory.resize(1 << 20) }.to raise_error(IO::Buffer::LockedError)
      expect { described_class.wrap(memory) }.to raise_error(DMA::BusyError, /free the buffer that wraps it/)
      wrapped.free
      expect { wrapped.get_string }.to raise_error(DMA::ClosedError)
      again = described_class.wrap(memory)
      expect(again.free.free).to be_freed
      expect(memory.free).to be_null
    end

    it "leaves an IO::Buffer unlocked that it refuses" do
      memory = IO::Buffer.new(100)
      expect { described_class.wrap(memory, 101) }.to raise_error(ArgumentError, /more than the 100/)
      File.open(scratch_file("map", "a" * 4096)) do |file|
        readonly = IO::Buffer.map(file, nil, 0, IO::Buffer::READONLY)
        expect { described_class.wrap(readonly) }.to raise_error(ArgumentError, /cannot be written/)
        expect(readonly.locked { 1 }).to eq(1)
      end
      expect(memory.locked { 1 }).to eq(1)
    end

    it "gives views of an IO::Buffer's memory that live as long as that" do
      memory = IO::Buffer.new(100)
      wrapped = described_class.wrap(memory)
      view = wrapped.slice(2).view(1, 5)
      memory.set_string("view", 3)
      wrapped.free
      expect(view.get_string(0, 4)).to eq("view")
      memory.free
      expect(view.valid?).to be(false)
    end

    it "refuses IO::Buffers whose memory others free: slices, views, Strings" do
      string = IO::Buffer.for(+"a string that is long enough not to be embedded")
      [IO::Buffer.new(100).slice(0, 10), buffer.view, string, IO::Buffer.new(0)].each do |memory|
        expect { described_class.wrap(memory) }.to raise_error(DMA::UnsupportedError, /does not own its memory/)
      end
      string.free # Ruby 3.1 ends the process where the GC frees it, and has freed its String before
    end

    it "keeps a wrapped IO::Buffer from the GC, and is garbage together with it" do
      wraps = Array.new(rounds(50)) { |i| described_class.wrap(IO::Buffer.new(5000).tap { |it| it.clear(i) }).slice(1) }
      collect
      expect(wraps.each_with_index.map { |part, i| part.get_value(:U8, 4000) - i }.uniq).to eq([0])
      wraps.clear
      collect
    end

    it "makes a buffer of what a Fiddle::Pointer points to, of the size it knows" do
      pointer = Fiddle::Pointer.malloc(64, Fiddle::RUBY_FREE)
      wrapped = described_class.wrap(pointer)
      wrapped.set_string("fiddle")
      expect([pointer[0, 6], wrapped.size, wrapped.view(0, 6).get_string]).to eq(["fiddle", 64, "fiddle"])
      expect(described_class.wrap(pointer, 10).size).to eq(10)
      expect { described_class.wrap(pointer, 65) }.to raise_error(ArgumentError, /65 bytes are more than the 64/)
      bare = Fiddle::Pointer.new(pointer.to_i)
      expect { described_class.wrap(bare) }.to raise_error(ArgumentError, /size of .* is not known/)
      expect(described_class.wrap(bare, 6).get_string).to eq("fiddle")
      expect(wrapped.free).to be_freed
      expect(pointer[0, 6]).to eq("fiddle")
    end

    it "makes a buffer of what an FFI::MemoryPointer or a struct points to, and keeps it" do
      needs_ffi
      expect(in_ruby(<<~'RUBY')).to eq("64 ffi\n[true, true]\nsize of known 8\nkept\n")
        require "ffi"
        memory = FFI::MemoryPointer.new(64)
        wrapped = DMA::Buffer.wrap(memory)
        wrapped.set_string("ffi")
        puts "#{wrapped.size} #{memory.read_string(3)}"
        refused = [-> { DMA::Buffer.wrap(memory, 65) }, -> { DMA::Buffer.wrap(FFI::Pointer::NULL, 3) }].map do |call|
          call.call && false
        rescue ArgumentError
          true
        end
        p refused
        begin
          DMA::Buffer.wrap(FFI::Pointer.new(memory.address))
        rescue ArgumentError => e
          print e.message.scan(/size of|known/).join(" "), " "
        end
        point = Class.new(FFI::Struct) { layout :x, :int, :y, :int }
        puts DMA::Buffer.wrap(point.new).size
        wraps = Array.new(200) { |i| DMA::Buffer.wrap(FFI::MemoryPointer.new(5000)).clear(i) }
        GC.start
        puts "kept" if wraps.each_with_index.all? { |buffer, i| buffer.each_byte.to_a.uniq == [i] }
      RUBY
    end

    it "makes a buffer of memory at an address" do
      wrapped = described_class.wrap(buffer.address + 4, 5)
      expect([wrapped.get_string, wrapped.alignment]).to eq(["bytes", 4])
      expect { wrapped.segments }.to raise_error(DMA::UnsupportedError)
    end

    it "of a buffer is a slice of it" do
      wrapped = described_class.wrap(buffer, 9)
      expect(wrapped.get_string).to eq("the bytes")
      expect(described_class.wrap(buffer).size).to eq(64)
      buffer.free
      expect(wrapped).to be_freed
    end

    it "refuses what is no memory, and sizes and addresses that cannot be" do
      ["4096", nil, 1.5, :a, Object.new].each { |it| expect { described_class.wrap(it, 10) }.to raise_error(TypeError) }
      [[0, 10], [-1, 10], [(2**64) - 1, 10], [2**64, 10], [4096, -1], [4096, 2**64], [4096, 1.5]].each do |arguments|
        expect { described_class.wrap(*arguments) }.to raise_error(ArgumentError)
      end
      expect { described_class.wrap(4096) }.to raise_error(ArgumentError, "the size of 4096 is not known; give it")
    end
  end
end
