# frozen_string_literal: true

require "json"
require "open3"

module Files
  # Programs that do the same, each once, as a Sample; and why they cannot be had.
  module Programs
    module_function

    # @return [String, nil] why the program cannot be run
    def missing(program)
      "#{program} is not installed" unless installed?(program)
    end

    def installed?(program)
      ENV.fetch("PATH").split(":").any? { |directory| File.executable?(File.join(directory, program)) }
    end

    # Runs a program, in a process of its own, from start to end; then the block, as part of it.
    def run(*command)
      child = Process.times
      seconds, cpu = Support.measure do
        system(*command) or raise "#{command.join(" ")} failed"
        yield if block_given?
      end
      after = Process.times
      Sample.new(seconds, cpu + (after.cutime - child.cutime) + (after.cstime - child.cstime))
    end

    def dd(source, destination, *how)
      run("dd", "if=#{source}", "of=#{destination}", "bs=#{CHUNK}", "status=none", *how)
    end

    # What is to be known of the rows.
    def notes
      return [Fio.missing] if Fio.missing

      pages = Fio.huge? ? "huge pages" : "pages of 4 KiB, for no huge ones are reserved (sysctl vm.nr_hugepages)"
      ["#{Fio.version}: its buffers are #{pages}"]
    end

    # fio with io_uring, registered buffers and files.
    module Fio
      module_function

      # Installs it, where that can be done.
      def missing
        return @missing if defined?(@missing)

        install if !Programs.installed?("fio") && Process.uid.zero? && Programs.installed?("apt-get")
        @missing = Programs.missing("fio")
      end

      def install
        puts "installs fio"
        Open3.capture2e({ "DEBIAN_FRONTEND" => "noninteractive" }, "apt-get", "install", "-y", "fio")
      end

      def version
        Open3.capture2("fio", "--version").first.strip
      end

      # Are there huge pages for its buffers? It asks for as many as its depth and one more.
      def huge?
        meminfo = File.read("/proc/meminfo")
        free = meminfo[/^HugePages_Free:\s+(\d+)/, 1].to_i * meminfo[/^Hugepagesize:\s+(\d+)/, 1].to_i
        free << 10 > (DEPTH + 1) * CHUNK
      end

      def read(path, size, direct: true)
        run(path, size, "--rw=read", "--bs=#{CHUNK}", "--iodepth=#{DEPTH}", "--direct=#{direct ? 1 : 0}", "--readonly")
      end

      # At offsets of its own choice, no two the same.
      def random(path, size, reads, depth)
        run(path, size, "--rw=randread", "--bs=#{PART}", "--iodepth=#{depth}", "--direct=1",
            "--io_size=#{reads * PART}", "--readonly")
      end

      # Writes a new file. Room for it is not given before, and it is not made longer before either.
      def write(path, size)
        run(path, size, "--rw=write", "--bs=#{CHUNK}", "--iodepth=#{DEPTH}", "--direct=1", "--fallocate=none",
            "--create_on_open=1", "--end_fsync=1")
      end

      def run(path, size, *how)
        command = ["fio", "--output-format=json", "--name=files", "--filename=#{path}", "--size=#{size}",
                   "--ioengine=io_uring", "--fixedbufs", "--registerfiles", "--invalidate=0",
                   "--iomem=#{huge? ? "mmaphuge" : "mmap"}", *how]
        output, errors, status = Open3.capture3(*command)
        raise "#{command.join(" ")}: #{errors}#{output}" unless status.success?

        sample(JSON.parse(output[output.index("{")..])["jobs"].first)
      end

      # The report rounds its runtime to milliseconds; the bandwidth is exact.
      def sample(job)
        done = job.values_at("read", "write").find { |direction| direction["io_bytes"].positive? }
        raise "fio is done before its clock ticks: take a larger file (--size)" if done["bw_bytes"].zero?

        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3
        Sample.new(done["io_bytes"].fdiv(done["bw_bytes"]), cpu)
      end
    end

    # The program in benchmark/peers/glommio, which reports its own time.
    module Glommio
      PACKAGE = File.expand_path("../peers/glommio", __dir__)
      TARGET = File.join(ENV.fetch("CARGO_TARGET_DIR", File.expand_path("../../target", __dir__)), "peers")
      PROGRAM = File.join(TARGET, "release/dma-benchmark-glommio")

      module_function

      # Builds it, where that can be done.
      def missing
        return @missing if defined?(@missing)

        @missing = Programs.missing("cargo") || build
      end

      def build
        puts "builds benchmark/peers/glommio" unless File.exist?(PROGRAM)
        command = %w[cargo build --quiet --release --locked --target-dir] << TARGET
        output, status = Open3.capture2e(*command, chdir: PACKAGE)
        "it could not be built: #{output.lines.grep(/error/).first&.strip}" unless status.success?
      end

      def read(path, size)
        run("sequential", path, size, CHUNK, DEPTH)
      end

      # @param list [String] path of a file with the offsets, of 64 bits each
      def random(path, list, depth)
        run("random", path, list, PART, depth)
      end

      def run(*arguments)
        output, status = Open3.capture2(PROGRAM, *arguments.map(&:to_s))
        raise "glommio failed, see above" unless status.success?

        Sample.new(*output.split.last(2).map(&:to_f))
      end
    end
  end
end
