# frozen_string_literal: true

# The same programs as in spec/debug_spec.rb, and the same reports, over VFIO.
RSpec.describe "DMA.debug of a PCI function" do
  { "edu" => Support::Guest::EDU, "an NVMe disk" => Support::Guest::NVME }.each do |name, address|
    context "that is #{name}" do
      before { bind(address, "vfio-pci") }

      let(:open_device) { DMA::Device.open(address) }

      it_behaves_like "a device that the checker knows"
    end
  end

  context "without a driver of this library" do
    address = Support::Guest::EDU

    before { bind(address, "vfio-pci") }

    let(:open_device) { DMA::Device.open(address, driver: false, address_bits: 28) }
    let(:mapping) { { type: :streaming, direction: :from_device } }

    it "tells of memory that the device owns, and of what is left at the end" do
      memory = DMA::Buffer.new(4096)
      errors = misuse do
        device = open_device
        mapped = device.map(memory, **mapping)
        memory.get_string
        mapped.sync_for_cpu
        memory.get_string
        device.close
      end
      expect(errors.map(&:rule)).to eq %i[cpu_access leak]
    end
  end
end
