//! How the operations of one queue go, and which of them have to wait: a write of part of a block goes through the page cache, and
//! keeps direct writes away from its page meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Handle;
use crate::engine::edges::{Blocks, Hold};
use crate::sync::Event;
use crate::sys;
use crate::transfer::{Op, Path};

/// An operation on its way.
#[derive(Debug)]
pub(super) struct Going {
    pub tag: u32,
    pub op: Op,
    pub path: Path,
    /// What a write occupies until it is over.
    hold: Option<Hold>,
}

impl Going {
    pub fn new(tag: u32, op: Op, path: Path) -> Going {
        Going { tag, op, path, hold: None }
    }

    /// The same operation, another way.
    pub fn by(self, path: Path) -> Going {
        Going { path, hold: None, ..self }
    }
}

/// The operations of a queue that others keep waiting, oldest first.
#[derive(Debug)]
pub(super) struct Order {
    handle: Arc<Handle>,
    /// Signalled when it is worth trying again.
    event: Arc<Event>,
    waiting: VecDeque<Going>,
}

impl Order {
    pub fn new(handle: Arc<Handle>, event: Arc<Event>) -> Order {
        Order { handle, event, waiting: VecDeque::new() }
    }

    /// Lets an operation go; `None` where it has to wait.
    pub fn admit(&mut self, mut going: Going) -> Option<Going> {
        if let (Op::Write { offset, span }, Some(_)) = (&going.op, &self.handle.direct) {
            let page = self.handle.limits.granule.max(sys::page_size() as u64);
            let end = offset.saturating_add(span.len() as u64).next_multiple_of(page);
            let blocks = Blocks { range: offset - offset % page..end, alone: going.path == Path::Buffered };
            going.hold = self.handle.edges.try_enter(blocks, &self.event);
            if going.hold.is_none() {
                self.waiting.push_back(going);
                return None;
            }
        }
        Some(going)
    }

    /// Those that have waited and may go now.
    pub fn released(&mut self) -> Vec<Going> {
        std::mem::take(&mut self.waiting).into_iter().filter_map(|going| self.admit(going)).collect()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes out one that waits.
    pub fn remove(&mut self, tag: u32) -> Option<Going> {
        let index = self.waiting.iter().position(|going| going.tag == tag)?;
        self.waiting.remove(index)
    }
}
