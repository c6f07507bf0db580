//! State that each process has for itself.

use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};

use super::fork_generation;

/// A static value that the child of a fork does not inherit: it makes its own, and so finds none of the parent's locks
/// in its way, one of which a thread may have held that is not there any more. The values live for ever.
pub struct PerProcess<T: 'static> {
    current: AtomicPtr<Of<T>>,
}

struct Of<T> {
    generation: u32,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    /// No process has a value yet.
    #[allow(clippy::new_without_default)] // It is for statics.
    pub const fn new() -> Self {
        PerProcess { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value of this process, made when it first asks. `make` learns whether a process above this one had a value.
    pub fn get(&self, make: impl Fn(bool) -> T) -> &'static T {
        loop {
            let current = self.current.load(SeqCst);
            // SAFETY: only leaked boxes are stored, which live for ever.
            if let Some(of) = unsafe { current.as_ref() } {
                if of.generation == fork_generation() {
                    return &of.value;
                }
            }
            let fresh = Of { generation: fork_generation(), value: make(!current.is_null()) };
            let fresh = Box::into_raw(Box::new(fresh));
            if self.current.compare_exchange(current, fresh, SeqCst, SeqCst).is_err() {
                // SAFETY: another thread was first; this box was never shared.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}
