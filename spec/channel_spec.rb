# frozen_string_literal: true

require "io/wait"

RSpec.describe DMA::Channel do
  let(:device) { DMA::Device.open(:sim, memory: 8 << 20) }
  let(:channel) { device.channel }
  let(:buffer) { DMA::Buffer.new(4096).tap { |buffer| buffer.set_string(sample(4096)) } }

  after { device.close }

  def submit(**options)
    channel.submit(source: buffer, destination: 0, **options)
  end

  it "is the same object however often and by however many threads it is asked for" do
    asked = Array.new(8) { Thread.new { Array.new(4) { |n| device.channel(n) } } }.map(&:value)
    expect(asked.map { |channels| channels.map(&:object_id) }.uniq.size).to eq 1
    expect([channel.index, channel.device, channel.capacity]).to eq [0, device, 255]
    expect(channel.inspect).to eq "#<DMA::Channel 0 of sim device 0 idle>"
  end

  it "refuses a number that no channel has" do
    expect { device.channel(4) }.to raise_error(ArgumentError, /has 4, numbered from 0 on/)
    [-1, 1.0, "0", nil].each { |index| expect { device.channel(index) }.to raise_error(ArgumentError, /channel/) }
  end

  it "refuses what is no transfer, and says what is missing" do
    expect { channel.submit }.to raise_error(ArgumentError, /source/)
    expect { channel.submit(source: buffer) }.to raise_error(ArgumentError, /destination/)
    expect { submit(lenght: 3) }.to raise_error(ArgumentError, /lenght/)
    expect { channel.submit([]) }.to raise_error(ArgumentError, /empty/)
    expect { channel.submit("list") }.to raise_error(TypeError, /String/)
    expect do
      channel.submit([{ source: buffer, destination: 0 }], source: buffer)
    end.to raise_error(ArgumentError, /both/)
    expect { submit(length: 4097) }.to raise_error(ArgumentError, /4097 bytes are more than the 4096/)
    expect { submit(length: -1) }.to raise_error(ArgumentError, /length/)
    expect { channel.submit(source: buffer, destination: buffer) }.to raise_error(ArgumentError, /both/)
    expect { channel.submit(source: 0, destination: 10) }.to raise_error(ArgumentError, /length/)
    expect { channel.submit(source: nil, destination: 10) }.to raise_error(TypeError, /NilClass/)
    expect { channel.submit(source: buffer, destination: 2**64) }.to raise_error(ArgumentError, /2\*\*64/)
    expect { channel.submit(source: buffer, destination: 8 << 20) }.to raise_error(ArgumentError, /outside/)
    expect { channel.flush }.to raise_error(DMA::UnsupportedError, /durable/)
    expect(channel.stats).to include(submitted: 0, outstanding: 0)
  end

  it "moves nothing, and ends at once, for a length of 0" do
    expect(submit(length: 0).wait.bytes).to eq 0
    expect(device.write_dma("").wait.status).to eq :complete
    expect(device.read_dma(0)).to eq ""
  end

  describe "#process_completions" do
    it "passes each transfer that ended once, in order, unless somebody was told already" do
      transfers = Array.new(4) { submit }
      transfers[1].wait
      transfers[2].on_complete { nil }
      channel.drain
      seen = []
      expect(channel.process_completions { |transfer| seen << transfer }).to eq 2
      expect(seen).to eq transfers.values_at(0, 3)
      expect(channel.process_completions).to eq 0
    end

    it "passes those that failed, too, and forgets none of them" do
      device.sim.inject(:bus_error, probability: 1.0)
      failed = Array.new(rounds(300)) { submit.tap { |transfer| Thread.pass until transfer.done? } }
      seen = []
      expect(channel.process_completions { |transfer| seen << transfer }).to eq failed.size
      expect(seen).to eq failed
    end

    it "lets an error of its block out and goes on with the next" do
      transfers = Array.new(2) { submit }
      channel.drain
      expect { channel.process_completions { raise KeyError } }.to raise_error(KeyError)
      seen = []
      channel.process_completions { |transfer| seen << transfer }
      expect(seen).to eq [transfers.last]
    end
  end

  describe "#to_io" do
    it "is readable when something has ended, and not any more once that was reaped" do
      io = channel.to_io
      expect(io).to equal channel.to_io
      expect(io.wait_readable(0)).to be_nil
      rounds(100).times do
        transfer = submit
        expect(IO.select([channel, io], nil, nil, 60)).to eq [[channel, io], [], []]
        seen = []
        expect(channel.process_completions { |ended| seen << ended }).to eq 1
        expect(seen).to eq [transfer]
        expect(io.wait_readable(0)).to be_nil
      end
    end

    it "tells apart channels in one event loop" do
      channels = Array.new(4) { |index| device.channel(index) }
      pending = channels.to_h { |one| [one, one.submit(source: buffer, destination: 4096 * one.index)] }
      until pending.empty?
        ready, = IO.select(pending.keys, nil, nil, 60)
        ready.each { |one| one.process_completions { |transfer| expect(pending.delete(one)).to equal transfer } }
      end
      expect(device.stats).to include(completed: 4, outstanding: 0)
    end

    it "stays silent for a transfer without an interrupt" do
      transfer = submit(interrupt: false)
      Thread.pass until device.stats[:channels].first[:descriptors] == 1 && device.sim.cycles >= 518
      expect(channel.to_io.wait_readable(0)).to be_nil
      Thread.pass until transfer.done?
      expect(transfer.status).to eq :complete
    end

    it "is closed by whoever has it, and the channel goes on" do
      channel.to_io.close
      expect(submit.wait.status).to eq :complete
    end
  end

  describe "#drain" do
    it "waits for all, however they end" do
      device.sim.inject(:poison, descriptor: 1)
      transfers = Array.new(3) { submit }
      expect(channel.drain).to equal channel
      expect(transfers.map(&:status)).to eq %i[complete data_poison complete]
    end

    it "begins what was enqueued" do
      transfer = channel.enqueue(source: buffer, destination: 0)
      channel.drain
      expect(transfer.status).to eq :complete
    end

    it "gives up what is not over in time, and says how many" do
      device.sim.inject(:hang, count: 3)
      transfers = Array.new(3) { submit }
      expect { channel.drain(timeout: 0.01) }.to raise_error(DMA::TimeoutError, /3 transfers on channel 0 .*0\.01 s/)
      expect(transfers.map(&:status)).to eq %i[timed_out aborted aborted]
      expect([channel.room, channel.state]).to eq [channel.capacity, :idle]
      expect(buffer.free).to be_freed
    end
  end

  describe "#reset" do
    it "aborts what hangs and what waits behind it" do
      device.sim.inject(:hang)
      transfers = Array.new(10) { submit }
      expect(channel.reset).to equal channel
      expect(transfers.map(&:status)).to eq [:aborted] * 10
      device.sim.clear_faults
      expect(device.read_dma(4096)).to eq "\0" * 4096
      expect(submit.wait.status).to eq :complete
    end

    it "leaves other channels alone" do
      device.sim.inject(:hang, channel: 1)
      other = device.channel(1).submit(source: buffer, destination: 0)
      submit.wait
      channel.reset
      expect(other.status).to eq :pending
      device.reset
      expect(other.status).to eq :aborted
    end
  end

  it "orders transfers of the same bytes, and keeps channels apart" do
    device.sim.inject(:hang, channel: 0)
    hung = submit
    behind = channel.submit(source: 0, destination: DMA::Buffer.new(4096))
    expect(device.channel(1).submit(source: buffer, destination: 0).wait.status).to eq :complete
    expect([hung, behind].map(&:status)).to eq %i[pending pending]
    expect(device.read_dma(4096, channel: 1)).to eq sample(4096)
  end

  it "counts every transfer once in its statistics" do
    device.sim.inject(:bus_error, descriptor: 2)
    4.times { submit }
    submit.cancel
    channel.drain
    stats = channel.stats
    expect(stats).to include(submitted: 5, outstanding: 0, descriptors: be_between(4, 5), lost_interrupts: 0)
    expect(stats[:statuses]).to include(bus_read_error: 1)
    expect(stats[:statuses].values.sum).to eq 5
    expect(stats[:completed] + stats[:failed]).to eq 5
    expect(stats[:bytes]).to eq 4096 * stats[:completed]
    expect(device.stats).to include(stats.slice(:submitted, :completed, :failed, :bytes))
  end

  it "refuses the handle of a device that was closed, though somebody else has it open" do
    DMA::Sim.attach("/dev/shared_by_two")
    mine = DMA::Device.open("/dev/shared_by_two")
    others = DMA::Device.open("/dev/shared_by_two")
    channel = mine.channel
    mine.close
    expect { channel.submit(source: buffer, destination: 0) }.to raise_error(DMA::ClosedError, /was closed/)
    expect { channel.kick }.to raise_error(DMA::ClosedError)
    expect { channel.reset }.to raise_error(DMA::ClosedError)
    expect { mine.write_dma("x") }.to raise_error(DMA::ClosedError)
    expect(others.write_dma("x").wait.status).to eq :complete
  ensure
    others&.close
    DMA::Sim.detach("/dev/shared_by_two")
  end
end
