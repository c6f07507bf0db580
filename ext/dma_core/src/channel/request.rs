//! One request: what of it is still to be pushed, what came of the rest, and when it has ended.

use std::collections::VecDeque;
use std::sync::Arc;

use nix::errno::Errno;

use super::conflict::conflict;
use super::merge::{Block, Merging};
use super::plan::{plan, Bounce, Piece};
use crate::engine::edges::Hold;
use crate::engine::{Cache, Limits};
use crate::error::Result;
use crate::memory::{Huge, Layout, Lock, Region, Span};
use crate::sys;
use crate::transfer::{Completion, Direction, Op, Status};

/// A transfer: one element, or several that are carried out as one (scatter-gather). Where the engine is not strict, neither
/// memory nor device addresses need to be aligned.
#[derive(Debug)]
pub struct Request {
    /// What is to be moved, of any length.
    pub elements: Vec<Op>,
    /// In one operation, whatever its length and alignment, instead of several that the engine's limits allow. A read must then
    /// be aligned by the caller; it and a write may move less than asked. Not for an engine that takes whole blocks only.
    pub whole: bool,
    /// Not begun before all requests that were submitted earlier and had not ended by then are over, and not attempted if one of
    /// them failed.
    pub fence: bool,
    /// Whether its completion makes the channel's event readable.
    pub interrupt: bool,
    /// Memory that a strict engine does not take is copied to some that it does. Otherwise it is refused.
    pub bounce: bool,
    /// Where a file is read from.
    pub cache: Cache,
}

impl Request {
    /// A request of one element.
    pub fn new(op: Op) -> Request {
        Request::list(vec![op])
    }

    /// A scatter-gather request.
    pub fn list(elements: Vec<Op>) -> Request {
        Request { elements, whole: false, fence: false, interrupt: true, bounce: true, cache: Cache::Past }
    }
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What [`Channel::submit`](super::Channel::submit) returned.
    pub id: u64,
    /// Bytes moved from the start without a gap: on a failure the bytes that are safe, otherwise less than asked only at the
    /// end of the device.
    pub bytes: usize,
    /// Complete, or what stopped it.
    pub status: Status,
}

impl Outcome {
    /// What stopped it, as an error number.
    pub fn errno(&self) -> Option<Errno> {
        match self.status {
            Status::Complete => None,
            Status::Os(errno) => Some(errno),
            Status::Aborted => Some(Errno::ECANCELED),
            _ => Some(Errno::EIO),
        }
    }
}

/// What is known of a request that has not ended.
#[derive(Debug)]
pub(super) struct State {
    pub id: u64,
    pub request: Request,
    /// Where each element begins, counted in bytes of the request.
    starts: Vec<usize>,
    /// Parts not pushed yet, as (position, length).
    todo: VecDeque<(usize, usize)>,
    in_flight: usize,
    /// A part of which the aligned operation around it brought nothing, though the device says that there is more: it is asked
    /// for as it is, and what comes then is the truth.
    exact: Option<usize>,
    /// The block around the next part, which was read to have that merged into it.
    read: Option<Block>,
    /// Where the device ends, as far as is known.
    end: usize,
    failed: Option<(usize, Status)>,
    /// A long write of it has failed. What of that is on the device nobody knows: it is written again in short ones, so that every
    /// byte before the first that cannot be written is safe.
    short: bool,
    /// Why it was cancelled.
    given_up: Option<Status>,
    /// Something that it must not be begun after has failed.
    pub poisoned: bool,
}

/// What is kept of an operation until it completes.
#[derive(Debug)]
pub(super) struct InFlight {
    pub id: u64,
    position: usize,
    pub piece: Piece,
    pub bounce: Option<Span>,
    pub region: Option<Arc<Region>>,
    /// What a write occupies, where writes can be in each other's way.
    pub hold: Option<Hold>,
    /// It reads the block that the piece, a write, is then merged into.
    pub reading: bool,
    /// Nobody waits for it any more, and its memory is refused to others.
    abandoned: bool,
}

impl InFlight {
    /// Refuses its memory to others until it is over.
    pub(super) fn abandon(&mut self) {
        if let (Some(region), false) = (&self.region, self.abandoned) {
            region.abandon();
            self.abandoned = true;
        }
    }

    /// It is over.
    pub(super) fn settle(&self) {
        if let (Some(region), true) = (&self.region, self.abandoned) {
            region.settle();
        }
    }
}

/// A bounce buffer of `len` bytes, from those that are free where one is large enough.
pub(super) fn bounce(len: usize, limits: Limits, bounces: &mut Vec<Arc<Region>>) -> Result<Span, Errno> {
    let region = match bounces.iter().position(|region| region.len() >= len) {
        Some(index) => bounces.swap_remove(index),
        None => {
            let align = sys::page_size().max(limits.boundary);
            let layout = Layout { size: len, align, huge: Huge::Never };
            Region::allocate(layout, Lock::Never).map_err(|_| Errno::ENOMEM)?
        }
    };
    Span::new(&region, 0, len).map_err(|_| Errno::ENOMEM)
}

