//! Errors of the core become exceptions: the one place that knows which.

use magnus::value::{BoxValue, InnerValue, Lazy};
use magnus::{prelude::*, Error, ExceptionClass, Ruby, Value};

static ALIGNMENT: Lazy<ExceptionClass> = Lazy::new(|ruby| class(ruby, "AlignmentError"));
static BUSY: Lazy<ExceptionClass> = Lazy::new(|ruby| class(ruby, "BusyError"));
static CLOSED: Lazy<ExceptionClass> = Lazy::new(|ruby| class(ruby, "ClosedError"));
static LOCK_LIMIT: Lazy<ExceptionClass> = Lazy::new(|ruby| class(ruby, "LockLimitError"));
static MISUSE: Lazy<ExceptionClass> = Lazy::new(|ruby| class(ruby, "MisuseError"));
static RING_FULL: Lazy<ExceptionClass> = Lazy::new(|ruby| class(ruby, "RingFullError"));
static TIMEOUT: Lazy<ExceptionClass> = Lazy::new(|ruby| class(ruby, "TimeoutError"));
static UNSUPPORTED: Lazy<ExceptionClass> = Lazy::new(|ruby| class(ruby, "UnsupportedError"));

fn class(ruby: &Ruby, name: &str) -> ExceptionClass {
    ruby.eval(&format!("DMA::{name}")).expect("lib/dma/error.rb is loaded before the extension")
}

/// Looks the classes up now: later the thread may have been killed, which ends the look-up.
pub fn init(ruby: &Ruby) {
    for class in [&ALIGNMENT, &BUSY, &CLOSED, &LOCK_LIMIT, &MISUSE, &RING_FULL, &TIMEOUT, &UNSUPPORTED] {
        Lazy::force(class, ruby);
    }
}

/// Turns a core error into the exception that it is.
pub trait OrRaise<T> {
    /// The value, or the exception.
    fn or_raise(self, ruby: &Ruby) -> Result<T, Error>;
}

impl<T> OrRaise<T> for dma_core::Result<T> {
    fn or_raise(self, ruby: &Ruby) -> Result<T, Error> {
        self.map_err(|error| raise(ruby, &error))
    }
}

/// The exception for a core error.
pub fn raise(ruby: &Ruby, error: &dma_core::Error) -> Error {
    use dma_core::Error as Core;
    let class = match error {
        Core::Argument(_) => ruby.exception_arg_error(),
        Core::Alignment(_) => ALIGNMENT.get_inner_with(ruby),
        Core::Busy(_) => BUSY.get_inner_with(ruby),
        Core::Closed(_) => CLOSED.get_inner_with(ruby),
        Core::LockLimit { .. } => LOCK_LIMIT.get_inner_with(ruby),
        Core::RingFull(_) => RING_FULL.get_inner_with(ruby),
        Core::TimedOut(_) => TIMEOUT.get_inner_with(ruby),
        Core::Unsupported(_) => UNSUPPORTED.get_inner_with(ruby),
        Core::Os { errno, context } => {
            // SystemCallError.new gives an instance of the Errno class for the number, with its description in front.
            let arguments = (context.as_str(), *errno as i32);
            return match ruby.exception_system_call_error().new_instance(arguments) {
                Ok(exception) => exception.into(),
                Err(error) => error,
            };
        }
    };
    exception(class, error.to_string())
}

/// An exception of `class`, made here. magnus makes the one of `Error::new` only when the method returns, and ends the process where
/// the thread has been killed by then: while it waited without the GVL, say.
pub fn exception(class: ExceptionClass, message: impl Into<String>) -> Error {
    match class.new_instance((message.into(),)) {
        Ok(exception) => exception.into(),
        Err(interrupt) => interrupt,
    }
}

/// An ArgumentError.
pub fn argument(ruby: &Ruby, message: impl Into<String>) -> Error {
    exception(ruby.exception_arg_error(), message)
}

/// A ClosedError.
pub fn closed(ruby: &Ruby, message: impl Into<String>) -> Error {
    exception(CLOSED.get_inner_with(ruby), message)
}

/// A BusyError.
pub fn busy(ruby: &Ruby, message: impl Into<String>) -> Error {
    exception(BUSY.get_inner_with(ruby), message)
}

/// A MisuseError.
pub fn misuse(ruby: &Ruby, message: impl Into<String>) -> Error {
    exception(MISUSE.get_inner_with(ruby), message)
}

/// A TimeoutError.
pub fn timed_out(ruby: &Ruby, message: impl Into<String>) -> Error {
    exception(TIMEOUT.get_inner_with(ruby), message)
}

/// Keeps the exception of an error from the GC while other threads or Ruby code run before it is raised: where the compiler has put
/// the error, the GC need not find it, for it looks at aligned words of the stack only.
pub fn held(error: &Error) -> Option<BoxValue<Value>> {
    error.value().map(BoxValue::new)
}
