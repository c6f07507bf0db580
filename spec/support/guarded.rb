# frozen_string_literal: true

module Support
  # Memory with bytes around it that nobody may touch, and children that must not hang.
  module Guarded
    GUARD = 256
    BYTE = 0xA5

    # A buffer's part of `length` bytes, or with the bytes given, between guard bytes.
    def guarded(content)
      bytes = content.is_a?(String) ? content : nil
      length = bytes ? bytes.bytesize : content
      whole = DMA::Buffer.new(length + (2 * GUARD))
      whole.clear(BYTE)
      (@guarded ||= []) << whole
      part = whole.slice(GUARD, length)
      bytes ? part.set_string(bytes) : part.clear
      part
    end

    # Gives all such memory back, once the engine has let go of it.
    def free_guarded
      (@guarded || []).each { |whole| settled { whole.free } }
    end

    # Whether the bytes around all such memory are as they were.
    def guards_whole?
      (@guarded || []).all? do |whole|
        [0, whole.size - GUARD].all? { |offset| whole.get_string(offset, GUARD).count(BYTE.chr.b) == GUARD }
      end
    end

    # Runs the block until the memory that an engine still held is let go of.
    def settled
      Timeout.timeout(60) do
        yield
      rescue DMA::BusyError
        sleep 0.001
        retry
      end
    end

    # A child process of fork runs the block; what it returns comes back as text. With `leave` it goes through its
    # at_exit handlers and finalizers. A child that hangs is ended, and says so.
    def in_forked_child(leave: false, &block)
      reader, writer = IO.pipe
      pid = fork do
        reader.close
        writer.write(answer_of(&block))
        writer.close
        leave ? exit(0) : exit!(0)
      end
      writer.close
      answer_from(pid, reader)
    end

    private

    def answer_of
      yield.to_s
    rescue Exception => e # rubocop:disable Lint/RescueException -- whatever the child meets is what the test compares
      "#{e.class}: #{e.message}"
    end

    def answer_from(pid, reader)
      answer = Timeout.timeout(60) { reader.read.tap { Process.wait(pid) } }
      $CHILD_STATUS.success? ? answer : "#{answer} #{$CHILD_STATUS}"
    rescue Timeout::Error
      Process.kill(:KILL, pid)
      Process.wait(pid)
      "the child hangs"
    ensure
      reader.close
    end
  end
end
