# frozen_string_literal: true

# As in article_spec.rb: the text is nobody's to hand out, so that its absence is no failure anywhere.
RSpec.describe "The device program of the founding article, unchanged" do
  include Support::Article

  around { |example| unstressed { example.run } }

  before { skip "needs the article's text: DMA_ARTICLE=PATH" unless Support::Article::PATH }

  it "moves 1 MiB to the device and back" do
    code = <<~RUBY
      require "dma_device"
      machine = DMA::Sim.attach("/dev/custom_device")
      #{Support::Article.program("DmaExample")}
      sent = "x" * (1 << 20)
      puts received == sent, received.encoding
      DMA::Device.open("/dev/custom_device") do |other|
        puts other.read_dma(1 << 20) == sent, other.read_dma(4096, at: 1 << 20) == "\\0" * 4096
        puts other.stats.values_at(:failed, :outstanding).inspect
      end
      device.transfer_data("other bytes")
      puts device.receive_data(12)
    RUBY
    expect(in_ruby(code).lines(chomp: true)).to eq ["true", "ASCII-8BIT", "true", "true", "[0, 0]", "other bytesx"]
  end
end
