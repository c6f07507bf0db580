//! One request: what of it is still to be pushed, what came of the rest, and when it has ended.

use std::collections::VecDeque;
use std::sync::Arc;

use nix::errno::Errno;

use super::plan::{plan, Bounce, Direction, Piece};
use super::OPERATION;
use crate::engine::{Completion, Limits, Op};
use crate::error::Result;
use crate::memory::{Huge, Layout, Lock, Region, Span};

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
    /// What [`Channel::submit`](super::Channel::submit) returned.
    pub id: u64,
    /// Bytes moved from the start without a gap: on an error the bytes that are safe, otherwise less than asked only at the
    /// end of the device.
    pub bytes: usize,
    /// What stopped it, if anything did.
    pub error: Option<Errno>,
}

/// What is known of a request that has not ended.
#[derive(Debug)]
pub(super) struct State {
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

/// What is asked for.
#[derive(Debug)]
pub(super) enum Work {
    Transfer(Request),
    Flush { data_only: bool },
}

/// What is kept of an operation until it completes.
#[derive(Debug)]
pub(super) struct InFlight {
    id: u64,
    position: usize,
    piece: Piece,
    pub bounce: Option<Span>,
    pub region: Option<Arc<Region>>,
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
    pub(super) fn new(id: u64, work: Work, len: usize) -> State {
        let todo = if len == 0 { VecDeque::new() } else { VecDeque::from([(0, len)]) };
        State { id, work, todo, in_flight: 0, exact: None, end: len, error: None }
    }

    /// The operation for as much of `len` bytes from `position` on as one takes; the rest stays to be pushed.
    pub(super) fn begin(
        &mut self,
        position: usize,
        len: usize,
        limits: Limits,
        bounces: &mut Vec<Arc<Region>>,
    ) -> Result<(Op, InFlight), Errno> {
        let (op, piece, bounce, region) = match &self.work {
            Work::Flush { data_only } => (Op::Flush { data_only: *data_only }, Piece::straight(len), None, None),
            Work::Transfer(request) => {
                let exact = self.exact == Some(position);
                let piece = if exact { Piece::straight(len) } else { request.piece(position, len, limits) };
                let (op, bounce) = request.operation(position, piece, bounces)?;
                (op, piece, bounce, Some(Arc::clone(request.span.region())))
            }
        };
        if piece.take < len {
            self.todo.push_front((position + piece.take, len - piece.take));
        }
        self.in_flight += 1;
        Ok((op, InFlight { id: self.id, position, piece, bounce, region }))
    }

    /// Whether an operation is one of this request's.
    pub(super) fn has(&self, flight: &InFlight) -> bool {
        self.id == flight.id
    }

    /// What was not pushed is not wanted any more.
    pub(super) fn give_up(&mut self) {
        self.todo.clear();
    }

    /// The next part to push. Writes go one at a time, so that what is safe after a failure has no gap and no hole.
    pub(super) fn next(&mut self) -> Option<(usize, usize)> {
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

    pub(super) fn fail(&mut self, position: usize, errno: Errno) {
        if self.error.is_none_or(|(first, _)| position < first) {
            self.error = Some((position, errno));
        }
    }

    /// Takes one completion in; returns how many bytes were copied through a bounce buffer.
    pub(super) fn complete(&mut self, flight: &InFlight, completion: &Completion) -> usize {
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

    pub(super) fn outcome(&self) -> Option<Outcome> {
        let stop = self.stop();
        if self.in_flight > 0 || self.todo.iter().any(|(position, _)| *position < stop) {
            return None;
        }
        let error = self.error.filter(|(position, _)| *position < self.end);
        Some(Outcome { id: self.id, bytes: stop, error: error.map(|(_, errno)| errno) })
    }
}
