# frozen_string_literal: true

module Files
  # Groups that read a loop device over a file in memory: what is left when the disk takes no time.
  module Memory
    RANDOM_DEPTH = 32

    module_function

    def groups(bench)
      with_device(bench) do |path|
        prepare = -> { Support.bring_memory(bench.bytes) }
        yield sequential(bench, path, prepare)
        name = "random, 4 KiB, depth #{RANDOM_DEPTH}, device in memory"
        yield Reading.parts("loop", name, RANDOM_DEPTH, bench, path, prepare:)
      end
    end

    def sequential(bench, path, prepare)
      name = "sequential, 1 MiB, device in memory"
      Group.new("loop", name:, bytes: bench.bytes, reference: "fio", prepare:) do |group|
        Reading.through_dma(group, path)
        Reading.through_programs(group, path, bench.bytes)
      end
    end

    # Yields the path of a device that has the bytes of the file, in a tmpfs of its own.
    def with_device(bench)
      raise Impossible, "it needs root" unless Process.uid.zero?

      missing = %w[mount losetup].filter_map { |program| Programs.missing(program) }
      raise Impossible, missing.join(", ") if missing.any?

      directory = bench.beside("memory").tap { |path| Dir.mkdir(path) }
      order("mount", "-t", "tmpfs", "-o", "size=#{bench.bytes + (16 << 20)}", "dma-benchmark", directory)
      mounted = true
      copy = File.join(directory, "data.bin")
      IO.copy_stream(bench.path, copy)
      device = order("losetup", "--find", "--show", "--direct-io=on", copy).strip
      yield device
    ensure
      order("losetup", "--detach", device) if device
      # The kernel lets go of the device, and of its file, some time after.
      order("umount", "--lazy", directory) if mounted
    end

    def order(*command)
      output, status = Open3.capture2e(*command)
      raise Impossible, "#{command.join(" ")}: #{output.strip}" unless status.success?

      output
    end
  end
end
