# frozen_string_literal: true

# The VFIO laboratory: a QEMU guest with an IOMMU and devices to drive, whose root is this machine's own. See README.md.
module Lab
  # What keeps the laboratory from being there, or a guest from doing what it was started for.
  class Error < StandardError; end
  # QEMU itself has died, which says nothing about what ran in the guest.
  class Crash < Error; end
end

require_relative "lab/packages"
require_relative "lab/kernel"
require_relative "lab/initramfs"
require_relative "lab/hole"
require_relative "lab/disks"
require_relative "lab/machine"
require_relative "lab/guest"
