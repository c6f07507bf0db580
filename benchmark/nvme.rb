# frozen_string_literal: true

# How does an NVMe disk that DMA::Device drives through VFIO compare with the same disk under the kernel's driver, read
# by fio with O_DIRECT and io_uring? Requests per second, and what they cost in CPU.
#
#   rake "guest:run[ruby -Ilib benchmark/nvme.rb]"      in the laboratory, whose disk is filled first
#   ruby -Ilib benchmark/nvme.rb 0000:01:00.0           as root, on a disk that nobody uses, which is only read
#
# Options: [--rounds 5] [--seconds 2]. In each round fio makes all its measurements and so does this process, in turns
# who begins; the disk changes its driver in between. The first round is discarded. A ratio is taken within a round, of
# measurements that lie some seconds apart; the table has the medians.
#
# Both keep as many requests in flight as the depth says, each with memory of its own, at the same kind of offsets. fio
# has its memory and its file registered with io_uring, as ours is mapped once. "One by one" is a call, and a doorbell,
# for each request; "lists" are submitted and awaited eight at a time.
#
# CPU of the process is user and system time of all threads: Ruby, the driver and the waits for interrupts here; fio,
# io_uring and the kernel's driver there. Interrupts are charged to whom they interrupt, and to nobody where the
# processor is idle, which favours whoever sleeps. CPU of the machine is the time in which its processors are not idle,
# so that it has these too, and whatever else runs. A switch is a request that was slept for; at depth 1 there is none
# for those that ended before anybody could sleep. What a long wait burns, the laboratory's slow namespace shows.
#
# Where the computer translates bus addresses for its own drivers as well, the kernel's maps and unmaps each request's
# memory; the type of the disk's IOMMU group says so: DMA or DMA-FQ, not identity.

require "json"
require "optparse"
require_relative "support"

LABORATORY = "0000:00:07.0"
# A request as fio says it; how many are in flight; how many of them are submitted at a time.
Reads = Struct.new(:name, :pattern, :bytes, :depth, :list)
READS = [
  Reads.new("4 KiB random, depth 1", "randread", 4 << 10, 1, 1),
  Reads.new("4 KiB random, depth 32, one by one", "randread", 4 << 10, 32, 1),
  Reads.new("4 KiB random, depth 32, lists of 8", "randread", 4 << 10, 32, 8),
  Reads.new("128 KiB sequential, depth 8", "read", 128 << 10, 8, 1)
].freeze
# Requests that ended, the seconds they took, CPU seconds of the process and of the machine, context switches.
Result = Struct.new(:requests, :seconds, :cpu, :machine, :switches)

def now
  Process.clock_gettime(Process::CLOCK_MONOTONIC)
end

def cpu_time
  Process.clock_gettime(Process::CLOCK_PROCESS_CPUTIME_ID)
end

# How often the main thread, which is the one that waits, was switched from its processor.
def switches
  File.read("/proc/self/status").scan(/ctxt_switches:\s+(\d+)/).flatten.sum(&:to_i)
end

# CPU seconds of the machine so far (proc_uptime(5), proc_stat(5)).
def machine_time
  uptime, stat = %w[/proc/uptime /proc/stat].map { |path| File.read(path) }
  idle = stat[/^cpu .*/].split[4, 2].sum(&:to_i) # to wait for a disk is idle as well
  (stat.scan(/^cpu\d/).size * uptime.to_f) - idle.fdiv(Etc.sysconf(Etc::SC_CLK_TCK))
end

