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
          shown = private_method_defined?(name) ? :private : :public
          plain = :"alone_#{name}"
          alias_method plain, name
          private plain
          remove_method(name) # what is redefined is warned of
          module_eval(<<~RUBY, __FILE__, __LINE__ + 1)
            def #{name}(...)                                    # def seek(...)
              return #{plain}(...) if @lock.owned?              #   return alone_seek(...) if @lock.owned?
              @lock.synchronize do                              #   @lock.synchronize do
                settle if @overwritten                          #     settle if @overwritten
                #{plain}(...)                                   #     alone_seek(...)
              end                                               #   end
            end                                                 # end
          RUBY
          __send__(shown, name)
        end
      end
    end
    private_constant :Exclusive
  end
end
