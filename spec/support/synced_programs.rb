# frozen_string_literal: true

module Support
  # Random programs over a streaming or consistent mapping: the CPU reads and writes, the device transfers, and each has
  # the bytes handed over before. They are Ruby code, a step a line, for `device` and `memory`, and add what they see to
  # `log`.
  class SyncedProgram
    SIZE = 1024

    TYPES = [%i[streaming to_device], %i[streaming from_device], %i[consistent bidirectional]].freeze
    # The accesses of a device.
    TRANSFERS = { to_device: %i[device_reads], from_device: %i[device_writes],
                  bidirectional: %i[device_reads device_writes] }.freeze
    OWNERS = { sync_for_cpu: :cpu, sync_for_device: :device }.freeze

    # What who does to which bytes.
    Step = Struct.new(:kind, :offset, :bytes) do
      def sync?
        OWNERS.key?(kind)
      end
    end
    TRANSFER = Step.new(:device_writes, 0, SIZE).freeze

    attr_reader :steps

    # `grain`: ranges are multiples of it. `count`: accesses.
    def initialize(seed, grain: 1, count: 20)
      @random = Random.new(seed)
      @grain = grain
      @type, @direction = TYPES.sample(random: @random)
      @steps = []
      owners = Array.new(SIZE, :device)
      count.times { add(access, owners) }
      # What the CPU wrote and did not hand over may be lost when the mapping ends, which takes it from the device.
      add(Step.new(TRANSFERS[@direction].last, 0, SIZE), owners)
    end

    # The same program less a sync.
    def without(sync)
      dup.tap { |other| other.instance_variable_set(:@steps, @steps.reject { |step| step.equal?(sync) }) }
    end

    def syncs
      @steps.select(&:sync?)
    end

    # The line of the first access that was not handed its bytes, and the rule that it breaks; nil where there is none.
    def violation
      owners = Array.new(SIZE, :device)
      index = @steps.index do |step|
        apply(step, owners)
        missing(step, owners).any?
      end
      index && [index + 2, @steps[index].kind.start_with?("cpu") ? :cpu_access : :device_access]
    end

    # Ruby code; the first step is on line 2.
    def source
      lines = @steps.each_with_index.map { |step, index| code(step, index) }
      ["mapping = device.map(memory, type: :#{@type}, direction: :#{@direction})", *lines,
       "mapping.unmap", "log << memory.get_string << device.read_dma(#{4 * SIZE})"].join("\n")
    end

    private

    # Adds a step, and what it wants before it.
    def add(step, owners)
      syncs = missing(step, owners)
      add(TRANSFER, owners) if syncs.any? { |sync| sync.kind == :sync_for_cpu } && lost?
      syncs.each { |sync| apply(sync, owners) }
      @steps.push(*syncs, step)
    end

    # Whether bytes were handed over to be written by the device, and were not: what they were may be lost.
    def lost?
      return false unless @direction == :from_device

      last = @steps.reverse_each.find { |step| %i[device_writes sync_for_device].include?(step.kind) }
      last&.kind != :device_writes
    end

    def access
      kind = [:cpu_reads, :cpu_writes, *TRANSFERS[@direction]].sample(random: @random)
      return Step.new(kind, 0, SIZE) unless kind.start_with?("cpu")

      offset = @random.rand(SIZE / @grain) * @grain
      Step.new(kind, offset, @random.rand(1..(SIZE - offset) / @grain) * @grain)
    end

    # The syncs that a step wants before it.
    def missing(step, owners)
      return [] if step.sync? || (step.kind == :cpu_reads && @direction == :to_device)

      other, sync = step.kind.start_with?("cpu") ? %i[device sync_for_cpu] : %i[cpu sync_for_device]
      wanted = (step.offset...step.offset + step.bytes).select { |byte| owners[byte] == other }
      wanted.slice_when { |one, next_one| next_one != one + 1 }.map { |run| Step.new(sync, run.first, run.size) }
    end

    def apply(step, owners)
      owners.fill(OWNERS[step.kind], step.offset, step.bytes) if step.sync?
    end

    def code(step, index)
      at = index % 4 * SIZE
      case step.kind
      when :cpu_reads then "log << memory.get_string(#{step.offset}, #{step.bytes})"
      when :cpu_writes then "memory.clear(#{(index * 37) % 256}, #{step.offset}, #{step.bytes})"
      when :device_reads then "device.write_dma(mapping, at: #{at}).wait"
      when :device_writes then "device.read_dma(into: mapping, at: #{at})"
      else "mapping.#{step.kind}(#{step.offset}, #{step.bytes})"
      end
    end
  end
end
