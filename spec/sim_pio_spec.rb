# frozen_string_literal: true

require "etc"

RSpec.describe DMA::Device, "programmed I/O" do
  let(:sim) { DMA::Sim.new(clock: :manual, bus: :pci) }
  let(:device) { sim.device(memory: 2 << 20) }

  it "moves the bytes asked for and nothing beside them, in words of each width" do
    before = sample(4096, 1)
    device.write_dma(before).wait
    [1, 2, 4, 8].each do |width|
      bytes = sample(100, width)
      expect(device.pio_write(bytes, at: 1001, width: width)).to eq 100
      before[1001, 100] = bytes
      expect(device.pio_read(4096, width: width)).to eq before
      expect(device.pio_read(100, at: 1001, width: width)).to eq bytes
    end
    expect(device.read_dma(4096)).to eq before
  end

  it "counts 1,048,576 operations for a mebibyte byte by byte, and DMA less than a hundred whatever the size" do
    operations = lambda do |&work|
      before = sim.stats[:cpu_operations]
      work.call
      sim.stats[:cpu_operations] - before
    end
    data = "x" * (1 << 20)
    expect(operations.call { device.pio_write(data) }).to eq 1_048_576
    expect(operations.call { device.pio_write(data, width: 8) }).to eq 131_072
    counts = [64, 4096, 1 << 20].map { |size| operations.call { device.write_dma(data[0, size]).wait } }
    # Five words of a descriptor, the doorbell, an interrupt, the status.
    expect(counts).to eq [47] * 3
  end

  it "takes a transaction of the bus for each word, and a turnaround more for what it reads" do
    took = lambda do |&work|
      before = sim.cycles
      work.call
      sim.cycles - before
    end
    expect(took.call { device.pio_write("x" * 100) }).to eq 100 * 4
    expect(took.call { device.pio_write("x" * 100, width: 4) }).to eq 25 * 4
    expect(took.call { device.pio_read(100, width: 8) }).to eq 13 * (3 + 2 + 1)
  end

  it "shares the bus with channels, a transaction of one after a word of the other" do
    transfer = device.write_dma("y" * 4096, at: 1 << 20)
    device.pio_write("x" * 10)
    expect(transfer).not_to be_done
    dma = sim.stats[:dma_cycles]
    expect(sim.cycles).to eq dma + (10 * 4)
    device.pio_write("x" * 4096)
    expect(transfer).to be_done
    expect(device.read_dma(4096, at: 1 << 20)).to eq "y" * 4096
  end

  it "is in a trace as turns of the CPU, a word each, beside those of channels" do
    alone = sim.trace { device.pio_write("x" * 12, width: 4) }
    expect(alone.tenures.map(&:to_a)).to eq [[nil, nil, 0, 4], [nil, nil, 4, 8], [nil, nil, 8, 12]]
    expect(alone.to_svg).to include("CPU", "FRAME#")
    trace = sim.trace do
      device.write_dma("y" * 4096)
      device.pio_write("x" * 100)
      sim.run_until_idle
    end
    tenures = trace.tenures
    expect(tenures.count { |tenure| tenure.device.nil? }).to eq 100
    expect(tenures.each_cons(2)).to all(satisfy { |one, other| one.end <= other.begin })
    # A word behind each transaction, as long as there are any.
    expect(tenures.first(20).map(&:device).each_slice(2)).to all(eq([0, nil]))
    expect(DMA::Sim.new(clock: :manual, bus: :pcie).then { |link| link.trace { link.device.pio_write("x") } }.tenures)
      .to eq []
  end

  it "is all that the CPU does meanwhile: what it does otherwise goes on behind it" do
    sim = DMA::Sim.new(clock: :manual, bus: :pci, cpu_load: 0.5)
    device = sim.device
    sim.step(1000)
    trace = sim.trace do
      before = sim.stats[:cpu_accesses]
      device.write_dma("y" * 300)
      device.pio_write("x" * 1000)
      expect(sim.stats[:cpu_accesses] - before).to be <= 1
      sim.step(1000)
      expect(sim.stats[:cpu_accesses] - before).to be_within(2).of(1000 / 38)
    end
    expect(trace.tenures.each_cons(2)).to all(satisfy { |one, other| one.end <= other.begin })
    expect(device.pio_read(1000)).to eq "x" * 1000
  end

  it "lets an 8237's next piece begin as soon as its interrupt comes, between two words" do
    sim = DMA::Sim.new(clock: :manual, bus: :isa, interrupt_cost: { entry: 5000 })
    device = sim.device(controller: :isa)
    trace = sim.trace do
      device.write_dma("y" * 66_000)
      device.pio_write("x" * 70_000, at: 1 << 20)
    end
    tenures = trace.tenures
    expect(tenures.each_cons(2)).to all(satisfy { |one, other| one.end <= other.begin })
    expect(trace.count { |event| event.what == :terminal_count }).to eq 2
  end

  it "has a direction of a link for itself on PCI Express, where a read waits half a microsecond" do
    sim = DMA::Sim.new(clock: :manual, bus: :pcie)
    device = sim.device
    device.pio_write("x" * 64, width: 8)
    expect(sim.cycles).to eq 8 * 2
    device.pio_read(64, width: 8)
    expect(sim.time).to be_within(1e-7).of(4e-6)
  end

  it "goes on with a clock of its own" do
    device = DMA::Sim.new.device
    device.pio_write("abc", at: 5)
    expect(device.pio_read(5, at: 4)).to eq "\0abc\0"
  end

  it "finds all ones where the device is not reached, and loses what is written" do
    sim.inject(:link_down)
    expect { device.write_dma("x").wait }.to raise_error(DMA::TransferError)
    device.pio_write("abc")
    expect(device.pio_read(3)).to eq "\xff\xff\xff".b
    device.reset
    expect(device.pio_read(3)).to eq "\0\0\0"
  end

  it "is refused outside the device, for other widths, of other devices, and once it is closed" do
    expect { device.pio_write("ab", at: (2 << 20) - 1) }.to raise_error(ArgumentError, /2 bytes at 2097151 .* 2097152/)
    expect { device.pio_read(2, at: (1 << 63) - 1) }.to raise_error(ArgumentError, /outside/)
    expect { device.pio_read(1, width: 3) }.to raise_error(ArgumentError, /3 bytes .* none of 1, 2, 4 and 8/)
    expect { device.pio_write(5) }.to raise_error(TypeError, /Integer is no String/)
    DMA::Device.open(scratch_file("file", "abc")) do |file|
      expect { file.pio_read(1) }.to raise_error(DMA::UnsupportedError, /simulated/)
    end
    device.close
    expect { device.pio_read(1) }.to raise_error(DMA::ClosedError)
  end

  it "says so where there is no memory for the bytes" do
    pid = fork do
      device = DMA::Sim.new(clock: :manual).device(memory: 1 << 30)
      used = File.read("/proc/self/statm").to_i * Etc.sysconf(Etc::SC_PAGESIZE)
      Process.setrlimit(Process::RLIMIT_AS, used + (64 << 20))
      device.pio_read(1 << 30)
    rescue Errno::ENOMEM
      exit!(0)
    ensure
      exit!(1)
    end
    expect(Process.wait2(pid).last.exitstatus).to eq 0
  end
end
