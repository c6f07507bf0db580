# frozen_string_literal: true

RSpec.describe DMA::Buffer do
  types = %i[U8 S8 u16 U16 s16 S16 u32 U32 s32 S32 u64 U64 s64 S64 f32 F32 f64 F64]

  def quietly
    experimental = Warning[:experimental]
    Warning[:experimental] = false
    yield
  ensure
    Warning[:experimental] = experimental
  end

  # The same bytes in a buffer of ours and in an IO::Buffer of Ruby's.
  def both(bytes)
    [described_class.new(bytes.bytesize, lock: false), quietly { IO::Buffer.new(bytes.bytesize) }].each do |buffer|
      buffer.set_string(bytes)
    end
  end

  # What a call gives, or the class of what it raises.
  def outcome
    yield
  rescue StandardError => e
    e.class
  end

  let(:buffer) { described_class.new(64, lock: false) }

  describe "values" do
    types.each do |type|
      it "reads #{type} as IO::Buffer does, at any offset" do
        ours, theirs = both(sample(24))
        values = [ours, theirs].map { |buffer| (0..16).map { |offset| [buffer.get_value(type, offset)].pack("G") } }
        expect(values.first).to eq(values.last)
      end

      it "writes #{type} as IO::Buffer does, and nothing beside it" do
        ours, theirs = both(sample(24))
        values = { "f" => [-1.5, 0.1, Float::INFINITY, 7], "s" => [0, 1, -2], "u" => [0, 1, 2] }.fetch(type[0].downcase)
        values.each do |value|
          expect(ours.set_value(type, 5, value)).to eq(5 + (type[/\d+/].to_i / 8))
          theirs.set_value(type, 5, value)
          expect(ours.get_string).to eq(theirs.get_string)
        end
      end
    end

    it "round-trips both ends of each integer type, and refuses what lies beyond with a RangeError" do
      types.grep_v(/f/i).each do |type|
        bits = type[/\d+/].to_i
        low, high = type.to_s.match?(/s/i) ? [-(1 << (bits - 1)), (1 << (bits - 1)) - 1] : [0, (1 << bits) - 1]
        [low, high].each do |value|
          buffer.set_value(type, 3, value)
          expect(buffer.get_value(type, 3)).to eq(value)
        end
        before = buffer.get_string
        [low - 1, high + 1, 2**70, -2**70].each do |value|
          expect { buffer.set_value(type, 3, value) }
            .to raise_error(RangeError, "#{value} is outside #{low}..#{high}")
        end
        expect(buffer.get_string).to eq(before)
      end
    end

    it "takes what converts to a number, and refuses what does not" do
      buffer.set_value(:U8, 0, 2.9)
      buffer.set_value(:F64, 8, 3r)
      expect(buffer.get_values(%i[U8], 0) + buffer.get_values(%i[F64], 8)).to eq([2, 3.0])
      [[:U8, "1"], [:U8, nil], [:F32, "x"], [:f64, nil]].each do |type, value|
        expect { buffer.set_value(type, 0, value) }.to raise_error(TypeError)
      end
      expect { buffer.set_value(:U8, 0, Float::NAN) }.to raise_error(RangeError)
    end

    it "knows no other types, and names those it knows" do
      [:u8, :s8, :f8, :F16, :U128, :"", :é8, "U8", nil, 8].each do |type|
        expect { buffer.get_value(type, 0) }.to raise_error(ArgumentError, /:U8 :S8 :u16 .* :F64\z/)
        expect { buffer.set_value(type, 0, 1) }.to raise_error(ArgumentError)
      end
    end

    it "reads and writes several, one behind the other" do
      expect(buffer.set_values(%i[U8 u32 F64], 1, [7, 1 << 20, 0.5])).to eq(14)
      expect(buffer.get_values(%i[U8 u32 F64], 1)).to eq([7, 1 << 20, 0.5])
      expect(buffer.get_string(0, 14)).to eq([0, 7, 1 << 20, 0.5].pack("CCVG"))
      expect { buffer.set_values(%i[U8 U8], 0, [1]) }
        .to raise_error(ArgumentError, "2 types for 1 values; each value needs one")
    end

    it "passes values with their offsets, a rest that is no whole value left out" do
      buffer.set_string([1, 2, 3].pack("V*") << "x")
      part = buffer.slice(0, 13)
      expect(part.each(:u32).to_a).to eq([[0, 1], [4, 2], [8, 3]])
      expect(part.each(:u32, 4, 1).to_a).to eq([[4, 2]])
      expect(part.values(:u32)).to eq([1, 2, 3])
      expect(part.each(:u32, 13).to_a).to eq([])
      seen = []
      expect(part.each(:u32) { |_, value| seen << value }).to be(part)
      expect(seen).to eq([1, 2, 3])
      expect(part.each_byte.to_a).to eq(part.get_string.bytes)
      expect(part.each_byte(10, 2).to_a).to eq(part.get_string(10, 2).bytes)
    end

    it "passes nothing outside the buffer" do
      [[14, nil], [0, 4], [10, 1], [0, -1], [-1, 1], [2**64, nil]].each do |offset, count|
        passed = []
        expect { buffer.slice(0, 13).each(:u32, offset, count) { |pair| passed << pair } }.to raise_error(ArgumentError)
        expect(passed).to be_empty
      end
      expect { buffer.each(:U9, &:itself) }.to raise_error(ArgumentError)
    end
  end

  describe "strings" do
    it "gives copies, in the encoding asked for" do
      buffer.set_string("dür", 2)
      expect(buffer.get_string(2, 4)).to eq("dür".b).and have_attributes(encoding: Encoding::BINARY)
      expect(buffer.get_string(2, 4, "UTF-8")).to eq("dür")
      expect(buffer.get_string(2, 4, Encoding::UTF_8)).to eq("dür")
      expect { buffer.get_string(2, 4, "no such") }.to raise_error(ArgumentError)
      copy = buffer.get_string(2, 4)
      buffer.clear
      expect(copy).to eq("dür".b)
    end

    it "behaves as IO::Buffer where arguments are in bounds, and where they are not" do
      ours, theirs = both(sample(10))
      calls = [[], [0], [3], [10], [0, 10], [3, 4], [11], [0, 11], [10, 1], [4, 7]]
      calls.each { |call| expect(outcome { ours.get_string(*call) }).to eq(outcome { theirs.get_string(*call) }) }
      calls = [["abc"], ["abc", 7], ["abc", 8], ["abc", 11], ["abc", 0, 2], ["abc", 0, 2, 1], ["abc", 0, 3, 1],
               ["abc", 0, 4], ["abc", 9, 1, 2], ["", 10], ["", 11], ["abc", 0, 0, 4]]
      calls.each do |call|
        expect(outcome { ours.set_string(*call) }).to eq(outcome { theirs.set_string(*call) }), call.inspect
        expect(ours.get_string).to eq(theirs.get_string)
      end
    end

    it "takes the rest of the String where no length is given" do
      expect(buffer.set_string("abcdef", 1, nil, 4)).to eq(2)
      expect(buffer.get_string(0, 4)).to eq("\0ef\0")
      expect { buffer.set_string("abc", 0, nil, 4) }.to raise_error(ArgumentError, /outside a source of 3 bytes/)
    end

    it "refuses what is no String" do
      [nil, 3, :abc, buffer].each { |value| expect { buffer.set_string(value) }.to raise_error(TypeError) }
    end
  end

  describe "bounds" do
    calls = {
      get_value: [[:U8, 0]], set_value: [[:U64, 0, 1], 1], get_string: [[0, 1]], set_string: [["abc", 0, 1, 0], 1],
      slice: [[0, 1]], clear: [[0, 0, 1]], view: [[0, 1]], copy: [[:source, 0, 1, 0], 1]
    }
    wrong = [-1, -2**63, -2**64, 65, 2**62, 2**63, (2**64) - 1, 2**64, 2**70]

    calls.each do |name, (arguments)|
      it "#{name} refuses every offset and length outside, without an overflow and without a change" do
        bytes = sample(64)
        buffer.set_string(bytes)
        arguments = arguments.map { |argument| argument == :source ? buffer : argument }
        positions = arguments.each_index.select { |i| arguments[i].is_a?(Integer) }
        positions.shift if name == :clear # the byte
        positions.pop if name == :set_value # the value
        positions.product(wrong).each do |position, value|
          call = arguments.dup.tap { |copy| copy[position] = value }
          expect { buffer.__send__(name, *call) }.to raise_error(ArgumentError), "#{name}#{call}"
        end
        expect(buffer.get_string).to eq(bytes)
      end

      it "#{name} refuses what is no Integer" do
        arguments = arguments.map { |argument| argument == :source ? buffer : argument }
        positions = arguments.each_index.select { |i| arguments[i].is_a?(Integer) }
        positions.product(["1", :a, [], Object.new]).each do |position, value|
          call = arguments.dup.tap { |copy| copy[position] = value }
          expect { buffer.__send__(name, *call) }.to raise_error(TypeError), "#{name}#{call}"
        end
      end
    end

    it "an offset and a length whose sum passes 2**64 are outside" do
      last = (2**64) - 1
      [[last, 2], [2, last], [last, last], [2**63, 2**63]].each do |offset, length|
        expect { buffer.get_string(offset, length) }
          .to raise_error(ArgumentError, "#{length} bytes at offset #{offset} are outside a buffer of 64 bytes")
        expect { buffer.copy(buffer, 0, length, offset) }.to raise_error(ArgumentError)
      end
    end

    it "a value whose last byte is outside is outside" do
      expect(buffer.get_value(:U64, 56)).to eq(0)
      (57..64).each { |offset| expect { buffer.get_value(:U64, offset) }.to raise_error(ArgumentError) }
    end

    it "a conversion that frees the buffer meanwhile finds it closed, not the memory gone" do
      evil = Object.new
      freed = buffer
      evil.define_singleton_method(:to_int) { freed.free && 1 }
      expect { buffer.set_value(:U8, 0, evil) }.to raise_error(DMA::ClosedError)
    end

    it "an empty buffer has no bytes, and everything works on them" do
      empty = described_class.new(0)
      expect([empty.size, empty.get_string, empty.hexdump, empty.values(:U8)]).to eq([0, "", "", []])
      expect([empty.set_string(""), empty.copy(buffer, 0, 0)]).to eq([0, 0])
      expect(empty.clear.slice.view.size).to eq(0)
      expect { empty.get_value(:U8, 0) }.to raise_error(ArgumentError)
    end
  end

  describe "#clear" do
    it "sets all bytes, or a part, as IO::Buffer does" do
      ours, theirs = both(sample(20))
      [[7, 15], [9, 2, 3], [255, 20, 0], []].each do |call|
        expect(ours.clear(*call)).to be(ours)
        theirs.clear(*(call.empty? ? [0] : call))
        expect(ours.get_string).to eq(theirs.get_string)
      end
    end

    it "refuses what is no byte" do
      [-1, 256, 2**70].each do |byte|
        expect { buffer.clear(byte) }.to raise_error(RangeError, "#{byte} is outside 0..255")
      end
      expect { buffer.clear("a") }.to raise_error(TypeError)
    end
  end

  describe "#copy" do
    it "copies from a buffer or an IO::Buffer as IO::Buffer does" do
      ours, theirs = both(sample(10))
      source, io_source = both("abcdef")
      calls = [[], [4], [5], [11], [0, 3], [0, 3, 3], [0, 3, 4], [9, 1, 5], [0, 7], [0, 0, 7]]
      calls.each do |call|
        expected = outcome { theirs.copy(io_source, *call) }
        [source, io_source].each { |from| expect(outcome { ours.copy(from, *call) }).to eq(expected), call.inspect }
        expect(ours.get_string).to eq(theirs.get_string)
      end
    end

    it "takes the rest of the source where no length is given" do
      source = described_class.new(6).tap { |from| from.set_string("abcdef") }
      expect(buffer.copy(source, 1, nil, 4)).to eq(2)
      expect(buffer.get_string(0, 4)).to eq("\0ef\0")
    end

    it "copies within itself whichever way the parts overlap" do
      bytes = sample(64)
      [[0, 10], [10, 0]].each do |to, from|
        buffer.set_string(bytes)
        buffer.copy(buffer, to, 54, from)
        expect(buffer.get_string(to, 54)).to eq(bytes[from, 54])
        buffer.set_string(bytes)
        buffer.copy(buffer.view, to, 54, from)
        expect(buffer.get_string(to, 54)).to eq(bytes[from, 54])
      end
    end

    it "refuses other sources, and sources that are gone" do
      expect { buffer.copy("abc") }.to raise_error(TypeError, "String is neither DMA::Buffer nor IO::Buffer")
      expect { buffer.copy(nil) }.to raise_error(TypeError)
      expect { buffer.copy(described_class.new(3).free) }.to raise_error(DMA::ClosedError)
      other = described_class.new(3)
      view = other.view
      other.free
      expect { buffer.copy(view) }.to raise_error(IO::Buffer::InvalidatedError)
    end
  end

  describe "#<=>" do
    it "compares sizes, then bytes, as IO::Buffer does, with either" do
      %W[a b ab a\u00ff a\u00ffc \0\0\0].repeated_permutation(2) do |left, right|
        ours, theirs = both(left)
        other, io_other = both(right)
        expected = (theirs <=> io_other).clamp(-1, 1)
        expect([ours <=> other, ours <=> io_other]).to eq([expected, expected])
      end
      expect(described_class.new(0) <=> buffer).to eq(-1)
    end

    it "makes buffers Comparable, and compares with nothing else" do
      other = described_class.new(64)
      expect(buffer).to eq(other)
      other.set_value(:U8, 63, 1)
      expect(buffer).to be < other
      expect([buffer <=> "a", buffer <=> nil, buffer == 3]).to eq([nil, nil, false])
      expect { buffer < 3 }.to raise_error(ArgumentError)
    end
  end

  describe "#hexdump" do
    [1, 15, 16, 17, 48].each do |size|
      it "prints #{size} bytes as IO::Buffer does" do
        bytes = size == 48 ? (0x70...0xA0).to_a.pack("C*") : sample(size)
        ours, theirs = both(bytes)
        expect(ours.hexdump).to eq(theirs.hexdump)
      end
    end
  end

  describe "#slice" do
    it "shares the memory, both ways" do
      part = buffer.slice(8, 16)
      part.set_string("from the part")
      buffer.set_string("whole", 19)
      expect(part.get_string(0, 16)).to eq("from the pawhole".b)
      expect([part.size, part.address - buffer.address]).to eq([16, 8])
      deeper = part.slice(11).slice(0, 5)
      expect(deeper.get_string).to eq("whole")
      expect { part.get_string(0, 17) }.to raise_error(ArgumentError)
    end

    it "keeps the memory while the buffer it was cut from is garbage" do
      parts = Array.new(rounds(100)) do |i|
        whole = described_class.new(8192, lock: false)
        whole.set_value(:U64, 4096, i)
        whole.slice(4000).slice(96, 8)
      end
      unstressed { 3.times { GC.start } }
      expect(parts.map { |part| part.get_value(:U64, 0) }).to eq([*0...parts.size])
    end

    it "ends with the buffer it was cut from, and ends alone" do
      part = buffer.slice(0, 8)
      other = buffer.slice(8, 8)
      expect(part.free).to be(part)
      expect(part).to be_freed
      expect { part.get_string }.to raise_error(DMA::ClosedError, "this slice was freed")
      expect(other.get_string).to eq("\0" * 8)
      buffer.free
      expect(other).to be_freed
      expect { other.get_string }.to raise_error(DMA::ClosedError, "this buffer was freed")
    end

    it "knows its alignment" do
      whole = described_class.new(65_536, align: 16_384)
      found = [0, 16_384, 8192, 4096, 6, 1].map { |offset| whole.slice(offset).alignment }
      expect(found).to eq([16_384, 16_384, 8192, 4096, 2, 1])
    end
  end

  describe "the end of a buffer" do
    it "frees once, and a second time does nothing" do
      expect(buffer.free).to be(buffer)
      expect(buffer.free).to be_freed
      expect(buffer.inspect).to eq("#<DMA::Buffer freed>")
    end

    it "every use of the memory after it raises ClosedError" do
      other = described_class.new(64)
      buffer.free
      {
        address: [], residency: [], huge_bytes: [], segments: [], retain: [], get_value: [:U8, 0],
        set_value: [:U8, 0, 1], get_values: [[:U8], 0], set_values: [[:U8], 0, [1]], get_string: [], set_string: ["a"],
        copy: [other], slice: [], clear: [], view: [], to_ptr: [], values: [:U8], "<=>": [other], "==": [other],
        hexdump: []
      }.each do |name, arguments|
        expect { buffer.__send__(name, *arguments) }
          .to raise_error(DMA::ClosedError, "this buffer was freed"), name.to_s
      end
      expect { buffer.each(:U8, &:itself) }.to raise_error(DMA::ClosedError)
      expect { buffer.each_byte(&:itself) }.to raise_error(DMA::ClosedError)
      expect { other <=> buffer }.to raise_error(DMA::ClosedError)
    end

    it "open frees when the block ends, whichever way, and returns its value" do
      kept = nil
      expect(described_class.open(16) { |open| (kept = open).size }).to eq(16)
      expect { kept.get_string }.to raise_error(DMA::ClosedError, /valid inside its block only.* retain/)
      expect { described_class.open(16) { |open| raise IOError, (kept = open).inspect } }.to raise_error(IOError)
      expect(kept).to be_freed
      catch(:out) { described_class.open(16) { |open| throw :out, kept = open } }
      expect(kept).to be_freed
    end

    it "open without a block leaves the freeing to its caller, and retain keeps what a block gave" do
      plain = described_class.open(16, lock: false)
      expect([plain.size, plain.residency, plain.freed?]).to eq([16, :pageable, false])
      kept = described_class.open(16) { |open| open.tap { |it| it.set_string("kept") }.retain }
      expect(kept.get_string(0, 4)).to eq("kept")
      expect(kept.free).to be_freed
    end
  end

  describe "as a Ruby object" do
    it "cannot be copied, marshalled or made out of nothing" do
      expect { buffer.dup }.to raise_error(TypeError, "allocator undefined for DMA::Buffer")
      expect { buffer.clone }.to raise_error(TypeError)
      expect { Marshal.dump(buffer) }.to raise_error(TypeError)
      expect { described_class.allocate }.to raise_error(TypeError)
    end

    it "freezes as IO::Buffer does: the object, not the bytes" do
      buffer.freeze
      buffer.set_value(:U8, 0, 3)
      expect([buffer.frozen?, buffer.get_value(:U8, 0), buffer.view.size]).to eq([true, 3, 64])
      expect(buffer.free).to be_freed
    end

    it "shows class, address, size and state, and not its bytes" do
      expect(buffer.inspect).to eq(format("#<DMA::Buffer 0x%x+64 pageable>", buffer.address))
    end
  end
end
