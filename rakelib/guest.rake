# frozen_string_literal: true

require "etc"
require "stringio"

namespace :guest do
  task :lab do
    require_relative "../spec/guest/lab"
  end

  # The guest with the IOMMU that $IOMMU names, for the block; what keeps it from its work ends rake with a message.
  def in_guest(iommu = ENV.fetch("IOMMU", "intel"))
    yield Lab::Guest.new(iommu)
  rescue Lab::Error => e
    abort "dma: #{e.message}"
  end

  # The command that runs dma-core's contract, built; its cases on files are the host's.
  def guest_contract
    build = %w[cargo test --no-run --package dma-core --test contract --message-format=json-render-diagnostics]
    binary = output_of(*build).lines.filter_map { |line| JSON.parse(line)["executable"] }.last
    "#{binary} --test-threads=1 --skip order::"
  end

  # The command that runs RSpec in the guest. RubyGems takes 3 s there to find the gems, whose places are known here.
  def guest_rspec(files)
    paths = output_of(RbConfig.ruby, "-rrspec", "-rasync", "-e", "puts $LOAD_PATH").split("\n")
    Shellwords.join([RbConfig.ruby, "-I", paths.join(":"), "-rrspec/core", "-e", "RSpec::Core::Runner.invoke", *files])
  end

  # The specs that run in the guest, in two parts that take about as long. Character devices, and disks that fail under
  # the kernel's own driver, have nothing to do with the IOMMU: they come with the first.
  def guest_specs(first:)
    disks = ["spec/guest/nvme_spec.rb"]
    others = %w[spec/guest/character_device_spec.rb spec/guest/flakey_spec.rb]
    functions = FileList["spec/guest/*_spec.rb"].exclude(*disks, *others)
    { "functions" => functions, "disks" => first ? disks + others : disks }
      .transform_values { |files| guest_rspec(files) }
  end

  # What is run with each IOMMU, by its name: a block that is given where to print, and returns the exit status.
  def guest_jobs(iommus)
    contract = guest_contract
    iommus.each_with_index.flat_map do |iommu, index|
      { **guest_specs(first: index.zero?), "contract" => contract }.map do |what, command|
        name = "#{what} with #{iommu}"
        share = File.expand_path("tmp/guest/#{name.tr(" ", "-")}")
        [name, ->(output) { Lab::Guest.new(iommu, share:).run(command, output:) }]
      end
    end
  end

  # The laboratory's own specs, on the host.
  def lab_job
    ["the laboratory", lambda do |output|
      printed, status = Open3.capture2e(RbConfig.ruby, "-S", "rspec", *FileList["spec/guest/lab/*_spec.rb"])
      output.write(printed)
      status.exitstatus
    end]
  end

  # Runs jobs beside each other, two for each processor, for all of them wait for devices now and then. Prints what each
  # has printed when it is over.
  def run_jobs(jobs)
    queue = Queue.new
    jobs.each { |job| queue << job }
    queue.close
    workers = Array.new(Etc.nprocessors * 2) do
      Thread.new { Array.new(jobs.size) { (job = queue.pop) && run_job(*job) } }
    end
    failed = workers.flat_map(&:value).compact
    abort "rake: these failed: #{failed.join(", ")}" unless failed.empty?
  end

  # The name of a job that failed. Where QEMU dies the job begins anew, once: now and then it frees the queues of an
  # NVMe controller that is reset while the last of their requests is not over.
  def run_job(name, job)
    output ||= StringIO.new
    attempts = attempts.to_i + 1
    name unless job.call(output)&.zero?
  rescue Lab::Error => e
    output.puts e.message
    retry if e.is_a?(Lab::Crash) && attempts == 1
    name
  ensure
    puts "== #{name} ==", output.string
  end

  desc "Fetch what the laboratory's guest is made of (QEMU, a kernel) into $DMA_LAB or ~/.cache/dma-lab"
  task fetch: :lab do
    puts Lab::Packages.new.fetch.root
  rescue Lab::Error => e
    abort "dma: #{e.message}"
  end

  desc "Run a command as root in the guest, rake 'guest:run[uname -a]', with IOMMU=intel or virtio"
  task :run, [:command] => :lab do |_, arguments|
    command = [arguments[:command], *arguments.extras].join(",") # rake takes commas for its own
    in_guest { |guest| exit guest.run(command) }
  end

  desc "A shell in the guest, with IOMMU=intel or virtio"
  task shell: :lab do
    in_guest { |guest| exit guest.shell }
  end

  desc "Run the laboratory's specs, and in the guest spec/guest and the core's contract: every IOMMU, or IOMMU=intel"
  task spec: %i[lab compile] do
    if !Lab::Packages.possible? && ENV["CI"] != "true"
      puts "skipped: the guest's programs come from Debian packages, and here is no apt-get to fetch them"
      next
    end
    iommus = ENV["IOMMU"] ? [ENV["IOMMU"]] : Lab::Machine::IOMMUS.keys
    run_jobs([*guest_jobs(iommus), lab_job])
  end
end
