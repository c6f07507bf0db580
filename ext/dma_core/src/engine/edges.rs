//! Which blocks of a device are being written, so that part of one can be merged into it: the block is read, changed and written
//! back, and whatever else was written to it in between would be lost.

use std::ops::Range;
use std::sync::Arc;

use crate::sync::{lock, Event, Mutex};
use crate::sys;

/// The writes under way to one device that takes whole blocks only, of all its channels. One of parts of a block has the block to
/// itself, from before it is read until it has been written; writes of whole blocks do not exclude each other.
#[derive(Debug)]
pub struct Edges {
    table: Mutex<Table>,
    generation: u32,
}

#[derive(Debug, Default)]
struct Table {
    held: Vec<(u64, Blocks)>,
    next: u64,
    /// Events of those who were refused since blocks were last left.
    refused: Vec<Arc<Event>>,
}

/// Device addresses, from the start of a block to the end of one.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub range: Range<u64>,
    /// Nobody else may write them.
    pub alone: bool,
}

/// Blocks that a write occupies, until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    edges: Arc<Edges>,
    number: u64,
}

impl Edges {
    /// Nothing is being written.
    pub fn new() -> Arc<Edges> {
        Arc::new(Edges { table: Mutex::default(), generation: sys::fork_generation() })
    }

    /// Occupies `blocks`; `None` where somebody is in the way. `freed` is signalled then when it is worth trying again.
    pub(crate) fn try_enter(self: &Arc<Self>, blocks: Blocks, freed: &Arc<Event>) -> Option<Hold> {
        let mut table = lock(&self.table);
        if table.held.iter().any(|(_, other)| other.excludes(&blocks)) {
            if !table.refused.iter().any(|event| Arc::ptr_eq(event, freed)) {
                table.refused.push(Arc::clone(freed));
            }
            return None;
        }
        table.next += 1;
        let number = table.next;
        table.held.push((number, blocks));
        Some(Hold { edges: Arc::clone(self), number })
    }

    #[cfg(test)]
    pub(crate) fn is_free(&self) -> bool {
        lock(&self.table).held.is_empty()
    }
}

impl Blocks {
    fn excludes(&self, other: &Blocks) -> bool {
        let overlap = self.range.start < other.range.end && other.range.start < self.range.end;
        overlap && (self.alone || other.alone)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // In the child of a fork a thread that is not there may hold the lock, and the events are the parent's.
        if self.edges.generation != sys::fork_generation() {
            return;
        }
        let mut table = lock(&self.edges.table);
        table.held.retain(|(number, _)| *number != self.number);
        table.refused.drain(..).for_each(|event| event.signal());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn blocks(range: Range<u64>, alone: bool) -> Blocks {
        Blocks { range, alone }
    }

    #[test]
    fn only_a_merge_keeps_others_from_its_blocks() {
        let (edges, freed) = (Edges::new(), Arc::new(Event::new().unwrap()));
        let try_enter = |range, alone| edges.try_enter(blocks(range, alone), &freed);
        let plain = try_enter(0..4096, false).unwrap();
        let other = try_enter(512..1024, false).unwrap();
        assert!(try_enter(1024..1536, true).is_none(), "a merge into what is being written");
        assert!(try_enter(4096..4608, true).is_some(), "the next block");
        drop((plain, other));
        let merge = try_enter(1024..1536, true).unwrap();
        assert!(try_enter(0..1024, false).is_some() && try_enter(1536..2048, true).is_some());
        for alone in [false, true] {
            assert!(try_enter(1024..1536, alone).is_none() && try_enter(0..4096, alone).is_none());
        }
        drop(merge);
        assert!(try_enter(0..4096, true).is_some());
        assert!(edges.is_free());
    }

    #[test]
    fn who_was_refused_hears_of_the_next_release_once() {
        let edges = Edges::new();
        let [first, second] = [(); 2].map(|()| Arc::new(Event::new().unwrap()));
        let readable = |event: &Event| sys::wait_readable(std::os::fd::AsFd::as_fd(event), std::time::Duration::ZERO);
        let hold = edges.try_enter(blocks(0..512, true), &first).unwrap();
        for event in [&first, &second, &second] {
            assert!(edges.try_enter(blocks(0..512, false), event).is_none());
        }
        assert!(!readable(&first) && !readable(&second));
        drop(hold);
        assert!(readable(&first) && readable(&second));
        first.clear();
        drop(edges.try_enter(blocks(0..512, true), &first));
        assert!(!readable(&first), "it was not refused again");
    }

    #[test]
    fn what_the_child_of_a_fork_drops_touches_neither_lock_nor_events_of_the_parent() {
        let freed = Arc::new(Event::new().unwrap());
        let generation = sys::fork_generation() + 1;
        let edges = Arc::new(Edges { table: Mutex::default(), generation });
        let hold = edges.try_enter(blocks(0..512, true), &freed).unwrap();
        assert!(edges.try_enter(blocks(0..512, true), &freed).is_none());
        let table = lock(&edges.table);
        drop(hold);
        assert_eq!(table.refused.len(), 1);
    }
}

#[cfg(all(test, loom))]
mod loom {
    use ::loom::thread;

    use super::*;

    /// Merges into one block, sleeping until it may.
    fn merge(edges: &Arc<Edges>, inside: &::loom::sync::atomic::AtomicU32) {
        use std::sync::atomic::Ordering::Relaxed;
        let freed = Arc::new(Event::new().unwrap());
        let hold = loop {
            freed.clear();
            if let Some(hold) = edges.try_enter(Blocks { range: 0..512, alone: true }, &freed) {
                break hold;
            }
            Event::wait(&[&freed]);
        };
        assert_eq!(inside.fetch_add(1, Relaxed), 0, "two merge into one block");
        inside.fetch_sub(1, Relaxed);
        drop(hold);
    }

    #[test]
    fn merges_of_one_block_take_turns_and_none_sleeps_for_ever() {
        let mut model = ::loom::model::Builder::new();
        // All interleavings of three threads are too many.
        model.preemption_bound = Some(2);
        model.check(|| {
            let edges = Edges::new();
            let inside = Arc::new(::loom::sync::atomic::AtomicU32::new(0));
            let others = [(); 2].map(|()| {
                let (edges, inside) = (Arc::clone(&edges), Arc::clone(&inside));
                thread::spawn(move || merge(&edges, &inside))
            });
            merge(&edges, &inside);
            others.into_iter().for_each(|other| other.join().unwrap());
            assert!(edges.is_free());
        });
    }
}
