# frozen_string_literal: true

module Lab
  # A disk image in QEMU's format qcow2 (docs/interop/qcow2.rst) that has all clusters of zeros but one: what is read
  # there comes from the image behind it.
  class Hole
    CLUSTER = 4096
    VERSION = 2
    # The cluster is used by this image only.
    COPIED = 1 << 63

    # An image of `size` bytes without the cluster at byte `hole`.
    def initialize(size, hole)
      @clusters = size / CLUSTER
      @hole = hole / CLUSTER
      @tables = (@clusters * 8).fdiv(CLUSTER).ceil
      # Header and table of reference counts come first; the counts take 2 bytes a cluster.
      @counts = ((@clusters + @tables + 64) * 2).fdiv(CLUSTER).ceil
      @first_table = 2 + @counts + 1
      @first_data = @first_table + @tables
    end

    def write(path)
      File.open(path, "wb") do |file|
        { 0 => header, 1 => counts, 2 => [1].pack("n") * (@first_data + @clusters), (2 + @counts) => pointers,
          @first_table => entries }.each do |cluster, bytes|
          file.seek(cluster * CLUSTER)
          file.write(bytes)
        end
        file.truncate((@first_data + @clusters) * CLUSTER)
      end
    end

    private

    def header
      ["QFI\xFB".b, VERSION, 0, 0, Math.log2(CLUSTER).to_i, @clusters * CLUSTER, 0, @tables, (2 + @counts) * CLUSTER,
       CLUSTER, 1, 0, 0].pack("a4NQ>NNQ>NNQ>Q>NNQ>")
    end

    def counts
      Array.new(@counts) { |index| (2 + index) * CLUSTER }.pack("Q>*")
    end

    def pointers
      Array.new(@tables) { |index| ((@first_table + index) * CLUSTER) | COPIED }.pack("Q>*")
    end

    def entries
      Array.new(@clusters) { |index| index == @hole ? 0 : ((@first_data + index) * CLUSTER) | COPIED }.pack("Q>*")
    end
  end
end
