# frozen_string_literal: true

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

  # The test binary of dma-core's contract, built; nothing as long as its table has no engines of a guest's.
  def guest_contract
    table = "ext/dma_core/tests/contract/guest_table.txt"
    return unless File.exist?(table) && File.foreach(table).any? { |line| line.start_with?(" ") }

    output_of(*%w[cargo test --no-run --package dma-core --test contract --message-format=json-render-diagnostics])
      .lines.filter_map { |line| JSON.parse(line)["executable"] }.last
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
    command = ["#{RbConfig.ruby} -S rspec spec/guest/*_spec.rb", guest_contract].compact.join(" && ")
    ruby_program "rspec", *FileList["spec/guest/lab/*_spec.rb"]
    iommus = ENV["IOMMU"] ? [ENV["IOMMU"]] : Lab::Machine::IOMMUS.keys
    iommus.each do |iommu|
      puts "spec/guest with IOMMU=#{iommu}"
      in_guest(iommu) { |guest| guest.run(command).zero? or abort "rake: spec/guest failed with IOMMU=#{iommu}" }
    end
  end
end
