//! A device that takes nothing but whole blocks, and ends each operation when and how the test says.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use crate::channel::Channel;
use crate::engine::edges::Edges;
use crate::engine::{Engine, Limits, Manner, Queue, Rejected, Stats};
use crate::error::Result;
use crate::sys;
use crate::transfer::{Completion, Op, Status};

pub const SIZE: usize = 4096;

#[derive(Debug)]
pub struct Disk {
    granule: usize,
    pub edges: Arc<Edges>,
    pub stats: Arc<Stats>,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug)]
pub struct Inside {
    pub bytes: Vec<u8>,
    pub lines: Vec<Line>,
    /// Operations end as they are pushed.
    pub quick: bool,
}

/// What a queue's operations are to the device.
#[derive(Debug)]
pub struct Line {
    pub pushed: Vec<(u32, Op)>,
    done: Vec<Completion>,
    pub cancelled: Vec<u32>,
    /// It takes no more.
    pub full: bool,
    event: Arc<EventFd>,
}

#[derive(Debug)]
struct DiskQueue {
    granule: usize,
    index: usize,
    inside: Arc<Mutex<Inside>>,
    event: Arc<EventFd>,
}

/// How an operation ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    Complete,
    /// Short, after this many bytes.
    Cut(usize),
    /// With an error, after this many bytes.
    Fail(usize),
    Abort,
}

impl Disk {
    pub fn new(granule: usize) -> Arc<Disk> {
        let bytes = (0..SIZE).map(initial).collect();
        let inside = Arc::new(Mutex::new(Inside { bytes, lines: Vec::new(), quick: false }));
        Arc::new(Disk { granule, edges: Edges::new(), stats: Arc::default(), inside })
    }

    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    /// The `nth` operation of a queue ends; false where there is none.
    pub fn end(&self, queue: usize, nth: usize, how: End) -> bool {
        let mut inside = self.inside();
        let Inside { bytes, lines, .. } = &mut *inside;
        lines[queue].end(bytes, nth, how)
    }

    /// What a queue has been given, as (writes, offset, length).
    pub fn pushed(&self, queue: usize) -> Vec<(bool, u64, usize)> {
        let shown = |(_, op): &(u32, Op)| match op {
            Op::Read { offset, span } => (false, *offset, span.len()),
            Op::Write { offset, span } => (true, *offset, span.len()),
            op => panic!("{op:?}"),
        };
        self.inside().lines[queue].pushed.iter().map(shown).collect()
    }

    pub fn channel(self: &Arc<Self>) -> Channel {
        let index = self.inside().lines.len() as u16;
        Channel::of_device(Arc::<Disk>::clone(self), index, 8).unwrap()
    }

    /// What it holds at first, but for bytes that were written.
    #[track_caller]
    pub fn assert_holds(&self, written: &[(usize, usize, u8)]) {
        let mut expected: Vec<u8> = (0..SIZE).map(initial).collect();
        written.iter().for_each(|(offset, len, byte)| expected[*offset..offset + len].fill(*byte));
        let found = &self.inside().bytes;
        assert_eq!((0..SIZE).find(|at| found[*at] != expected[*at]), None, "the first wrong byte");
    }
}

impl Line {
    pub fn end(&mut self, disk: &mut [u8], nth: usize, how: End) -> bool {
        if self.pushed.is_empty() {
            return false;
        }
        let (tag, op) = self.pushed.remove(nth % self.pushed.len());
        let (offset, span) = match &op {
            Op::Read { offset, span } | Op::Write { offset, span } => (*offset as usize, span),
            op => panic!("{op:?}"),
        };
        let (status, len) = match how {
            End::Complete => (Status::Complete, span.len()),
            End::Cut(len) => (Status::Complete, len),
            End::Fail(len) => (Status::Os(Errno::EREMOTEIO), len),
            End::Abort => (Status::Aborted, 0),
        };
        let (ours, theirs) = (span.address(), disk[offset..offset + len].as_mut_ptr());
        assert!(len <= span.len());
        let (from, to) = if let Op::Read { .. } = op { (theirs, ours) } else { (ours, theirs) };
        // SAFETY: span and disk have `len` bytes there.
        unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
        self.done.push(Completion { tag, status, bytes: len, eof: false });
        sys::signal(&self.event);
        true
    }
}

impl Engine for Disk {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn limits(&self) -> Limits {
        let granule = self.granule as u64;
        Limits { granule, memory: 4, max_len: 2 * granule, size: SIZE as u64, flushes: false, ..Limits::ANY }
    }

    fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    fn queue(&self, _index: u16, _depth: u32) -> Result<Box<dyn Queue>> {
        let event = Arc::new(sys::eventfd().unwrap());
        let (pushed, done, cancelled) = (Vec::new(), Vec::new(), Vec::new());
        let mut inside = self.inside();
        inside.lines.push(Line { pushed, done, cancelled, full: false, event: Arc::clone(&event) });
        let (granule, index) = (self.granule, inside.lines.len() - 1);
        Ok(Box::new(DiskQueue { granule, index, inside: Arc::clone(&self.inside), event }))
    }

    fn edges(&self) -> Option<&Arc<Edges>> {
        Some(&self.edges)
    }
}

impl Queue for DiskQueue {
    fn push(&mut self, tag: u32, op: Op, _manner: Manner) -> Result<(), Rejected> {
        let (offset, span) = match &op {
            Op::Read { offset, span } | Op::Write { offset, span } => (*offset as usize, span),
            op => panic!("{op:?}"),
        };
        assert!(offset % self.granule == 0 && span.len() % self.granule == 0, "not whole blocks: {op:?}");
        assert!(span.address() as usize % 4 == 0 && (1..=2 * self.granule).contains(&span.len()), "{op:?}");
        let mut inside = self.inside.lock().unwrap();
        let Inside { bytes, lines, quick } = &mut *inside;
        let line = &mut lines[self.index];
        if line.full {
            return Err(Rejected::Full(op));
        }
        line.pushed.push((tag, op));
        if *quick {
            line.end(bytes, 0, End::Complete);
        }
        Ok(())
    }

    fn kick(&mut self) {}

    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.inside.lock().unwrap().lines[self.index].done);
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn acknowledge(&mut self) {
        sys::clear(&self.event);
    }

    fn stop(&mut self) -> bool {
        false
    }

    fn cancel(&mut self, tag: u32) {
        self.inside.lock().unwrap().lines[self.index].cancelled.push(tag);
    }
}

/// What the disk holds at first.
pub fn initial(at: usize) -> u8 {
    128 + (at % 127) as u8
}
