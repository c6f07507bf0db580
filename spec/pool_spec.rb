# frozen_string_literal: true

RSpec.describe DMA::Pool do
  let(:pool) { described_class.new(count: 2, size: 5000, lock: false) }

  # All that is there, taken.
  def drain(pool)
    Array.new(pool.available) { pool.checkout }
  end

  def collect
    unstressed { 3.times { GC.start } }
  end

  # Waits until `thread` sleeps: where nothing else makes it sleep, in a checkout.
  def wait_for(thread)
    Thread.pass until thread.stop?
    thread
  end

  describe ".new" do
    it "cuts a fixed number of equal, aligned buffers from one allocation" do
      pool = described_class.new(count: 5, size: 5000, align: 16_384, lock: false)
      taken = drain(pool)
      addresses = taken.map(&:address).sort
      expect([pool.count, pool.size, taken.map(&:size).uniq]).to eq([5, 5000, [5000]])
      expect(addresses.each_cons(2).map { |one, two| two - one }.uniq).to eq([16_384])
      expect(addresses.map { |address| address % 16_384 }.uniq + taken.map(&:alignment).uniq).to eq([0, 16_384])
      expect(taken.map { |buffer| buffer.get_string.sum }.uniq).to eq([0])
    end

    it "locks them together, as asked, and tells what it got" do
      pools = [true, :auto, false].map { |lock| described_class.new(count: 2, size: 4096, lock: lock) }
      expect(pools.map { |pool| pool.checkout.residency }).to eq(%i[locked locked pageable])
      expect { described_class.new(count: 2, size: 1, lock: nil) }.to raise_error(ArgumentError, /lock: nil is none of/)
    end

    it "past RLIMIT_MEMLOCK raises with lock: true, and is pageable with :auto" do
      expect(unprivileged(<<~'RUBY')).to eq("cannot lock 131072 bytes: 0 bytes are locked already\n:pageable\n")
        begin
          DMA::Pool.new(count: 32, size: 4096, lock: true)
        rescue DMA::LockLimitError => e
          puts e.message[/.*already/]
        end
        p DMA::Pool.new(count: 32, size: 4096).checkout.residency
      RUBY
    end

    it "refuses numbers that make no pool" do
      pairs = [[0, 1], [1, 0], [-1, 1], [1, -1], [1.5, 1], ["1", 1], [nil, 1], [2**64, 1], [2**40, 2**40], [1, 2**64]]
      pairs.each do |count, size|
        expect { described_class.new(count: count, size: size) }.to raise_error(ArgumentError)
      end
      [0, 3].each do |align|
        expect { described_class.new(count: 1, size: 1, align: align) }.to raise_error(DMA::AlignmentError)
      end
      expect { described_class.new(count: 1) }.to raise_error(ArgumentError, /missing keyword: :size/)
      expect { described_class.allocate }.to raise_error(TypeError)
    end
  end

  describe "#checkout" do
    it "with a block takes the buffer back when it ends, whichever way, and gives the block's value" do
      kept = []
      expect(pool.checkout { |buffer| kept << buffer and buffer.size }).to eq(5000)
      expect { pool.checkout { |buffer| kept << buffer and raise IOError, "no" } }.to raise_error(IOError, "no")
      catch(:out) { pool.checkout { |buffer| throw :out, kept << buffer } }
      expect([kept.size, pool.available]).to eq([3, 2])
      expect(kept).to all(be_freed)
      expect { kept.first.get_string }.to raise_error(DMA::ClosedError, /valid inside its block only/)
    end

    it "without a block gives a buffer that is freed by its user, once" do
      buffer = pool.checkout
      buffer.set_string("bytes")
      expect(pool.available).to eq(1)
      2.times { buffer.free }
      expect(pool.available).to eq(2)
      expect { buffer.get_string }.to raise_error(DMA::ClosedError)
    end

    it "gives buffers as their last user left them" do
      pool = described_class.new(count: 1, size: 4096)
      pool.checkout { |buffer| buffer.set_string("before") }
      expect(pool.checkout { |buffer| buffer.get_string(0, 6) }).to eq("before")
    end

    it "leaves a buffer that was retained to its user" do
      buffer = pool.checkout { |inside| inside.retain.tap { inside.set_string("kept") } }
      expect([buffer.get_string(0, 4), pool.available]).to eq(["kept", 1])
      buffer.free
      expect(pool.available).to eq(2)
    end

    it "never hands a buffer out twice" do
      pool = described_class.new(count: 3, size: 4096, lock: false)
      threads = Array.new(8) do |id|
        Thread.new do
          rounds(200).times.map do
            pool.checkout do |buffer|
              buffer.clear(id)
              Thread.pass
              buffer.get_string.bytes.uniq
            end
          end.uniq
        end
      end
      expect(threads.map(&:value)).to eq((0..7).map { |id| [[id]] })
      expect(pool.available).to eq(3)
    end

    it "ends slices and views with the block, and hands the memory out when nothing can reach it any more" do
      pool = described_class.new(count: 1, size: 5000, lock: false)
      Thread.new do
        slice, view = pool.checkout { |buffer| [buffer.slice(1, 10), buffer.view] }
        # A system call of another thread may still write through the view.
        expect([slice.freed?, view.valid?, pool.available]).to eq([true, false, 0])
      end.join
      expect(pool.checkout(timeout: 60).size).to eq(5000)
    end
  end

  describe "waiting" do
    it "ends when a buffer comes back" do
      taken = drain(pool)
      waiter = wait_for(Thread.new { pool.checkout { |buffer| buffer.get_string(0, 4) } })
      taken.last.set_string("mine")
      taken.last.free
      expect(waiter.value).to eq("mine")
    end

    it "gives up after the timeout, with the figures" do
      taken = drain(pool)
      expect { pool.checkout(timeout: 0.01) }
        .to raise_error(DMA::TimeoutError, "none of 2 buffers came back within 0.01 s")
      [0, -1, 0r].each { |timeout| expect { pool.checkout(timeout: timeout) }.to raise_error(DMA::TimeoutError) }
      ["soon", :now, []].each { |timeout| expect { pool.checkout(timeout: timeout) }.to raise_error(/soon|convert/) }
      taken.each(&:free)
      expect(pool.checkout(timeout: 0).size).to eq(5000)
      expect(pool.checkout(timeout: Float::INFINITY).size).to eq(5000)
    end

    it "is served in the order of coming, and nobody who comes later is faster" do
      pool = described_class.new(count: 1, size: 4096, lock: false)
      taken = pool.checkout
      order = Queue.new
      waiters = Array.new(5) do |id|
        wait_for(Thread.new do
          pool.checkout do
            order << id
            Thread.pass
          end
        end)
      end
      taken.free
      expect { pool.checkout(timeout: 0) }.to raise_error(DMA::TimeoutError)
      late = Thread.new { pool.checkout { order << :late } }
      [*waiters, late].each(&:join)
      expect(Array.new(6) { order.pop }).to eq([0, 1, 2, 3, 4, :late])
    end

    it "of a thread that is killed, interrupted or out of time loses no wake-up for those behind it" do
      rounds(20).times do
        pool = described_class.new(count: 1, size: 4096, lock: false)
        taken = pool.checkout
        killed = wait_for(Thread.new { pool.checkout && nil })
        raised = wait_for(Thread.new { (pool.checkout && nil) rescue nil }) # rubocop:disable Style/RescueModifier
        late = wait_for(Thread.new { pool.checkout(timeout: 0.001) && nil rescue nil }) # rubocop:disable Style/RescueModifier
        last = wait_for(Thread.new { pool.checkout { :served } })
        # Whoever has been handed the buffer when it is interrupted drops it, and a checkout that waits finds it.
        taken.free
        killed.kill
        raised.raise(IOError, "interrupted")
        expect(last.value).to eq(:served)
        [killed, raised, late].each(&:join)
      end
    end

    it "is interrupted by Timeout and Thread#raise" do
      taken = drain(pool)
      expect { Timeout.timeout(0.05) { pool.checkout } }.to raise_error(Timeout::Error)
      expect(taken.size).to eq(2)
      expect(pool.available).to eq(0)
    end
  end

  describe "a buffer whose user died" do
    it "inside the block comes back at once" do
      entered = Queue.new
      thread = Thread.new { pool.checkout { entered.push(pool.available) && sleep } }
      expect(entered.pop).to eq(1)
      thread.kill.join
      expect(pool.available).to eq(2)
    end

    it "outside of one comes back when the GC finds it, which a checkout that waits sees to" do
      pool = described_class.new(count: 4, size: 4096, lock: false)
      rounds(10).times do
        Thread.new { Array.new(4) { pool.checkout.slice(1) } && Thread.current.kill }.join
        expect(pool.checkout(timeout: 60, &:size)).to eq(4096)
      end
    end

    it "and the pool itself, are garbage together" do
      buffers = Array.new(rounds(20)) { |i| described_class.new(count: 2, size: 4096).checkout.clear(i) }
      collect
      expect(buffers.each_with_index.map { |buffer, i| buffer.get_value(:U8, 4095) - i }.uniq).to eq([0])
    end
  end

  describe "under a Fiber scheduler" do
    it "lets other fibers run while one waits, in order, with Async" do
      needs "the async gem", !Gem::Specification.find_all_by_name("async").empty?
      expect(in_ruby(<<~'RUBY')).to eq("served [0, 1, 2, 3, 4, 5] ticks true timeout 1\n")
        require "async"
        pool = DMA::Pool.new(count: 1, size: 4096, lock: false)
        served = []
        ticks = 0
        Async do |task|
          ticker = task.async do
            loop do
              task.sleep(0.001)
              ticks += 1
            end
          end
          waiters = Array.new(6) do |id|
            task.async { pool.checkout { |buffer| buffer.clear(id) && served << id && task.sleep(0.01) } }
          end
          stopped = task.async { pool.checkout { served << :stopped } }
          stopped.stop
          waiters.each(&:wait)
          pool.checkout do
            pool.checkout(timeout: 0.02)
          rescue DMA::TimeoutError
            print "served #{served} ticks #{ticks.positive?} timeout "
          end
          ticker.stop
        end
        puts pool.available
      RUBY
    end

    it "goes on where a fiber that waited is never resumed" do
      expect(in_ruby(<<~'RUBY')).to eq("served\n")
        # A scheduler that parks its first waiter for ever, and waits for the others.
        class Parking
          def io_wait(io, events, timeout)
            @parked ? IO.select([io], nil, nil, timeout) && events : (@parked = true) && Fiber.yield
          end

          def fiber(&block) = Fiber.new(blocking: false, &block).tap(&:resume)
          def close = nil
          def run = nil
          def block(*) = nil
          def unblock(*) = nil
          def kernel_sleep(*) = nil
        end
        pool = DMA::Pool.new(count: 1, size: 4096, lock: false)
        Thread.new do
          taken = pool.checkout
          Fiber.set_scheduler(Parking.new)
          Fiber.schedule { pool.checkout }
          taken.free
          Fiber.schedule { pool.checkout { puts "served" } }
        end.join
      RUBY
    end
  end

  it "works inside a Ractor" do
    expect(in_ruby(<<~'RUBY')).to eq("[0, 1, 2, 3] DMA::TimeoutError\n")
      Warning[:experimental] = false
      ractor = Ractor.new do
        pool = DMA::Pool.new(count: 2, size: 4096, lock: false)
        served = Array.new(4) { |id| pool.checkout { |buffer| buffer.clear(id).get_value(:U8, 9) } }
        taken = Array.new(2) { pool.checkout }
        pool.checkout(timeout: 0.05)
      rescue DMA::TimeoutError => e
        "#{served} #{taken && e.class}"
      end
      puts ractor.take
    RUBY
  end

  it "is closed in the child of a fork, and the parent's goes on" do
    expect(in_ruby(<<~'RUBY')).to eq("DMA::ClosedError DMA::ClosedError DMA::ClosedError true 0 2\n")
      pool = DMA::Pool.new(count: 2, size: 4096)
      taken = pool.checkout
      pid = fork do
        calls = [-> { pool.checkout }, -> { pool.available }, -> { taken.get_string }]
        calls.each do |call|
          call.call
        rescue DMA::ClosedError => e
          print e.class, " "
        end
        print taken.free.freed?, " "
        DMA::Pool.new(count: 2, size: 4096).checkout(&:clear)
        GC.start
      end
      print Process.wait2(pid).last.exitstatus, " "
      taken.free
      puts pool.available
    RUBY
  end
end
