//! A channel's interrupt, on its way from the device to whoever looks for what was completed.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::AcqRel;

use nix::errno::Errno;

use crate::sync::{AtomicBool, Event};

/// See the [module](self).
///
/// While nobody acknowledges, neither side makes a system call: the event is readable, and the device has nothing to add.
#[derive(Debug)]
pub(super) struct Interrupt {
    event: Event,
    /// It was raised, and nobody has looked since. Always swapped: whoever takes a `true` away sees what was written before it.
    raised: AtomicBool,
}

impl Interrupt {
    pub(super) fn new() -> Result<Interrupt, Errno> {
        Ok(Interrupt { event: Event::new()?, raised: AtomicBool::new(false) })
    }

    /// Tells that something was completed. One that nobody has looked at yet stands for all that follow.
    pub(super) fn raise(&self) {
        if !self.raised.swap(true, AcqRel) {
            self.event.signal();
        }
    }

    /// Makes the event unreadable. What was completed before is to be looked for after this, in memory: an interrupt for it may
    /// not come any more.
    pub(super) fn acknowledge(&self) {
        self.event.clear();
        self.raised.swap(false, AcqRel);
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(all(test, loom))]
mod loom {
    use std::sync::atomic::Ordering::{Acquire, Release};

    use ::loom::sync::atomic::AtomicU32;
    use ::loom::sync::Arc;
    use ::loom::thread;

    use super::*;

    #[test]
    fn no_completion_is_slept_over_and_none_wakes_twice() {
        const COUNT: u32 = 2;
        let mut model = ::loom::model::Builder::new();
        // All interleavings take half a minute.
        model.preemption_bound = Some(4);
        model.check(|| {
            // Stands in for the statuses in a ring, with their orderings.
            let both = Arc::new((Interrupt::new().unwrap(), AtomicU32::new(0)));
            let device = {
                let both = Arc::clone(&both);
                thread::spawn(move || {
                    for n in 1..=COUNT {
                        both.1.store(n, Release);
                        both.0.raise();
                    }
                })
            };
            let (interrupt, completed) = &*both;
            let (mut seen, mut for_nothing) = (0, 0);
            loop {
                let before = seen;
                let mut look = || {
                    let found = completed.load(Acquire) - seen;
                    seen += found;
                    found > 0
                };
                if !look() {
                    interrupt.acknowledge();
                    look();
                }
                for_nothing += u32::from(seen == before);
                if seen == COUNT {
                    break;
                }
                Event::wait(&[&interrupt.event]);
            }
            device.join().unwrap();
            // The first look may come before all; the event stays readable after a look that found something, and a completion
            // seen early has an interrupt yet.
            assert!(for_nothing <= 1 + 2 * COUNT);
            interrupt.acknowledge();
            assert!(!interrupt.event.is_readable(), "it would wake for ever");
            interrupt.raise();
            assert!(interrupt.event.is_readable());
        });
    }
}
