# frozen_string_literal: true

require "digest"
require "fileutils"
require "open3"

module Lab
  # QEMU, a kernel, and the programs used beside them: Debian's packages, unpacked into a folder with all that they
  # depend on, the C library included. So they run on any machine, and nothing of this one is changed or relied on.
  class Packages
    NAMES = %w[qemu-system-x86 linux-image-amd64 busybox-static e2fsprogs dmsetup fio xz-utils zstd].freeze
    PROGRAMS = %w[qemu-system-x86_64 mke2fs dmsetup fio xz zstd].freeze
    # QEMU of Debian 12 itself, 7.2, aborts on an edu transfer of 4096 bytes.
    BACKPORTS = { "bookworm" => "bookworm-backports" }.freeze
    WAY_OUT = "(or fill a folder on another machine, Debian 12 or 13, with `DMA_LAB=folder rake guest:fetch`, and " \
              "set DMA_LAB to a copy of it here)"

    # $DMA_LAB, or a folder of the user's cache.
    def self.cache
      File.expand_path(ENV.fetch("DMA_LAB", "~/.cache/dma-lab"))
    end

    # Whether this machine has what it takes to fetch, or the packages already.
    def self.possible?
      new.complete? || %w[apt-get dpkg-deb].all? { |name| Packages.installed?(name) }
    end

    def self.installed?(name)
      ENV.fetch("PATH").split(":").any? { |folder| File.executable?(File.join(folder, name)) }
    end

    # The root of the packages. Another list of them has another root, so that two checkouts do not undo each other's.
    attr_reader :root

    def initialize
      @root = File.join(Packages.cache, Digest::SHA256.hexdigest([NAMES, PROGRAMS].join(" "))[0, 8])
    end

    # Renamed to its place when it is whole.
    def complete?
      File.directory?(root)
    end

    # Fetches once, however many ask for it at the same time. Raises Error and says what to do.
    def fetch
      return self if complete?

      FileUtils.mkdir_p(Packages.cache)
      File.open(File.join(Packages.cache, "lock"), "w") do |lock|
        lock.flock(File::LOCK_EX)
        fetch_alone unless complete?
      end
      self
    end

    # The file of that name, or of the first that matches it.
    def file(pattern)
      Dir.glob(pattern, base: root).min.then { |name| name && File.join(root, name) } ||
        raise(Error, "#{root} has no #{pattern}: remove the folder, and it will be fetched again")
    end

    # The programs' folder, for PATH.
    def bin
      File.join(root, "programs")
    end

    def program(name)
      File.join(bin, name)
    end

    private

    def fetch_alone
      unless Packages.possible?
        raise Error, "the guest's programs come from Debian packages, and here is no apt-get and dpkg-deb to fetch " \
                     "them: use Debian 12 or 13 #{WAY_OUT}"
      end

      warn "dma: fetching QEMU, a kernel and what they need, 200 MB, into #{Packages.cache}"
      partial = File.join(Packages.cache, "partial") # what was downloaded stays there when something fails
      download(partial)
      unpack(Dir.glob(File.join(partial, "archives/*.deb")), File.join(partial, "root"))
      File.rename(File.join(partial, "root"), root)
      FileUtils.rm_rf(partial)
    end

    # Has apt work out the packages for a system that has none, from lists of its own.
    def download(partial)
      release = File.read("/etc/os-release")[/^VERSION_CODENAME="?(\w+)/, 1]
      FileUtils.mkdir_p(%w[lists/partial archives/partial].map { |folder| File.join(partial, folder) })
      File.write(File.join(partial, "status"), "")
      File.write(File.join(partial, "sources.list"), sources(release))
      apt(partial, "update")
      apt(partial, "--yes", "--no-install-recommends", "--download-only",
          "--target-release", BACKPORTS.fetch(release, release), "install", *NAMES)
    end

    # The release, its updates and its backports, from the mirror that the machine's own apt uses.
    def sources(release)
      targets, = Open3.capture2("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)")
      mirror = targets.lines.map(&:split).find { |_, suite, component| [suite, component] == [release, "main"] }&.first
      mirror or raise Error, "apt's sources name no mirror of Debian's #{release} main: add one #{WAY_OUT}"

      key = Dir.glob("/usr/share/keyrings/debian-archive-keyring.{gpg,pgp}").first
      [release, "#{release}-updates", *BACKPORTS[release]].map do |suite|
        "deb #{"[signed-by=#{key}] " if key}#{mirror} #{suite} main\n"
      end.join
    end

    def apt(partial, *arguments)
      places = { "Dir::Etc::sourcelist" => "#{partial}/sources.list", "Dir::Etc::sourceparts" => "/dev/null",
                 "Dir::Etc::preferencesparts" => "/dev/null", "Dir::Etc::preferences" => "/dev/null",
                 "Dir::State" => partial, "Dir::State::lists" => "#{partial}/lists",
                 "Dir::State::status" => "#{partial}/status",
                 "Dir::Cache" => partial, "Dir::Cache::archives" => "#{partial}/archives",
                 "APT::Sandbox::User" => "", "APT::Update::Error-Mode" => "any" }
      options = places.flat_map { |name, value| ["-o", "#{name}=#{value}"] }
      output, status = Open3.capture2e({ "LC_ALL" => "C" }, "apt-get", "-qq", *options, *arguments)
      return if status.success?

      raise Error, "apt-get could not fetch the guest's packages (#{output.scan(/^E: .*/).join("; ")}): see to the " \
                   "network and to apt's sources, then run this again #{WAY_OUT}"
    end

    def unpack(archives, root)
      FileUtils.rm_rf(root)
      FileUtils.mkdir_p(File.join(root, "programs"))
      archives.each do |archive|
        output, status = Open3.capture2e("dpkg-deb", "--extract", archive, root)
        raise Error, "cannot unpack #{archive} (#{output.strip}): is the disk full?" unless status.success?
      end
      PROGRAMS.each { |name| File.write(File.join(root, "programs", name), wrapper(root, name), perm: 0o755) }
      Kernel.extract(Dir.glob(File.join(root, "boot/vmlinuz-*")).first, File.join(root, "programs"),
                     File.join(root, "vmlinux"))
    end

    # Runs the program with the libraries, and the loader, that came with it, wherever the folder is by then.
    def wrapper(root, name)
      path = Dir.glob("{usr/,}{bin,sbin}/#{name}", base: root).first
      loader = Dir.glob("{usr/,}lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", base: root).first
      libraries = Dir.glob("{usr/,}lib/x86_64-linux-gnu{,/ceph}", base: root) # fio's are in ceph
      <<~SH
        #!/bin/sh
        root=$(dirname "$(dirname "$(readlink -f "$0")")")
        exec "$root/#{loader}" --library-path "#{libraries.map { |folder| "$root/#{folder}" }.join(":")}" \\
          "$root/#{path}" "$@"
      SH
    end
  end
end
