# frozen_string_literal: true

# Builds dma/dma_ext.so, and dma/libdma.so for programs without Ruby, with nothing but Ruby, cargo, a C compiler and
# libclang. Cross builds go through the rb_sys gem, and have the first only.
require "rbconfig"
require "shellwords"

if ENV["DMA_USE_RB_SYS"] == "1" || ENV.key?("RB_SYS_DOCK_UID")
  require "mkmf"
  require "rb_sys/mkmf"
  create_rust_makefile("dma/dma_ext")
  return
end

wanted = File.read(File.expand_path("../../Cargo.toml", __dir__))[/^rust-version = "(.+)"/, 1]
cargo = ENV.fetch("CARGO", "cargo")
found = begin
  IO.popen([cargo, "--version"], err: File::NULL, &:read)[/\d+(\.\d+)+/]
rescue SystemCallError
  nil
end
unless found && Gem::Version.new(found) >= Gem::Version.new(wanted)
  abort "dma: #{found ? "cargo #{found} is too old" : "cargo is missing"}: " \
        "install Rust #{wanted} or newer (https://rustup.rs), or set CARGO to it"
end

suffix = RbConfig::CONFIG["SOEXT"]
File.write "Makefile", <<~MAKE
  # RubyGems overrides these two.
  DESTDIR =
  sitearchdir = #{RbConfig::CONFIG["sitearchdir"]}
  # A shared CARGO_TARGET_DIR is kept; the private one goes once its libraries are installed, for it is 200 MB.
  CARGO_TARGET_DIR ?= target
  export CARGO_TARGET_DIR
  # The Ruby that rb-sys binds against: this one, not the first on PATH.
  export RUBY = #{RbConfig.ruby}
  into = $(DESTDIR)$(sitearchdir)/dma
  # As cargo names them, and as they are installed.
  libraries = libdma_ext.#{suffix}:dma_ext.#{RbConfig::CONFIG["DLEXT"]} libdma.#{suffix}:libdma.#{suffix}

  .PHONY: all install clean
  # "+" hands make's job slots to cargo. cargo.json says where cargo left the libraries, whatever its target and settings.
  all:
  \t@+#{cargo.shellescape} build --release --locked --lib --manifest-path #{File.join(__dir__, "Cargo.toml").shellescape} \\
  \t  --message-format=json-render-diagnostics > cargo.json || { echo "dma: should libclang or a header be missing," \\
  \t  "Debian has them in ruby-dev gcc libc6-dev libclang-dev" >&2; exit 1; }
  # An unchanged library stays as it is; a changed one gets a new file, for a running Ruby may have the old one mapped.
  install: all
  \t@mkdir -p "$(into)"
  \t@for names in $(libraries); do \\
  \t  built=$$(sed -n 's|.*"\\([^"]*/'"$${names%:*}"'\\)".*|\\1|p' cargo.json) && so="$(into)/$${names#*:}" && \\
  \t  { cmp -s "$$built" "$$so" || install -m 755 "$$built" "$$so"; } || exit 1; \\
  \tdone
  \t@rm -rf target cargo.json
  clean:
  \trm -rf target cargo.json
MAKE
