# frozen_string_literal: true

require_relative "../lab"

# Fetching, with an apt-get and a dpkg-deb that do next to nothing. `rake guest:spec` runs this on the host.
RSpec.describe Lab::Packages do
  around do |example|
    before = ENV.to_h
    ENV.update("DMA_LAB" => File.join(scratch, "lab"), "PATH" => "#{scratch}:#{ENV.fetch("PATH")}", "LOG" => log)
    example.run
  ensure
    ENV.replace(before)
  end

  let(:log) { File.join(scratch, "log") }
  let(:release) { File.read("/etc/os-release")[/^VERSION_CODENAME=(.*)/, 1] }

  # A bzImage with a kernel of eight bytes: no sectors of set-up code, payload at 0 and 12 bytes long.
  def image
    header = "\0".b * 0x400
    header[0x248, 8] = [0x200, 12].pack("VV")
    header << "\x7FELF1234" << [8].pack("V")
  end

  def program(name, script)
    File.write(File.join(scratch, name), "#!/bin/sh\n#{script}\n", perm: 0o755)
  end

  before do
    scratch_file("image", image)
    program("apt-get", <<~SH)
      echo "$*" >>"$LOG"
      case $* in
        *indextargets*) echo "mirror:/debian #{release} main" ;;
        *install*) touch "$DMA_LAB/partial/archives/qemu.deb" ;;
      esac
    SH
    program("dpkg-deb", 'mkdir -p "$3/boot"; cp "$0" "$3"; cp "${0%/*}/image" "$3/boot/vmlinuz-6"')
  end

  it "fetches once, whoever asks meanwhile and afterwards" do
    fetches = Array.new(4) { Process.fork { described_class.new.fetch } }
    expect(fetches.map { |pid| Process.wait2(pid).last }).to all be_success
    root = described_class.new.fetch.root
    expect(File.read(log).scan("--download-only").size).to eq 1
    expect(File.binread(File.join(root, "vmlinux"))).to eq "\x7FELF1234".b
    expect(Dir.children(ENV.fetch("DMA_LAB"))).to contain_exactly("lock", File.basename(root))
  end

  it "asks for the packages of the release from the machine's mirror, with lists of its own" do
    program("apt-get", <<~SH)
      case $* in
        *indextargets*) echo "mirror:/debian #{release} main" ;;
        *) echo "E: no network" && exit 100 ;;
      esac
    SH
    expect { described_class.new.fetch }.to raise_error(Lab::Error, /E: no network.*see to the network.*DMA_LAB/)
    sources = File.read(File.join(ENV.fetch("DMA_LAB"), "partial/sources.list"))
    expect(sources.lines).to all match(%r{\Adeb .*mirror:/debian #{release}(-updates|-backports)? main$})
  end

  it "does not take half a fetch for a whole one, and begins again" do
    unpack = File.read(File.join(scratch, "dpkg-deb"))
    program("dpkg-deb", 'mkdir -p "$3/half"; echo "no space"; exit 2')
    expect { described_class.new.fetch }.to raise_error(Lab::Error, /cannot unpack .*no space.*disk full/)
    expect(described_class.new).not_to be_complete
    File.write(File.join(scratch, "dpkg-deb"), unpack)
    files = Dir.children(described_class.new.fetch.root)
    expect(files).to include("vmlinux")
    expect(files).not_to include("half")
  end

  it "says what to do where there is no mirror, or no apt" do
    program("apt-get", "true")
    expect { described_class.new.fetch }.to raise_error(Lab::Error, /no mirror of Debian's #{release} main.*DMA_LAB/)
    ENV["PATH"] = File.join(scratch, "empty")
    expect(described_class).not_to be_possible
    expect { described_class.new.fetch }.to raise_error(Lab::Error, /no apt-get and dpkg-deb.*Debian 12 or 13.*DMA_LAB/)
  end
end
