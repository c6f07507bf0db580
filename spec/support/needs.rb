# frozen_string_literal: true

require "English"
require "open3"

module Support
  # What not every machine has. An example that needs it is skipped with the reason; under CI=true, and in the
  # laboratory's guest, which has it all, it fails instead.
  module Needs
    def needs(what, present)
      return if present
      raise "this machine should have #{what}" if ENV["CI"] == "true" || ENV["DMA_GUEST"]

      skip "needs #{what}"
    end

    def needs_root
      needs "root", Process.uid.zero?
    end

    def needs_uring
      needs "io_uring", DMA::File.open(RbConfig.ruby) { |file| file.stats[:engine] == :uring }
    end

    # Mounts a file system for the rest of the example and returns its directory.
    def mount(type, source: "dma-spec", options: nil)
      needs_root
      directory = File.join(scratch, "mount-#{type}").tap { |path| Dir.mkdir(path) }
      command = ["mount", "-t", type, *(["-o", options] if options), source, directory]
      output, status = Open3.capture2e(*command)
      needs "to mount #{type} (#{output.strip})", status.success?
      (@mounts ||= []) << directory
      directory
    end

    def self.included(group)
      group.after { @mounts&.reverse_each { |directory| system("umount", "-l", directory) } }
    end

    # Runs Ruby code in a process of its own with the library loaded, and returns what it printed.
    def in_ruby(code, *prefix, **environment)
      lib = File.expand_path("../../lib", __dir__)
      # A child that hangs is ended: waiting for it could not be interrupted.
      limit = %w[timeout --signal=KILL 200]
      command = [environment.transform_keys(&:to_s), *limit, *prefix, RbConfig.ruby, "-I", lib, "-rdma", "-e", code]
      output, status = Open3.capture2e(*command)
      raise "#{status}: #{output}" unless status.success?

      output
    end

    # The same as a user without privileges, with a limit of locked memory in bytes.
    def unprivileged(code, uid: 65_534, memlock: 65_536)
      needs_root
      in_ruby(code, "setpriv", "--reuid=#{uid}", "--regid=#{uid}", "--clear-groups", "--bounding-set=-all",
              "--inh-caps=-all", "prlimit", "--memlock=#{memlock}:#{memlock}", "--")
    end
  end
end
