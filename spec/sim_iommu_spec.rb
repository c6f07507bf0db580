# frozen_string_literal: true

require "fiddle"

# What is between the devices of a machine and memory: pages, an IOTLB, faults, and a table of interrupts.
RSpec.describe DMA::Sim, "IOMMU" do
  page = 4096
  large = 2 << 20
  window = 0xfee0_0000
  bus_write_error = 10
  # Codes of the status register.
  let(:complete) { 1 }
  let(:iommu_fault) { 8 }

  def machine(**options)
    described_class.new(clock: :manual, **options)
  end

  # A transfer by the registers of a channel, as a driver would do it, and the status that it ended with.
  def move(device, source, destination, length, direction, channel: 0)
    registers = device.registers
    base = 0x100 + (channel * 0x40)
    registers.write64(base, source)
    registers.write64(base + 8, destination)
    registers.write32(base + 0x10, length)
    registers.write16(base + 0x14, direction | 0x100)
    registers.poll(base + 0x14, mask: 1 << 16, value: 0, timeout: 60) >> 24
  end

  # The device reads from a bus address, or writes there.
  def fetch(device, address, length = 8)
    move(device, address, 0, length, 1)
  end

  def store(device, address, length = 8, from: 0, **options)
    move(device, from, address, length, 2, **options)
  end

  def buffer(size = 4096)
    DMA::Buffer.new(size, lock: false).tap { |buffer| buffer.set_string(sample(size)) }
  end

  describe "pages" do
    it "are of 4 KiB, and of 2 MiB where memory and bus address allow" do
      device = machine.device
      none = device.stats[:iommu]
      small = device.map(buffer((3 * page) + 1))
      expect(device.stats[:iommu]).to eq none.merge(pages_4k: none[:pages_4k] + 4)
      both = device.map(buffer((3 * large) + page))
      expect(both.address % large).to eq both.buffer.address % large
      expect(device.stats[:iommu]).to include(pages_4k: none[:pages_4k] + 5, pages_2m: 3)
      [small, both].each(&:unmap)
      expect(device.stats[:iommu]).to include(none.slice(:pages_4k, :pages_2m))
    end

    it "take one entry of the IOTLB each, whatever their size" do
      device = machine.device(memory: 8 << 20)
      misses = lambda do |size|
        mapping = device.map(buffer(size))
        device.write_dma(mapping).wait
        before = device.stats[:iommu][:iotlb_misses]
        device.write_dma(mapping).wait
        device.stats[:iommu][:iotlb_misses] - before
      end
      # Three pages of 2 MiB and the descriptors fit; of 80 pages of 4 KiB each is gone before it comes round again.
      expect([misses.call(3 * large), misses.call(80 * page)]).to match [0, be >= 80]
    end

    it "make one run of what is scattered without an IOMMU" do
      memory = buffer(1 << 20)
      runs = [true, false].map { |iommu| machine(iommu: iommu, seed: 3).device.map(memory).segments.size }
      expect(runs).to match([1, be > 200])
    end

    it "belong to one device: what is mapped for another is not reached" do
      sim = machine
      mine, other = Array.new(2) { sim.device }
      memory = buffer
      mapping = mine.map(memory)
      address = mapping.address
      expect(store(mine, address)).to eq complete
      memory.set_string(sample(page))
      expect([store(other, address), fetch(other, address)]).to eq [iommu_fault] * 2
      expect(memory.get_string).to eq sample(page)
    end
  end

  describe "strict invalidation" do
    it "takes what is unmapped out of the IOTLB at once" do
      device = machine.device
      memory = buffer
      mapping = device.map(memory)
      address = mapping.address
      expect(fetch(device, address)).to eq complete
      mapping.unmap
      expect([store(device, address), fetch(device, address)]).to eq [iommu_fault] * 2
      expect(memory.get_string).to eq sample(page)
      expect(device.stats[:iommu]).to include(invalidations: 1, flushes: 0, queued: 0)
    end
  end

  describe "lazy invalidation" do
    let(:sim) { machine(invalidation: :lazy) }
    let(:device) { sim.device }
    let(:memory) { buffer }

    # The address of what was used and then unmapped.
    def unmapped(memory, used: true, **options)
      mapping = device.map(memory, **options)
      address = mapping.address
      expect(fetch(device, address)).to eq complete if used
      mapping.unmap
      address
    end

    it "leaves what was unmapped in reach until somebody flushes the IOTLB" do
      address = unmapped(memory)
      device.pio_write("x" * 8)
      expect(store(device, address)).to eq complete
      expect(memory.get_string).to eq ("x" * 8) + sample(page)[8..]
      expect(device.stats[:iommu]).to include(queued: 1, invalidations: 0)
      expect(sim.flush_iotlb).to equal sim
      expect(store(device, address)).to eq iommu_fault
      expect(device.stats[:iommu]).to include(queued: 0, flushes: 1)
    end

    it "leaves no page in reach that is not in the IOTLB, nor what it does not allow" do
      expect(store(device, unmapped(memory, used: false))).to eq iommu_fault
      read_only = unmapped(memory, type: :streaming, direction: :to_device)
      expect([fetch(device, read_only), store(device, read_only)]).to eq [complete, iommu_fault]
      # 64 pages that are used later take all of its entries.
      address = unmapped(memory)
      device.map(buffer(64 * page)).then { |mapping| device.write_dma(mapping).wait }
      expect(fetch(device, address)).to eq iommu_fault
      expect(memory.get_string).to eq sample(page)
    end

    it "flushes 10 ms after the first unmap, to the cycle" do
      address = unmapped(memory)
      first = sim.cycles
      # Each takes a cycle for what begins it, one for eight bytes, and one for the status.
      sim.step(10_000_000 - 3 - (sim.cycles - first))
      unmapped(memory, used: false)
      expect([fetch(device, address), sim.cycles - first]).to eq [complete, 10_000_000]
      expect(fetch(device, address)).to eq iommu_fault
      expect(device.stats[:iommu]).to include(queued: 0, flushes: 1)
    end

    it "flushes with the 256th unmap" do
      address = unmapped(memory)
      254.times { device.map(memory).unmap }
      expect([fetch(device, address), device.stats[:iommu][:queued]]).to eq [complete, 255]
      device.map(memory).unmap
      expect([fetch(device, address), device.stats[:iommu].slice(:queued, :flushes)])
        .to eq [iommu_fault, { queued: 0, flushes: 1 }]
    end

    it "gives no address out again before, but rather flushes where there are no others" do
      small = sim.device(address_bits: 16, memory: 4096)
      pages = Array.new(15) { small.map(memory) { |mapping| mapping.address / page } }
      # Of 16 pages the first is never given out, and one behind each mapping.
      expect(pages).to eq ([1, 3, 5, 7, 9, 11, 13] * 2) + [1]
      expect(small.stats[:iommu]).to include(flushes: 2, queued: 1)
    end

    it "lets a buffer be freed, and what was its memory stay harmless" do
      address = unmapped(memory)
      memory.free
      expect(store(device, address)).to eq complete
    end

    it "lets a device write what a pool's next user has" do
      pool = DMA::Pool.new(count: 1, size: page, lock: false)
      address = pool.checkout { |buffer| unmapped(buffer) }
      pool.checkout do |buffer|
        buffer.set_string(sample(page))
        device.write_dma("late").wait
        expect(store(device, address, 4)).to eq complete
        expect(buffer.get_string).to eq "late#{sample(page)[4..]}"
      end
    end

    it "leaves memory of somebody else in reach for no time at all" do
      pointer = Fiddle::Pointer.malloc(page, Fiddle::RUBY_FREE)
      pointer[0, page] = sample(page)
      wrapped = DMA::Buffer.wrap(pointer, page)
      expect(store(device, unmapped(wrapped))).to eq iommu_fault
      expect(pointer[0, page]).to eq sample(page)
      expect(device.stats[:iommu]).to include(invalidations: 1, queued: 0)
    end

    it "is an IOMMU's" do
      expect { machine(invalidation: :lazy, iommu: false) }.to raise_error(ArgumentError, /iommu: false/)
      expect { machine(invalidation: :never) }.to raise_error(ArgumentError, /:strict, :lazy/)
    end

    it "costs a machine with a free clock no memory for ever" do
      free = described_class.new(invalidation: :lazy)
      device = free.device
      1000.times { device.write_dma("x" * 64).wait }
      expect(device.stats[:iommu]).to include(flushes: be >= 3, queued: be < 256)
    end
  end

  describe "faults" do
    it "are kept with device, channel, address, access, reason and cycle" do
      sim = machine
      _, device = Array.new(2) { sim.device }
      mappings = %i[to_device from_device].map { |way| device.map(buffer, type: :streaming, direction: way) }
      to, from = mappings.map(&:address)
      [[to + 8, 2], [from, 1], [0x7f_0000_0000, 1], [window, 1], [window + 8, 2]].each do |address, direction|
        source, destination = direction == 1 ? [address, 0] : [0, address]
        expect(move(device, source, destination, 8, direction, channel: 3)).to eq iommu_fault
      end
      expect(sim.faults.map { |fault| fault.values_at(:address, :access, :reason) })
        .to eq [[to + 8, :write, :no_write], [from, :read, :no_read], [0x7f_0000_0000, :read, :not_mapped],
                [window, :read, :no_read], [window + 8, :write, :interrupt_blocked]]
      expect(sim.faults.map { |fault| fault.values_at(:device, :channel) }.uniq).to eq [[1, 3]]
      expect(sim.faults.map { |fault| fault[:cycle] }).to eq(sim.faults.map { |fault| fault[:cycle] }.sort)
      expect(device.stats[:faults].size).to eq 5
    end

    it "say that an address has more bits than there are, and of a ring too where it is not" do
      sim = machine
      device = sim.device
      [0x7f_0000_0000, 1 << 50].each do |ring|
        device.registers.write64(0x120, ring)
        device.registers.write32(0x128, 4)
        device.registers.write32(0x12c, 1)
        sim.run_until_idle
        device.registers.write16(0x114, 0x400)
      end
      expect(sim.faults.map { |fault| fault.values_at(:address, :access, :reason) })
        .to eq [[0x7f_0000_0000, :read, :not_mapped], [1 << 50, :read, :out_of_range]]
    end

    it "that are injected are there as well" do
      sim = machine
      sim.inject(:iommu_fault)
      expect { sim.device.write_dma("x").wait }.to raise_error(DMA::FaultError)
      expect(sim.faults).to match [include(device: 0, channel: 0, access: :read, reason: :not_mapped)]
    end

    it "are 256 at most, the last ones" do
      sim = machine
      device = sim.device
      300.times { |n| fetch(device, 0x7f_0000_0000 + (n * page)) }
      last = Array.new(256) { |n| 0x7f_0000_0000 + ((n + 44) * page) }
      expect(sim.faults.map { |fault| fault[:address] }).to eq last
      expect(sim.stats[:fault_overflows]).to eq 44
      expect(device.stats[:iommu_faults]).to eq 300
    end
  end

  describe "interrupt messages" do
    # The address of a message that names an entry of the IOMMU's table.
    def remappable(entry)
      0xfee0_0010 | (entry << 5)
    end

    # A device writes a message by a transfer.
    def send_message(device, address, data = 0)
      device.pio_write([data].pack("V"), at: 64)
      store(device, address, 4, from: 64)
    end

    it "of a device about its own channels are let through, and nobody has completed anything" do
      sim = machine(interrupt_cost: :pc1998)
      device = sim.device
      expect(send_message(device, remappable(2))).to eq complete
      sim.run_until_idle
      expect(sim.stats).to include(interrupts: 1, spurious_interrupts: 1, blocked_interrupts: 0)
      expect(sim.trace { sim.run_until_idle }.to_a).to eq []
    end

    it "that are forged are blocked, reported and counted" do
      sim = machine
      victim, device = Array.new(2) { sim.device }
      forged = [remappable(0), remappable(100), window, window | (1 << 12)]
      expect(forged.map { |address| send_message(device, address) }).to eq [iommu_fault] * 4
      expect(sim.stats).to include(interrupts: 0, spurious_interrupts: 0, blocked_interrupts: 4)
      expect(sim.faults.map { |fault| fault.values_at(:device, :address, :access, :reason) })
        .to eq(forged.map { |address| [1, address, :write, :interrupt_blocked] })
      expect(send_message(victim, remappable(0))).to eq complete
      expect(sim.stats).to include(spurious_interrupts: 1)
    end

    it "without an IOMMU are believed, whoever wrote them" do
      sim = machine(iommu: false, cpus: 2, interrupt_cost: { entry: 100 })
      victim, device = Array.new(2) { sim.device }
      before = victim.channel.stats[:interrupts]
      handlers = sim.trace do
        expect([send_message(device, window, 0), send_message(device, window | (1 << 12), 99)]).to eq [complete] * 2
        sim.run_until_idle
      end
      called = handlers.select { |event| event.what == :handler }
      expect(called.map { |event| [event.device, event.channel] }).to eq [[0, 0]]
      expect(sim.stats).to include(interrupts_by_cpu: [1, 1], spurious_interrupts: 2, blocked_interrupts: 0)
      expect(victim.channel.stats[:interrupts]).to eq before
      expect(sim.faults).to eq []
    end

    it "are of four bytes; others are neither messages nor memory" do
      with = machine
      without = machine(iommu: false)
      expect(store(with.device, remappable(0), 8)).to eq iommu_fault
      expect(store(without.device, window, 8)).to eq bus_write_error
      expect([with.stats[:blocked_interrupts], without.stats[:spurious_interrupts]]).to eq [1, 0]
    end
  end

  describe "CPUs" do
    def busy(device, channel)
      device.channel(channel).submit(source: buffer, destination: 0)
    end

    it "handle interrupts at the same time, each one after the other" do
      one, two = [1, 2].map do |cpus|
        sim = machine(cpus: cpus, interrupt_cost: { entry: 10_000, exit: 10_000 })
        device = sim.device
        device.channel(1).affinity = cpus - 1
        [0, 1].map { |channel| busy(device, channel) }.each(&:wait)
        sim.run_until_idle
        [sim.cycles, sim.stats[:interrupts_by_cpu]]
      end
      expect([one.last, two.last]).to eq [[2], [1, 1]]
      expect(one.first - two.first).to be > 10_000
    end

    it "hand a live vector over to each other, and what waits stays where it is" do
      sim = machine(cpus: 4, interrupt_cost: { entry: 10_000 })
      device = sim.device
      channel = device.channel
      expect([channel.affinity, sim.stats[:interrupts_by_cpu]]).to eq [0, [0, 0, 0, 0]]
      counts = [3, 1, 1, 2].map do |cpu|
        busy(device, 0)
        sim.step(1000)
        channel.affinity = cpu
        expect(channel.affinity).to eq cpu
        sim.run_until_idle
        sim.stats[:interrupts_by_cpu]
      end
      expect(counts).to eq [[1, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1], [1, 2, 0, 1]]
      expect(sim.stats[:interrupts]).to eq 4
    end

    it "are as many as the machine has, for channels of simulated devices that send messages" do
      channel = machine(cpus: 2).device.channel
      expect { channel.affinity = 2 }.to raise_error(ArgumentError, /CPU 2 is not in 0\.\.1, .*cpus: 3/)
      expect { channel.affinity = 1 << 40 }.to raise_error(ArgumentError, /affinity must be/)
      expect { machine(cpus: 1 << 40) }.to raise_error(ArgumentError, /cpus must be/)
      expect { channel.affinity = -1 }.to raise_error(ArgumentError, /affinity/)
      expect { machine(cpus: 0) }.to raise_error(ArgumentError, /cpus: 0 is not in 1..1024/)
      card = machine(cpus: 2).device(controller: :isa).channel(1)
      expect { card.affinity = 1 }.to raise_error(ArgumentError, /card/)
      expect((card.affinity = 0) && card.affinity).to eq 0
      DMA::Device.open(__FILE__) do |file|
        expect { file.channel.affinity }.to raise_error(DMA::UnsupportedError, /simulated/)
        expect { file.channel.affinity = 0 }.to raise_error(DMA::UnsupportedError, /simulated/)
      end
    end
  end

  it "does nothing where there is none" do
    sim = machine(iommu: false)
    expect([sim.flush_iotlb, sim.faults, sim.device.stats[:iommu]]).to eq [sim, [], nil]
  end
end
