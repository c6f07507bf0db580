# frozen_string_literal: true

RSpec.describe DMA::File, "#fallocate" do
  let(:path) { scratch_file("file.bin", "bytes") }

  def open_file(mode = "r+b", **options, &)
    described_class.open(path, mode, **options, &)
  end

  it "makes the file as long as it says, keeps its bytes, and gives it room" do
    open_file do |file|
      expect(file.fallocate(1 << 20)).to eq(0)
      expect([file.size, file.pos, File.stat(path).blocks * 512 >= 1 << 20]).to eq([1 << 20, 0, true])
      expect(file.fallocate(10, offset: 2 << 20)).to eq(0)
      expect(file.size).to eq((2 << 20) + 10)
      expect(file.fallocate(10)).to eq(0)
      expect(file.size).to eq((2 << 20) + 10)
      expect(file.read(8)).to eq("bytes\0\0\0")
    end
  end

  it "raises ENOSPC with the file and the figures where there is no room" do
    full = File.join(mount("tmpfs", options: "size=1m"), "file")
    described_class.open(full, "w") do |file|
      expect { file.fallocate(2 << 20, offset: 7) }
        .to raise_error(Errno::ENOSPC, /cannot allocate 2097152 bytes at offset 7 of #{full}/)
    end
  end

  it "refuses what makes no sense" do
    open_file do |file|
      expect { file.fallocate(0) }.to raise_error(Errno::EINVAL, /allocate 0 bytes/)
      expect { file.fallocate(1, offset: (1 << 63) - 1) }.to raise_error(Errno::EFBIG, /allocate 1 bytes/)
      [-1, 0.5, nil, 1 << 63].each do |number|
        expect { file.fallocate(number) }.to raise_error(ArgumentError, /length must be an Integer/)
      end
      expect { file.fallocate(1, offset: -1) }.to raise_error(ArgumentError, /offset must be an Integer/)
      file.close
      expect { file.fallocate(1) }.to raise_error(DMA::ClosedError)
    end
    open_file("r") { |file| expect { file.fallocate(1) }.to raise_error(IOError, /not opened for writing/) }
  end
end
