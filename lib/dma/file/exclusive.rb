# frozen_string_literal: true

module DMA
  class File
    # Methods that use the position, one caller at a time: what two threads write at the position both gets written,
    # and what two threads read comes to one of them only. As with an IO.
    # @private
    module Exclusive
      # Wraps methods that are defined already. They may call each other.
      def exclusive(*names)
        names.each do |name|
          plain = instance_method(name)
          shown = private_method_defined?(name) ? :private : :public
          remove_method(name) # what is redefined is warned of
          define_method(name) do |*arguments, **options, &block|
            next plain.bind_call(self, *arguments, **options, &block) if @lock.owned?

            @lock.synchronize { plain.bind_call(self, *arguments, **options, &block) }
          end
          __send__(shown, name)
        end
      end
    end
    private_constant :Exclusive
  end
end
