# frozen_string_literal: true

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

  # Runs commands in guests, two at a time, and prints what each has printed when it is over.
  def in_guests(jobs)
    queue = Queue.new
    jobs.each { |job| queue << job }
    queue.close
    workers = Array.new(2) { Thread.new { Array.new(jobs.size) { (job = queue.pop) && run_job(*job) } } }
    failed = workers.flat_map(&:value).compact
    abort "rake: these failed in the guest: #{failed.join(", ")}" unless failed.empty?
  end

  # The name of a job that failed.
  def run_job(name, iommu, command)
    output = StringIO.new
    status = Lab::Guest.new(iommu, share: File.expand_path("tmp/guest/#{name.tr(" ", "-")}")).run(command,
                                                                                                  output: output)
    name unless status.zero?
  rescue Lab::Error => e
    output.puts e.message
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
    ruby_program "rspec", *FileList["spec/guest/lab/*_spec.rb"]
    specs = "#{RbConfig.ruby} -S rspec spec/guest/*_spec.rb"
    iommus = ENV["IOMMU"] ? [ENV["IOMMU"]] : Lab::Machine::IOMMUS.keys
    contract = guest_contract
    in_guests(iommus.flat_map do |iommu|
      [["specs with #{iommu}", iommu, specs], ["contract with #{iommu}", iommu, contract]]
    end)
  end
end
