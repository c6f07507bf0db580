//! Errors of the core become exceptions: the one place that knows which.

use magnus::value::{InnerValue, Lazy};
use magnus::{prelude::*, Error, ExceptionClass, Ruby};

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
    Error::new(class, error.to_string())
}

/// An ArgumentError.
pub fn argument(ruby: &Ruby, message: impl Into<String>) -> Error {
    Error::new(ruby.exception_arg_error(), message.into())
}

/// A ClosedError.
pub fn closed(ruby: &Ruby, message: impl Into<String>) -> Error {
    Error::new(CLOSED.get_inner_with(ruby), message.into())
}

/// A BusyError.
pub fn busy(ruby: &Ruby, message: impl Into<String>) -> Error {
    Error::new(BUSY.get_inner_with(ruby), message.into())
}

/// A MisuseError.
pub fn misuse(ruby: &Ruby, message: impl Into<String>) -> Error {
    Error::new(MISUSE.get_inner_with(ruby), message.into())
}

/// A TimeoutError.
pub fn timed_out(ruby: &Ruby, message: impl Into<String>) -> Error {
    Error::new(TIMEOUT.get_inner_with(ruby), message.into())
}
