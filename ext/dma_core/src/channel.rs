//! One user's transfers: requests of any offset and length, split into the operations an engine takes, completed in any order.

mod plan;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::engine::{Completion, Engine, Limits, Op, Queue};
use crate::error::{Error, Result};
use crate::memory::{Huge, Layout, Lock, Region, Span};
use crate::sys;

pub use plan::Direction;
use plan::{plan, Bounce, Piece};

/// The length of one operation where the caller has no reason for another: large enough to amortise it, small enough for
/// `depth` of them to overlap and for an interrupt to be answered soon.
pub const OPERATION: usize = 1 << 20;

/// A transfer between memory and device addresses; neither needs to be aligned.
#[derive(Debug)]
pub struct Request {
    /// Which way the bytes go.
    pub direction: Direction,
    /// Device address of the first byte.
    pub offset: u64,
    /// The memory.
    pub span: Span,
    /// In one operation, whatever its length and alignment, instead of several of up to [`OPERATION`] bytes. A read must then be
    /// aligned by the caller; it and a write may move less than asked.
    pub whole: bool,
}

/// The end of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What [`Channel::submit`] returned.
    pub id: u64,
    /// Bytes moved from the start without a gap: on an error the bytes that are safe, otherwise less than asked only at the
    /// end of the device.
    pub bytes: usize,
    /// What stopped it, if anything did.
    pub error: Option<Errno>,
}

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

#[derive(Debug)]
struct State {
    id: u64,
    work: Work,
    /// Parts not pushed yet, as (position, length).
    todo: VecDeque<(usize, usize)>,
    in_flight: usize,
    /// A part of which the aligned operation around it brought nothing, though the device says that there is more: it is asked
    /// for as it is, and what comes then is the truth.
    exact: Option<usize>,
    /// Where the device ends, as far as is known.
    end: usize,
    error: Option<(usize, Errno)>,
}

#[derive(Debug)]
enum Work {
    Transfer(Request),
    Flush { data_only: bool },
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    position: usize,
    piece: Piece,
    bounce: Option<Span>,
    region: Option<Arc<Region>>,
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
        let todo = if len == 0 { VecDeque::new() } else { VecDeque::from([(0, len)]) };
        self.requests.push_back(State {
            id: self.next_id,
            work,
            todo,
            in_flight: 0,
            exact: None,
            end: len,
            error: None,
        });
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
        self.requests.iter_mut().for_each(|state| state.todo.clear());
        if let Some(queue) = &mut self.queue {
            queue.cancel();
        }
    }

    fn push(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        for state in &mut self.requests {
            while !self.free.is_empty() {
                let Some((position, len)) = state.next() else { break };
                let (op, piece, bounce, region) = match &state.work {
                    Work::Flush { data_only } => {
                        (Op::Flush { data_only: *data_only }, Piece::straight(len), None, None)
                    }
                    Work::Transfer(request) => {
                        let exact = state.exact == Some(position);
                        let piece =
                            if exact { Piece::straight(len) } else { request.piece(position, len, self.limits) };
                        match request.operation(position, piece, &mut self.bounces) {
                            Ok((op, bounce)) => (op, piece, bounce, Some(Arc::clone(request.span.region()))),
                            Err(errno) => {
                                state.fail(position, errno);
                                break;
                            }
                        }
                    }
                };
                if piece.take < len {
                    state.todo.push_front((position + piece.take, len - piece.take));
                }
                let tag = self.free.pop().expect("checked above");
                self.slots[tag as usize] = Some(InFlight { id: state.id, position, piece, bounce, region });
                state.in_flight += 1;
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
            if let Some(state) = self.requests.iter_mut().find(|state| state.id == flight.id) {
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

impl Request {
    fn piece(&self, position: usize, len: usize, limits: Limits) -> Piece {
        if self.whole {
            return Piece::straight(len);
        }
        let address = self.span.address() as usize + position;
        plan(self.direction, self.offset + position as u64, address, len, limits, OPERATION)
    }

    /// The operation for one piece, and the bounce buffer it uses, from those that are free where one is large enough.
    fn operation(
        &self,
        position: usize,
        piece: Piece,
        bounces: &mut Vec<Arc<Region>>,
    ) -> Result<(Op, Option<Span>), Errno> {
        let offset = self.offset + position as u64;
        let Some(Bounce { skip, len }) = piece.bounce else {
            let span = self.span.part(position, piece.take);
            return Ok((self.direction.op(offset, span), None));
        };
        let region = match bounces.iter().position(|region| region.len() >= len) {
            Some(index) => bounces.swap_remove(index),
            None => {
                let layout = Layout { huge: Huge::Never, ..Layout::new(len) };
                Region::allocate(layout, Lock::Never).map_err(|_| Errno::ENOMEM)?
            }
        };
        let span = Span::new(&region, 0, len).map_err(|_| Errno::ENOMEM)?;
        if self.direction == Direction::Write {
            self.span.part(position, piece.take).copy_to(0, &span, piece.take);
        }
        let used = span.part(0, len);
        Ok((self.direction.op(offset - skip as u64, span), Some(used)))
    }
}

impl State {
    /// The next part to push. Writes go one at a time, so that what is safe after a failure has no gap and no hole.
    fn next(&mut self) -> Option<(usize, usize)> {
        let serial = matches!(&self.work, Work::Transfer(request) if request.direction == Direction::Write);
        if serial && self.in_flight > 0 {
            return None;
        }
        loop {
            let (position, len) = self.todo.pop_front()?;
            if position < self.stop() {
                return Some((position, len));
            }
        }
    }

    /// What lies from here on is not wanted: the device ends, or something failed.
    fn stop(&self) -> usize {
        self.error.map_or(self.end, |(position, _)| position.min(self.end))
    }

    fn fail(&mut self, position: usize, errno: Errno) {
        if self.error.is_none_or(|(first, _)| position < first) {
            self.error = Some((position, errno));
        }
    }

    /// Takes one completion in; returns how many bytes were copied through a bounce buffer.
    fn complete(&mut self, flight: &InFlight, completion: &Completion) -> usize {
        self.in_flight -= 1;
        let InFlight { position, piece, bounce, .. } = flight;
        let Work::Transfer(request) = &self.work else {
            if let Err(errno) = completion.result {
                self.fail(*position, errno);
            }
            return 0;
        };
        let moved = match completion.result {
            Ok(moved) => moved,
            Err(errno) => {
                self.fail(*position, errno);
                return 0;
            }
        };
        let skip = piece.bounce.map_or(0, |bounce| bounce.skip);
        let useful = moved.saturating_sub(skip).min(piece.take);
        if let (Some(bounce), Direction::Read) = (bounce, request.direction) {
            if useful > 0 {
                bounce.copy_to(skip, &request.span.part(*position, useful), useful);
            }
        }
        if useful < piece.take {
            let short = position + useful;
            if completion.eof || request.whole || (moved == 0 && request.direction == Direction::Read) {
                self.end = self.end.min(short);
            } else if moved == 0 {
                // A write that neither moves a byte nor says why would be tried for ever.
                self.fail(*position, Errno::EIO);
            } else {
                self.exact = (useful == 0).then_some(short);
                self.todo.push_front((short, piece.take - useful));
            }
        }
        if bounce.is_some() {
            useful
        } else {
            0
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        let stop = self.stop();
        if self.in_flight > 0 || self.todo.iter().any(|(position, _)| *position < stop) {
            return None;
        }
        let error = self.error.filter(|(position, _)| *position < self.end);
        Some(Outcome { id: self.id, bytes: stop, error: error.map(|(_, errno)| errno) })
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
