//! The end of a channel whose engine has not let go of everything yet.

use std::mem::{forget, ManuallyDrop};
use std::thread;
use std::time::{Duration, Instant};

use super::Channel;
use crate::sys;

/// How long to wait for the event before looking all the same: an operation may end without an interrupt.
const LOOK: Duration = Duration::from_millis(1);

impl Channel {
    /// Gives up what was not begun and waits up to `timeout` for what was; true when the engine has let go of all memory.
    pub fn quiesce(&mut self, timeout: Duration) -> bool {
        if self.check_process().is_err() {
            return false;
        }
        let deadline = Instant::now() + timeout;
        self.cancel_all();
        let clock = self.engine.clock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.untold = self.progress().unwrap_or_default();
            if self.is_idle() || left.is_zero() {
                return self.is_idle();
            }
            // Nobody else may run the machine. Where it has nothing left to do, another thread may have run it.
            if !clock.as_ref().is_some_and(|clock| clock.step_until(None)) {
                // Not every end makes the event readable.
                sys::wait_readable(self.event(), left.min(LOOK));
            }
        }
    }
}

impl Drop for Channel {
    /// Operations in flight that cannot be stopped keep their memory; a thread of their own waits for them, and until the last is
    /// over new transfers to that memory are refused, so that no late byte spoils them, and the blocks they write stay occupied.
    fn drop(&mut self) {
        let Some(mut queue) = self.queue.take() else { return };
        if self.check_process().is_err() {
            // The parent's queue: its locks may be held by threads that are not in this process.
            forget(queue);
            return;
        }
        let tags: Vec<_> = (0u32..).zip(&self.slots).filter_map(|(tag, slot)| slot.as_ref().map(|_| tag)).collect();
        let mut left = tags.len();
        if left == 0 || queue.stop() {
            return;
        }
        tags.into_iter().for_each(|tag| queue.cancel(tag));
        let mut flights: Vec<_> = self.slots.drain(..).flatten().collect();
        flights.iter_mut().for_each(|flight| flight.abandon());
        let flights = ManuallyDrop::new(flights);
        let wait = move || {
            sys::block_signals();
            let mut completions = Vec::new();
            while left > 0 {
                queue.acknowledge();
                queue.reap(&mut completions);
                left -= completions.drain(..).count();
                if left > 0 {
                    sys::wait_readable(queue.event(), Duration::from_secs(1));
                }
            }
            flights.iter().for_each(|flight| flight.settle());
            drop(ManuallyDrop::into_inner(flights));
        };
        // Without a thread memory and blocks stay refused for good: safe, if wasteful.
        let _ = thread::Builder::new().name("dma-settle".into()).spawn(wait);
    }
}
