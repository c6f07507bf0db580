# frozen_string_literal: true

# A device behind `DmaDevice`: data out, wait for the interrupt, data in. The device is a simulated one here; any path
# that DMA::Device.open takes will do.
#
#   ruby -Ilib examples/dma_device.rb [PATH]

require "dma_device"

# Sends to a device and receives from it.
class Echo
  def initialize(path)
    @device = DmaDevice.new(path)
  end

  def send(data)
    @device.write_dma(data)
    @device.wait_completion
    self
  end

  def receive(size)
    @device.read_dma(size)
  end

  def close
    @device.close
  end
end

path = ARGV.fetch(0) { "/dev/example".tap { |name| DMA::Sim.attach(name) } }
data = Random.new(1).bytes(1 << 20)
echo = Echo.new(path)
received = echo.send(data).receive(data.bytesize)
puts "#{received.bytesize} bytes came back, #{received == data ? "equal" : "different"}"
echo.close
