# frozen_string_literal: true

# A file system of one file that reads as a test wants it: late, never, or with an error. Run as a program of its own,
# so that nothing in the tested process answers its requests:
#
#   ruby fuse_server.rb DIRECTORY SIZE [hang=OFFSET] [eio=OFFSET]
#
# A read that touches `hang` is answered when SIGUSR1 comes.

require "fiddle"
require_relative "fuse_protocol"

include FuseProtocol # rubocop:disable Style/MixinUsage -- a program of its own

directory, size, *behaviour = ARGV
SIZE = Integer(size)
BEHAVIOUR = behaviour.to_h { |word| word.split("=").then { |name, offset| [name, Integer(offset)] } }
BYTES = Random.new(42).bytes(SIZE)

def attributes(node)
  mode, bytes = node == 1 ? [0o040755, 0] : [0o100644, SIZE]
  [node, bytes, (bytes + 511) / 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].pack("Q6L10")
end

def touches?(name, offset, length)
  at = BEHAVIOUR[name]
  at && at >= offset && at < offset + length
end

def read(device, unique, body, held)
  _, offset, length = body.unpack("QQL")
  if touches?("eio", offset, length)
    answer(device, unique, "", Errno::EIO::Errno)
  elsif touches?("hang", offset, length)
    held << [unique, offset, length]
    say "held"
  else
    answer(device, unique, BYTES.byteslice(offset, length) || "")
  end
end

def serve(device, held)
  opcode, unique, node, body = request(device)
  case opcode
  when INIT then answer(device, unique,
                        [*VERSION, MOST, 0x400000, 64, 48, MOST, 1, 256, 0, *[0] * 8].pack("LLLLSSLLSSL8"))
  when LOOKUP
    return answer(device, unique, "", Errno::ENOENT::Errno) unless body == "file\0"

    answer(device, unique, [2, 0, 0, 0, 0, 0].pack("Q4L2") + attributes(2))
  when GETATTR then answer(device, unique, [0, 0, 0].pack("QLL") + attributes(node))
  when OPEN, OPENDIR then answer(device, unique, OPENED)
  when READ then read(device, unique, body, held)
  when RELEASE, RELEASEDIR, FLUSH then answer(device, unique, "")
  when FORGET, BATCH_FORGET, INTERRUPT then nil
  else answer(device, unique, "", Errno::ENOSYS::Errno)
  end
end

device = File.open("/dev/fuse", File::RDWR)
mount = Fiddle::Function.new(Fiddle.dlopen(nil)["mount"],
                             ([Fiddle::TYPE_VOIDP] * 3) + [Fiddle::TYPE_LONG, Fiddle::TYPE_VOIDP], Fiddle::TYPE_INT)
options = "fd=#{device.fileno},rootmode=40000,user_id=0,group_id=0,allow_other"
abort "cannot mount fuse: errno #{Fiddle.last_error}" unless mount.call("dma-spec", directory, "fuse", 0, options).zero?

held = []
wake, waker = IO.pipe
trap("USR1") { waker.write_nonblock(".") }
say "ready"
loop do
  ready, = IO.select([device, wake])
  if ready.include?(wake)
    wake.read_nonblock(100)
    BEHAVIOUR.delete("hang")
    held.each { |unique, offset, length| answer(device, unique, BYTES.byteslice(offset, length) || "") }
    held.clear
  elsif ready.include?(device)
    serve(device, held)
  end
rescue Errno::ENODEV
  break # unmounted
rescue Errno::ENOENT
  next # the request was given up
end
