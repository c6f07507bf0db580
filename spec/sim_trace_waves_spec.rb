# frozen_string_literal: true

require "rexml/document"

# The signals of a trace: in dumps, which are read back here, and in diagrams.
RSpec.describe DMA::Trace do
  let(:buffer) { DMA::Buffer.new(4096).tap { |buffer| buffer.set_string(sample(4096)) } }

  def machine(**options)
    DMA::Sim.new(clock: :manual, **options)
  end

  # A transfer to a device and one from another, at the same time.
  def two_masters(sim, length: 16)
    out, back = Array.new(2) { sim.device(channels: 1) }
    sim.trace do
      transfers = [out.channel.submit(source: buffer.slice(0, length), destination: 0),
                   back.channel.submit(source: 0, destination: buffer.slice(2048, length))]
      sim.run_until_idle
      transfers.each { |transfer| expect(transfer.wait.status).to eq :complete }
    end
  end

  # The changes of each variable of a dump by its path, the last at the end of the time. Nothing else may be in it.
  def parse(dump)
    header, body = dump.split("$enddefinitions $end\n")
    names = variables(header)
    now = -1
    changes = Hash.new { |all, path| all[path] = [] }
    body.each_line(chomp: true) do |line|
      next expect(now = line.delete("#").to_i).to(be >= now) if line.match?(/\A#\d+\z/)

      value, id = line.match(/\A(?<bit>[01])(?<id>[!-~]+)\z|\As(?<text>[!-~]+) (?<of>[!-~]+)\z/).captures.compact
      changes[names.fetch(id)] << [now, value]
    end
    changes.merge(end: now)
  end

  def variables(header)
    scopes = []
    header.each_line.with_object({}) do |line, names|
      command, *words = line.split
      case command
      when "$scope" then scopes << words.fetch(1)
      when "$upscope" then scopes.pop
      when "$var" then names[words.fetch(2)] = [*scopes, words.fetch(3)].join(".")
      end
    end
  end

  # What a variable is in each cycle of so many units of the dump's time.
  def course(dump, path, cycles, unit)
    changes = parse(dump).fetch("machine.#{path}")
    cycles.map { |cycle| changes.reverse.find { |time, _| time <= (cycle * unit) + (unit / 2) }.last }
  end

  it "takes no cycle that an untraced run does not" do
    [{ bus: :pci }, { bus: :pcie, cpu_load: 0.3 }, { bus: :isa, cpu_load: 0.7 }].each do |options|
      %i[burst cycle_stealing transparent].each do |mode|
        stats = [true, false].map do |traced|
          sim = machine(**options)
          device = sim.device(mode: mode)
          run = -> { device.write_dma(buffer).wait && device.read_dma(1000) }
          traced ? sim.trace(&run) : run.call
          # Nobody sees where an untraced burst is cut.
          sim.stats.merge(masters: sim.stats[:masters].map { |master| master.except(:grants) })
        end
        expect(stats.first).to eq stats.last
      end
    end
  end

  it "says who had the bus, and nobody had it while another did" do
    sim = machine(bus: :pci, cpu_load: 0.5)
    device = sim.device(mode: :cycle_stealing)
    trace = sim.trace { device.write_dma(buffer).wait }
    tenures = trace.tenures
    expect(tenures.each_cons(2)).to all(satisfy { |one, other| one.end <= other.begin })
    cycles = tenures.group_by(&:device).transform_values { |mine| mine.sum { |tenure| tenure.end - tenure.begin } }
    expect(cycles[0]).to eq sim.stats[:dma_cycles]
    expect(cycles[nil]).to be_within(19).of(sim.stats[:cpu_cycles])
    expect(tenures).to all(be_frozen)
    expect(trace).to all(satisfy { |event| event.asked <= event.begin && event.begin <= event.cycle })
  end

  it "has what the CPU did until it was taken, and nothing of before, though no device did anything" do
    sim = machine(cpu_load: 0.5)
    sim.step(1000)
    traces = Array.new(2) { sim.trace { sim.step(100) } }
    # An access of 8 cycles in each 16.
    expect(traces.map { |trace| trace.tenures.map(&:begin) }).to eq [1008.step(1100, 16).to_a, 1104.step(1199, 16).to_a]
    expect(traces.flat_map(&:tenures)).to all(have_attributes(device: nil, channel: nil))
    expect(parse(traces[0].to_vcd)["machine.bus.owner"].map(&:last).uniq).to match_array %w[CPU idle]
    expect(machine(bus: :pcie, cpu_load: 0.5).then { |links| links.trace { links.step(1000) } }.tenures).to eq []
  end

  it "loses none of the CPU's accesses between two traces" do
    sim = machine(bus: :pci, cpu_load: 0.6)
    device = sim.device(mode: %i[burst cycle_stealing transparent burst])
    tenures = Array.new(40) do |n|
      sim.trace do
        device.channel(n % 4).submit(source: buffer.slice(0, 64), destination: 0)
        n.even? ? sim.run_until_idle : sim.step(50)
        sim.run_until_idle
      end.tenures
    end.flatten
    expect(tenures.each_cons(2)).to all(satisfy { |one, other| one.end <= other.begin })
    expect(tenures.count { |tenure| tenure.device.nil? }).to eq sim.stats[:cpu_accesses]
  end

  # PCI Local Bus Specification 2.2, 3.3.1 and 3.3.2: four data phases of a read, and four of a write, one clock each,
  # behind an idle clock, the address phase, and the clock until DEVSEL#; low is asserted.
  it "shows a read and a write on PCI as the specification draws them" do
    trace = two_masters(machine(bus: :pci))
    dump = trace.to_vcd
    expect(dump).to include("$timescale 1 ps $end")
    table = { "bus.FRAME#" => "10000011000001", "bus.IRDY#" => "11000001100000", "bus.TRDY#" => "11100001110000",
              "bus.DEVSEL#" => "11100001110000", "dev0.REQ#" => "01111110000000", "dev0.GNT#" => "00000011111110",
              "dev1.REQ#" => "00000000111111", "dev1.GNT#" => "11111100000001" }
    table.each do |path, wanted|
      row = course(dump, path, 26...40, 30_000).join
      expect("#{path} #{row}").to eq "#{path} #{wanted}"
    end
    addresses = trace.select { |event| %i[to_device from_device].include?(event.what) }.map(&:address)
    expect(course(dump, "bus.AD", 26...40, 30_000))
      .to eq ["idle", format("A_%#x", addresses[0]), "idle", "D1", "D2", "D3", "D4",
              "idle", format("A_%#x", addresses[1]), "D1", "D1", "D2", "D3", "D4"]
    expect(course(dump, "bus.owner", 26...40, 30_000)).to eq [*["dev0.ch0"] * 7, *["dev1.ch0"] * 7]
    expect(course(dump, "dev0.ch0", 13...26, 30_000)).to all(eq("waits"))
  end

  it "has wait states where memory is slow" do
    trace = two_masters(machine(bus: :pci, memory_bandwidth: 33_333_333))
    event = trace.find { |one| one.what == :to_device }
    expect(event.waits).to be_positive
    dump = trace.to_vcd
    cycles = event.begin...event.cycle
    expect(course(dump, "bus.TRDY#", cycles, 30_000).count("0")).to eq 4
    expect(course(dump, "bus.IRDY#", cycles, 30_000).count("0")).to eq cycles.size - 2
  end

  it "dumps every change at its time, until the end, on buses of every kind" do
    { ideal: ["ns", 1], isa: ["ns", 125], pci: ["ps", 30_000], pcie: ["ps", 1015.625] }.each do |bus, (unit, cycle)|
      trace = two_masters(machine(bus: bus))
      dump = trace.to_vcd
      expect(dump).to include("$timescale 1 #{unit} $end").and be_ascii_only
      changes = parse(dump)
      expect(changes[:end]).to be_within(1).of(trace.map(&:cycle).max * cycle)
      interrupt = trace.find { |event| event.what == :interrupt && event.device == 1 }
      expect(changes["machine.dev1.ch0_irq"]).to match [[be_within(1).of(interrupt.cycle * cycle), "1"]]
      expect(changes["machine.dev0.ch0"].map { |_, words| words[/\A[a-z]+/] })
        .to include("fetch", "to", "status", "idle")
      owner = bus == :pcie ? "machine.dev0.link" : "machine.bus.owner"
      expect(changes[owner].map(&:last)).to include(bus == :pcie ? "ch0" : "dev0.ch0")
      expect(changes.key?("machine.bus.FRAME#")).to be(bus == :pci)
    end
  end

  describe "#to_svg" do
    let(:trace) { two_masters(machine(bus: :pci)) }

    def texts(svg)
      REXML::XPath.match(REXML::Document.new(svg), "//*[local-name()='text']").map(&:text)
    end

    it "is XML, with the name of each signal, cycles and time" do
      words = texts(trace.to_svg)
      expect(words).to include("Simulated bus, 33.33 MHz: cycles 0 to 48, 1440 ns", "40", "1200 ns")
      expect(words).to include("bus", "owner", "FRAME#", "AD", "IRDY#", "TRDY#", "DEVSEL#")
      expect(words & %w[dev0 dev1]).to eq %w[dev0 dev1]
      expect(words.tally).to include("REQ#" => 2, "GNT#" => 2, "ch0" => 2, "ch0_irq" => 2)
      expect(words).to include("dev0.ch0", "waits", "to_device", "interrupt", "D4")
    end

    it "names what failed below its box, in a line that has room for it, and in a colour of its own" do
      failing = machine(bus: :pci)
      failing.inject(:bus_error)
      svg = failing.trace { failing.device.write_dma("x").then { failing.run_until_idle } }.to_svg
      expect(texts(svg)).to include("bus_read_error", "failed")
      expect(svg).to match(/<rect [^>]*fill="#f87171"[^>]*>.*<text [^>]*fill="#b91c1c">bus_read_error</m)
      expect(texts(trace.to_svg) & %w[failed status]).to eq %w[status]
    end

    it "explains no mark that is not to be seen" do
      expect(texts(trace.to_svg(from: 0, to: 20))).not_to include("interrupt")
    end

    it "shows the links of two devices in colours of their own" do
      links = machine(bus: :pcie)
      devices = Array.new(2) { links.device }
      svg = links.trace { devices.map { |device| device.write_dma("x" * 64) }.each(&:wait) }.to_svg
      expect(texts(svg).tally).to include("dev0" => 2, "dev1" => 2, "link" => 2)
      expect(svg).to include("#99f6e4", "#fbcfe8")
    end

    it "shows a window" do
      svg = trace.to_svg(from: 26, to: 33)
      expect(svg).to include("cycles 26 to 33, 210 ns", "to_device 16 B")
      expect(svg).not_to include("fetch")
      expect(texts(svg).grep(/\AD\d\z/)).to eq %w[D1 D2 D3 D4]
    end

    it "is refused where nobody could read it, with a window that can be" do
      long = machine.then do |sim|
        device = sim.device(channels: 1)
        sim.trace { 300.times { device.write_dma("x").wait } }
      end
      expect { long.to_svg }
        .to raise_error(ArgumentError, /ch0 changes 901 times from cycle 0 .*shows 400; .*from: 0, to: (\d+)/)
      last = long.first(400).last.cycle
      expect(texts(long.to_svg(from: 0, to: last))).to include("ch0")
    end

    it "is refused for what is no window" do
      expect { trace.to_svg(from: 5, to: 4) }.to raise_error(ArgumentError, /from: 5, to: 4 .*0\.\.48/)
      expect { trace.to_svg(from: -1) }.to raise_error(ArgumentError, /from/)
      expect { trace.to_vcd(to: "1") }.to raise_error(ArgumentError, /to must be an Integer/)
    end

    it "is refused for cycles that are not the trace's, which the error names" do
      [{ from: 49 }, { from: 1000, to: 2000 }].each do |window|
        %i[to_svg to_vcd].each do |way|
          expect { trace.public_send(way, **window) }
            .to raise_error(ArgumentError, /from: #{window[:from]}, to: .* show nothing; .* cycles 0\.\.48/)
        end
      end
      expect(texts(trace.to_svg(from: 40, to: 60))).to include("dev0")
      expect { machine.trace { nil }.to_svg(from: 1, to: 2) }.to raise_error(ArgumentError, /0\.\.0/)
    end

    it "is empty where nothing happened" do
      nothing = machine.trace { nil }
      expect(texts(nothing.to_svg)).to include("owner")
      expect(parse(nothing.to_vcd)).to include("machine.bus.owner" => [[0, "idle"]])
    end
  end

  it "is refused where a CPU had the bus for longer than anybody looks, but not in a part of that" do
    sim = machine(cpu_load: 0.5)
    device = sim.device
    trace = sim.trace do
      device.write_dma("x").wait
      sim.step(100_000_000)
      device.write_dma("x").wait
    end
    expect { trace.to_vcd }.to raise_error(ArgumentError, /changed hands \d+ times.*more than 1048576.*from:/)
    expect { trace.tenures }.to raise_error(ArgumentError, /1048576/)
    expect(parse(trace.to_vcd(from: 1000, to: 2000))["machine.bus.owner"].map(&:last).uniq).to match_array %w[CPU idle]
  end
end
