# frozen_string_literal: true

# How DMA.debug finds what lies at an address.
RSpec.describe "DMA::Debug::Places" do
  thing = Struct.new(:low, :high)
  before { DMA.debug = true }
  after { DMA.debug = false }

  it "finds what a search through all finds, whatever the sizes" do
    random = Random.new(7)
    places = DMA.const_get(:Debug)::Places.new
    known = []
    rounds(2000).times do
      if random.rand(3).zero? && known.any?
        places.delete(known.delete_at(random.rand(known.size)))
      else
        low = random.rand(1 << 22)
        known << thing.new(low, low + random.rand(1 << random.rand(1..21)) + 1)
        places.add(known.last)
      end
      low = random.rand(1 << 22)
      high = low + random.rand(1 << random.rand(1..22)) + 1
      expected = known.select { |one| one.low < high && low < one.high }
      expect(places.overlapping(low, high).map(&:__id__)).to match_array expected.map(&:__id__)
      expect(places.size).to eq known.size
    end
    expect(places.to_a.map(&:__id__)).to match_array known.map(&:__id__)
    known.each { |one| places.delete(one) }
    expect([places.size, places.to_a, places.instance_variable_get(:@levels)]).to eq [0, [], {}]
  end
end
