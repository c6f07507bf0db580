# frozen_string_literal: true

module Files
  # Groups that make a file, which is on the disk in the end.
  module Writing
    # The most that is written: this many bytes have to be in memory twice.
    MOST = 1 << 30

    module_function

    def write(bench)
      size = [bench.bytes, MOST].min
      path = bench.beside("written.bin")
      # dd has its bytes from the page cache, all others from their own memory.
      prepare = lambda do
        FileUtils.rm_f(path)
        Support.prepare(bench.path, :warm)
      end
      string = File.binread(bench.path, size)
      buffer = DMA.read(bench.path, length: size)
      yield(Group.new("write", name: "write, to fdatasync", bytes: size, reference: "fio", prepare:) do |group|
        from_buffer(group, path, buffer)
        from_string(group, path, string)
        %w[conv=fdatasync oflag=direct].each do |how|
          group.program("dd #{how}", Programs.missing("dd")) do
            Programs.dd(bench.path, path, *["conv=fdatasync", how].uniq, "count=#{size / CHUNK}")
          end
        end
        group.program("fio", Programs::Fio.missing) { Programs::Fio.write(path, size) }
      end)
    ensure
      FileUtils.rm_f(path)
      buffer&.free
    end

    def from_buffer(group, path, buffer)
      group.dma("DMA.write") { synced(path) { DMA.write(path, buffer) } }
      group.dma("DMA::File#write_from") do
        Ways.timed { DMA::File.open(path, "w") { |file| file.write_from(buffer) && file.fdatasync } }
      end
    end

    def from_string(group, path, string)
      group.ruby("IO#write") do
        Ways.timed do
          File.open(path, "wb") do |file|
            0.step(string.bytesize - 1, CHUNK) { |offset| file.write(string.byteslice(offset, CHUNK)) }
            file.fdatasync
          end
        end
      end
      group.ruby("IO.binwrite") { synced(path) { File.binwrite(path, string) } }
    end

    # Where the file system can share bytes between files (reflink), DMA.copy and cp do that.
    def copy(bench)
      path, size = bench.to_a
      copy = bench.beside("copy.bin")
      prepare = lambda do
        FileUtils.rm_f(copy)
        Support.prepare(path, :cold)
      end
      name = "copy of a cold file, to fdatasync"
      yield(Group.new("copy", name:, bytes: size, reference: "cp", prepare:) do |group|
        group.dma("DMA.copy") { synced(copy) { DMA.copy(path, copy) } }
        group.ruby("IO.copy_stream") { synced(copy) { IO.copy_stream(path, copy) } }
        group.ruby("FileUtils.cp") { synced(copy) { FileUtils.cp(path, copy) } }
        group.program("cp", Programs.missing("cp")) { Programs.run("cp", path, copy) { sync(copy) } }
        group.program("dd", Programs.missing("dd")) { Programs.dd(path, copy, "conv=fdatasync") }
        group.program("dd, direct", Programs.missing("dd")) do
          Programs.dd(path, copy, "iflag=direct", "oflag=direct", "conv=fdatasync")
        end
      end)
    ensure
      FileUtils.rm_f(copy)
    end

    def synced(path)
      Ways.timed do
        yield
        sync(path)
      end
    end

    def sync(path)
      File.open(path, "r+", &:fdatasync)
    end
  end
end
