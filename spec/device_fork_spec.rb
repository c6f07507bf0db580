# frozen_string_literal: true

# The machine's thread is not in the child of a fork, and may have held any of its locks.
RSpec.describe "devices in the child of a fork" do
  let(:device) { DMA::Device.open(:sim, memory: 64 << 20) }
  let(:sim) { device.sim }
  let(:registers) { device.registers }
  let(:channel) { device.channel }
  let(:buffer) { DMA::Buffer.new(64 << 20, lock: false) }
  let(:mapping) { device.map(buffer.slice(0, 4096)) }
  let(:ring) { DMA::Ring.new(4) }

  after { device.close }

  around { |example| unstressed { example.run } }

  before { [sim, registers, mapping, ring, buffer].each(&:inspect) }

  # Keeps the machine busy, so that its thread has the lock at almost any moment.
  def busy
    Array.new(20) { channel.submit(source: buffer, destination: 0) }
  end

  calls = {
    "Device#write_dma": -> { device.write_dma("x") }, "Device#read_dma": -> { device.read_dma(1) },
    "Device#wait_completion": -> { device.wait_completion }, "Device#channel": -> { device.channel(0) },
    "Device#map": -> { device.map(buffer) }, "Device#stats": -> { device.stats }, "Device#reset": -> { device.reset },
    "Device#registers": -> { device.registers }, "Device#configure_transfer": lambda {
                                                                                device.configure_transfer(buffer, 0, 1)
                                                                              },
    "Channel#submit": -> { channel.submit(source: 0, destination: 1, length: 1) },
    "Channel#kick": -> { channel.kick }, "Channel#drain": -> { channel.drain }, "Channel#reset": -> { channel.reset },
    "Channel#room": -> { channel.room }, "Channel#poll": -> { channel.poll }, "Channel#to_io": -> { channel.to_io },
    "Channel#process_completions": -> { channel.process_completions },
    "Transfer#wait": -> { @last.wait }, "Transfer#done?": -> { @last.done? }, "Transfer#status": -> { @last.status },
    "Transfer#cancel": -> { @last.cancel }, "Transfer#on_complete": -> { @last.on_complete { nil } },
    "Registers#read32": -> { registers.read32(0) }, "Registers#write32": -> { registers.write32(0x14, 1) },
    "Registers#poll": -> { registers.poll(0, mask: 1, value: 0) }, "Mapping#address": -> { mapping.address },
    "Mapping#segments": -> { mapping.segments }, "Ring#add_transfer": -> { ring.add_transfer(0, 0, 1) },
    "Ring#pending": -> { ring.pending }, "Ring#address": -> { ring.address }, "Sim#cycles": -> { sim.cycles },
    "Sim#inject": -> { sim.inject(:hang) }, "Sim#clear_faults": -> { sim.clear_faults },
    "Sim#trace": -> { sim.trace { nil } }, "Sim#device": -> { sim.device }
  }

  calls.each do |name, call|
    it "is refused #{name}, at once" do
      @last = busy.last
      expect(in_forked_child { instance_exec(&call).class }).to match(/\ADMA::ClosedError: .*(parent|was closed)/)
      expect(@last.wait.status).to eq :complete
    end
  end

  it "may be shown, closed, unmapped and asked whether they are closed" do
    transfer = busy.last
    shown = in_forked_child do
      [device, channel, transfer, sim].map(&:inspect) << device.closed? << channel.state << device.close.inspect <<
        mapping.unmap.unmapped?
    end
    expect(shown).to include("closed", "DMA::Transfer", "true", ":closed", "nil")
    expect(transfer.wait.status).to eq :complete
  end

  it "are new ones, where the child opens them" do
    busy
    answer = in_forked_child(leave: true) { DMA::Device.open(:sim) { |own| own.write_dma("own") && own.read_dma(3) } }
    expect(answer).to eq "own"
    expect(device.wait_completion).to equal device
  end

  it "do no harm when they are collected, or the child ends" do
    transfer = busy.last
    channel.to_io
    answer = in_forked_child(leave: true) do
      __memoized.instance_variable_get(:@memoized)&.clear
      GC.start
      "collected"
    end
    expect(answer).to eq "collected"
    expect(transfer.wait.status).to eq :complete
    expect(device.stats).to include(outstanding: 0, failed: 0)
  end

  it "are no ones of a path that the parent attached" do
    DMA::Sim.attach("/dev/of_the_parent")
    expect(in_forked_child { DMA::Device.open("/dev/of_the_parent") }).to match(/DMA::ClosedError.*parent/)
    expect(in_forked_child { DMA::Sim.attach("/dev/own") && DMA::Device.open("/dev/own", &:name) }).to eq "/dev/own"
  ensure
    DMA::Sim.detach("/dev/of_the_parent")
  end

  it "are refused for a file, too" do
    DMA::Device.open(scratch_file("file", "bytes")) do |file|
      file.read_dma(5)
      expect(in_forked_child { file.read_dma(5) }).to match(/DMA::ClosedError.*parent/)
      expect(in_forked_child { file.write_dma("x") }).to match(/DMA::ClosedError.*parent/)
      expect(file.read_dma(5)).to eq "bytes"
    end
  end
end
