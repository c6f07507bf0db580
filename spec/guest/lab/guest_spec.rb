# frozen_string_literal: true

require "stringio"
require_relative "../lab"

# The laboratory from the outside: `rake guest:spec` runs this on the host, with guests that have next to nothing to do.
RSpec.describe Lab::Guest do
  let(:output) { StringIO.new }

  def guest(**options)
    described_class.new("intel", share: scratch, **options)
  end

  # Guests of others, which may run meanwhile, have their folders elsewhere.
  around do |example|
    before = ENV.to_h
    ENV["TMPDIR"] = scratch
    example.run
  ensure
    ENV.replace(before)
  end

  # Neither QEMU nor the folder of a run may be left.
  def traces
    [Dir.glob(File.join(scratch, "dma-lab*")), Process.waitall]
  end

  it "hands over a command's output, its exit status and what it leaves in /vm, and nothing else" do
    written = scratch_file("host", "before")
    command = "echo out; echo error >&2; id -u; pwd; echo after > #{written}; cp #{written} /vm/artefact; exit 42"
    expect(guest.run(command, output:)).to eq 42
    expect(output.string).to eq "out\nerror\n0\n#{Dir.pwd}\n"
    expect([File.read(written), File.read(scratch_file("artefact"))]).to eq %W[before after\n]
  end

  it "tells of a guest that dies, with the end of its console" do
    expect { guest.run("echo c > /proc/sysrq-trigger", output:) }
      .to raise_error(Lab::Error, /ended without a status.*Kernel panic - not syncing: sysrq/m)
  end

  it "tells a QEMU that dies from a guest that does" do
    qemu = -> { Dir.glob("/proc/self/task/*/children").flat_map { |path| File.read(path).split }.map(&:to_i) }
    output.define_singleton_method(:write) { |_| Process.kill(:SEGV, *qemu.call) }
    expect { guest.run("echo; sleep infinity", output:) }.to raise_error(Lab::Crash, /died of SIGSEGV; the end of/)
    expect(traces).to eq [[], []]
  end

  it "ends a guest that hangs, and tells" do
    expect { guest(limit: 1).run("sleep infinity", output:) }.to raise_error(Lab::Error, /more than 1 s/)
    expect(traces).to eq [[], []]
  end

  it "names the IOMMUs that there are" do
    expect { described_class.new("amd") }.to raise_error(Lab::Error, /"amd".*intel, virtio/)
  end
end
