# frozen_string_literal: true

module DMA
  # The gem's version, kept equal to the crates'.
  VERSION = "0.1.0"
end
