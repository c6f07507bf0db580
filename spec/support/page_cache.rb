# frozen_string_literal: true

module Support
  # What of a file is in the page cache, and how to get it out of there.
  module PageCache
    # Takes the file out of it.
    def evict(path)
      ::File.open(path) { |file| file.tap(&:fdatasync).advise(:dontneed) }
    end

    # Bytes of the file that are there (mincore(2)).
    def resident(path)
      output, status = Open3.capture2("fincore", "--bytes", "--noheadings", "--output=RES", path)
      raise "fincore #{path}: #{status}" unless status.success?

      Integer(output)
    end
  end
end
