# frozen_string_literal: true

require "async"
require "io/wait"

RSpec.describe DMA::Transfer do
  let(:device) { DMA::Device.open(:sim, memory: 8 << 20) }
  let(:channel) { device.channel }
  let(:sim) { device.sim }
  let(:buffer) { guarded(sample(5000)) }

  after { device.close }

  def submit(**options)
    channel.submit(source: buffer, destination: 0, **options)
  end

  def enqueue
    channel.enqueue(source: buffer, destination: 0)
  end

  # A transfer that never ends by itself.
  def hang
    fetched = channel.stats[:descriptors]
    sim.inject(:hang)
    submit.tap { Thread.pass while channel.stats[:descriptors] == fetched }
  end

  # How a transfer ended that the block waits for.
  def status_of
    yield.status
  rescue DMA::TransferError => e
    e.status
  end

  # Runs Ruby code that raises and rescues inside.
  def rescuing
    Integer("x")
  rescue ArgumentError
    :rescued
  end

  # After whatever happened: the channel works, the memory is free, and nobody touched what lies beside it.
  def expect_usable
    sim.clear_faults
    expect(submit.wait.bytes).to eq 5000
    expect(device.read_dma(5000)).to eq sample(5000)
    expect(channel.room).to eq channel.capacity
    expect(guards_whole?).to be true
    free_guarded
    expect(buffer).to be_freed
  end

  it "says what it is before and after its end" do
    transfer = hang
    expect([transfer.id, transfer.size, transfer.channel]).to eq [1, 5000, channel]
    expect([transfer.done?, transfer.status, transfer.bytes]).to eq [false, :pending, 0]
    expect([transfer.fault, transfer.errno]).to eq [nil, nil]
    expect(transfer.inspect).to include "DMA::Transfer", "5000", "pending"
    transfer.cancel
    expect([transfer.done?, transfer.status, transfer.bytes]).to eq [true, :aborted, 0]
    expect(transfer.inspect).to include "aborted"
    expect(transfer.failure).to match(
      /transfer 1 of 5000 bytes at device address 0x\h+ on channel 0 of sim device 0: aborted \(0 of 5000/
    )
  end

  it "returns from submit while the device hangs, and Ruby runs on" do
    transfer = hang
    count = 0
    waiter = Thread.new { transfer.wait }.tap { |thread| thread.report_on_exception = false }
    rounds(1000).times { count += 1 }
    Thread.pass until waiter.stop?
    expect([count, transfer.done?, waiter.alive?]).to eq [rounds(1000), false, true]
    transfer.cancel
    expect { waiter.value }.to raise_error(DMA::TransferError, /aborted/)
    expect_usable
  end

  it "raises a TransferError that has the transfer, its status and how far it came" do
    address = device.map(buffer).address
    expect(address).to be_positive
    sim.inject(:poison, descriptor: 1)
    transfers = [submit, submit]
    expect(transfers.first.wait).to equal transfers.first
    expect { transfers.last.wait }.to raise_error(DMA::TransferError, /data poison \(0 of 5000 bytes/) { |e|
      expect([e.transfer, e.status, e.failures]).to eq [transfers.last, :data_poison, [transfers.last]]
      expect(e).not_to be_a(DMA::FaultError)
    }
    expect { transfers.last.wait }.to raise_error(DMA::TransferError) # as often as somebody asks
  end

  it "raises a FaultError with bus address and access for a fault of the IOMMU" do
    sim.inject(:iommu_fault)
    expect { submit.wait }.to raise_error(DMA::FaultError, /IOMMU fault: no read access at bus address 0x\h+/) { |e|
      expect(e.access).to eq :read
      expect(e.transfer.fault).to eq [e.address, :read]
      expect(device.stats).to include(iommu_faults: 1, faults: [{ address: e.address, access: :read }])
    }
    sim.inject(:iommu_fault)
    expect { channel.submit(source: 0, destination: buffer).wait }.to raise_error(DMA::FaultError, /no write access/)
  end

  describe "#on_complete" do
    it "calls back once on the thread that finds the end, in the order given, and at once after it" do
      calls = []
      transfer = hang
      2.times { |n| transfer.on_complete { |ended| calls << [n, ended, Thread.current] } }
      expect(calls).to be_empty
      reaper = Thread.new { transfer.cancel }.tap(&:join)
      expect(calls).to eq [[0, transfer, reaper], [1, transfer, reaper]]
      expect(transfer.on_complete { |ended| calls << [2, ended, Thread.current] }).to equal transfer
      expect(calls.last).to eq [2, transfer, Thread.current]
      expect(channel.process_completions).to eq 0
    end

    it "needs a block" do
      expect { submit.on_complete }.to raise_error(ArgumentError, /block/)
    end

    it "lets an error come out where the end was found, after all were called" do
      calls = []
      first = hang
      second = submit
      first.on_complete { raise KeyError, "one" }
      first.on_complete { calls << :first }
      second.on_complete { |transfer| calls << transfer.status }
      expect { channel.reset }.to raise_error(KeyError, "one")
      expect(calls).to eq([:first, second.status])
      expect_usable
    end

    it "may throw, and the rest is called by whoever looks next" do
      calls = []
      first = enqueue
      second = enqueue
      first.on_complete { throw :out, :thrown }
      first.on_complete { calls << rescuing }
      second.on_complete { calls << catch(:in) { throw :in, :caught } }
      expect(catch(:out) { second.wait }).to eq :thrown
      channel.drain
      expect(calls).to eq %i[rescued caught]
      expect_usable
    end

    it "may end its thread" do
      calls = []
      first = enqueue
      second = enqueue
      first.on_complete { Thread.exit }
      second.on_complete { calls << rescuing }
      thread = Thread.new { second.wait && calls.push(:never) }
      expect(thread.join(60).status).to be false
      channel.drain
      expect(calls).to eq [:rescued]
      expect_usable
    end

    it "may submit and wait itself, free the memory, or close the device" do
      calls = []
      submit.on_complete { calls << submit.on_complete { calls << :inner }.wait.status }.wait
      expect(calls).to eq %i[inner complete]
      submit.on_complete { free_guarded }.wait
      expect(buffer).to be_freed
      device.write_dma("x").on_complete { device.close }.wait
      expect(device).to be_closed
    end

    it "may take its time or wait itself on the thread that finds the ends for all, and nobody waits longer" do
      large = DMA::Buffer.new(8 << 20)
      waited = Array.new(5) do
        first = enqueue.on_complete { channel.submit(source: large, destination: 0).wait }
        started = Process.clock_gettime(Process::CLOCK_MONOTONIC)
        channel.submit(source: large, destination: 0).wait
        first.wait
        Process.clock_gettime(Process::CLOCK_MONOTONIC) - started
      end
      expect(waited.max).to be < 0.9
    end

    it "loses no callback that is given while another thread finds the end" do
      calls = Queue.new
      rounds(200).times do
        transfer = device.write_dma("x")
        thread = Thread.new { channel.poll until transfer.done? }
        transfer.on_complete { calls << true }
        thread.join
        channel.poll
      end
      expect(calls.size).to eq rounds(200)
    end

    it "counts as being told of the end, also where somebody else had found it" do
      DMA::Device.open(:sim, clock: :manual) do |manual|
        transfer = manual.write_dma("x")
        manual.sim.run_until_idle
        manual.write_dma("y") # finds the end of the first
        called = false
        transfer.on_complete { called = true }
        ended = []
        manual.channel.drain.process_completions { |other| ended << other.id }
        expect([called, ended]).to eq [true, [2]]
      end
    end
  end

  it "is found ended by polling alone, also without an interrupt" do
    transfer = submit(interrupt: false)
    Thread.pass until transfer.done?
    expect([transfer.status, transfer.bytes]).to eq [:complete, 5000]
    expect(submit(interrupt: false).wait.status).to eq :complete
    expect(channel.stats).to include(interrupts: 0, completed: 2)
  end

  it "ends though its interrupt is lost, and the statistics say so" do
    sim.inject(:lost_interrupt)
    expect(submit.wait.status).to eq :complete
    expect(channel.stats).to include(completed: 1, interrupts: 0, outstanding: 0)
  end

  it "is waited for by several threads at once" do
    transfer = hang
    threads = Array.new(4) { Thread.new { transfer.wait } }.each { |thread| thread.report_on_exception = false }
    Thread.pass until threads.all?(&:stop?)
    transfer.cancel
    threads.each { |thread| expect { thread.join(60) }.to raise_error(DMA::TransferError, /aborted/) }
    expect_usable
  end

  it "wakes whoever waits when another thread finds the end first" do
    rounds(30).times do
      transfer = hang
      thread = Thread.new { transfer.wait }.tap { |waiter| waiter.report_on_exception = false }
      Thread.pass until thread.stop?
      transfer.cancel
      expect { thread.join(60) }.to raise_error(DMA::TransferError, /aborted/)
    end
    expect(channel.to_io.wait_readable(0)).to be_nil
    expect_usable
  end

  it "is waited for by fibers on one channel while another one ticks" do
    order = []
    Async do |task|
      transfer = hang
      waiting = Array.new(3) { |n| task.async { order << [n, status_of { transfer.wait }] } }
      rounds(5).times { task.sleep 0.001 }
      order << :ticked
      transfer.cancel
      waiting.each(&:wait)
      results = Array.new(rounds(40)) { |n| task.async { device.read_dma(100, at: n) } }.map(&:wait)
      expect(results).to all(have_attributes(bytesize: 100))
    end
    expect(order.first).to eq :ticked
    expect(order.drop(1)).to match_array(Array.new(3) { |n| [n, :aborted] })
    expect_usable
  end

  it "stops with the task that is stopped or runs out of time, and leaves the others their turn" do
    Async do |task|
      transfer = hang
      first = task.async { transfer.wait }
      second = task.async { task.with_timeout(60) { submit.wait } }
      task.sleep 0.001
      first.stop
      expect(second.wait.status).to eq :complete
      expect(transfer.status).to eq :aborted
      sim.inject(:hang)
      expect { task.with_timeout(0.01) { submit.wait } }.to raise_error(StandardError)
    end
    expect_usable
  end

  it "keep the owner of foreign memory until the device lets go of it, whoever else does" do
    expect(in_ruby(<<~RUBY)).to eq("0 while in flight, all but a few after\n")
      require "fiddle"
      gone = 0
      count = ->(_) { gone += 1 }
      DMA::Sim.attach("/dev/kept").inject(:hang, probability: 1.0)
      other = DMA::Device.open("/dev/kept")
      submit = lambda do
        pointer = Fiddle::Pointer.malloc(4096, Fiddle::RUBY_FREE)
        ObjectSpace.define_finalizer(pointer, count)
        DMA::Device.open("/dev/kept").channel.submit(source: 0, destination: DMA::Buffer.wrap(pointer, 4096))
        nil
      end
      20.times { Thread.new(&submit).join }
      3.times { GC.start }
      print gone, " while in flight, "
      other.reset
      5.times { GC.start }
      puts gone > 10 ? "all but a few after" : gone
    RUBY
  end

  it "give their memory back to who needs it, also where nobody waits for them" do
    device = DMA::Device.open(:sim)
    pool = DMA::Pool.new(count: 1, size: 4096)
    pool.checkout { |buffer| device.channel.submit(source: buffer, destination: 0) }
    expect(pool.checkout(timeout: 60, &:size)).to eq(4096)
    buffer = DMA::Buffer.new(4096)
    transfer = device.channel.submit(source: buffer, destination: 0)
    sleep 0.001 until device.registers.read32(0x11c) == 2 # HEAD: the device is through
    expect(buffer.free).to be_freed
    expect(transfer.status).to eq(:complete)
  end

  it "are not told of again, once a wait has given them up" do
    device = DMA::Device.open(:sim)
    device.sim.inject(:hang, count: 3)
    expect { device.read_dma(16, timeout: 0.001) }.to raise_error(DMA::TimeoutError)
    device.write_dma("x")
    expect { device.wait_completion(timeout: 0.001) }.to raise_error(DMA::TimeoutError)
    transfer = device.write_dma("y")
    expect { Timeout.timeout(0.001) { transfer.wait } }.to raise_error(Timeout::Error)
    expect(device.wait_completion).to equal(device)
    expect(device.channel.process_completions).to eq(0)
  end
end