# An NVMe controller, which changes its driver.
class Disk
  # Mass storage, non-volatile memory, NVM Express (PCI Code and ID Assignment Specification).
  CLASS = "0x010802"

  attr_reader :address

  def initialize(address)
    @address = address
    found = File.exist?(sysfs("class")) && File.read(sysfs("class")).chomp
    abort "benchmark/nvme.rb: #{address} is no NVMe disk (DMA::Device.list has all functions)" unless found == CLASS
    @before = [driver, File.read(sysfs("driver_override")).chomp.delete_prefix("(null)")]
  end

  # The number of the one that is read.
  def namespace
    return @namespace if @namespace

    bind("nvme")
    @namespace = namespaces.keys.min
  end

  # The path of the namespace under the kernel's driver.
  def path
    namespaces.fetch(namespace)
  end

  def bind(name)
    return if driver == name

    refuse_what_is_in_use if driver == "nvme"
    File.write(sysfs("driver/unbind"), @address) if driver
    File.write(sysfs("driver_override"), "#{name}\n")
    File.write("/sys/bus/pci/drivers_probe", @address)
    abort "benchmark/nvme.rb: #{name} does not take #{@address}; modprobe #{name}?" unless driver == name
  end

  # The type of its IOMMU group under the kernel's own drivers.
  def iommu
    File.read(sysfs("iommu_group/type")).chomp
  end

  # Gives it back to the driver that had it.
  def restore
    name, override = @before
    bind(name || "nvme")
    File.write(sysfs("driver_override"), "#{override}\n")
  end

  private

  def sysfs(name)
    File.join("/sys/bus/pci/devices", @address, name)
  end

  def driver
    link = sysfs("driver")
    File.basename(File.readlink(link)) if File.symlink?(link)
  end

  # Paths by number, as soon as the kernel has found them all. A way to a disk that may have several is listed as
  # nvme0c0n1, where the device is nvme0n1.
  def namespaces
    deadline = now + 60
    loop do
      paths = Dir.glob(sysfs("nvme/nvme*/nvme*n*/nsid")).to_h do |nsid|
        [Integer(File.read(nsid)), "/dev/#{File.basename(File.dirname(nsid)).sub(/c\d+/, "")}"]
      end
      return paths if paths.any? && paths == @seen && paths.values.all? { |path| File.blockdev?(path) }
      raise "the kernel finds no namespace of #{@address} within 60 s" if now > deadline

      @seen = paths
      sleep 0.2
    end
  end

  # A disk that is mounted, or part of a RAID, cannot be opened exclusively (open(2), O_EXCL without O_CREAT).
  def refuse_what_is_in_use
    namespaces.each_value { |path| File.open(path, File::RDONLY | File::EXCL).close }
  rescue Errno::EBUSY
    abort "benchmark/nvme.rb: #{@address} is in use (mounted, swap, RAID, LVM), and would be taken from the kernel"
  end
end

