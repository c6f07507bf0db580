//! Transfers on their way to an engine: requests of any offset and length, split into the operations it takes, completed in any
//! order.

mod check;
mod conflict;
mod counters;
mod merge;
mod plan;
mod pump;
mod request;
mod settle;
mod shared;
mod table;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use crate::engine::{Engine, Limits, Queue, Watch};
use crate::error::{Error, Result};
use crate::memory::Region;
use crate::sys;
use crate::transfer::{Completion, Status};

use check::check;
pub use counters::Counters;
use merge::Merging;
use request::{InFlight, State};
pub use request::{Outcome, Request};
pub(crate) use shared::enter;
pub use shared::{progress_all, Shared, Waiter};
pub use table::{Role, Seat, Ticket};

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
    /// Of an engine that has partial blocks merged.
    merging: Option<Merging>,
    slots: Vec<Option<InFlight>>,
    free: Vec<u32>,
    /// What has not ended, oldest first.
    requests: VecDeque<State>,
    /// Requests of which something is not pushed yet, oldest first.
    waiting: VecDeque<u64>,
    /// Requests from this one on are not begun before [`Channel::kick`].
    held: Option<u64>,
    /// One channel of a device: it keeps what conflicts in order, and refuses what does not fit the ring.
    is_device: bool,
    /// The most operations of one request in flight: others have their turn beside it.
    share: usize,
    /// Elements of all requests that have not ended.
    outstanding: usize,
    next_id: u64,
    bounces: Vec<Arc<Region>>,
    completions: Vec<Completion>,
    /// Outcomes that nobody was told of yet.
    untold: Vec<Outcome>,
    counters: Arc<Counters>,
    /// Operations pushed and completions reaped so far.
    moves: u64,
    generation: u32,
}

impl Channel {
    /// A channel of its user's own, that keeps up to `depth` operations in flight. Requests may overtake each other, and any
    /// number of them wait their turn.
    pub fn new(engine: Arc<dyn Engine>, depth: u32) -> Result<Channel> {
        Channel::make(engine, 0, depth, depth, false)
    }

    /// As [`Channel::new`], for many users: `share` of the operations are one request's at most.
    pub fn of_many(engine: Arc<dyn Engine>, depth: u32, share: u32) -> Result<Channel> {
        Channel::make(engine, 0, depth, share, false)
    }

    /// Channel `index` of a device, with room for `depth` elements of requests. Requests that use what another one writes are
    /// carried out in the order in which they were submitted.
    ///
    /// # Errors
    /// [`Error::Busy`] where the channel is in use already.
    pub fn of_device(engine: Arc<dyn Engine>, index: u16, depth: u32) -> Result<Channel> {
        Channel::make(engine, index, depth, depth, true)
    }

    fn make(engine: Arc<dyn Engine>, index: u16, depth: u32, share: u32, is_device: bool) -> Result<Channel> {
        let queue = engine.queue(index, depth)?;
        Ok(Channel {
            limits: engine.channel_limits(index),
            merging: Merging::new(&*engine, &*queue)?,
            engine,
            queue: Some(queue),
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            requests: VecDeque::new(),
            waiting: VecDeque::new(),
            held: None,
            is_device,
            share: share as usize,
            outstanding: 0,
            next_id: 0,
            bounces: Vec::new(),
            completions: Vec::new(),
            untold: Vec::new(),
            counters: Arc::default(),
            moves: 0,
            generation: sys::fork_generation(),
        })
    }

    /// Takes a request; it begins with the next [`Channel::progress`].
    ///
    /// # Errors
    /// [`Error::Busy`] for memory that an interrupted transfer may still write to; [`Error::Argument`] past the last address of the
    /// device; [`Error::Alignment`] for what a strict engine does not take; [`Error::Unsupported`] for what it never does;
    /// [`Error::RingFull`] where a device has no room now.
    pub fn submit(&mut self, request: Request) -> Result<u64> {
        let id = self.enqueue(request)?;
        self.held = None;
        Ok(id)
    }

    /// Takes a request, which begins after [`Channel::kick`] or the next [`Channel::submit`]; errors as there.
    pub fn enqueue(&mut self, request: Request) -> Result<u64> {
        self.check_process()?;
        check(&request, &self.limits, self.merging.is_some())?;
        let count = request.elements.len();
        if self.is_device && count > self.room() {
            let (taken, all) = (self.outstanding, self.slots.len());
            return Err(Error::RingFull(format!(
                "Descriptor ring full: {count} more do not fit, {taken} of {all} are taken; reap completions first (a simulated \
                 device takes a larger ring_size:)"
            )));
        }
        request.elements.iter().try_for_each(|op| self.engine.prepare(op))?;
        self.next_id += 1;
        self.outstanding += count;
        self.held.get_or_insert(self.next_id);
        self.counters.submitted.fetch_add(1, Relaxed);
        self.requests.push_back(State::new(self.next_id, request));
        self.waiting.push_back(self.next_id);
        Ok(self.next_id)
    }

    /// The doorbell for what was enqueued; it begins with the next [`Channel::progress`].
    pub fn kick(&mut self) {
        self.held = None;
    }

