# frozen_string_literal: true

require_relative "lib/dma/version"

Gem::Specification.new do |spec|
  spec.name = "dma"
  spec.version = DMA::VERSION
  spec.authors = ["the dma authors"]
  spec.summary = "Page-aligned, locked memory, and files and devices that read and write it directly"
  spec.description = "Memory that the kernel and hardware read and write directly; files by O_DIRECT and devices by " \
                     "descriptors, first of all a simulated DMA machine; without copies into Strings, without " \
                     "blocking other threads or fibers."
  spec.license = "MIT"
  spec.required_ruby_version = ">= 3.1"
  spec.metadata["rubygems_mfa_required"] = "true"

  # What an installed gem needs: to build (the whole Cargo workspace with its lock file), to run, and to be read.
  spec.files = IO.popen(
    %w[git ls-files -z -- lib exe sig ext Cargo.toml Cargo.lock README.md CHANGELOG.md LICENSE docs
       :(exclude,glob)ext/*/tests/** :(exclude,glob)ext/*/benches/** :(exclude,glob)ext/*/examples/**],
    chdir: __dir__, &:read
  ).split("\0")
  spec.extensions = ["ext/dma/extconf.rb"]
  spec.bindir = "exe"
  spec.executables = ["dma"]
end
