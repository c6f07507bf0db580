# frozen_string_literal: true

require "objspace"

# Where the memory lies, when it goes, and who may not have it.
RSpec.describe DMA::Buffer do
  mib = 1 << 20

  def needs_huge_pages
    setting = "/sys/kernel/mm/transparent_hugepage/enabled"
    needs "transparent huge pages for who asks", File.exist?(setting) && File.read(setting).include?("[madvise]")
  end

  describe "allocation" do
    it "gives zeroed memory at a page" do
      [1, 4095, 4096, 4097, 3 * mib].each do |size|
        buffer = described_class.new(size, lock: false)
        expect([buffer.size, buffer.address % DMA::PAGE_SIZE, buffer.alignment]).to eq([size, 0, DMA::PAGE_SIZE])
        expect(buffer.get_string.count("\0")).to eq(size)
      end
    end

    it "gives zeroed memory where a buffer was before" do
      rounds(50).times { expect(described_class.open(65_536) { |it| it.get_string.tap { it.clear(1) } }.sum).to eq(0) }
    end

    it "aligns to any power of two" do
      [1, 512, 4096, 8192, 65_536, 2 * mib, 64 * mib].each do |align|
        buffer = described_class.new(5000, align: align, lock: false)
        expect([buffer.address % [align, 4096].max, buffer.alignment]).to eq([0, [align, 4096].max])
      end
    end

    it "refuses alignments that are no power of two" do
      [0, 3, 48, 4095, (2**63) - 1].each do |align|
        expect { described_class.new(1, align: align) }
          .to raise_error(DMA::AlignmentError, "alignment #{align} is not a power of two")
      end
    end

    it "refuses sizes and alignments that no memory has" do
      [-1, 1.5, "1", nil, 2**63, 2**64].each do |size|
        expect { described_class.new(size) }.to raise_error(ArgumentError, /size must be an Integer in 0\.\./)
      end
      expect { described_class.new((2**63) - 1) }.to raise_error(ArgumentError, /do not fit the address space/)
      [2**63, 2**64, -1, nil].each do |align|
        expect { described_class.new(1, align: align) }.to raise_error(ArgumentError)
      end
      expect { described_class.new(2**50) }.to raise_error(Errno::ENOMEM, /cannot map #{2**50} bytes/)
    end

    it "refuses options that it does not know" do
      [{ lock: nil }, { lock: "auto" }, { lock: :always }, { huge: true }, { huge: nil }].each do |options|
        expect { described_class.new(1, **options) }.to raise_error(ArgumentError, /is none of .*:auto/)
      end
      expect { described_class.new(1, pages: 3) }.to raise_error(ArgumentError, /unknown keyword/)
    end
  end

  describe "huge pages" do
    it "are taken from 2 MiB up with :auto, counted when they are touched, and not with :never" do
      needs_huge_pages
      expect(in_ruby(<<~'RUBY')).to eq("0 0\n8388608 1048576\n0\n")
        auto = DMA::Buffer.new(8 << 20, lock: false)
        puts "#{auto.huge_bytes} #{auto.address % (2 << 20)}"
        auto.clear(1)
        puts "#{auto.huge_bytes} #{auto.slice(3 << 20, 1 << 20).huge_bytes}"
        puts DMA::Buffer.new(8 << 20, lock: false, huge: :never).clear(1).huge_bytes
      RUBY
    end

    it "are for buffers alone: the rest of the process, for which Ruby disables them, is left without" do
      needs_huge_pages
      expect(in_ruby(<<~'RUBY')).to eq("false\n4194304 0\n")
        huge = -> { File.read("/proc/self/smaps").scan(/AnonHugePages: +(\d+)/).sum { |kib,| kib.to_i * 1024 } }
        puts huge.call.positive?
        buffer = DMA::Buffer.new(4 << 20, lock: false).clear(1)
        heap = Array.new(20) { "x" * (4 << 20) }
        puts "#{buffer.huge_bytes} #{huge.call - buffer.huge_bytes}"
      RUBY
    end

    it "of other buffers are not counted, whatever mappings the kernel joins" do
      needs_huge_pages
      buffers = Array.new(12) { described_class.new(2 * mib, lock: false) }
      buffers.each_slice(2) { |touched, _| touched.clear(1) }
      expect(buffers.each_slice(2).map { |_, untouched| untouched.huge_bytes }.uniq).to eq([0])
    end

    it "that are reserved are what :require takes, and gives back" do
      needs_root
      setting = "/proc/sys/vm/nr_hugepages"
      before = File.read(setting)
      free = -> { File.read("/proc/meminfo")[/^HugePages_Free:\s+(\d+)/, 1].to_i }
      File.write(setting, (before.to_i + 2).to_s)
      needs "2 MiB pages to reserve", free.call >= 2
      reserved = free.call
      buffer = described_class.new(3 * mib, huge: :require).clear(1)
      expect([buffer.huge_bytes, buffer.address % (2 * mib), free.call]).to eq([3 * mib, 0, reserved - 2])
      buffer.free
      expect(free.call).to eq(reserved)
    ensure
      File.write(setting, before) if before
    end

    it "that are not reserved are an error, which says what to do" do
      expect { described_class.new(1 << 40, huge: :require) }
        .to raise_error(Errno::ENOMEM, /huge pages; reserve more \(sysctl vm.nr_hugepages\), or use huge: :auto/)
    end
  end

  describe "locking" do
    it "true brings the memory in and locks it, :auto locks what is touched, false does neither; free ends it" do
      # In a process of its own: here, a GC may unlock what other examples left.
      expect(in_ruby(<<~'RUBY')).to eq("locked 4 4\nlocked 8 4\npageable 8 4\n0 0\n0 0 false\n")
        status = ->(line) { File.read("/proc/self/status")[/^#{line}:\s+(\d+) kB/, 1].to_i >> 10 }
        before = status.call("VmRSS")
        show = ->(*more) { puts [*more, status.call("VmLck"), (status.call("VmRSS") - before) / 4 * 4].join(" ") }
        buffers = [true, :auto, false].map do |lock|
          DMA::Buffer.new(4 << 20, lock: lock).tap { |buffer| show.call(buffer.residency) }
        end
        buffers.each(&:free)
        show.call
        buffer = DMA::Buffer.new(4 << 20, lock: true)
        view = buffer.view
        buffer.free
        puts "#{status.call("VmLck")} #{(status.call("VmRSS") - before) / 4 * 4} #{view.valid?}"
      RUBY
    end

    it "past RLIMIT_MEMLOCK raises with needed, locked, limit and what to do; :auto stays pageable and works" do
      path = scratch_file("weights", sample(300_000))
      File.chmod(0o755, scratch)
      output = unprivileged(<<~RUBY)
        held = DMA::Buffer.new(40_000, lock: true)
        p held.residency
        begin
          DMA::Buffer.new(100_000, lock: true)
        rescue DMA::LockLimitError => e
          puts e.message
        end
        auto = DMA::Buffer.new(100_000)
        p auto.residency, auto.clear(1).get_string.sum % 65_536 == 100_000 % 65_536
        read = DMA.read(#{path.dump})
        p read.residency, read.get_string == File.binread(#{path.dump})
      RUBY
      expect(output.lines(chomp: true).values_at(0, 2..5)).to eq([":locked", ":pageable", "true", ":pageable", "true"])
      expect(output.lines[1]).to start_with("cannot lock 102400 bytes: 40960 bytes are locked already and " \
                                            "RLIMIT_MEMLOCK is 65536; raise the limit (ulimit -l, limits.conf,")
        .and end_with("or use smaller ones; a buffer that no device needs can do with lock: :auto\n")
    end

    it "past RLIMIT_MEMLOCK a mapping says how to raise it, and not that the device could do without" do
      File.chmod(0o755, scratch)
      output = unprivileged(<<~RUBY)
        DMA::Device.open(:sim) do |device|
          device.map(DMA::Buffer.new(1 << 20))
        rescue DMA::LockLimitError => e
          puts e.message
        end
      RUBY
      expect(output).to match(/\Acannot lock 1048576 bytes: .* RLIMIT_MEMLOCK is 65536; raise the limit \(ulimit -l/)
        .and end_with("or use smaller ones; a device uses locked memory only\n")
    end

    it "is tried again after a GC where garbage holds the limit" do
      expect(unprivileged(<<~RUBY)).to eq("done\n")
        100.times { DMA::Buffer.new(16_384, lock: true) }
        puts "done"
      RUBY
    end
  end

  describe "#segments" do
    it "tells root the physical pieces: stable, whole, at pages" do
      needs_root
      buffer = described_class.new(256 * 1024, lock: true, huge: :never)
      segments = buffer.segments
      expect(segments.sum(&:last)).to eq(buffer.size)
      expect(segments.flatten.map { |n| n % DMA::PAGE_SIZE }.uniq).to eq([0])
      expect(buffer.segments).to eq(segments)
      part = buffer.slice(5000, 100)
      expect(part.segments).to eq([[physical(segments, 5000), 100]])
      expect(buffer.slice(0, 0).segments).to eq([])
    end

    def physical(segments, offset)
      segments.each do |address, length|
        return address + offset if offset < length

        offset -= length
      end
    end

    it "of one huge page is one" do
      needs_root
      needs_huge_pages
      buffer = described_class.new(2 * mib, lock: true)
      expect(buffer.segments.map(&:last)).to eq([2 * mib])
    end

    it "is refused to others, with what would be needed" do
      expect(unprivileged(<<~'RUBY')).to match(/DMA::UnsupportedError: .*CAP_SYS_ADMIN.*run as root/)
        DMA::Buffer.new(4096).segments rescue puts "#{$!.class}: #{$!.message}"
      RUBY
    end
  end

  describe "garbage collection" do
    it "knows the bytes: 10,000 buffers of 1 MiB that are touched and dropped stay under 200 MiB" do
      peak = in_ruby(<<~'RUBY').to_i
        10_000.times { DMA::Buffer.new(1 << 20).clear(1) }
        puts File.read("/proc/self/status")[/VmHWM:\s+(\d+)/, 1]
      RUBY
      expect(peak).to be_between(1, 200 * 1024)
    end

    it "knows the bytes where each buffer is filled, and where views of it were made" do
      peak = in_ruby(<<~'RUBY').to_i
        500.times { DMA::Buffer.new(1 << 20).clear(1) }
        500.times { DMA::Buffer.new(1 << 20).clear(1).view }
        500.times { DMA::Buffer.open(1 << 20) { |buffer| buffer.clear(1).view } }
        500.times { DMA::Pool.new(count: 4, size: 1 << 18).checkout.clear(1) }
        puts File.read("/proc/self/status")[/VmHWM:\s+(\d+)/, 1]
      RUBY
      expect(peak).to be_between(1, 300 * 1024)
    end

    it "is told what each buffer has, once" do
      buffer = described_class.new(mib, lock: false)
      expect(ObjectSpace.memsize_of(buffer)).to be_between(mib, mib + 1024)
      expect(ObjectSpace.memsize_of(buffer.slice)).to be < 1024
      expect(ObjectSpace.memsize_of(described_class.wrap(buffer.address, mib))).to be < 1024
      expect(ObjectSpace.memsize_of(buffer.free)).to be < 1024
      expect(ObjectSpace.memsize_of(DMA::Pool.new(count: 2, size: mib))).to be_between(2 * mib, (2 * mib) + 1024)
    end

    it "that moves objects leaves buffers, slices and views as they were" do
      needs "a Ruby that compacts", GC.respond_to?(:verify_compaction_references)
      held = Array.new(rounds(20)) do |i|
        buffer = described_class.new(5000, lock: false).clear(i)
        [buffer, buffer.slice(1), buffer.view, buffer.slice(2).view(3), described_class.wrap(buffer.to_ptr)]
      end
      unstressed do
        GC.compact
        GC.verify_compaction_references(toward: :empty, double_heap: true)
      end
      bytes = held.each_with_index.map { |all, i| all.map { |it| it.get_value(:U8, 4000) - i } }
      expect(bytes.flatten.uniq).to eq([0])
      held.each { |buffer, *| buffer.free }
      expect(held.map { |all| [all[1].freed?, all[2].valid?, all[3].valid?] }.uniq).to eq([[true, false, false]])
    end
  end

  it "serves 8 threads at once, each its own buffers and all of them one" do
    shared = described_class.new(8 * 4096, lock: false)
    threads = Array.new(8) do |id|
      Thread.new do
        rounds(100).times.map do |i|
          own = described_class.new(8192, lock: i.even?).clear(id + 1)
          shared.slice(id * 4096, 4096).copy(own, 0, 4096, 4096)
          sum = shared.get_string(id * 4096, 4096).sum
          own.view.free
          own.free if i.odd?
          sum
        end.uniq
      end
    end
    expect(threads.map(&:value)).to eq((1..8).map { |id| [(id * 4096) % 65_536] })
  end

  it "works inside a Ractor, which gives back a String" do
    expect(in_ruby(<<~'RUBY')).to eq("4096 from a Ractor 7.5 ArgumentError\n" * 4)
      Warning[:experimental] = false
      ractors = Array.new(4) do
        Ractor.new do
          buffer = DMA::Buffer.new(4096, lock: :auto)
          buffer.set_string("from a Ractor")
          buffer.set_value(:F64, 64, 7.5)
          refused = begin
            buffer.get_value(:U8, 4096)
          rescue ArgumentError => e
            e.class
          end
          text = [buffer.size, buffer.get_string(0, 13), buffer.get_value(:F64, 64), refused].join(" ")
          100.times { DMA::Buffer.open(1 << 16) { |other| other.clear(1).view } }
          buffer.free
          text
        end
      end
      ractors.each { |ractor| puts ractor.take }
    RUBY
  end

  describe "fork" do
    def in_child
      reader, writer = IO.pipe
      pid = fork do
        GC.stress = false
        reader.close
        writer.write(Marshal.dump(yield))
        writer.close
        exit!(0)
      end
      writer.close
      found = reader.read
      _, status = Process.wait2(pid)
      expect(status).to be_success
      Marshal.load(found) # rubocop:disable Security/MarshalLoad
    ensure
      reader.close
    end

    it "the child finds buffers closed, and the parent's bytes are as they were" do
      buffer = described_class.new(8192).clear(7)
      part = buffer.slice(10, 10)
      calls = [-> { buffer.get_string }, -> { buffer.set_value(:U8, 0, 1) }, -> { buffer.clear }, -> { buffer.view },
               -> { buffer.address }, -> { buffer.segments }, -> { part.get_string }, -> { buffer.slice }]
      found = in_child do
        errors = calls.map do |call|
          call.call && nil
        rescue StandardError => e
          [e.class.name, e.message]
        end
        [errors, buffer.freed?, part.freed?, buffer.inspect, buffer.free.freed?]
      end
      message = "this memory belongs to the parent process; allocate anew after fork"
      expect(found.first.uniq).to eq([["DMA::ClosedError", message]])
      expect(found.drop(1)).to eq([true, true, "#<DMA::Buffer freed>", true])
      expect(buffer.get_string.bytes.uniq).to eq([7])
    end

    it "the child reads zeros through a view, writes nothing to the parent through it, and allocates its own" do
      buffer = described_class.new(8192).clear(7)
      view = buffer.view
      found = in_child do
        before = view.get_string.sum
        view.set_string("child")
        [before, described_class.open(100) { |own| own.set_string("own") && own.get_string(0, 3) }]
      end
      expect(found).to eq([0, "own"])
      expect(buffer.get_string.bytes.uniq).to eq([7])
    end

    it "the child collects and ends in order, whatever it inherited" do
      expect(in_ruby(<<~'RUBY', "env", "RUBYOPT=-W0")).to eq("child 0\nparent true\n")
        require "fiddle"
        buffers = Array.new(50) { DMA::Buffer.new(1 << 16).clear(7) }
        views = buffers.first(20).map(&:view) + buffers.last(20).map { |buffer| Fiddle::MemoryView.new(buffer) }
        pool = DMA::Pool.new(count: 3, size: 4096)
        wrapped = DMA::Buffer.wrap(IO::Buffer.new(100))
        taken = pool.checkout
        pid = fork do
          buffers.each(&:free)
          wrapped.free
          buffers = views = taken = nil
          GC.start
          Array.new(100) { DMA::Buffer.new(1 << 16).clear(1) }
        end
        puts "child #{Process.wait2(pid).last.exitstatus}"
        puts "parent #{buffers.all? { |buffer| buffer.each_byte.first(3) == [7, 7, 7] }}"
      RUBY
    end
  end
end
