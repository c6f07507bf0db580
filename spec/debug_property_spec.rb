# frozen_string_literal: true

RSpec.describe "DMA.debug and random programs" do
  after { DMA.debug = false }

  # What a program sees on a machine of its own, and how the checker ends it, if it does.
  def outcome(program, machine)
    DMA.debug = :raise
    device = DMA::Device.open(:sim, memory: 1 << 16, clock: :manual, **machine)
    memory = DMA::Buffer.new(Support::SyncedProgram::SIZE).tap { |buffer| buffer.set_string(sample(buffer.size, 1)) }
    device.write_dma(sample(4 * memory.size, 2)).wait
    log = []
    error = begin
      binding.tap { |scope| scope.local_variable_set(:log, log) }.eval(program.source, "program", 1) && nil
    rescue DMA::MisuseError => e
      e
    end
    [log, error]
  ensure
    DMA.debug = false
    device&.close
  end

  # Machines, and of what their programs' ranges are multiples.
  [[{}, 1], [{ iommu: false }, 1], [{ coherent: false }, 64]].each do |machine, grain|
    describe "on a machine with #{machine}" do
      it "finds nothing in those that hand over what they use, and they see what they see anywhere" do
        rounds(100).times do |seed|
          program = Support::SyncedProgram.new(seed, grain: grain)
          log, error = outcome(program, machine)
          expect(error).to be_nil, "#{error&.message}\n#{program.source}"
          expect(log).to eq(outcome(program, {}).first), program.source
        end
      end

      it "names the line of the first access that lacks a sync that was taken out" do
        found = 0
        rounds(200).times do |seed|
          program = Support::SyncedProgram.new(seed, grain: grain)
          next if program.syncs.empty?

          broken = program.without(program.syncs.sample(random: Random.new(seed)))
          line, rule = broken.violation
          _, error = outcome(broken, machine)
          found += 1 if error
          told = error && [error.backtrace.first, error.rule, error.mapped_at.first]
          expect(told).to eq(line && ["program:#{line}:in `outcome'", rule, "program:1:in `outcome'"]), broken.source
        end
        expect(found).to be > rounds(200) / 2
      end
    end
  end
end
