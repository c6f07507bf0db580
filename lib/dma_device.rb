# frozen_string_literal: true

require "dma"

# A device by the name that hardware libraries of Ruby are expected to have: `DmaDevice.new(path)`. To try it without
# hardware, put a simulated device at the path first:
#
#   DMA::Sim.attach("/dev/custom_device")
#   device = DmaDevice.new("/dev/custom_device")
#   device.write_dma("x" * 1024)
#   device.wait_completion
#   device.read_dma(1024)
DmaDevice = DMA::Device
