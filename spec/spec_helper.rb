# frozen_string_literal: true

require "dma"
require "digest"
require "securerandom"
require "tmpdir"
require "timeout"
Dir[File.join(__dir__, "support", "*.rb")].each { |file| require file }

RSpec.configure do |config|
  config.disable_monkey_patching!
  config.order = :random
  config.fail_if_no_examples = true
  config.include Support::Scratch
  config.include Support::Needs
  config.include Support::Fuse
  config.include Support::Stress
  config.include Support::Guarded
  config.include Support::PageCache
  config.include Support::Misuse
  config.include Support::Guest, file_path: %r{/spec/guest/\w+_spec}
  # A hang is a failure that says where, not a suite that never ends.
  config.around { |example| Timeout.timeout(300) { example.run } }
  config.around { |example| Support::Stress.around(example) }
end
