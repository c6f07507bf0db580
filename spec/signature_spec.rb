# frozen_string_literal: true

RSpec.describe "sig/dma.rbs" do
  signatures = File.expand_path("../sig", __dir__)

  before do
    needs "the rbs gem, which comes with Ruby", !Gem::Specification.find_all_by_name("rbs").empty?
  end

  it "is valid" do
    rbs = Gem.bin_path("rbs", "rbs")
    output, status = Open3.capture2e(RbConfig.ruby, rbs, "-I", signatures, "validate", "--silent")
    expect([output, status.success?]).to eq(["", true])
  end

  it "has every public constant and method of the library, and no other" do
    expect(in_ruby(<<~RUBY)).to eq("")
      require "rbs"
      require "dma/cli"
      loader = RBS::EnvironmentLoader.new
      loader.add(path: Pathname(#{signatures.dump}))
      environment = RBS::Environment.from_loader(loader).resolve_type_names

      declared = environment.constant_decls.keys.map(&:to_s)
      environment.class_decls.each do |name, entry|
        declared << name.to_s
        entry.decls.flat_map { |part| part.decl.members }.each do |member|
          method = %i[new_name name].find { |key| member.respond_to?(key) }.then { |key| key && member.public_send(key) }
          next unless method.is_a?(Symbol) && method != :initialize

          declared << "\#{name}\#{member.kind == :singleton ? "." : "#"}\#{method}"
        end
      end
      declared = declared.grep(/\\A::DMA\\b/)

      found = []
      # What every Struct has is Ruby's to declare.
      struct = Struct.new(:member).singleton_methods(false)
      walk = lambda do |object|
        found << "::\#{object.name}"
        singleton = object.singleton_methods(false)
        instance = object.public_instance_methods(false)
        singleton, instance = singleton - struct, instance.grep_v(/=\\z/) if object < Struct
        singleton.each { |name| found << "::\#{object.name}.\#{name}" }
        instance.each { |name| found << "::\#{object.name}#\#{name}" }
        object.constants(false).each do |name|
          value = object.const_get(name)
          value.is_a?(Module) ? walk.call(value) : found << "::\#{object.name}::\#{name}"
        end
      end
      walk.call(DMA)
      puts (found - declared).map { |name| "not declared: \#{name}" }
      puts (declared - found).map { |name| "not there: \#{name}" }
    RUBY
  end

  it "is what methods take and give when they run" do
    path = scratch_file("lines.txt", "one\ntwo\nthree\n")
    checked = { RBS_TEST_TARGET: "DMA*", RBS_TEST_RAISE: "true", RBS_TEST_LOGLEVEL: "fatal",
                RBS_TEST_OPT: "-I #{signatures}", RUBYOPT: "-W0" }
    expect(in_ruby(<<~RUBY, **checked)).to end_with("refused\nend\n")
      require "rbs"
      require "rbs/test/setup"
      # The checks are set up where a class ends.
      class DMA::Buffer; end
      class DMA::Pool; end
      %w[Device Channel Transfer Mapping Registers Ring Sim Cache Trace].each { |name| eval("class DMA::\#{name}; end") }
      class DMA::File
        module Reading; end
        module Text; end
        module Writing; end
      end
      module DMA; end

      buffer = DMA::Buffer.new(4096, align: 4096, lock: :auto, huge: :never)
      [buffer.size, buffer.address, buffer.alignment, buffer.residency, buffer.huge_bytes, buffer.freed?, buffer.retain]
      buffer.set_values(%i[U8 f32], buffer.set_value(:U8, 0, 1), [1, 0.5])
      [buffer.get_value(:F64, 8), buffer.get_values(%i[U8 f32], 0), buffer.get_string(1, nil, "UTF-8"), buffer.get_string]
      [buffer.set_string("abc", 0, nil, 1), buffer.copy(buffer.view, 4, 4), buffer.slice(1).copy(buffer, 0, 3)]
      [buffer.clear, buffer.clear(1, 2, 3), buffer.to_ptr, buffer <=> buffer.slice, buffer <=> 1]
      [buffer.each(:u16, 0, 3).to_a, buffer.each(:U8) { nil }, buffer.each_byte(0, 3).to_a, buffer.values(:s64)]
      [buffer.hexdump, buffer.inspect, DMA::Buffer.open(3), DMA::Buffer.open(3, &:size)]
      [DMA::Buffer.wrap(buffer, 3), DMA::Buffer.wrap(buffer.to_ptr), DMA::Buffer.wrap(IO::Buffer.new(3)).free]
      buffer.segments if Process.uid.zero?
      pool = DMA::Pool.new(count: 1, size: 10)
      [pool.count, pool.size, pool.available, pool.checkout(&:size), pool.checkout(timeout: 0.5).free]
      [DMA.read(#{path.dump}, into: buffer), DMA.write(#{path.dump}, "one\ntwo\n"), DMA.copy(#{path.dump}, "#{path}.copy"), DMA.library_path]
      DMA::File.open(#{path.dump}, "r+", depth: 2) do |file|
        [file.size, file.alignment, file.memory_alignment, file.stats, file.direct?, file.closed?, file.path, file.inspect]
        [file.read_into(buffer, offset: 0), file.read_into([buffer]), file.write_from(buffer, offset: 0, length: 3), file.fsync, file.fdatasync]
        [file.each_chunk(5) { nil }, file.read_many([[0, 5]]) { nil }, file.rewind, file.gets, file.gets(2), file.gets("w", chomp: true), file.getc, file.pos]
        [file.each_line.to_a, file.seek(0), file.readlines, file.eof?, file.read, file.read(1), file.seek(-3, :END)]
        [file.readbyte, file.getbyte, file.ungetbyte(3), file.ungetc("c"), file.readchar, file.pread(3, 0), file.tell]
        [file.write("a", 1), file.pwrite("b", 0), file << "c", file.print(1), file.puts("a"), file.printf("%d", 3)]
        [file.flush, file.sync, file.truncate(9), file.fallocate(3, offset: 9), file.to_io, file.fileno, file.binmode, file.external_encoding]
        [file.rewind, file.sysread(1), file.sysseek(0), file.syswrite("x"), file.readpartial(3), file.read_nonblock(3)]
      end
      machine = DMA::Sim.new(clock: :manual, iommu: true, seed: 1)
      device = machine.device(channels: 2)
      [machine.cache.flush(buffer), machine.cache.invalidate(buffer, 0), machine.cache.write_back(buffer, 0, 64)]
      [machine.cache.clean(buffer), machine.cache.lines(buffer), machine.cache.inspect, machine.stats]
      [DMA.write_barrier, DMA.read_barrier]
      [machine.clock, machine.iommu?, machine.seed, machine.cycles, machine.inspect, machine.step(3), machine.step]
      [DMA::Sim.attach("/rbs", clock: :manual), DMA::Device.new("/rbs").close, DMA::Sim.detach("/rbs")]
      [DMA::Device.open(:sim, clock: :manual, &:name), DMA::Device.open(#{path.dump}, direct: :auto) { |file| file.sim }]
      [device.name, device.sim, device.capabilities, device.closed?, device.stats, device.registers, device.inspect]
      channel = device.channel
      [channel.index, channel.device, channel.capacity, channel.room, channel.state, channel.stats, channel.inspect]
      transfer = channel.enqueue(source: buffer, destination: 0, length: 64, fence: false, interrupt: true)
      [channel.kick, channel.poll, transfer.wait(timeout: 1), transfer.on_complete { |ended| ended }, transfer.cancel]
      [transfer.id, transfer.size, transfer.channel, transfer.status, transfer.bytes, transfer.fault, transfer.errno]
      [transfer.done?, transfer.failure, transfer.inspect, channel.submit([{ source: 0, destination: buffer }]).wait]
      [channel.process_completions { |ended| ended.status }, channel.drain(timeout: 1), channel.reset, channel.to_io]
      [device.write_dma("bytes", at: 3), device.write_dma(buffer), device.wait_completion(timeout: 1)]
      [device.read_dma(5, at: 3), device.read_dma(5, into: buffer), device.read_dma(into: buffer.view, timeout: 1)]
      mapping = device.map(buffer, 64, type: :streaming, direction: :to_device)
      [mapping.handle, mapping.device, mapping.buffer, mapping.size, mapping.type, mapping.direction, mapping.address]
      [mapping.segments, mapping.sync_for_device, mapping.sync_for_cpu(0, 8), mapping.unmap, mapping.unmapped?]
      [mapping.inspect, device.map(buffer, &:inspect), device.reset]
      mapping = device.map(buffer, type: :consistent, exception: false)
      [mapping.error?, mapping.error, DMA.debug, device.sync_for_cpu(mapping.address), device.sync_for_device(mapping.address, 8)]
      device.unmap(mapping.address, buffer.size, direction: :bidirectional)
      configuration = device.configure_transfer(buffer, 0x1000, 64)
      ring = configuration[:descriptor_ring]
      [channel.submit(ring).wait, ring.process_completions { |descriptor| descriptor.status }, ring.mappings, ring.to_a]
      [ring.size, ring.capacity, ring.pending, ring.head, ring.tail, ring.address, ring.full?, ring.empty?, ring.inspect]
      ring = DMA::Ring.new(4)
      [ring.add_transfer(0, 8, 8, direction: :within), ring[0], ring.complete(0), ring.process_completions]
      registers = device.registers
      [registers.size, registers.read8(0), registers.read16(0), registers.read32(0), registers.read64(0)]
      [registers.write8(0x100, 1), registers.write16(0x100, 1), registers.write32(0x100, 1), registers.write64(0x100, 1)]
      registers.poll(0, mask: 1, value: 1, interval: 0, timeout: 1)
      trace = machine.trace { device.write_dma("x").wait }
      [trace.size, trace.to_s, trace.inspect, trace.each { nil }, trace.each.to_a, trace.first.what,
       trace.tenures, trace.first.asked, trace.to_vcd(from: 0), trace.to_svg(from: nil)]
      [machine.inject(:bus_error, probability: 0.5, channel: 0), machine.clear_faults, machine.run_until_idle]
      [machine.faults, machine.flush_iotlb, device.channel.affinity, device.channel.affinity = 0]
      machine.inject(:iommu_fault)
      begin
        device.write_dma("x").wait
      rescue DMA::FaultError => e
        [e.status, e.transfer, e.failures, e.address, e.access]
      end
      device.close
      begin
        buffer.get_string("4096")
      rescue RBS::Test::Tester::TypeError
        puts "refused"
      end
      puts "end"
    RUBY
  end
end
