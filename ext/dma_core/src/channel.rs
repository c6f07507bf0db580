//! One user's transfers: requests of any offset and length, split into the operations an engine takes, completed in any order.

mod plan;
mod request;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::{Completion, Engine, Limits, Queue};
use crate::error::{Error, Result};
use crate::memory::Region;
use crate::sys;

pub use plan::Direction;
use request::{InFlight, State, Work};
pub use request::{Outcome, Request};

/// The length of one operation where the caller has no reason for another: large enough to amortise it, small enough for
/// `depth` of them to overlap and for an interrupt to be answered soon.
pub const OPERATION: usize = 1 << 20;

/// Requests in, outcomes out, with at most `depth` operations in flight at the engine.
///
/// Nothing here blocks but [`Channel::quiesce`]: the owner calls [`Channel::progress`], and waits until [`Channel::event`] is
/// readable. Memory of operations in flight stays alive whatever becomes of the channel.
#[derive(Debug)]
pub struct Channel {
    engine: Arc<dyn Engine>,
    /// Taken only by `drop`.
    queue: Option<Box<dyn Queue>>,
    limits: Limits,
    slots: Vec<Option<InFlight>>,
    free: Vec<u32>,
    requests: VecDeque<State>,
    next_id: u64,
    bounces: Vec<Arc<Region>>,
    completions: Vec<Completion>,
    cancelled: bool,
    generation: u32,
}

impl Channel {
    /// A channel that keeps up to `depth` operations in flight.
    pub fn new(engine: Arc<dyn Engine>, depth: u32) -> Result<Channel> {
        let queue = engine.queue().map_err(|errno| Error::os(errno, "cannot make a completion event"))?;
        Ok(Channel {
            limits: engine.limits(),
            engine,
            queue: Some(queue),
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            requests: VecDeque::new(),
            next_id: 0,
            bounces: Vec::new(),
            completions: Vec::new(),
            cancelled: false,
            generation: sys::fork_generation(),
        })
    }

    /// Takes a request; it begins with the next [`Channel::progress`].
    ///
    /// # Errors
    /// [`Error::Busy`] for memory that an interrupted transfer may still write to; [`Error::Argument`] past the last address.
    pub fn submit(&mut self, request: Request) -> Result<u64> {
        request.span.region().check_settled()?;
        if request.offset.checked_add(request.span.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            let (len, offset) = (request.span.len(), request.offset);
            return Err(Error::Argument(format!("{len} bytes at offset {offset} pass the largest offset, 2**63 - 1")));
        }
        let len = request.span.len();
        Ok(self.add(Work::Transfer(request), len))
    }

    /// Asks that what was written become durable; operations submitted before are waited for by the caller.
    pub fn flush(&mut self, data_only: bool) -> u64 {
        self.add(Work::Flush { data_only }, 1)
    }

    fn add(&mut self, work: Work, len: usize) -> u64 {
        self.next_id += 1;
        self.requests.push_back(State::new(self.next_id, work, len));
        self.next_id
    }

    /// Reaps completions, pushes what fits, and returns requests that ended, in the order they were submitted or not.
    ///
    /// # Errors
    /// [`Error::Closed`] in the child of a fork, which has the parent's event, and would take its completions' signals.
    pub fn progress(&mut self) -> Result<Vec<Outcome>> {
        if !self.is_of_this_process() {
            return Err(Error::Closed("this transfer belongs to the parent process; begin it anew after fork".into()));
        }
        self.reap();
        self.push();
        let mut ended = Vec::new();
        self.requests.retain(|state| match state.outcome() {
            Some(outcome) => {
                ended.push(outcome);
                false
            }
            None => true,
        });
        Ok(ended)
    }

    /// Readable when [`Channel::progress`] has something to do.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.queue.as_ref().expect("only drop takes the queue").event()
    }

    /// Gives up what was not begun and waits up to `timeout` for what was; true when the engine has let go of all memory.
    /// The channel takes no further requests.
    pub fn quiesce(&mut self, timeout: Duration) -> bool {
        if !self.is_of_this_process() {
            return false;
        }
        let deadline = Instant::now() + timeout;
        self.cancel();
        loop {
            self.reap();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.is_idle() || left.is_zero() {
                self.requests.clear();
                return self.is_idle();
            }
            sys::wait_readable(self.event(), left);
        }
    }

    /// Whether the engine holds no operation of this channel.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whether the channel can take requests.
    pub fn is_usable(&self) -> bool {
        !self.cancelled && self.is_of_this_process()
    }

    fn is_of_this_process(&self) -> bool {
        self.generation == sys::fork_generation()
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        self.requests.iter_mut().for_each(State::give_up);
        if let Some(queue) = &mut self.queue {
            queue.cancel();
        }
    }

    fn push(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        for state in &mut self.requests {
            while !self.free.is_empty() {
                let Some((position, len)) = state.next() else { break };
                let (op, flight) = match state.begin(position, len, self.limits, &mut self.bounces) {
                    Ok(begun) => begun,
                    Err(errno) => {
                        state.fail(position, errno);
                        break;
                    }
                };
                let tag = self.free.pop().expect("checked above");
                self.slots[tag as usize] = Some(flight);
                queue.push(tag, op);
            }
        }
        queue.kick();
    }

    fn reap(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        let mut completions = std::mem::take(&mut self.completions);
        queue.reap(&mut completions);
        for completion in completions.drain(..) {
            let Some(flight) = self.slots[completion.tag as usize].take() else { continue };
            self.free.push(completion.tag);
            if let Some(state) = self.requests.iter_mut().find(|state| state.has(&flight)) {
                let copied = state.complete(&flight, &completion);
                self.engine.stats().bounced_bytes.fetch_add(copied as u64, Relaxed);
            }
            if let Some(bounce) = flight.bounce {
                self.bounces.push(Arc::clone(bounce.region()));
            }
        }
        self.completions = completions;
    }
}

impl Drop for Channel {
    /// Operations in flight cannot be recalled. They keep their memory; a thread of their own waits for them, and until the
    /// last is over new transfers to that memory are refused, so that no late byte spoils them.
    fn drop(&mut self) {
        let Some(mut queue) = self.queue.take() else { return };
        if !self.is_of_this_process() {
            // The parent's queue: its locks may be held by threads that are not in this process.
            std::mem::forget(queue);
            return;
        }
        let regions: Vec<_> = self.slots.iter().flatten().filter_map(|flight| flight.region.clone()).collect();
        let mut left = self.slots.iter().flatten().count();
        if left == 0 {
            return;
        }
        queue.cancel();
        regions.iter().for_each(|region| region.abandon());
        let wait = move || {
            sys::block_signals();
            let mut completions = Vec::new();
            while left > 0 {
                queue.reap(&mut completions);
                left -= completions.drain(..).count();
                if left > 0 {
                    sys::wait_readable(queue.event(), Duration::from_secs(3600));
                }
            }
            regions.iter().for_each(|region| region.settle());
        };
        // Without a thread the memory stays refused for good: safe, if wasteful.
        let _ = thread::Builder::new().name("dma-settle".into()).spawn(wait);
    }
}

#[cfg(test)]
mod tests;
