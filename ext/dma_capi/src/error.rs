//! Why a call was refused, as C sees it: a negative code, and a text that stays with the thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{c_char, c_int, CStr, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};

use dma_core::Error;

/// `enum dma_error` of dma.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// NULL, unknown flags, or outside the device.
    Argument = -1,
    /// An address that is in no buffer, or bytes that pass the end of one.
    Memory = -2,
    /// A pointer or a device address that is not aligned as it has to be.
    Alignment = -3,
    /// No transfer has this id.
    Id = -4,
    /// In use by another.
    Busy = -5,
    /// The device was closed, or is the parent process's.
    Closed = -6,
    /// No room before a transfer has ended.
    RingFull = -7,
    /// The wait was over before the transfer.
    TimedOut = -8,
    /// The device cannot do this.
    Unsupported = -9,
    /// The operating system refused.
    Os = -10,
    /// A mistake in this library.
    Internal = -11,
}

impl Code {
    /// Every code with its name, which is that of its constant in dma.h.
    pub const ALL: [(Code, &'static CStr); 11] = [
        (Code::Argument, c"error_argument"),
        (Code::Memory, c"error_memory"),
        (Code::Alignment, c"error_alignment"),
        (Code::Id, c"error_id"),
        (Code::Busy, c"error_busy"),
        (Code::Closed, c"error_closed"),
        (Code::RingFull, c"error_ring_full"),
        (Code::TimedOut, c"error_timed_out"),
        (Code::Unsupported, c"error_unsupported"),
        (Code::Os, c"error_os"),
        (Code::Internal, c"error_internal"),
    ];
}

/// A call that was refused.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    text: String,
}

impl Failure {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match &error {
            Error::Argument(_) => Code::Argument,
            Error::Alignment(_) => Code::Alignment,
            Error::Busy(_) => Code::Busy,
            Error::Closed(_) => Code::Closed,
            Error::TimedOut(_) => Code::TimedOut,
            Error::RingFull(_) => Code::RingFull,
            Error::Unsupported(_) => Code::Unsupported,
            Error::LockLimit { .. } | Error::Os { .. } => Code::Os,
        };
        Failure::new(code, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps `text` for [`last`] of this thread.
pub(crate) fn remember(text: &str) {
    // A path may hold any byte but NUL, a panic's message that as well.
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    // A thread that is ending has nobody left to read it.
    let _ = LAST.try_with(|last| last.replace(text));
}

/// The text of this thread's last failure, valid until the next.
pub(crate) fn last() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Runs what a C function does. What it is refused for is remembered, and becomes its result by `refused`; so does a
/// panic, which has no way through C.
pub(crate) fn guard<T>(refused: impl FnOnce(Code) -> T, work: impl FnOnce() -> Result<T, Failure>) -> T {
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(internal(&*panic)));
    result.unwrap_or_else(|failure| {
        remember(&failure.text);
        refused(failure.code)
    })
}

/// [`guard`] for functions that return an error as a negative number.
pub(crate) fn guard_int(work: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    guard(|code| code as c_int, work)
}

fn internal(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Failure::new(Code::Internal, format!("a mistake in libdma, please report it: {}", text.unwrap_or("no message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let result = guard_int(|| panic!("out of {} \0", "cheese"));
        assert_eq!(result, Code::Internal as c_int);
        // SAFETY: a C string until the next failure.
        let text = unsafe { CStr::from_ptr(last()) }.to_str().unwrap();
        assert_eq!(text, "a mistake in libdma, please report it: out of cheese ?");
    }
}
