# frozen_string_literal: true

require "io/wait"

# When the CPU is told of what was completed, what that costs it, and what keeps it from being told.
RSpec.describe DMA::Sim, "interrupts" do
  let(:size) { 4096 }
  let(:buffer) { DMA::Buffer.new(size).tap { |buffer| buffer.set_string(sample(size)) } }
  # Cycles of a transfer: a descriptor, the bytes, a status.
  let(:one) { 5 + 512 + 1 }

  def machine(**options)
    described_class.new(clock: :manual, **options)
  end

  def submit(device, channel: 0, **options)
    device.channel(channel).submit(source: buffer, destination: 0, **options)
  end

  # Submits so many transfers, lets everything happen, and returns the cycles of the interrupts.
  def burst(device, count)
    trace = device.sim.trace do
      count.times { submit(device) }
      device.sim.run_until_idle
    end
    device.channel.poll
    trace.select { |event| event.what == :interrupt }.map(&:cycle)
  end

  def interrupts(device)
    device.channel.stats[:interrupts]
  end

  describe "coalesced" do
    it "not at all come with each completion" do
      expect(burst(machine.device, 3)).to eq [one, 2 * one, 3 * one]
      expect(burst(machine.device(coalesce: :none), 3)).to eq [one, 2 * one, 3 * one]
      expect(burst(machine.device(coalesce: { count: 1 }), 3)).to eq [one, 2 * one, 3 * one]
    end

    it "by count come with every fourth, and after a second for what is left" do
      expect(burst(machine.device(coalesce: { count: 4 }), 8)).to eq [4 * one, 8 * one]
      expect(burst(machine.device(coalesce: { count: 4 }), 5)).to eq [4 * one, (5 * one) + 1_000_000_000]
    end

    it "by time come a microsecond after the first that nobody was told of" do
      expect(burst(machine.device(coalesce: { time: 1e-6 }), 4)).to eq [one + 1000, (3 * one) + 1000]
    end

    it "by both come with what is first" do
      expect(burst(machine.device(coalesce: { count: 2, time: 1e-6 }), 5))
        .to eq [2 * one, 4 * one, (5 * one) + 1000]
      expect(burst(machine.device(coalesce: { count: 3, time: 1e-6 }), 4)).to eq [one + 1000, (3 * one) + 1000]
    end

    it "by a preset come as it says" do
      expect(burst(machine.device(coalesce: :low_latency), 3)).to eq [one + 2000]
      expect(burst(machine.device(coalesce: :throughput), 130))
        .to eq [64 * one, 128 * one, (129 * one) + 64_000]
    end

    it "adaptively come at once in a trickle, and ever less often in a burst" do
      sim = machine
      device = sim.device(coalesce: :adaptive)
      20.times do
        before = sim.cycles
        submit(device).wait
        expect(sim.cycles - before).to eq one
        sim.step(20_000)
      end
      expect(interrupts(device)).to eq 20
      cycles = burst(device, 250)
      pauses = cycles.each_cons(2).map { |one, other| other - one }
      # 27 complete in the pause of the first class; then 64 are enough.
      expect(pauses.first(3)).to eq [14_285, (91 * one) - 14_285, 64 * one]
      expect(interrupts(device)).to be <= 20 + 6
      4.times { sim.step(1_000_000) && submit(device).wait }
      before = sim.step(1_000_000).cycles
      submit(device).wait
      expect(sim.cycles - before).to eq one
    end

    it "are fewer for each transfer, and later, the more are held back" do
      rates = [:none, :low_latency, { count: 16 }, :throughput].map do |policy|
        device = machine.device(coalesce: policy)
        last = burst(device, 192).last
        expect(device.channel.stats).to include(completed: 192, lost_interrupts: 0)
        [interrupts(device), last]
      end
      expect(rates.map(&:first)).to eq [192, 48, 12, 3]
      expect(rates.map(&:last)).to all(be >= 192 * one)
    end

    it "are each channel's own, and changed while it runs" do
      sim = machine
      device = sim.device(channels: 2, coalesce: [:none, { time: 1e-3 }])
      submit(device).wait
      expect(sim.cycles).to eq one
      submit(device, channel: 1)
      sim.step(10_000)
      expect(device.channel(1).stats[:interrupts]).to eq 0
      device.channel(1).coalesce = :none
      expect([device.channel(1).stats[:interrupts], sim.run_until_idle]).to eq [1, 0]
      device.channel(1).coalesce = { count: 2, time: 1e-6 }
      2.times { submit(device, channel: 1) }
      expect(sim.run_until_idle).to eq 2 * one
    end

    it "come while the CPU moves bytes by itself, which lets no more time pass for a timer" do
      [:ideal, { links: true }].each do |bus|
        sim = machine(bus: bus)
        device = sim.device(coalesce: { time: 1e-6 })
        submit(device)
        sim.step(one)
        trace = sim.trace { device.pio_write("x" * 2000, width: 1) }
        expect(trace.map { |event| [event.what, event.cycle] }).to eq [[:interrupt, one + 1000]]
        expect(sim.cycles).to eq one + 2000
      end
    end

    it "come as late where a device fetches ahead" do
      device = machine.device(controller: :pcie, coalesce: { count: 4, time: 1e-5 })
      cycles = burst(device, 10)
      expect(cycles.size).to eq 3
      expect(device.channel.stats).to include(completed: 10, interrupts: 3, lost_interrupts: 0)
    end

    it "are counted in cycles of a slow bus" do
      sim = machine(bus: :isa)
      device = sim.device(coalesce: { count: 2, time: 3e-7 })
      submit(device, channel: 1)
      trace = sim.trace { sim.run_until_idle }
      expect(trace.to_a[-1].cycle - trace.to_a[-2].cycle).to eq 3 # 300 ns are more than two of its cycles
    end
  end

  describe "waited for" do
    policies = [:none, :low_latency, :throughput, :adaptive, { count: 3 }, { time: 1e-5 }, { count: 200, time: 2e-6 }]

    %i[manual free].each do |clock|
      it "come for every transfer under every policy, with a #{clock} clock" do
        policies.each do |policy|
          device = described_class.new(clock: clock).device(memory: 1 << 20, coalesce: policy)
          transfers = Array.new(100) { |n| device.channel.submit(source: buffer, destination: n * size) }
          expect(transfers.map { |transfer| transfer.wait(timeout: 60).status }.uniq).to eq [:complete]
          expect(device.read_dma(size, at: 99 * size)).to eq sample(size)
          device.write_dma("x" * 300_000).wait
          expect(device.read_dma(300_000)).to eq "x" * 300_000
          expect(device.stats).to include(outstanding: 0, failed: 0, lost_interrupts: 0)
        end
      end
    end

    it "take the time for which they are held back, which polling does not" do
      sim = machine
      device = sim.device(coalesce: { time: 1e-6 })
      submit(device).wait
      expect([sim.cycles, interrupts(device)]).to eq [one + 1000, 1]
      transfer = submit(device)
      expect(sim.step(one)).to equal sim
      expect([transfer.done?, interrupts(device)]).to eq [true, 1]
      submit(device, interrupt: false).wait
      expect(sim.cycles).to eq one + 1000 + (2 * one)
    end

    it "lets time leap to the timer, where nothing else is to happen" do
      device = described_class.new.device(coalesce: { time: 1 })
      submit(device).wait(timeout: 60)
      device.channel.to_io.wait_readable(60) until interrupts(device) == 1
      expect(device.sim.cycles).to eq one + 1_000_000_000
    end

    it "are not, beyond a timeout; then whoever waited looks for himself" do
      sim = machine
      device = sim.device(coalesce: { time: 1e-3 })
      expect { submit(device).wait(timeout: 4e-7) }.to raise_error(DMA::TimeoutError)
      expect(sim.cycles).to eq 400
      sim.run_until_idle
      before = sim.cycles
      expect(submit(device).wait(timeout: 1e-5).status).to eq :complete
      expect(sim.cycles - before).to eq 10_000
    end

    it "are found missing where one is lost, on a machine that has more to do" do
      sim = machine
      device = sim.device(coalesce: :none)
      sim.inject(:lost_interrupt)
      expect(submit(device).wait.status).to eq :complete
      expect(interrupts(device)).to eq 0
    end

    it "are harmless after a reset, and come to nobody after a close, though a timer was running" do
      sim = machine
      device = sim.device(coalesce: { time: 1e-3 })
      transfer = submit(device)
      sim.step(600)
      device.channel.reset
      expect([transfer.status, sim.run_until_idle]).to eq [:complete, one + 1_000_000 - 600]
      submit(device).wait
      expect(interrupts(device)).to eq 2
      submit(device)
      sim.step(600)
      device.close
      expect(sim.run_until_idle).to eq 0
    end

    it "tell of a transfer that was given up, and of those before it" do
      sim = machine
      device = sim.device(coalesce: { count: 2, time: 1e-3 })
      first, second = Array.new(2) { submit(device) }
      sim.step(one + 100)
      second.cancel
      expect([first.status, second.status, interrupts(device)]).to eq [:complete, :aborted, 1]
      expect([submit(device).wait.status, sim.run_until_idle]).to eq [:complete, 0]
    end

    it "come in the same cycles each time" do
      runs = Array.new(2) do
        sim = machine(bus: :pci, cpu_load: 0.3, interrupt_cost: { entry: 900, exit: 300, deferred: 500 })
        device = sim.device(coalesce: [:adaptive, :throughput, { count: 3 }, :none])
        random = Random.new(3)
        trace = sim.trace do
          200.times do
            device.channel(random.rand(4)).submit(source: buffer.slice(0, random.rand(1..512)), destination: 0)
            sim.step(random.rand(2000))
          end
          sim.run_until_idle
        end
        [trace.to_s, sim.stats]
      end
      expect(runs.uniq.size).to eq 1
    end
  end

  describe "masked" do
    let(:sim) { machine }
    let(:device) { sim.device(channels: 2) }
    let(:registers) { device.registers }
    let(:vector) { ->(channel) { 0x100 + (0x40 * channel) + 0x38 } }

    def readable
      Array.new(2) { |n| !device.channel(n).to_io.wait_readable(0).nil? }
    end

    it "by the vector's bit wait in the pending bits, and come when it is cleared, once" do
      registers.write32(vector[1], 1)
      2.times { submit(device, channel: 1) }
      submit(device)
      sim.run_until_idle
      expect([registers.read32(vector[1]), registers.read64(0x20), readable]).to eq [1, 0b10, [true, false]]
      expect(device.channel(1).stats[:interrupts]).to eq 0
      trace = sim.trace { registers.write32(vector[1], 0) }
      expect(trace.map { |event| [event.channel, event.what] }).to eq [[1, :interrupt]]
      expect([registers.read64(0x20), readable, sim.run_until_idle]).to eq [0, [true, true], 0]
      device.channel(1).poll
      expect(device.channel(1).stats).to include(completed: 2, interrupts: 1)
    end

    it "by the function's bit wait on all channels, whose own masks stay" do
      expect(registers.read16(0x18)).to eq 0x8001
      registers.write16(0x18, 0x4000)
      registers.write32(vector[0], 1)
      expect([registers.read16(0x18), registers.read32(vector[0])]).to eq [0xc001, 1]
      2.times { |channel| submit(device, channel: channel) }
      sim.run_until_idle
      expect([registers.read8(0x20), readable]).to eq [0b11, [false, false]]
      registers.write8(0x19, 0)
      expect([registers.read8(0x20), readable]).to eq [0b01, [false, true]]
      registers.write32(vector[0], 0)
      expect([registers.read8(0x20), readable]).to eq [0, [true, true]]
    end

    it "are held back before: a masked vector is pending when its time is over" do
      device.channel.coalesce = { time: 1e-6 }
      registers.write32(vector[0], 1)
      submit(device)
      sim.step(one + 999)
      expect(registers.read64(0x20)).to eq 0
      sim.step(1)
      expect(registers.read64(0x20)).to eq 1
    end

    it "leave it to whoever waits to look, and stay so whatever becomes of the channel" do
      device.channel
      registers.write32(vector[0], 1)
      expect(submit(device).wait.status).to eq :complete
      device.channel.reset
      device.reset
      expect([registers.read64(0x20), registers.read32(vector[0])]).to eq [1, 1]
    end
  end

  describe "that cost time of the CPU" do
    let(:cost) { { entry: 100, exit: 50, deferred: 30 } }

    it "are told of when the handler was entered, and counted to its end" do
      sim = machine(interrupt_cost: cost)
      device = sim.device
      trace = sim.trace { submit(device).wait }
      expect([sim.cycles, sim.stats[:interrupts], sim.stats[:interrupt_cycles]]).to eq [one + 100, 1, 100]
      expect([30, 50, 1000].map { |cycles| sim.step(cycles).stats[:interrupt_cycles] }).to eq [130, 180, 180]
      expect(trace.to_a.last(2).map { |event| [event.what, event.cycle] })
        .to eq [[:interrupt, one], [:handler, one + 180]]
      expect(machine.tap { |free| submit(free.device).wait }.stats).to include(interrupts: 1, interrupt_cycles: 0)
    end

    it "are handled one after the other, each with all that its channel has completed by then" do
      sim = machine(interrupt_cost: { entry: 1000 })
      device = sim.device(channels: 2)
      transfers = Array.new(3) { |n| submit(device, channel: n % 2) }
      trace = sim.trace { sim.run_until_idle }
      sent, handled = %i[interrupt handler].map { |what| trace.select { |event| event.what == what } }
      expect([sent, handled].map { |events| events.map(&:channel) }).to eq [[0, 1, 0], [0, 1]]
      # The third has ended when the first handler looks.
      expect(handled.map(&:cycle)).to eq [sent[0].cycle + 1000, sent[0].cycle + 2000]
      expect(transfers).to all be_done
      expect(sim.stats).to include(interrupts: 2, interrupt_cycles: 2000)
      expect(device.stats[:interrupts]).to eq 3
    end

    it "show where the CPU has time for nothing else, and that coalescing gives it back" do
      shares = %i[none throughput].map do |policy|
        sim = machine(interrupt_cost: { entry: 1000, exit: 500, deferred: 100 })
        device = sim.device(coalesce: policy)
        burst(device, 250)
        stats = sim.stats
        expect(device.channel.stats).to include(completed: 250, outstanding: 0)
        [stats[:interrupt_cycles].fdiv(stats[:cycles]), stats[:interrupts].fdiv(interrupts(device))]
      end
      expect(shares[0][0]).to be > 0.95
      expect(shares[0][1]).to be < 0.5 # handlers are fewer than messages
      expect(shares[1]).to match [be < 0.25, 1.0]
    end

    it "are waited for with a clock of its own too" do
      device = described_class.new(interrupt_cost: :pc1998).device
      transfers = Array.new(20) { submit(device) }
      expect(transfers.map { |transfer| transfer.wait(timeout: 60).status }.uniq).to eq [:complete]
      device.close
    end

    it "may be a PC's of 1998" do
      sim = machine(interrupt_cost: :pc1998)
      submit(sim.device).wait
      expect(sim.step(22_000).stats[:interrupt_cycles]).to eq 21_000 + 11_500
    end

    it "never take more of the time than there was" do
      sim = machine(interrupt_cost: { entry: 100, exit: 700, deferred: 300 })
      device = sim.device(channels: 2)
      8.times { |n| submit(device, channel: n % 2) }
      counts = Array.new(200) { sim.step(50).stats.values_at(:interrupt_cycles, :cycles) }
      expect(counts).to all(satisfy { |taken, cycles| taken <= cycles })
      expect(counts.map(&:first)).to eq counts.map(&:first).sort
      expect(sim.stats[:interrupts]).to be > 2
    end

    it "stand in a trace where they end, in the order of cycles" do
      sim = machine(interrupt_cost: { entry: 100, exit: 50, deferred: 1000 })
      device = sim.device(channels: 2)
      trace = sim.trace do
        3.times { |n| submit(device, channel: n % 2) }
        sim.run_until_idle
      end
      expect(trace.count { |event| event.what == :handler }).to be >= 2
      expect(trace.map(&:cycle)).to eq trace.map(&:cycle).sort
      expect(trace.to_s.lines.map(&:to_i)).to eq trace.map(&:cycle)
    end
  end

  it "refuse what cannot be, and say what can" do
    sim = machine
    refused = { :fast => /:fast is none of :none, :low_latency, :throughput, :adaptive/, {} => /count:, time: or both/,
                { count: 0 } => /coalesce: count: 0.*1 or more/, { count: -1 } => /coalesce: count/,
                { time: 2 } => /coalesce: time: 2 is not in 0\.\.1 seconds.* 50e-6/,
                { time: -1e-6 } => /time/, { time: Float::NAN } => /NaN/, { time: "1" } => /"1"/,
                { usecs: 1 } => /\[:usecs\].*:count/, [:none] => /1 for 4 channels/ }
    refused.each do |policy, message|
      expect { sim.device(coalesce: policy) }.to raise_error(ArgumentError, message)
    end
    expect { sim.device.channel.coalesce = :fast }.to raise_error(ArgumentError, /:fast/)
    expect { machine(interrupt_cost: :cheap) }.to raise_error(ArgumentError, /:cheap.*:none, :pc1998/)
    expect { machine(interrupt_cost: { entry: -1 }) }.to raise_error(ArgumentError, /entry: -1 ns .*0\.\.1000000000 ns/)
    expect { machine(interrupt_cost: { exit: 1e-6 }) }.to raise_error(ArgumentError, /exit: 1.0e-06 ns .* whole/)
    expect { machine(interrupt_cost: { exit: 10**10 }) }.to raise_error(ArgumentError, /exit: 10000000000 ns/)
    expect { machine(interrupt_cost: { enter: 1 }) }.to raise_error(ArgumentError, /\[:enter\].*:entry/)
    path = scratch_file("disk", "x" * 4096)
    DMA::Device.open(path) do |device|
      expect { device.channel.coalesce = :none }.to raise_error(DMA::UnsupportedError, /simulated/)
    end
  end
end