    /// Reaps completions, pushes what fits, and returns requests that ended, in the order they were submitted or not. Where there
    /// are none, the event is readable only once there is something new.
    ///
    /// # Errors
    /// [`Error::Closed`] in the child of a fork, which has the parent's event, and would take its completions' signals.
    pub fn progress(&mut self) -> Result<Vec<Outcome>> {
        self.check_process()?;
        let mut ended = std::mem::take(&mut self.untold);
        if !self.reap(&mut ended) {
            if let Some(queue) = &mut self.queue {
                queue.acknowledge();
            }
            if let Some(merging) = &self.merging {
                merging.freed.clear();
            }
            self.reap(&mut ended);
        }
        self.push_all(&mut ended);
        Ok(ended)
    }

    /// The same for whoever will not wait before the next call: the event is left as it is, which costs no system call.
    pub fn spin(&mut self) -> Result<Vec<Outcome>> {
        self.check_process()?;
        let mut ended = std::mem::take(&mut self.untold);
        self.reap(&mut ended);
        self.push_all(&mut ended);
        Ok(ended)
    }

    fn push_all(&mut self, ended: &mut Vec<Outcome>) {
        loop {
            let before = ended.len();
            self.push(ended);
            // What ended without being pushed may let others begin.
            if ended.len() == before {
                return;
            }
        }
    }

    /// Readable when [`Channel::progress`] has something to do.
    pub fn event(&self) -> BorrowedFd<'_> {
        let queue = self.queue.as_ref().expect("only drop takes the queue");
        self.merging.as_ref().map_or_else(|| queue.event(), |merging| merging.event.as_fd())
    }

    /// Where whoever leads can wait instead of for the event. See [`Queue::watch`].
    pub(super) fn watch(&mut self) -> Option<Arc<dyn Watch>> {
        // What others let go of is told by another event.
        self.queue.as_mut().filter(|_| self.merging.is_none()).and_then(|queue| queue.watch())
    }

    /// See [`Queue::rouse`].
    pub(super) fn rouse(&mut self) {
        self.queue.iter_mut().for_each(|queue| queue.rouse());
    }

    /// See [`Queue::up`].
    pub(super) fn up(&mut self) {
        self.queue.iter_mut().for_each(|queue| queue.up());
    }

    /// Asks that a request be given up; it ends with `why` where that came in time. False for one that has ended.
    pub fn cancel(&mut self, id: u64, why: Status) -> bool {
        let Ok(index) = self.find(id) else { return false };
        self.requests[index].give_up(why);
        if let Some(queue) = &mut self.queue {
            for (tag, flight) in self.slots.iter().enumerate() {
                if flight.as_ref().is_some_and(|flight| flight.id == id) {
                    queue.cancel(tag as u32);
                }
            }
        }
        let mut untold = std::mem::take(&mut self.untold);
        self.settle(index, &mut untold);
        self.untold = untold;
        true
    }

    /// Refuses the memory of a request that was given up to others, until the engine has let go of it.
    pub(crate) fn abandon(&mut self, id: u64) {
        self.slots.iter_mut().flatten().filter(|flight| flight.id == id).for_each(InFlight::abandon);
    }

    /// Asks that everything be given up.
    pub fn cancel_all(&mut self) {
        let ids: Vec<u64> = self.requests.iter().map(|state| state.id).collect();
        // The newest first: what waits behind a transfer that hangs must not begin when that is over.
        ids.into_iter().rev().for_each(|id| {
            self.cancel(id, Status::Aborted);
        });
    }

    /// Whether the engine holds no operation of this channel, and no request waits.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len() && self.requests.is_empty()
    }

    /// Whether the channel is idle and can take requests.
    pub fn is_usable(&self) -> bool {
        self.is_idle() && self.check_process().is_ok()
    }

    /// Whether it is one of a device's.
    pub(crate) fn is_device(&self) -> bool {
        self.is_device
    }

    /// How many more elements a device's channel takes now.
    pub fn room(&self) -> usize {
        self.slots.len().saturating_sub(self.outstanding)
    }

    /// Requests that have not ended, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = u64> + '_ {
        self.requests.iter().map(|state| state.id)
    }

    /// Whether somebody has to look for completions, because not all will make the event readable.
    pub fn must_poll(&self) -> bool {
        self.is_refused() || self.requests.iter().any(|state| !state.request.interrupt)
    }

    /// How many interrupts have come, if the engine knows.
    pub(crate) fn interrupts(&self) -> Option<u64> {
        self.queue.as_ref().and_then(|queue| queue.interrupts())
    }

    /// Whether an interrupt for what has completed is still to come.
    pub(crate) fn is_owed(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.is_owed())
    }

    /// Whether a write waits for blocks that others occupy, which may last until somebody looks at their channel.
    fn is_refused(&self) -> bool {
        self.merging.as_ref().is_some_and(|merging| merging.refused)
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// How requests ended so far.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    fn check_process(&self) -> Result<()> {
        if self.generation == sys::fork_generation() {
            return Ok(());
        }
        Err(Error::Closed("this transfer belongs to the parent process; begin it anew after fork".into()))
    }

    fn find(&self, id: u64) -> Result<usize, usize> {
        self.requests.binary_search_by_key(&id, |state| state.id)
    }
}

#[cfg(test)]
mod tests;