# The kernel's driver, through fio.
class Fio
  def initialize(disk, seconds)
    @disk = disk
    @seconds = seconds
  end

  def measure(all)
    @disk.bind("nvme")
    path = @disk.path
    all.to_h { |reads| [reads, Dir.mktmpdir { |folder| run(path, reads, folder) }] }
  end

  private

  def run(path, reads, folder)
    report = File.join(folder, "report.json")
    pid = Process.spawn(*command(path, reads), "--output=#{report}", chdir: folder)
    busy = busy_processors(pid, File.join(folder, "read.prerun.txt"))
    Process.wait(pid)
    raise "fio failed, see above" unless $?.success?

    job = JSON.parse(File.read(report)[/{.*/m])["jobs"].first
    seconds = job["read"]["runtime"] / 1e3
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3
    Result.new(job["read"]["total_ios"], seconds, cpu, busy * seconds, job["ctx"])
  end

  # How many processors are busy in the middle of the measurement: fio's start, which is over when it has written the
  # file, and its end are not measured.
  def busy_processors(pid, file)
    sleep 0.01 until File.exist?(file) || Process.waitpid(pid, Process::WNOHANG)
    sleep @seconds / 4.0
    before = [now, machine_time]
    sleep @seconds / 2.0
    time, busy = [now, machine_time].zip(before).map { |value, start| value - start }
    busy / time
  end

  def command(path, reads)
    ["fio", "--output-format=json", "--name=read", "--filename=#{path}", "--readonly", "--direct=1",
     "--ioengine=io_uring", "--fixedbufs", "--registerfiles", "--rw=#{reads.pattern}", "--norandommap",
     "--bs=#{reads.bytes}", "--iodepth=#{reads.depth}", "--iodepth_batch_submit=#{reads.list}",
     "--iodepth_batch_complete_min=#{reads.list}", "--iodepth_batch_complete_max=#{reads.list}",
     "--time_based", "--runtime=#{@seconds}", "--exec_prerun=true"]
  end
end

# The driver of DMA::Device.
class Ours
  def initialize(disk, seconds)
    @disk = disk
    @seconds = seconds
    @memory = READS.to_h { |reads| [reads, Array.new(reads.depth) { DMA::Buffer.new(reads.bytes).clear }] }
    @random = Random.new(0)
  end

  def with_device(namespace = @disk.namespace, &)
    @disk.bind("vfio-pci")
    DMA::Device.open(@disk.address, namespace:, &)
  end

  # The part of the time in which the thread that waits uses a processor, while the device takes seconds for a request.
  def waiting
    with_device(11) do |device|
      transfer = device.channel.submit(source: 0x22000, destination: DMA::Buffer.new(4096))
      clocks = [Process::CLOCK_THREAD_CPUTIME_ID, Process::CLOCK_MONOTONIC]
      before = clocks.map { |clock| Process.clock_gettime(clock) }
      transfer.wait
      cpu, time = clocks.zip(before).map { |clock, start| Process.clock_gettime(clock) - start }
      format("A read that takes %.1f s: the thread that waits uses %.2f %% of a processor", time, cpu / time * 100)
    end
  end

  def measure(all)
    with_device { |device| all.to_h { |reads| [reads, run(device, reads)] } }
  end

  private

  def run(device, reads)
    @blocks = device.capabilities[:size] / reads.bytes
    @last = -1
    lists = @memory[reads].each_slice(reads.list).to_a
    keep_full(device.channel, reads, lists, now) # each buffer once, so that all are mapped, as fio's are registered
    GC.start
    before = clocks
    requests = keep_full(device.channel, reads, lists, now + @seconds)
    Result.new(requests, *clocks.zip(before).map { |value, start| value - start })
  end

  def clocks
    [now, cpu_time, machine_time, switches]
  end

  # Reads until the time is up, and returns the number of requests.
  def keep_full(channel, reads, lists, deadline)
    count = 0
    queue = lists.map { |list| [submit(channel, reads, list), list] }
    until queue.empty?
      transfer, list = queue.shift
      transfer.wait
      count += list.size
      queue << [submit(channel, reads, list), list] if now < deadline
    end
    count
  end

  def submit(channel, reads, list)
    return channel.submit(source: offset(reads), destination: list.first) if list.one?

    channel.submit(list.map { |buffer| { source: offset(reads), destination: buffer } })
  end

  def offset(reads)
    @last = reads.pattern == "read" ? (@last + 1) % @blocks : @random.rand(@blocks)
    @last * reads.bytes
  end
end

# Both sides have the same disk, or what follows compares nothing.
def check(disk, ours)
  disk.bind("nvme")
  theirs = File.binread(disk.path, 1 << 20)
  ours.with_device { |device| device.read_dma(1 << 20) == theirs } or raise "the two drivers read different bytes"
end

# Results of the rounds that count, the kernel's and ours, by what was read.
def rounds(fio, ours, count)
  results = READS.to_h { |reads| [reads, []] }
  (count + 1).times do |round|
    sides = [fio, ours]
    measured = (round.even? ? sides : sides.reverse).to_h { |side| [side, side.measure(READS)] }
    READS.each { |reads| results[reads] << measured.values_at(*sides).map { |side| side[reads] } } unless round.zero?
  end
  results
end

HEADER = ["reads", "requests/s, kernel = 1", "slowest..fastest", "CPU of the process per request, kernel = 1",
          "CPU of the machine per request, kernel = 1", "CPU of the process / time, ours and kernel's",
          "switches per request, ours and kernel's", "requests/s, ours and kernel's"].freeze

RATE = ->(result) { result.requests / result.seconds }
COSTS = %i[cpu machine].map { |clock| ->(result) { result[clock] / result.requests } }
SHARES = [->(result) { result.cpu / result.seconds }, ->(result) { result.switches.fdiv(result.requests) }].freeze

def two(number)
  format("%.2f", number)
end

# What was measured of us, for what was measured of the kernel's driver in the same round.
def ratios(pairs, figure)
  pairs.map { |kernel, ours| figure[ours] / figure[kernel] }
end

# Medians of both sides, ours first.
def both(pairs, figure)
  pairs.transpose.reverse.map { |results| Support.median(results.map(&figure)) }
end

def row(name, pairs)
  speeds = ratios(pairs, RATE)
  [name, two(Support.median(speeds)), speeds.minmax.map { |speed| two(speed) }.join(".."),
   *COSTS.map { |cost| two(Support.median(ratios(pairs, cost))) },
   *SHARES.map { |share| both(pairs, share).map { |value| two(value) }.join(", ") },
   both(pairs, RATE).map(&:round).join(", ")]
end

options = { rounds: 5, seconds: 2 }
OptionParser.new do |parser|
  parser.on("--rounds N", Integer, "that count") { |n| options[:rounds] = n }
  parser.on("--seconds N", Integer, "of each measurement") { |n| options[:seconds] = n }
end.parse!

laboratory = ENV.key?("DMA_GUEST")
address = ARGV.first || (LABORATORY if laboratory)
unless address
  puts "skipped: benchmark/nvme.rb takes an NVMe disk away from the kernel: run it in the laboratory, " \
       "rake \"guest:run[ruby -Ilib benchmark/nvme.rb]\", or name a disk that nobody uses, as 0000:01:00.0"
  exit
end
abort "benchmark/nvme.rb changes drivers: run it as root" unless Process.uid.zero?
laboratory &&= address == LABORATORY
disk = Disk.new(address)
begin
  fio, ours = [Fio, Ours].map { |side| side.new(disk, options[:seconds]) }
  ours.with_device do |device|
    size, model = device.capabilities.values_at(:size, :model)
    device.write_dma(Random.bytes(size)).wait if laboratory
    puts Support.machine, `fio --version`, "#{model}, #{size} bytes, IOMMU group of type #{disk.iommu}",
         "medians of #{options[:rounds]} rounds", ""
  end
  check(disk, ours)
  Support.table(HEADER, rounds(fio, ours, options[:rounds]).map { |reads, pairs| row(reads.name, pairs) })
  puts ours.waiting if laboratory
ensure
  disk.restore
end
