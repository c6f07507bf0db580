# frozen_string_literal: true

# A file system of one file that is read and written as a test wants it: late, never, or with an error. Run as a program
# of its own, so that nothing in the tested process answers its requests:
#
#   ruby fuse_server.rb DIRECTORY SIZE [hang=OFFSET] [hang_write=OFFSET] [eio=OFFSET]
#
# A read that touches `hang`, or a write that touches `hang_write`, is carried out when SIGUSR1 comes.

require "fiddle"
require_relative "fuse_protocol"

include FuseProtocol # rubocop:disable Style/MixinUsage -- a program of its own

directory, size, *behaviour = ARGV
BEHAVIOUR = behaviour.to_h { |word| word.split("=").then { |name, offset| [name, Integer(offset)] } }
BYTES = Random.new(42).bytes(Integer(size))

def attributes(node)
  mode, bytes = node == 1 ? [0o040755, 0] : [0o100644, BYTES.bytesize]
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
  else
    perform(touches?("hang", offset, length), held) { answer(device, unique, BYTES.byteslice(offset, length) || "") }
  end
end

def write(device, unique, body, held)
  _, offset, length = body.unpack("QQL")
  bytes = body.byteslice(40, length)
  perform(touches?("hang_write", offset, length), held) do
    extend_to(offset)
    BYTES[offset, length] = bytes
    answer(device, unique, [length, 0].pack("LL"))
  end
end

# Runs the block, now or when it is told to.
def perform(later, held, &block)
  return yield unless later

  held << block
  say "held"
end

def carry_out(request)
  request.call
rescue Errno::ENOENT
  nil # it was given up
end

def extend_to(size)
  BYTES << ("\0" * (size - BYTES.bytesize)) if size > BYTES.bytesize
end

# Of all attributes only the size can be set.
def resize(body)
  valid, _, _, size = body.unpack("LLQQ")
  return unless valid.anybits?(8)

  extend_to(size)
  BYTES.slice!(size..)
end

def look_up(device, unique, body)
  return answer(device, unique, "", Errno::ENOENT::Errno) unless body == "file\0"

  answer(device, unique, [2, 0, 0, 0, 0, 0].pack("Q4L2") + attributes(2))
end

def serve(device, held)
  opcode, unique, node, body = request(device)
  case opcode
  when INIT then answer(device, unique,
                        [*VERSION, MOST, 0x400000, 64, 48, MOST, 1, 256, 0, *[0] * 8].pack("LLLLSSLLSSL8"))
  when LOOKUP then look_up(device, unique, body)
  when GETATTR then answer(device, unique, [0, 0, 0].pack("QLL") + attributes(node))
  when SETATTR
    resize(body)
    answer(device, unique, [0, 0, 0].pack("QLL") + attributes(node))
  when OPEN, OPENDIR then answer(device, unique, OPENED)
  when READ then read(device, unique, body, held)
  when WRITE then write(device, unique, body, held)
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
    BEHAVIOUR.reject! { |name, _| name.start_with?("hang") }
    carry_out(held.shift) until held.empty?
  elsif ready.include?(device)
    serve(device, held)
  end
rescue Errno::ENODEV
  break # unmounted
rescue Errno::ENOENT
  next # the request was given up
end
