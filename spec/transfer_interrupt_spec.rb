# frozen_string_literal: true

# Whatever ends a wait leaves the channel usable and the memory free.
RSpec.describe "interrupting the wait for a device" do
  let(:device) { DMA::Device.open(:sim, memory: 8 << 20) }
  let(:channel) { device.channel }
  let(:buffer) { guarded(sample(5000)) }

  after { device.close }

  before { device.sim.inject(:hang) }

  # The two ways to wait, each for a transfer that never ends by itself. What an interrupted thread calls takes no
  # memoized helper: an exception in the middle of RSpec's lock for those would take the place of the one under test.
  def wait(how, device = self.device, buffer = self.buffer)
    return device.channel.submit(source: buffer, destination: 0).wait if how == :wait

    device.read_dma(5000, into: buffer)
  end

  # A thread in the middle of the wait.
  def waiting(how)
    thread = Thread.new(device, buffer) { |*given| wait(how, *given) }
    thread.report_on_exception = false
    Thread.pass until thread.stop? && channel.state == :active
    thread
  end

  def expect_usable(why)
    expect([channel.stats[:statuses], channel.room, channel.state]).to eq [{ why => 1 }, channel.capacity, :idle]
    expect(buffer.get_string).to eq sample(5000)
    expect_to_work
    free_guarded
    expect(buffer).to be_freed
  end

  def expect_to_work
    device.sim.clear_faults
    expect(device.write_dma(buffer).wait.bytes).to eq 5000
    expect([device.read_dma(5000), guards_whole?]).to eq [sample(5000), true]
  end

  %i[wait read_dma].each do |how|
    describe "in #{how}" do
      it "by its own timeout raises TimeoutError" do
        call = lambda do
          next device.read_dma(5000, into: buffer, timeout: 0.01) if how == :read_dma

          channel.submit(source: buffer, destination: 0).wait(timeout: 0.01)
        end
        expect(&call).to raise_error(DMA::TimeoutError, /of 5000 bytes on channel 0 took longer than 0\.01 s/)
        expect_usable(:timed_out)
      end

      it "by Timeout.timeout" do
        expect { Timeout.timeout(0.01) { wait(how) } }.to raise_error(Timeout::Error)
        expect_usable(:aborted)
      end

      it "by Thread#raise" do
        thread = waiting(how).tap { |waiter| waiter.raise(KeyError, "mine") }
        expect { thread.join(60) }.to raise_error(KeyError, "mine")
        expect_usable(:aborted)
      end

      it "by Thread#kill" do
        expect(waiting(how).kill.join(60).status).to be false
        expect_usable(:aborted)
      end

      it "by nothing, where a thread is woken for no reason" do
        thread = waiting(how)
        rounds(20).times { thread.wakeup }
        expect(thread).to be_alive
        device.reset
        expect { thread.join(60) }.to raise_error(DMA::TransferError, /aborted/)
        expect_usable(:aborted)
      end

      it "by Ctrl-C" do
        code = <<~RUBY
          device = DMA::Device.open(:sim)
          buffer = DMA::Buffer.new(5000)
          device.sim.inject(:hang)
          Thread.new { Thread.pass until device.channel.state == :active; Process.kill(:INT, $$) }
          begin
            #{how == :wait ? "device.write_dma(buffer).wait" : "device.read_dma(5000, into: buffer)"}
          rescue Interrupt
            device.sim.clear_faults
            device.write_dma("again").wait
            print device.read_dma(5), device.channel.state, buffer.free.freed?
          end
        RUBY
        expect(in_ruby(code)).to eq "againidletrue"
      end
    end
  end

  it "is no matter of how often: no exception and no memory gets lost" do
    device.sim.clear_faults
    device.sim.inject(:hang, probability: 0.3)
    given = [device, buffer]
    rounds(100).times do
      expect { Timeout.timeout(0.001) { loop { wait(:read_dma, *given) } } }.to raise_error(Timeout::Error)
      thread = Thread.new { loop { wait(:wait, *given) } }.tap { |waiter| waiter.report_on_exception = false }
      Thread.pass
      thread.raise(KeyError, "mine")
      expect { thread.join(60) || raise("the exception was lost") }.to raise_error(KeyError)
    end
    device.sim.clear_faults
    device.reset
    expect([channel.room, channel.stats[:outstanding]]).to eq [channel.capacity, 0]
    free_guarded
    expect(buffer).to be_freed
  end

  it "lets go of a transfer behind one that hangs" do
    hung = channel.submit(source: 0, destination: DMA::Buffer.new(100))
    expect { wait_briefly }.to raise_error(DMA::TimeoutError)
    free_guarded
    expect(buffer).to be_freed
    expect(hung).not_to be_done
    device.sim.clear_faults
    expect(hung.cancel.status).to eq :aborted
    expect(device.write_dma("x").wait.status).to eq :complete
  end

  def wait_briefly
    channel.submit(source: buffer, destination: 0).wait(timeout: 0.01)
  end

  it "refuses a timeout that is none before it begins" do
    expect { device.read_dma(5000, into: buffer, timeout: "soon") }.to raise_error(ArgumentError)
    expect(channel.stats[:submitted]).to eq 0
    free_guarded
    expect(buffer).to be_freed
  end

  it "gives the transfer up where there is no descriptor left to wait on" do
    code = <<~RUBY
      device = DMA::Device.open(:sim)
      buffer = DMA::Buffer.new(5000)
      device.sim.inject(:hang)
      transfer = device.write_dma(buffer)
      Process.setrlimit(:NOFILE, 32)
      begin
        held = []
        loop { held << File.open("/dev/null") }
      rescue Errno::EMFILE
        begin
          transfer.wait
        rescue Errno::EMFILE
          print transfer.status, buffer.free.freed?
        end
      end
    RUBY
    expect(in_ruby(code)).to eq "abortedtrue"
  end

  it "refuses to free memory during a transfer of it or of a part of it" do
    whole = DMA::Buffer.new(5000)
    transfer = device.write_dma(whole.slice(10, 100))
    expect { whole.free }.to raise_error(DMA::BusyError, /in flight/)
    expect(transfer.cancel.status).to eq :aborted
    expect(whole.free).to be_freed
  end
end
