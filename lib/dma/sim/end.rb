# frozen_string_literal: true

# At the end of the process Ruby frees objects in whatever order, and with them memory that was wrapped, to which
# mappings still write what is in caches and bounce buffers, and machines what they move. No thread runs any more when
# it calls this, and nothing is freed yet.
ObjectSpace.define_finalizer(DMA::Sim, proc do
  ObjectSpace.each_object(DMA::Device) { |device| device.__send__(:native_close) if device.sim }
end)
