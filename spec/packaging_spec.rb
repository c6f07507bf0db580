# frozen_string_literal: true

require "digest"
require "fileutils"
require "open3"
require "rubygems/package"

RSpec.describe "packaging" do
  root = File.realpath("..", __dir__)
  ruby = RbConfig.ruby

  # Runs a command outside of this process's Ruby settings; what it printed, once it succeeded.
  def run(*command, chdir:, **env)
    clean = { "RUBYLIB" => nil, "RUBYOPT" => nil, "GEM_HOME" => nil, "GEM_PATH" => nil }
    output, status = Open3.capture2e(clean.merge(env.transform_keys(&:to_s)), *command, chdir:)
    expect(status).to be_success, "#{command.join(" ")}:\n#{output}"
    output
  end

  it "has YARD make pages only of texts whose links and pictures are not other files of the checkout" do
    pages = File.readlines(File.join(root, ".yardopts"), chomp: true).drop_while { |line| line != "-" }.drop(1)
    links = pages.flat_map { |page| File.read(File.join(root, page)).scan(/\]\((?!https:)[^)]+\)/) }
    expect([pages.sort, links]).to eq([%w[CHANGELOG.md LICENSE], []])
  end

  describe "the gem" do
    # A fixed place, for cargo remembers what it built by its path; its own target directory, for the library's file
    # name holds no hash, and the checkout's must not be replaced by this one.
    place = File.join(root, "tmp/packaging")
    package = File.join(place, "dma.gem")
    home = File.join(place, "home")

    before(:context) do
      FileUtils.rm_rf(place)
      FileUtils.mkdir_p(place)
      run(ruby, "-S", "gem", "build", "dma.gemspec", "--output", package, chdir: root)
    end

    let(:files) { Gem::Package.new(package).contents }

    it "holds what an installation needs" do
      needed = Dir.glob(%w[lib/**/*.rb exe/dma ext/dma/extconf.rb ext/*/{Cargo.toml,build.rs} ext/*/src/**/*.rs
                           ext/dma_capi/include/dma.h], base: root)
      expect(files).to include(*needed)
    end

    it "holds nothing else" do
      crate = %r{Cargo\.toml|build\.rs|include/\w+\.h|src/.+\.rs}
      docs = %r{docs/((?:machine|article|debug)\.md|traces/\w+\.(svg|vcd))}
      code = %r{\A(lib/.+\.rb|exe/dma|sig/.+\.rbs|#{docs}|ext/dma/extconf\.rb|ext/\w+/(#{crate}))\z}
      expect(files.grep_v(code))
        .to contain_exactly("Cargo.lock", "Cargo.toml", "CHANGELOG.md", "LICENSE", "README.md")
    end

    it "installs into an empty GEM_HOME and works from another directory" do
      alone = { GEM_HOME: home, GEM_PATH: home }
      run(ruby, "-S", "gem", "install", "--local", "--no-document", package,
          chdir: scratch, CARGO_TARGET_DIR: File.join(root, "target/packaging"),
          # As it is, but linked in a third of the time.
          CARGO_PROFILE_RELEASE_LTO: "off", CARGO_PROFILE_RELEASE_CODEGEN_UNITS: "16", **alone)

      [alone, { GEM_HOME: home }].each do |env|
        expect(run(ruby, "-e", <<~RUBY, __FILE__, chdir: scratch, **env)).to eq("true #{home}")
          require "dma"
          same = DMA.read(ARGV[0]).get_string == File.binread(ARGV[0])
          print same, " ", $LOADED_FEATURES.grep(/dma_ext/).first[0, #{home.size}]
        RUBY
      end
      expect(Dir.glob("gems/dma-*/{lib/dma/libdma.so,ext/dma_capi/include/dma.h}", base: home).size).to eq(2)
      output = run(File.join(home, "bin/dma"), "read", __FILE__, "--digest", "sha256", chdir: scratch, **alone)
      expect(output).to include(Digest::SHA256.file(__FILE__).hexdigest)
    end
  end

  describe "rake compile" do
    it "leaves the library alone when nothing has changed" do
      library = File.join(root, "lib/dma/dma_ext.#{RbConfig::CONFIG["DLEXT"]}")
      compile = -> { run(ruby, "-S", "rake", "compile", chdir: root) }
      compile.call
      before = File.stat(library)
      expect(compile.call).not_to include("Compiling")
      expect(File.stat(library)).to have_attributes(ino: before.ino, mtime: before.mtime)
    end
  end

  describe "extconf.rb" do
    let(:extconf) { File.join(root, "ext/dma/extconf.rb") }

    # A cargo that says it is of this version, and builds by writing a file where cargo would.
    def fake_cargo(version, built)
      suffix = RbConfig::CONFIG["SOEXT"]
      extension = "#{built}/libdma_ext.#{suffix}"
      library = "#{built}/deps/libdma.#{suffix}"
      path = File.join(scratch, "cargo")
      File.write(path, <<~SH, perm: 0o755)
        #!/bin/sh
        [ "$1" = --version ] && { echo "cargo #{version} (0123456789 2025-01-01)"; exit; }
        mkdir -p "$CARGO_TARGET_DIR/#{built}/deps"
        echo extension > "$CARGO_TARGET_DIR/#{extension}"
        echo library > "$CARGO_TARGET_DIR/#{library}"
        echo '{"reason":"compiler-artifact","filenames":["/elsewhere/libnix.rlib"],"fresh":true}'
        target=$(realpath "$CARGO_TARGET_DIR")
        echo '{"reason":"compiler-artifact","filenames":["'"$target/#{library}"'","/elsewhere/libdma.rlib"],"fresh":true}'
        echo '{"reason":"compiler-artifact","filenames":["'"$target/#{extension}"'"],"fresh":false}'
      SH
      path
    end

    def refusal(cargo)
      output, status = Open3.capture2e({ "CARGO" => cargo }, RbConfig.ruby, extconf, chdir: scratch)
      expect(status).not_to be_success
      output
    end

    it "names what to install when cargo is missing or too old" do
      expect(refusal("/nonexistent/cargo")).to match(/\Adma: cargo is missing: install Rust 1\.\d+ or newer.*\n\z/)
      expect(refusal(fake_cargo("1.63.0", "release"))).to match(/\Adma: cargo 1\.63\.0 is too old: install Rust .*\n\z/)
    end

    it "installs the libraries from wherever cargo puts them, and leaves no private target directory" do
      %w[release aarch64-unknown-linux-gnu/release].each do |built|
        run(ruby, extconf, chdir: scratch, CARGO: fake_cargo("1.85.0", built))
        run("make", "install", "sitearchdir=site", chdir: scratch, CARGO_TARGET_DIR: nil)
        expect(Dir.children(scratch)).to contain_exactly("Makefile", "cargo", "site")
        installed = Dir.glob("site/**/*.*", base: scratch).to_h { |name| [name, File.read(File.join(scratch, name))] }
        expect(installed).to eq("site/dma/dma_ext.#{RbConfig::CONFIG["DLEXT"]}" => "extension\n",
                                "site/dma/libdma.#{RbConfig::CONFIG["SOEXT"]}" => "library\n")
        FileUtils.rm_rf(File.join(scratch, "site"))
      end
    end

    it "keeps a shared target directory" do
      run(ruby, extconf, chdir: scratch, CARGO: fake_cargo("1.85.0", "release"))
      run("make", "install", "sitearchdir=site", chdir: scratch, CARGO_TARGET_DIR: File.join(scratch, "shared"))
      run("make", "clean", chdir: scratch, CARGO_TARGET_DIR: File.join(scratch, "shared"))
      expect(Dir.children(File.join(scratch, "shared"))).to eq(["release"])
    end

    it "leaves the build to rb_sys where that is asked for" do
      FileUtils.mkdir(File.join(scratch, "rb_sys"))
      File.write(File.join(scratch, "mkmf.rb"), "")
      File.write(File.join(scratch, "rb_sys/mkmf.rb"), "def create_rust_makefile(name) = puts('rb_sys builds ' + name)")
      [{ DMA_USE_RB_SYS: "1" }, { RB_SYS_DOCK_UID: "1000" }].each do |env|
        expect(run(ruby, "-I", scratch, extconf, chdir: scratch, **env)).to eq("rb_sys builds dma/dma_ext\n")
      end
    end
  end
end
