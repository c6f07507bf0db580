# frozen_string_literal: true

# What DMA.debug knows: files, rings, threads, forks, and what the GC took.
RSpec.describe "DMA.debug" do
  let(:device) { DMA::Device.open(:sim, memory: 1 << 20) }
  let(:memory) { DMA::Buffer.new(8192) }
  let(:tracker) { DMA.const_get(:Debug).tracker }

  before { DMA.debug = true }

  after do
    DMA.debug = false
    device.close
  end

  def rule
    yield
    nil
  rescue DMA::MisuseError => e
    e.rule
  end

  # How many entries there are, after those that the GC took were looked for.
  def entries
    GC.start
    tracker.instance_variable_set(:@sweep_at, 0)
    tracker.__send__(:synchronize) { tracker.__send__(:sweep) }
    %i[@mapped @parts @lives].map { |name| tracker.instance_variable_get(name).size }
  end

  it "knows the memory of a ring's descriptors, and none that the ring itself keeps mapped" do
    ring = device.configure_transfer(0x4000, memory, 8192)[:descriptor_ring]
    expect(rule { memory.get_value(:U8, 0) }).to be_nil
    transfer = device.channel.submit(ring)
    expect([rule { memory.get_value(:U8, 0) }, rule { memory.get_value(:U8, 8191) }]).to eq %i[cpu_access cpu_access]
    transfer.wait
    expect(rule { memory.clear }).to be_nil
    mapping = device.map(memory, type: :streaming, direction: :from_device)
    ring = DMA::Ring.new(4)
    ring.add_transfer(0, mapping.address + 100, 10, direction: :from_device)
    mapping.sync_for_cpu(109, 1)
    expect(rule { device.channel.submit(ring) }).to eq :device_access
    mapping.sync_for_device(109, 1)
    device.channel.submit(ring).wait
    expect(rule { device.unmap(mapping.address, 8192) }).to be_nil
  end

  it "lets a ring's memory go when its descriptors were taken off" do
    device.map(memory) do |mapping|
      ring = DMA::Ring.new(4)
      ring.add_transfer(0, mapping, 8192)
      transfer = device.channel.submit(ring)
      expect(rule { device.channel(1).enqueue(source: memory, destination: 0) }).to eq :overlap
      ring.process_completions until ring.empty?
      expect(rule { device.channel(1).submit(source: memory, destination: 0).wait }).to be_nil
      transfer.wait
    end
  end

  it "sees transfers of several channels, and those of views" do
    view = memory.view(0, 100)
    one = device.channel(0).enqueue(source: view, destination: 0)
    other = device.channel(1).enqueue(source: memory.slice(50, 100), destination: 0)
    expect(rule { device.channel(2).enqueue(source: 0, destination: memory.slice(149, 9)) }).to eq :overlap
    expect(rule { device.channel(1).enqueue(source: 0, destination: memory.slice(99, 9), fence: true) }).to eq :overlap
    one.cancel.status
    expect(rule { device.channel(1).enqueue(source: 0, destination: memory.slice(99, 9), fence: true).wait }).to be_nil
    expect(rule { other.wait && memory.clear }).to be_nil
    expect(view.size).to eq 100
  end

  it "lets transfers of one channel use the same memory, whose order is theirs, and knows the first by the last" do
    ends = [2, 1, 0].map do |last|
      one = device.channel.submit(source: memory, destination: 0)
      two = device.channel.submit(source: 0, destination: memory.slice(10, 90))
      three = device.channel.submit(source: memory.slice(0, 50), destination: 0)
      [one, two, three][last].wait
      [8191, 99, 0].map { |at| rule { memory.set_value(:U8, at, 1) } }.tap { device.wait_completion }
    end
    expect(ends).to eq [[nil, nil, nil], [nil, nil, :cpu_access], [nil, :cpu_access, :cpu_access]]
  end

  it "knows by the last of many that all before it have ended which use a part of each other's memory" do
    machine = DMA::Sim.new(clock: :manual)
    one = machine.device(memory: 4096)
    transfers = Array.new(rounds(5000)) do |at|
      one.channel.submit(source: 0, destination: memory.slice(at, 2)).tap { machine.run_until_idle || one.channel.poll }
    end
    transfers.last.wait
    expect([rule { memory.clear }, *entries]).to eq [nil, 0, 0, 0]
  end

  it "does not tell of what was refused" do
    expect { device.channel.submit(source: memory, destination: 1 << 30) }.to raise_error(ArgumentError)
    expect { device.channel.submit(source: memory, destination: 0, length: 9000) }.to raise_error(ArgumentError)
    expect { device.channel.submit(source: "memory", destination: 0) }.to raise_error(TypeError)
    expect { memory.get_string(8000, 200) }.to raise_error(ArgumentError)
    expect { memory.set_value(:u128, 0, 1) }.to raise_error(ArgumentError)
    expect { memory.copy("x") }.to raise_error(TypeError)
    calls = [[:get_string, "1"], [:set_string, 1], [:set_string, "a", "1"], [:clear, 0, "1"], [:get_value, :U8, "1"]]
    calls.each { |call| expect { memory.public_send(*call) }.to raise_error(TypeError) }
    device.map(memory) do |mapping|
      expect { mapping.sync_for_cpu("1") }.to raise_error(TypeError)
      expect { mapping.sync_for_cpu(-1) }.to raise_error(ArgumentError)
      expect { device.sync_for_cpu(mapping.address, "1") }.to raise_error(ArgumentError)
      expect { device.unmap("1") }.to raise_error(ArgumentError)
    end
    memory.clear
    expect(entries).to eq [0, 0, 0]
  end

  it "tells of transfers that nobody asked about at the end, but not where another error passes" do
    transfer = device.write_dma("unasked")
    expect { device.close }.to raise_error(DMA::MisuseError, /closed with 1 transfer left/) do |error|
      expect(error.mapped_at.first).to start_with "#{__FILE__}:#{__LINE__ - 2}:"
    end
    expect([device.closed?, transfer.done?]).to eq [true, true]
    kept = nil
    expect do
      expect { DMA::Device.open(:sim) { |dev| (kept = dev.map(memory)) && raise(KeyError) } }.to raise_error(KeyError)
    end.to output(/leak.*1 mapping left/).to_stderr
    expect(kept).to be_unmapped
  end

  it "does not replace an error that ends the block of a mapping" do
    expect do
      expect { device.map(memory) { |mapping| device.write_dma(mapping) && raise(KeyError) } }.to raise_error(KeyError)
    end.to output(/#{__FILE__}:#{__LINE__ - 1}.*in_flight/).to_stderr
    device.channel.drain
    expect(entries).to eq [0, 0, 0]
  end

  it "knows which of the mappings of the same memory a transfer uses" do
    one, other = Array.new(2) { device.map(memory) }
    transfer = device.channel.enqueue(source: one, destination: 0)
    expect([rule { other.unmap }, rule { one.unmap }, rule { device.unmap(one.address, 8192) }])
      .to eq [nil, :in_flight, :in_flight]
    transfer.wait
    expect([one.unmapped?, rule { one.unmap }]).to eq [false, nil]
  end

  it "takes transfers that were given up for known" do
    machine = DMA::Sim.new(clock: :manual)
    hanging = machine.device(memory: 4096)
    2.times { |n| machine.inject(:hang) && hanging.channel.submit(source: 0, destination: memory.slice(64 * n, 64)) }
    expect { hanging.wait_completion(timeout: 0.1) }.to raise_error(DMA::TimeoutError)
    expect(rule { hanging.close }).to be_nil
  end

  it "is told by a mapping that failed, where it was asked" do
    small = DMA::Device.open(:sim, address_bits: 16, memory: 4096)
    failed = small.map(DMA::Buffer.new(128 << 10, lock: false), exception: false)
    expect([rule { failed.unmap }, failed.error?, failed.error]).to match [:error_unchecked, true, Errno::ENOSPC]
    expect(rule { failed.unmap }).to eq :unmapped
    expect { failed.address }.to raise_error(DMA::MisuseError, /could not be mapped/)
    expect { small.map(DMA::Buffer.new(128 << 10, lock: false)) }.to raise_error(Errno::ENOSPC)
    expect(rule { small.close }).to be_nil
  end

  it "forgets mappings and transfers that the GC took, and keeps no memory" do
    rounds(50).times { Thread.new { device.map(DMA::Buffer.new(4096)) }.join }
    rounds(50).times { Thread.new { device.channel.submit(source: 0, destination: DMA::Buffer.new(64)) }.join }
    device.wait_completion
    expect(entries).to match [be <= 5, 0, 0]
  end

  it "does not take new memory for old that was freed under a transfer's end" do
    pool = DMA::Pool.new(count: 1, size: 4096)
    pool.checkout { |buffer| device.channel.submit(source: buffer, destination: 0).then { device.channel.poll } }
    settled { device.channel.poll || pool.checkout(timeout: 10) { |buffer| expect(rule { buffer.clear }).to be_nil } }
    device.wait_completion
  end

  it "knows nothing of the parent in the child of a fork" do
    device.map(memory, type: :streaming, direction: :from_device) do
      answer = in_forked_child do
        own = DMA::Buffer.new(64)
        own.clear
        other = DMA::Device.open(:sim)
        [DMA.debug, other.map(own, type: :streaming, direction: :from_device) { rule { own.get_string } }].inspect
      end
      expect(answer).to eq "[:raise, :cpu_access]"
    end
  end

  it "counts a write of the CPU for its whole cache lines where the cache does not follow devices, and no read" do
    machine = DMA::Sim.new(coherent: false)
    [[machine.device(memory: 4096), :cpu_access], [device, nil]].each do |one, expected|
      allow(one).to receive(:capabilities).and_return(one.capabilities.merge(coherent: expected.nil?))
      one.map(memory.slice(64, 100), type: :streaming, direction: :from_device) do
        beside = [63, 164, 191].map { |at| rule { memory.set_value(:U8, at, 1) } }
        remedy = /a byte at .*, in a cache line with .* belong to .*; give either lines of its own, or/
        expect { memory.set_value(:U8, 164, 1) }.to raise_error(DMA::MisuseError, remedy) if expected
        expect(beside).to eq [nil, expected, expected]
        expect([192, 300].map { |at| rule { memory.set_value(:U8, at, 1) } }).to eq [nil, nil]
        expect(rule { memory.get_string(164, 100) }).to be_nil
      end
      transfer = one.channel.submit(source: 0, destination: memory.slice(1000, 10))
      expect([990, 1010].map { |at| rule { memory.set_value(:U8, at, 1) } }).to eq [expected, expected]
      transfer.wait
    end
  end

  it "leaves handlers of signals alone" do
    device.map(memory, type: :streaming, direction: :from_device) do
      transfer = device.channel.submit(source: 0, destination: DMA::Buffer.new(64))
      seen = nil
      before = trap(:USR2) do
        other = DMA::Device.open(:sim)
        calls = [-> { memory.get_string(0, 1) }, -> { transfer.wait }, -> { other.map(memory, &:sync_for_cpu).unmap },
                 -> { other.channel.submit(source: 0, destination: memory) }, -> { other.close }]
        seen = calls.map { |call| rule(&call) }
      end
      Process.kill(:USR2, Process.pid)
      Timeout.timeout(10) { Thread.pass until seen }
      expect(seen).to eq [nil] * 5
    ensure
      trap(:USR2, before)
    end
    expect(rule { device.close }).to be_nil
  end

  it "leaves other Ractors alone" do
    output = in_ruby(<<~RUBY)
      $VERBOSE = nil
      DMA.debug { |error| puts error }
      Ractor.new do
        device, memory = DMA::Device.open(:sim), DMA::Buffer.new(64)
        device.map(memory, type: :streaming, direction: :to_device) { |mapping| device.write_dma(mapping).wait }
        memory.set_value(:U8, 0, 1)
        device.close
        puts memory.get_string(0, 1).inspect
      end.take
    RUBY
    expect(output).to eq "\"\\x01\"\n"
  end

  it "serves many threads" do
    threads = Array.new(4) do |id|
      Thread.new do
        own = DMA::Buffer.new(4096)
        rounds(100).times.all? do
          device.map(own, type: :streaming, direction: :from_device) do |mapping|
            device.channel(id).submit(source: 0, destination: mapping).wait
            mapping.sync_for_cpu(0, 2048)
            own.get_value(:U8, 2047).zero? && rule { own.get_value(:U8, 2048) } == :cpu_access
          end
        end
      end
    end
    expect(threads.map(&:value)).to eq [true] * 4
    expect(entries.last(2)).to eq [0, 0]
  end

  describe "of a DMA::File" do
    it "sees what its calls without a copy do to memory, as long as they last" do
      DMA::File.open(scratch_file("file", sample(8192)), "r+") do |file|
        transfer = device.channel.enqueue(source: 0, destination: memory.slice(4096))
        expect(rule { file.read_into(memory, offset: 0) }).to eq :overlap
        expect(rule { file.write_from([memory.slice(0, 10), memory], offset: 0, length: 4106) }).to be_nil
        expect(rule { file.write_from([memory.slice(0, 10), memory], offset: 0, length: 4107) }).to eq :overlap
        transfer.wait
        expect([file.read_into(memory, offset: 0), rule { memory.clear }]).to eq [8192, nil]
      end
      expect(rule { DMA.read(scratch_file("other", "x" * 8192), into: memory) }).to be_nil
      expect(entries).to eq [0, 0, 0]
    end

    it "tells another thread that touches the memory meanwhile" do
      live = DMA.const_get(:Debug).live_file([memory], 8192, written: true)
      rules = DMA.const_get(:Debug).lasting(live) { Thread.new { rule { memory.get_string } }.value }
      expect([rules, rule { memory.get_string }]).to eq [:cpu_access, nil]
    end
  end
end
