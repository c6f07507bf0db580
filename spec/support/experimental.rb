# frozen_string_literal: true

module Support
  # Included by groups of examples that use IO::Buffer, of which Ruby 3.1 warns.
  module Experimental
    def self.included(group)
      group.around do |example|
        experimental = Warning[:experimental]
        Warning[:experimental] = false
        example.run
      ensure
        Warning[:experimental] = experimental
      end
    end
  end
end
