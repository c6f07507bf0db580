# frozen_string_literal: true

# The kernel's protocol (linux/fuse.h), as far as the servers here speak it.
module FuseProtocol
  LOOKUP = 1
  FORGET = 2
  GETATTR = 3
  SETATTR = 4
  OPEN = 14
  READ = 15
  WRITE = 16
  RELEASE = 18
  FLUSH = 25
  INIT = 26
  OPENDIR = 27
  RELEASEDIR = 29
  INTERRUPT = 36
  BATCH_FORGET = 42
  CUSE_INIT = 4096

  # The most bytes that one request reads or writes.
  MOST = 1 << 20
  # Major and minor number of the protocol.
  VERSION = [7, 31].freeze
  # The answer to OPEN: a handle that stands for nothing, and no flags.
  OPENED = [1, 0, 0].pack("QLL")

  module_function

  # The next request: what is asked, the number to answer with, the node it is about, and the rest.
  def request(device)
    message = device.sysread(MOST + 4096)
    _, opcode, unique, node = message.unpack("LLQQ")
    [opcode, unique, node, message.byteslice(40..)]
  end

  def answer(device, unique, body, error = 0)
    device.syswrite([16 + body.bytesize, -error, unique].pack("LlQ") + body)
  end

  # Says to who started the server where it has come to.
  def say(word)
    $stdout.puts word
    $stdout.flush
  end
end
