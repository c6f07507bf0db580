# frozen_string_literal: true

# A formatter: a line for each example, with how it ended and by what class of exception. RSpec's own in JSON stops at
# messages that are no text.
class Endings
  RSpec::Core::Formatters.register self, :example_passed, :example_failed, :example_pending

  def initialize(output)
    @output = output
  end

  def example_passed(_)
    @output.puts "passed"
  end

  def example_failed(notification)
    @output.puts "failed #{notification.exception.class}"
  end

  def example_pending(_)
    @output.puts "pending"
  end
end
