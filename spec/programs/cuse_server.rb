# frozen_string_literal: true

# Character devices such as the XDMA driver makes, by CUSE: a pair that streams, and a register. Run as a program of its
# own, which the devices end with:
#
#   ruby cuse_server.rb NAME [busy=COUNT] [eio_write=NUMBER] [eio_read=NUMBER]
#
# What one write(2) brings to /dev/NAME_h2c_0 is a packet, and one read(2) of /dev/NAME_c2h_0 gives the oldest, or as
# much of it as is asked for. A read waits while there is none. The write or read with this number, from 0 on, fails.
# (Memory with addresses cannot be had by CUSE: the kernel tells its servers of no offset.)
#
# /dev/NAME_user is a register of 32 bits: how often it was read, times two, and bit 0 while that is less than `busy`.
# It is read by 4 bytes at a time, or not at all.

require_relative "fuse_protocol"

# One device: what a connection to /dev/cuse is.
class CharacterDevice
  include FuseProtocol

  attr_reader :connection

  def initialize(name)
    @connection = File.open("/dev/cuse", File::RDWR)
    _, unique, = request(@connection)
    limits = [*VERSION, 0, 0, MOST, MOST, 0, 0, *[0] * 10].pack("L18")
    answer(@connection, unique, "#{limits}DEVNAME=#{name}\0")
  end

  # Answers one request.
  def serve
    opcode, unique, _, body = request(@connection)
    case opcode
    when OPEN then reply(unique, OPENED)
    when RELEASE, FLUSH then reply(unique, "")
    when READ, WRITE
      _, offset, length = body.unpack("QQL")
      opcode == READ ? read(unique, offset, length) : write(unique, offset, body.byteslice(40, length))
    when INTERRUPT then nil
    else fail_with(unique, Errno::ENOSYS)
    end
  end

  # Who asked may be gone.
  def reply(unique, bytes)
    answer(@connection, unique, bytes)
  rescue Errno::ENOENT
    nil
  end

  def fail_with(unique, error)
    answer(@connection, unique, "", error::Errno)
  end

  private

  def read(unique, _offset, _length)
    fail_with(unique, Errno::EINVAL)
  end

  def write(unique, _offset, _bytes)
    fail_with(unique, Errno::EINVAL)
  end
end

# Packets on their way from one half of a pair to the other. The kernel cuts a call into requests of 128 KiB, one behind
# the other from offset 0 on. A longer packet must be there before it is asked for: where a write(2) ends nobody tells.
class Stream
  def initialize
    @packets = []
    @held = []
    @begun = false
  end

  # Adds bytes, for whoever waits first.
  def put(offset, bytes)
    offset.zero? ? @packets << bytes.dup : @packets.last << bytes
    @held.shift&.call
  end

  # Gives the block bytes; later, if there are none yet.
  def take(offset, length, &give)
    return give.call("") if offset.positive? && !@begun
    return hold(length, give) if @packets.empty?

    bytes = @packets.first.slice!(0, length)
    @begun = !@packets.first.empty?
    @packets.shift unless @begun
    give.call(bytes)
  end

  private

  def hold(length, give)
    @held << -> { take(0, length, &give) }
    FuseProtocol.say "held"
  end
end

# One half of the pair. Failures are counted by calls.
class Half < CharacterDevice
  def initialize(name, stream, broken)
    super(name)
    @stream = stream
    @broken = broken
    @calls = -1
  end

  private

  def broken?(offset)
    @calls += 1 if offset.zero?
    @calls == @broken
  end
end

class Writing < Half
  private

  def write(unique, offset, bytes)
    return fail_with(unique, Errno::EIO) if broken?(offset)

    @stream.put(offset, bytes)
    reply(unique, [bytes.bytesize, 0].pack("LL"))
  end
end

class Reading < Half
  private

  def read(unique, offset, length)
    return fail_with(unique, Errno::EIO) if broken?(offset)

    @stream.take(offset, length) { |bytes| reply(unique, bytes) }
  end
end

class Register < CharacterDevice
  def initialize(name, busy)
    super(name)
    @busy = busy
    @reads = 0
  end

  private

  def read(unique, _offset, length)
    return fail_with(unique, Errno::EINVAL) unless length == 4

    @reads += 1
    reply(unique, [(@reads << 1) | (@reads < @busy ? 1 : 0)].pack("L"))
  end
end

name, *behaviour = ARGV
behaviour = behaviour.to_h { |word| word.split("=").then { |key, value| [key, Integer(value)] } }
stream = Stream.new
devices = [Writing.new("#{name}_h2c_0", stream, behaviour["eio_write"]),
           Reading.new("#{name}_c2h_0", stream, behaviour["eio_read"]),
           Register.new("#{name}_user", behaviour.fetch("busy", 1))]
devices = devices.to_h { |device| [device.connection, device] }
FuseProtocol.say "ready"
loop do
  IO.select(devices.keys).first.each { |connection| devices.fetch(connection).serve }
end
