# frozen_string_literal: true

# What can be had of character devices everywhere: /dev/zero, /dev/full and /dev/null. spec/guest has some with memory.
RSpec.describe "A character device" do
  # A name for a device, as a driver gives it.
  def named(name, device)
    scratch_file(name).tap { |path| File.symlink(device, path) }
  end

  describe "as a device" do
    it "says what it is: a character device of no known size, without a page cache, and with nothing to make durable" do
      DMA::Device.open("/dev/zero") do |device|
        expect(device.capabilities).to include(engine: :threads, character: true, size: nil, direct: true, alignment: 1,
                                               memory_alignment: 1, strict: false, operations: %i[read write])
        expect { device.channel.flush }.to raise_error(DMA::UnsupportedError, /nothing to flush/)
        expect { device.registers }.to raise_error(DMA::UnsupportedError, /no registers/)
      end
      DMA::Device.open(scratch_file("file", "x")) { |file| expect(file.capabilities).to include(character: false) }
    end

    it "fills memory that is not aligned, and nothing beside it" do
      DMA::Device.open("/dev/zero") do |device|
        [1, 4095, (3 << 20) + 1].each do |length|
          target = guarded("\xFF".b * length)
          transfer = device.channel.submit(source: 12_345, destination: target).wait
          expect([transfer.status, transfer.bytes]).to eq [:complete, length]
          expect(target.get_string.count("\0")).to eq length
        end
        expect(device.stats).to include(completed: 3, bounced_bytes: 0)
        expect(guards_whole?).to be true
      end
    end

    it "that gives nothing ends a read, and leaves its memory" do
      DMA::Device.open("/dev/null") do |device|
        target = guarded("unchanged")
        transfer = device.channel.submit(source: 0, destination: target).wait
        expect([transfer.status, transfer.bytes, target.get_string]).to eq [:complete, 0, "unchanged"]
        expect(device.write_dma(sample(5000)).wait.bytes).to eq 5000
        expect(guards_whole?).to be true
      end
    end

    it "that refuses a write says why, where, and how much was moved" do
      DMA::Device.open("/dev/full") do |device|
        transfer = device.write_dma("lost", at: 0xABC)
        expect { transfer.wait }
          .to raise_error(DMA::TransferError, %r{at device address 0xabc on .*/dev/full: No space.*\(0 of 4 bytes})
        expect([transfer.status, transfer.errno]).to eq [:os_error, Errno::ENOSPC::Errno]
      end
    end

    it "has no page cache to go through, where somebody insists on one" do
      expect { DMA::Device.open("/dev/zero", direct: false) }.to raise_error(DMA::UnsupportedError, /no page cache/)
      expect { DMA::File.open("/dev/zero", direct: false) }.to raise_error(DMA::UnsupportedError, /no page cache/)
      DMA::Device.open("/dev/zero", direct: true) { |device| expect(device.read_dma(3)).to eq "\0\0\0" }
    end

    it "that knows no offsets, as a terminal, is refused when it is opened" do
      no_addresses = /ptmx has no addresses: .*pread.*terminal/
      expect { DMA::Device.open("/dev/ptmx") }.to raise_error(DMA::UnsupportedError, no_addresses)
      expect { DMA::File.open("/dev/ptmx") }.to raise_error(DMA::UnsupportedError, no_addresses)
    end
  end

  describe "of a pair" do
    # /dev/full reads as zeros and takes nothing; /dev/null is empty and takes all: each tells whether it was used.
    let!(:writing) { named("xdma9_h2c_0", "/dev/full") }
    let!(:reading) { named("xdma9_c2h_0", "/dev/null") }

    it "is written through h2c and read through c2h, whichever it was opened by" do
      [writing, reading].each do |path|
        DMA::Device.open(path) do |device|
          expect(device.name).to eq path
          expect(device.capabilities[:operations]).to eq %i[read write]
          expect(device.read_dma(10)).to eq ""
          expect { device.write_dma("x").wait }.to raise_error(DMA::TransferError, /No space/)
        end
      end
    end

    it "is opened once for each direction, for nothing but that, and closed with the device" do
      # In a process of its own, where nothing else is opened or closed meanwhile.
      output = in_ruby(<<~RUBY)
        def open_devices
          numbers = Dir.children("/proc/self/fd").select { |number| File.exist?("/proc/self/fd/\#{number}") }
          numbers.to_h { |number| [number, File.readlink("/proc/self/fd/\#{number}")] }
        end
        before = open_devices
        opened = DMA::Device.open(#{reading.inspect}) do
          (open_devices.to_a - before.to_a).map do |number, path|
            "\#{path} \#{File.read("/proc/self/fdinfo/\#{number}")[/^flags:.*([012])$/, 1]}"
          end
        end
        print opened.sort.join(", "), "; ", open_devices == before
      RUBY
      expect(output).to eq "/dev/full #{File::WRONLY}, /dev/null #{File::RDONLY}; true"
    end

    it "without its other half serves its own direction, and refuses the other one, naming what it looked for" do
      File.unlink(writing)
      DMA::Device.open(reading) do |device|
        expect(device.capabilities[:operations]).to eq %i[read]
        expect(device.read_dma(10)).to eq ""
        expect { device.write_dma("x") }
          .to raise_error(DMA::UnsupportedError, /cannot write to #{reading}.* open #{writing}: No such file/)
        expect(device.stats).to include(submitted: 1, outstanding: 0)
      end
    end

    it "refuses a list of which one element goes the way that is missing, before anything of it is moved" do
      File.unlink(reading)
      DMA::Device.open(writing) do |device|
        expect(device.capabilities[:operations]).to eq %i[write]
        buffer = guarded("kept")
        list = [{ source: buffer, destination: 0 }, { source: 0, destination: buffer }]
        expect { device.channel.submit(list) }
          .to raise_error(DMA::UnsupportedError, /cannot read from #{writing}.* open #{reading}: No such file/)
        expect(device.stats).to include(submitted: 0)
        expect(buffer.get_string).to eq "kept"
      end
    end

    it "with a file in the place of its other half does not use that" do
      File.unlink(reading)
      File.binwrite(reading, "not a device")
      DMA::Device.open(writing) do |device|
        expect { device.read_dma(1) }.to raise_error(DMA::UnsupportedError, /#{reading} is no character device/)
        expect(File.binread(reading)).to eq "not a device"
      end
    end

    it "is no pair where the numbers differ" do
      alone = named("xdma9_h2c_1", "/dev/zero")
      DMA::Device.open(alone) { |device| expect(device.capabilities[:operations]).to eq %i[write] }
      other = named("xdma9_user", "/dev/zero")
      DMA::Device.open(other) { |device| expect(device.capabilities[:operations]).to eq %i[read write] }
    end
  end

  describe "as a file" do
    it "gives each sysread in one request of just that size, however large" do
      DMA::File.open("/dev/zero", "rb") do |file|
        [4, 4, 1, (3 << 20) + 5].each do |length|
          before = file.stats[:requests]
          expect(file.sysread(length)).to eq "\0" * length
          expect(file.stats[:requests] - before).to eq 1
        end
        expect(file.stats).to include(direct_bytes: (3 << 20) + 14, buffered_requests: 0, bounced_bytes: 0)
        expect([file.direct?, file.alignment, file.size, file.pos]).to eq [true, 1, 0, (3 << 20) + 14]
      end
    end

    it "reads as an IO does, to an end that it finds by reading" do
      DMA::File.open("/dev/null") { |file| expect([file.read, file.read(1), file.eof?]).to eq ["", nil, true] }
      DMA::File.open("/dev/zero") do |file|
        expect(file.read(200_000)).to eq "\0" * 200_000
        expect(file.pread(3, 1 << 40)).to eq "\0\0\0"
        buffer = guarded("\xFF".b * 70_000)
        expect(file.read_into(buffer)).to eq 70_000
        expect(buffer.get_string).to eq "\0" * 70_000
        expect(guards_whole?).to be true
      end
    end

    it "says what a write was refused with, and where" do
      DMA::File.open("/dev/full", "w") do |file|
        expect { file.pwrite("lost", 12_345) }
          .to raise_error(Errno::ENOSPC, %r{write 4 bytes at offset 12345 \(0 of 4 bytes are safe\) of /dev/full})
        expect { file.fsync }.to raise_error(DMA::UnsupportedError, /nothing to flush/)
      end
      DMA::File.open("/dev/null", "w") { |file| expect(file.syswrite(sample(5 << 20))).to eq 5 << 20 }
    end
  end
end