/// The operation for one piece, and the bounce buffer it uses.
fn operation(
    direction: Direction,
    offset: u64,
    part: Span,
    piece: Piece,
    limits: Limits,
    bounces: &mut Vec<Arc<Region>>,
) -> Result<(Op, Option<Span>), Errno> {
    let Some(Bounce { skip, len }) = piece.bounce else {
        return Ok((direction.op(offset, part), None));
    };
    let span = bounce(len, limits, bounces)?;
    if direction == Direction::ToDevice {
        part.copy_to(0, &span, piece.take);
    }
    let used = span.part(0, len);
    Ok((direction.op(offset - skip as u64, span), Some(used)))
}

impl State {
    pub(super) fn new(id: u64, request: Request) -> State {
        let (mut total, mut starts) = (0, Vec::with_capacity(request.elements.len()));
        for op in &request.elements {
            starts.push(total);
            total += op.len() as usize;
        }
        let todo = if total == 0 { VecDeque::new() } else { VecDeque::from([(0, total)]) };
        let (failed, given_up) = (None, None);
        let (exact, read) = (None, None);
        let (short, poisoned) = (false, false);
        State { id, request, starts, todo, in_flight: 0, exact, read, end: total, failed, short, given_up, poisoned }
    }

    /// The operation for as much of `len` bytes from `position` on as one takes; the rest stays to be pushed. `None` while others
    /// occupy the blocks: all of it does.
    pub(super) fn begin(
        &mut self,
        position: usize,
        len: usize,
        limits: Limits,
        bounces: &mut Vec<Arc<Region>>,
        merging: Option<&mut Merging>,
    ) -> Result<Option<(Op, InFlight)>, Errno> {
        if merging.is_some() && self.exact == Some(position) {
            // No part of a block can be asked for.
            return Err(Errno::EIO);
        }
        let (op, mut flight) = self.part(position, len, limits, bounces)?;
        let op = match merging {
            Some(merging) => merging.admit(op, &mut flight, self.read.take(), limits, bounces)?,
            None => Some(op),
        };
        let Some(op) = op else {
            self.todo.push_front((position, len));
            bounces.extend(flight.bounce.map(|bounce| Arc::clone(bounce.region())));
            return Ok(None);
        };
        let take = flight.piece.take;
        if take < len {
            self.todo.push_front((position + take, len - take));
        }
        self.in_flight += 1;
        Ok(Some((op, flight)))
    }

    /// The first operation of a part, as far as it is this request's alone to say.
    fn part(
        &self,
        position: usize,
        len: usize,
        limits: Limits,
        bounces: &mut Vec<Arc<Region>>,
    ) -> Result<(Op, InFlight), Errno> {
        let index = self.starts.partition_point(|start| *start <= position) - 1;
        let element = &self.request.elements[index];
        let skip = position - self.starts[index];
        let there = len.min(element.len() as usize - skip);
        let (op, piece, bounce) = match element {
            Op::Read { offset, span } | Op::Write { offset, span } => {
                let direction = if let Op::Read { .. } = element { Direction::FromDevice } else { Direction::ToDevice };
                let offset = offset + skip as u64;
                let piece = if self.request.whole || self.exact == Some(position) {
                    Piece::straight(there)
                } else {
                    let limits = match direction {
                        // The page cache gives any bytes to any memory.
                        Direction::FromDevice if self.request.cache == Cache::Through => {
                            Limits { granule: 1, memory: 1, ..limits }
                        }
                        Direction::ToDevice if !self.short => limits,
                        _ => Limits { max_long: 0, ..limits },
                    };
                    plan(direction, offset, span.address() as usize + skip, there, limits)
                };
                let part = span.part(skip, piece.take);
                let (op, bounce) = operation(direction, offset, part, piece, limits, bounces)?;
                (op, piece, bounce)
            }
            Op::Copy { from, to, len } => (Op::Copy { from: *from, to: *to, len: *len }, Piece::straight(there), None),
            Op::List { first, len, ring } => {
                let ring = ring.part(0, ring.len());
                (Op::List { first: *first, len: *len, ring }, Piece::straight(there), None)
            }
            Op::Flush { data_only } => (Op::Flush { data_only: *data_only }, Piece::straight(there), None),
        };
        let region = element.span().map(|span| Arc::clone(span.region()));
        Ok((
            op,
            InFlight { id: self.id, position, piece, bounce, region, hold: None, reading: false, abandoned: false },
        ))
    }

    /// An operation that was begun and not taken is to be begun once more; a merge with its read, since its block is left meanwhile.
    pub(super) fn take_back(&mut self, flight: &InFlight) {
        self.in_flight -= 1;
        self.todo.push_front((flight.position, flight.piece.take));
    }

