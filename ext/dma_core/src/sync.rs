//! What protocols that loom checks are made of: under `cfg(loom)` its own, of which every interleaving is tried.

use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(loom)]
use std::sync::atomic::Ordering::AcqRel;
#[cfg(all(test, loom))]
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::PoisonError;
use std::thread;

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

#[cfg(loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicBool, AtomicU32},
    sync::{Condvar, Mutex, MutexGuard},
    thread::yield_now,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU32},
    sync::{Condvar, Mutex, MutexGuard},
    thread::yield_now,
};

use crate::sys;

/// Whether it makes sense to look again and again for what another thread does: on the only processor that would keep it from
/// doing so, and loom knows no time to spin for.
pub(crate) fn can_spin() -> bool {
    // No OnceLock: the child of a fork would wait for ever for a thread of its parent that is counting.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    if COUNT.load(Relaxed) == 0 {
        COUNT.store(thread::available_parallelism().map_or(1, NonZero::get), Relaxed);
    }
    cfg!(not(loom)) && COUNT.load(Relaxed) > 1
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that panics runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(loom)]
loom::lazy_static! {
    /// Where threads sleep that wait for events.
    static ref POLL: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
}

/// An eventfd: readable from a signal until it is cleared.
#[derive(Debug)]
pub(crate) struct Event {
    fd: EventFd,
    /// loom sees no file descriptors. The kernel signals and clears one step at a time, as this is swapped.
    #[cfg(loom)]
    readable: AtomicBool,
}

impl Event {
    pub(crate) fn new() -> Result<Event, Errno> {
        Ok(Event {
            fd: sys::eventfd()?,
            #[cfg(loom)]
            readable: AtomicBool::new(false),
        })
    }

    pub(crate) fn signal(&self) {
        #[cfg(not(loom))]
        sys::signal(&self.fd);
        #[cfg(loom)]
        {
            self.readable.swap(true, AcqRel);
            drop(lock(&POLL.0));
            POLL.1.notify_all();
        }
    }

    pub(crate) fn clear(&self) {
        #[cfg(not(loom))]
        sys::clear(&self.fd);
        #[cfg(loom)]
        self.readable.swap(false, AcqRel);
    }

    #[cfg(all(test, loom))]
    pub(crate) fn is_readable(&self) -> bool {
        self.readable.load(Acquire)
    }

    /// As poll(2): waits until one of `events` is readable.
    #[cfg(all(test, loom))]
    pub(crate) fn wait(events: &[&Event]) {
        let mut guard = lock(&POLL.0);
        while !events.iter().any(|event| event.is_readable()) {
            guard = POLL.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
