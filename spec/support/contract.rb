# frozen_string_literal: true

# What every engine keeps, whatever carries its transfers out. Whoever includes it defines `open_device`; what an engine
# cannot do it says in its capabilities, and refuses. `faults`: DMA::Sim#inject makes it fail. `effort`: :fifth, of the
# rounds, where the computer is emulated; :few where a transfer lasts a tenth of a second.
RSpec.shared_examples "a DMA engine" do |faults: false, effort: :full|
  # Transfers of all examples of this device.
  spent = 0

  let(:effort) { effort }
  let(:device) { open_device }
  let(:channel) { device.channel(0) }
  let(:capabilities) { device.capabilities }
  let(:grain) { capabilities[:strict] ? capabilities[:alignment] : 1 }
  # The first bytes of the device, which the examples use.
  let(:space) { [1 << 16, capabilities[:size] || (1 << 20)].min }
  # How many elements of a list the engine takes.
  let(:pieces) { [effort == :few ? 2 : 5, capabilities[:max_segments] || 5].min }
  # Transfers of a burst.
  let(:burst) { [effort == :few ? 2 : 6, capabilities[:capacity]].min }
  # A channel that what waits on channel 0 is of no concern to, if there is one.
  let(:elsewhere) { 1 if capabilities[:channels] > 1 }

  after do
    close_device
    expect(spent += @submitted).to be <= 60, "#{spent} transfers: each takes 100 ms" if effort == :few
  end

  # A device that is closed says no more what was submitted.
  def close_device
    @submitted = totals[:submitted] unless device.closed?
    device.close
  end

  # How many rounds a loop of `count` runs.
  def turns(count)
    rounds(effort == :few ? 1 : count.fdiv({ full: 1, fifth: 5 }.fetch(effort)).ceil)
  end

  # Those of these lengths that fit and that there is time for.
  def some(lengths)
    fitting = lengths.select { |length| length < space / 3 }
    fitting.last(turns(fitting.size))
  end

  # The next length that the engine takes: itself, where any will do.
  def fit(length)
    (length + grain - 1) / grain * grain
  end

  # Fills that part of the device, and returns its bytes.
  def fill
    unstressed { sample(space, 7) }.tap { |bytes| device.write_dma(bytes, at: 0).wait }
  end

  def totals
    device.stats.slice(:submitted, :completed, :failed, :outstanding, :bytes)
  end

  it "copies to the device, and touches nothing beside it on either side" do
    before = fill
    some([1, 3, 511, 4096, 4097, 20_001]).each_with_index do |length, index|
      bytes = sample(fit(length), index)
      source = guarded(bytes)
      offset = fit(1000 + (37 * index))
      transfer = channel.submit(source: source, destination: offset).wait
      expect([transfer.status, transfer.bytes, transfer.size]).to eq [:complete, bytes.bytesize, bytes.bytesize]
      before[offset, bytes.bytesize] = bytes
      expect(source.get_string).to eq bytes
      expect(device.read_dma(before.bytesize, at: 0)).to eq before
    end
    expect(guards_whole?).to be true
  end

  it "copies from the device, and touches nothing beside it on either side" do
    before = fill
    some([1, 3, 511, 4096, 4097, 20_001]).each_with_index do |length, index|
      target = guarded(fit(length))
      offset = fit(1000 + (37 * index))
      transfer = channel.submit(source: offset, destination: target).wait
      expect([transfer.status, transfer.bytes]).to eq [:complete, target.size]
      expect(target.get_string).to eq before[offset, target.size]
    end
    expect(guards_whole?).to be true
    expect(device.read_dma(before.bytesize, at: 0)).to eq before
  end

  it "copies within the device where it can, also onto itself, and refuses to where it cannot" do
    before = fill
    length = fit([5001, space / 3].min)
    copy = -> { channel.submit(source: 0, destination: fit(1000), length: length).wait }
    if capabilities[:operations].include?(:copy)
      expect(copy.call.bytes).to eq length
      before[fit(1000), length] = before[0, length]
    else
      expect(&copy).to raise_error(DMA::UnsupportedError, /read into a buffer and write from it/)
    end
    expect(device.read_dma(before.bytesize, at: 0)).to eq before
  end

  it "gathers and scatters pieces of odd sizes as one transfer" do
    before = fill
    lengths = Array.new(pieces) { |index| fit([[1, 777, 4099, 13, 9000][index], space / 7].min) }
    places = lengths.each_index.map { |index| fit([10_007, space / 6].min * index) }
    sources = lengths.each_with_index.map { |length, index| guarded(sample(length, index)) }
    transfer = channel.submit(sources.zip(places).map { |source, at| { source: source, destination: at } }).wait
    expect([transfer.status, transfer.bytes]).to eq [:complete, lengths.sum]
    sources.zip(places) { |source, at| before[at, source.size] = source.get_string }
    expect(device.read_dma(before.bytesize, at: 0)).to eq before
    targets = lengths.map { |length| guarded(length) }
    channel.submit(places.zip(targets).map { |at, target| { source: at, destination: target } }).wait
    expect(targets.map(&:get_string)).to eq sources.map(&:get_string)
    expect(guards_whole?).to be true
  end

  it "refuses a list that is longer than it takes, and one that passes its end, before anything of it is moved" do
    before = fill
    buffer = guarded(sample(fit(64)))
    one = { source: buffer, destination: 0 }
    if capabilities[:max_segments]
      expect { channel.submit([one] * (capabilities[:max_segments] + 1)) }.to raise_error(ArgumentError, /max_segments/)
    end
    # A file may grow.
    beyond = %i[uring threads].include?(capabilities[:engine]) ? (1 << 63) - grain : capabilities[:size]
    expect { channel.submit([one, one.merge(destination: beyond)].last(pieces)) }.to raise_error(ArgumentError, /bytes/)
    expect(device.read_dma(before.bytesize, at: 0)).to eq before
    expect(channel.room).to eq channel.capacity
  end

  it "begins a fenced transfer when all before it are over, and keeps the order on the same bytes without one" do
    length = fit([30_000, space / 2].min)
    old = Array.new([3, burst].min) { |index| guarded(sample(length, index)) }
    target = guarded(length)
    writes = old.map { |source| channel.enqueue(source: source, destination: 0) }
    read = channel.enqueue(source: 0, destination: target)
    channel.enqueue(source: guarded(sample(length, 9)), destination: 0)
    last = channel.submit(source: 0, destination: guarded(fit(64)), fence: true)
    last.on_complete { expect([*writes, read].map(&:status)).to all eq(:complete) }.wait
    expect(target.get_string).to eq old.last.get_string
  end

  # Each transfer of the burst writes its own bytes to its own place.
  def burst_with_failure_at(failing, fence)
    device.write_dma("\0".b * (fit(1000) * burst), at: 0).wait
    device.sim.inject(:bus_error, descriptor: failing)
    transfers = Array.new(burst) do |index|
      source = guarded(sample(fit(300), index))
      channel.enqueue(source: source, destination: fit(1000) * index, fence: fence && index.positive?)
    end
    channel.kick.drain
    transfers
  end

  # How the transfers end where number `failing` does not end well.
  def ends(failing, fence)
    behind = fence ? :not_attempted : :complete
    [*[:complete] * failing, :bus_read_error, *[behind] * (burst - failing - 1)]
  end

  def expect_growth(before, good)
    growth = totals.merge(before) { |_, now, earlier| now - earlier }
    expect(growth).to eq(submitted: burst + 1, completed: good + 1, failed: burst - good, outstanding: 0,
                         bytes: (good * fit(300)) + (burst * fit(1000)))
  end

  # What was carried out is there, and of the rest nothing.
  def expect_moved(transfers)
    transfers.each_with_index do |transfer, index|
      expected = transfer.status == :complete ? sample(fit(300), index) : "\0" * fit(300)
      expect(device.read_dma(fit(300), at: fit(1000) * index)).to eq expected
    end
  end

  def expect_burst(failing, fence)
    before = totals
    transfers = burst_with_failure_at(failing, fence)
    expect(transfers.map(&:status)).to eq ends(failing, fence)
    expect_growth(before, ends(failing, fence).count(:complete))
    expect_moved(transfers)
    failure = raise_error(DMA::TransferError) { |e| expect(e.transfer).to eq transfers[failing] }
    expect { device.wait_completion }.to failure
  end

  (faults ? [false, true] : []).each do |fence|
    it "tells what came of each transfer of a burst that fails at any index, #{fence ? "with" : "without"} fences" do
      turns(burst).times { |failing| expect_burst(failing, fence) }
      expect(guards_whole?).to be true
    end
  end

  it "says that the ring is full, and changes nothing by that" do
    before = fill if elsewhere
    buffer = guarded(sample(fit(100)))
    kept = Array.new(channel.capacity) { |index| channel.enqueue(source: buffer, destination: fit(100) * (index % 30)) }
    expect(channel.room).to eq 0
    counted = totals
    expect { channel.enqueue(source: buffer, destination: 0) }.to raise_error(DMA::RingFullError, /ring full/)
    expect { channel.submit(source: buffer, destination: 0) }.to raise_error(DMA::RingFullError, /#{channel.capacity}/)
    expect([totals, channel.room]).to eq [counted, 0]
    expect(device.read_dma(before.bytesize, channel: elsewhere)).to eq before if elsewhere
    expect(kept.map(&:status)).to all eq(:pending)
    channel.kick.drain
    expect(kept.map(&:status)).to all eq(:complete)
    expect([channel.room, channel.state]).to eq [channel.capacity, :idle]
  end

  it "counts each element of a list against its room, and gives it back at the end" do
    buffer = guarded(sample(fit(100)))
    expect(channel.room).to eq channel.capacity
    transfer = channel.enqueue([{ source: buffer, destination: 0 }] * pieces)
    expect([channel.room, channel.state]).to eq [channel.capacity - pieces, :active]
    transfer.wait
    expect([channel.room, channel.state]).to eq [channel.capacity, :idle]
  end

  it "begins what was enqueued with the doorbell, or with whoever waits for it" do
    before = fill if elsewhere
    buffer = guarded(sample(fit(100)))
    transfer = channel.enqueue(source: buffer, destination: 0)
    expect(device.read_dma(before.bytesize, channel: elsewhere)).to eq before if elsewhere
    expect(transfer).not_to be_done
    channel.kick
    expect(transfer.wait.bytes).to eq buffer.size
    expect(channel.enqueue(source: buffer, destination: fit(100)).wait.status).to eq :complete
    expect(device.read_dma(2 * fit(100))).to eq buffer.get_string * 2
  end

  it "cancels what has not begun, and leaves alone what has ended" do
    before = fill
    buffer = guarded(sample(fit(100)))
    transfer = channel.enqueue(source: buffer, destination: 0)
    expect(transfer.cancel).to equal transfer
    expect([transfer.status, transfer.bytes]).to eq [:aborted, 0]
    expect { transfer.wait }.to raise_error(DMA::TransferError, /aborted/) { |e| expect(e.transfer).to equal transfer }
    expect(device.read_dma(before.bytesize)).to eq before
    done = channel.submit(source: buffer, destination: 0).wait
    expect(done.cancel.status).to eq :complete
    free_guarded
    expect(buffer).to be_freed
  end

  it "aborts everything at a reset, and works as before after it" do
    before = fill
    buffer = guarded(sample(fit(100)))
    waiting = Array.new(burst) { channel.enqueue(source: buffer, destination: 0) }
    expect(channel.reset).to equal channel
    expect(waiting.map(&:status)).to all eq(:aborted)
    expect(device.read_dma(before.bytesize)).to eq before
    other = device.channel(elsewhere || 0)
    late = other.enqueue(source: buffer, destination: 0)
    expect(device.reset).to equal device
    expect([late.status, other.room]).to eq [:aborted, other.capacity]
    expect(channel.submit(source: buffer, destination: 0).wait.status).to eq :complete
    expect(device.read_dma(fit(100))).to eq buffer.get_string
  end

  it "ends everything when it is closed with transfers in flight, and lets go of their memory" do
    buffers = Array.new(burst) { DMA::Buffer.new([fit(200_000), *capabilities[:size]].min, lock: false) }
    transfers = buffers.map { |buffer| channel.submit(source: buffer, destination: 0) }
    transfers += [channel.enqueue(source: buffers[0], destination: 0)] if channel.room.positive?
    expect(close_device).to be_nil
    expect(transfers.map(&:done?)).to all be(true)
    expect(transfers.map(&:status).uniq - %i[complete aborted]).to be_empty
    buffers.each { |buffer| settled { expect(buffer.free).to be_freed } }
    expect { channel.submit(source: 0, destination: guarded(64)) }.to raise_error(DMA::ClosedError, /closed/)
    expect { device.write_dma("x") }.to raise_error(DMA::ClosedError)
    expect { device.read_dma(64) }.to raise_error(DMA::ClosedError)
    expect { device.wait_completion }.to raise_error(DMA::ClosedError)
    expect { channel.drain }.to raise_error(DMA::ClosedError)
    expect([device.closed?, channel.state, device.close]).to eq [true, :closed, nil]
  end

  # Submits, and waits for room where others have taken it.
  def submit_patiently(**element)
    channel.submit(**element)
  rescue DMA::RingFullError
    Thread.pass
    retry
  end

  it "serves many threads on one channel, each with its own bytes" do
    most = [5000, space / 7].min
    size = fit(most)
    threads = Array.new(burst) do |id|
      Thread.new do
        random = Random.new(id)
        turns(40).times.all? do
          length = fit(random.rand(1..most))
          source = DMA::Buffer.new(length, lock: false).tap { |buffer| buffer.set_string(random.bytes(length)) }
          target = DMA::Buffer.new(length, lock: false)
          submit_patiently(source: source, destination: size * id)
          submit_patiently(source: size * id, destination: target).wait.bytes == length &&
            target.get_string == source.get_string
        end
      end
    end
    expect(threads.map(&:value)).to all be(true)
    device.wait_completion
    all = burst * 2 * turns(40)
    expect(totals).to include(submitted: all, completed: all, failed: 0, outstanding: 0)
  end

  it "agrees with a String about transfers of random offsets and lengths" do
    model = fill
    random = Random.new(11)
    most = [4000, space / 2].min
    [turns(150), 2].max.times do |round|
      offset = random.rand(space - fit(most)) / grain * grain
      part = guarded(random.bytes(fit(random.rand(1..most))))
      if random.rand(2).zero?
        channel.submit(source: part, destination: offset).wait
        model[offset, part.size] = part.get_string
      else
        channel.submit(source: offset, destination: part).wait
        expect(part.get_string).to eq model[offset, part.size]
      end
      expect(device.read_dma(model.bytesize)).to eq model if round % 25 == 24
    end
    expect(device.read_dma(model.bytesize)).to eq model
    expect(guards_whole?).to be true
  end
end
