//! Writes to an engine that takes whole blocks only: what they occupy, and how part of a block is merged into it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::plan::Piece;
use super::request::{bounce, InFlight};
use crate::engine::edges::{Blocks, Edges, Hold};
use crate::engine::{Engine, Limits, Queue};
use crate::error::{Error, Result};
use crate::memory::{Region, Span};
use crate::sync::Event;
use crate::sys;
use crate::transfer::Op;

/// What a channel has of such an engine.
#[derive(Debug)]
pub(super) struct Merging {
    edges: Arc<Edges>,
    /// Readable when blocks that were refused may be free.
    pub freed: Arc<Event>,
    /// The queue's event and that one, in one.
    pub event: OwnedFd,
    /// A write waits for blocks that others occupy.
    pub refused: bool,
}

/// A block that was read for a part of it to be merged, which nobody else writes meanwhile.
#[derive(Debug)]
pub(super) struct Block {
    pub bounce: Span,
    pub hold: Hold,
}

impl Merging {
    /// `None` for an engine that merges by itself, or never has to.
    pub fn new(engine: &dyn Engine, queue: &dyn Queue) -> Result<Option<Merging>> {
        let Some(edges) = engine.edges() else { return Ok(None) };
        let limits = engine.limits();
        debug_assert!(!limits.ordered && !limits.copies, "a merge is two operations, and only writes are looked at");
        let make = || {
            let freed = Arc::new(Event::new()?);
            let event = sys::either(queue.event(), freed.as_fd())?;
            Ok(Merging { edges: Arc::clone(edges), freed, event, refused: false })
        };
        make().map(Some).map_err(|errno| Error::os(errno, "cannot make an event for a channel"))
    }

    /// What to push for the next piece: a write of whole blocks as it is; for part of a block first the read of it, and once it has
    /// been read its write. `None` while others occupy the blocks.
    pub fn admit(
        &mut self,
        op: Op,
        flight: &mut InFlight,
        read: Option<Block>,
        limits: Limits,
        bounces: &mut Vec<Arc<Region>>,
    ) -> Result<Option<Op>, Errno> {
        let Op::Write { offset, span } = &op else { return Ok(Some(op)) };
        let skip = (offset % limits.granule) as usize;
        let (start, len) = (offset - skip as u64, (skip + span.len()).next_multiple_of(limits.granule as usize));
        let (alone, merged) = (len > span.len(), read.is_some());
        let block = match read {
            Some(block) => block,
            None => {
                let blocks = Blocks { range: start..start + len as u64, alone };
                let Some(hold) = self.edges.try_enter(blocks, &self.freed) else {
                    self.refused = true;
                    return Ok(None);
                };
                if !alone {
                    flight.hold = Some(hold);
                    return Ok(Some(op));
                }
                Block { bounce: bounce(len, limits, bounces)?, hold }
            }
        };
        let target = block.bounce.part(0, len);
        let op = if merged {
            span.copy_to(0, &target.part(skip, span.len()), span.len());
            Op::Write { offset: start, span: target }
        } else {
            Op::Read { offset: start, span: target }
        };
        flight.piece = Piece::bounced(span.len(), skip, len);
        flight.reading = !merged;
        (flight.bounce, flight.hold) = (Some(block.bounce), Some(block.hold));
        Ok(Some(op))
    }
}

#[cfg(test)]
mod tests;