    /// What was not pushed is not wanted any more, and what was ends for this reason where it can.
    pub(super) fn give_up(&mut self, why: Status) {
        self.given_up = Some(why);
        // Parts that ended short came back in the order of their ends.
        if let Some(first) = self.todo.iter().map(|(position, _)| *position).min() {
            self.fail(first, why);
        }
        self.todo.clear();
    }

    /// The next part to push. Where operations may overtake each other, writes go one at a time, so that what is safe after a
    /// failure has no gap and no hole; so does all of a serial engine's.
    pub(super) fn next(&mut self, limits: Limits) -> Option<(usize, usize)> {
        let serial =
            limits.serial || !limits.ordered && !self.request.elements.iter().all(|op| matches!(op, Op::Read { .. }));
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

    /// How many of its operations the engine has.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether there is something left to push.
    pub(super) fn waits(&self) -> bool {
        let stop = self.stop();
        self.todo.iter().any(|(position, _)| *position < stop)
    }

    /// What lies from here on is not wanted: the device ends, or something failed.
    fn stop(&self) -> usize {
        self.failed.map_or(self.end, |(position, _)| position.min(self.end))
    }

    pub(super) fn fail(&mut self, position: usize, status: Status) {
        if self.failed.is_none_or(|(first, _)| position < first) {
            self.failed = Some((position, status));
        }
    }

    /// Takes one completion in; returns how many bytes were copied through a bounce buffer.
    pub(super) fn complete(&mut self, flight: &mut InFlight, completion: &Completion, limits: Limits) -> usize {
        self.in_flight -= 1;
        if flight.reading {
            self.has_read(flight, completion);
            return 0;
        }
        let InFlight { position, piece, bounce, .. } = &*flight;
        let index = self.starts.partition_point(|start| start <= position) - 1;
        let element = &self.request.elements[index];
        let skip = piece.bounce.map_or(0, |bounce| bounce.skip);
        let useful = match element {
            Op::Flush { .. } if !completion.status.is_failure() => piece.take,
            _ => completion.bytes.saturating_sub(skip).min(piece.take),
        };
        let is_read = matches!(element, Op::Read { .. });
        if let (Some(bounce), Op::Read { span, .. }) = (bounce, element) {
            if useful > 0 {
                bounce.copy_to(skip, &span.part(position - self.starts[index], useful), useful);
            }
        }
        let short = position + useful;
        let is_long = matches!(element, Op::Write { .. }) && piece.take as u64 > limits.max_len;
        let again = is_long && !self.short && !self.request.whole && self.given_up.is_none();
        if again && matches!(completion.status, Status::Os(_)) {
            self.short = true;
            self.todo.push_front((*position, piece.take));
        } else if completion.status.is_failure() {
            self.fail(short, self.reason(completion.status));
        } else if useful < piece.take {
            let nothing = completion.bytes == 0;
            if completion.eof || self.request.whole || (nothing && is_read) {
                self.end = self.end.min(short);
            } else if nothing {
                // A write that neither moves a byte nor says why would be tried for ever.
                self.fail(*position, Status::Os(Errno::EIO));
            } else if let Some(why) = self.given_up {
                self.fail(short, why);
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

    /// The block around a part has come, and is written next; or the request ends with this part untouched.
    fn has_read(&mut self, flight: &mut InFlight, completion: &Completion) {
        let (position, take) = (flight.position, flight.piece.take);
        if completion.status.is_failure() {
            self.fail(position, self.reason(completion.status));
        } else if let Some(why) = self.given_up {
            self.fail(position, why);
        } else if flight.bounce.as_ref().is_some_and(|bounce| completion.bytes < bounce.len()) {
            self.fail(position, Status::Os(Errno::EIO));
        } else {
            self.todo.push_front((position, take));
            self.read = flight.bounce.take().zip(flight.hold.take()).map(|(bounce, hold)| Block { bounce, hold });
        }
    }

    /// Why it ends, where an operation ended with this failure.
    fn reason(&self, status: Status) -> Status {
        self.given_up.filter(|_| status == Status::Aborted).unwrap_or(status)
    }

    /// How it ended, if it did.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        if self.in_flight > 0 || self.waits() {
            return None;
        }
        let failed = self.failed.filter(|(position, _)| *position < self.end);
        Some(Outcome { id: self.id, bytes: self.stop(), status: failed.map_or(Status::Complete, |(_, status)| status) })
    }

    /// Whether the two must not be carried out at the same time, because one writes what the other uses, or because the engine is
    /// serial. Device addresses count in whole granules.
    pub(super) fn conflicts(&self, other: &State, limits: &Limits) -> bool {
        let pairs = self.request.elements.iter().flat_map(|a| other.request.elements.iter().map(move |b| (a, b)));
        pairs.into_iter().any(|(a, b)| conflict(a, b, limits))
    }
}
