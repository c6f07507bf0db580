//! Waiting in an engine whose completions are all in one queue, that everybody reaps, and that wakes who waits in it.

use std::fmt::Debug;
use std::time::Duration;

/// Where a thread waits in the engine itself, and not for its event. See [`crate::engine::Queue::watch`].
pub trait Watch: Send + Sync + Debug {
    /// Waits for a completion; false after `timeout`, and where a signal interrupts it.
    fn wait(&self, timeout: Duration) -> bool;
}

/// Who waits in the queue. It is woken by a call, a completion of nothing, which may be reaped by somebody else before the wait
/// begins: then there has to be another one, until the waiter says that it is up.
#[derive(Debug, Default)]
pub(crate) enum Watcher {
    /// Nobody.
    #[default]
    None,
    /// Somebody, or who is about to.
    Asleep,
    /// Somebody for whom there is a call.
    Called,
}

impl Watcher {
    /// Somebody is going to wait.
    pub(crate) fn lie_down(&mut self) {
        *self = Watcher::Asleep;
    }

    /// Whether there has to be a call, to end the wait.
    pub(crate) fn call(&mut self) -> bool {
        let asleep = matches!(self, Watcher::Asleep);
        if asleep {
            *self = Watcher::Called;
        }
        asleep
    }

    /// Whether there has to be another call, now that one was reaped.
    pub(crate) fn call_again(&self) -> bool {
        matches!(self, Watcher::Called)
    }

    /// The wait is over.
    pub(crate) fn get_up(&mut self) {
        *self = Watcher::None;
    }
}
