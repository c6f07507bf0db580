# frozen_string_literal: true

# Latency against the rate of interrupts that the device sends (messages; the CPU may handle fewer): the same transfers
# under each coalescing policy, on a CPU to which interrupts are not free. A trickle is a transfer every 100 us; in a
# burst there are always 64 under way. Latency is simulated time, from the submission until whoever waits is told.
#
#   ruby -Ilib examples/interrupts.rb

require "dma"

COUNT = 640
BUFFER = DMA::Buffer.new(4096)

def trickle(device)
  Array.new(COUNT) do
    device.sim.step(100_000)
    begun = device.sim.time
    device.channel.submit(source: BUFFER, destination: 0).wait
    device.sim.time - begun
  end
end

def burst(device)
  under_way = []
  latencies = []
  COUNT.times do
    under_way << [device.channel.submit(source: BUFFER, destination: 0), device.sim.time]
    next if under_way.size < 64

    transfer, begun = under_way.shift
    transfer.wait
    latencies << (device.sim.time - begun)
  end
  device.channel.drain
  latencies
end

puts "                         us     messages/s   per transfer   CPU"
%i[trickle burst].each do |traffic|
  [:none, :low_latency, { count: 16, time: 2e-5 }, :throughput, :adaptive].each do |policy|
    sim = DMA::Sim.new(clock: :manual, interrupt_cost: { entry: 1000, exit: 500, deferred: 100 })
    device = sim.device(coalesce: policy)
    latencies = send(traffic, device)
    messages = device.channel.stats[:interrupts]
    name = policy.is_a?(Hash) ? policy.values.join(", ") : policy
    puts format("%-8<traffic>s %-12<name>s %6.1<us>f %14<rate>d %14.2<each>f %4<cpu>d%%",
                traffic: traffic, name: name, us: latencies.sum / latencies.size * 1e6, rate: messages / sim.time,
                each: messages.fdiv(COUNT), cpu: 100 * sim.stats[:interrupt_cycles] / sim.cycles)
  end
end
