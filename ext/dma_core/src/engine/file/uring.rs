//! The file engine that is a descriptor ring in the kernel: io_uring(7). Operations go into the submission ring, io_uring_enter(2) is
//! the doorbell, and completions come out of the other ring without a system call. An eventfd tells of them; a thread waits in
//! io_uring_enter(2) itself, which takes fewer steps to wake it.

mod arena;
mod ring;

use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};
use nix::errno::Errno;

use super::order::{Going, Order};
use super::threads::Threads;
use super::Handle;
use crate::engine::{Engine, Limits, Manner, Queue, Rejected, Stats, Watch, Watcher};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::sync::Event;
use crate::sys;
use crate::transfer::{Completion, Op, Path};

use arena::Arena;
pub use ring::available;
use ring::Ring;

/// What the completions of a cancellation and of a call to whoever watches are known by; all others have a tag.
const CANCELLATION: u64 = u64::MAX;
const CALL: u64 = u64::MAX - 1;
/// From how many bytes on the kernel's own threads copy what goes through the page cache, while this thread goes on.
const COPY: usize = 64 << 10;
/// File systems on disks and in memory (linux/magic.h) whose I/O is begun without waiting, as io_uring asks of them: ext4, XFS,
/// Btrfs, F2FS, bcachefs, tmpfs. Others are not to be trusted with that: what FUSE reads directly is waited for on the spot (6.18).
const PROMPT: [i64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x0102_1994];
/// The places of a handle's descriptors in the ring's table.
const BUFFERED: types::Fixed = types::Fixed(0);
const DIRECT: types::Fixed = types::Fixed(1);

/// An open file served by io_uring. Every queue has a ring of its own; those who share a channel share it.
#[derive(Debug)]
pub struct Uring {
    handle: Arc<Handle>,
    first: Start,
    /// What serves a queue for which there is no ring.
    spare: Option<Threads>,
}

impl Uring {
    /// Serves `handle`, which is no character device; [`available`] says whether it can. Rings take descriptors and lockable memory,
    /// of which there may be no more: a queue that gets none is served by threads if `or_threads`.
    pub fn new(handle: Arc<Handle>, or_threads: bool) -> Self {
        let is_prompt = || sys::file_system(handle.buffered.as_fd()).is_ok_and(|kind| PROMPT.contains(&kind));
        let first = if handle.file_type == libc::S_IFBLK || is_prompt() { Start::Here } else { Start::Elsewhere };
        let spare = or_threads.then(|| Threads::new(Arc::clone(&handle)));
        Uring { handle, first, spare }
    }

    fn queue_without_ring(&self, depth: u32, error: Error) -> Result<Box<dyn Queue>> {
        let Some(threads) = &self.spare else { return Err(error) };
        let _ = self.handle.stats.ring_error.set(error.to_string());
        threads.queue(0, depth)
    }
}

impl Engine for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn limits(&self) -> Limits {
        self.handle.limits()
    }

    fn stats(&self) -> Arc<Stats> {
        self.handle.stats()
    }

    /// Every queue is a channel of its own, whatever its number.
    fn queue(&self, _index: u16, depth: u32) -> Result<Box<dyn Queue>> {
        let event = Event::new().map_err(|errno| Error::os(errno, "cannot make a completion event"))?;
        let files = [Some(self.handle.buffered.as_fd()), self.handle.direct.as_ref().map(AsFd::as_fd)];
        let ring = match Ring::new(depth, &event, files) {
            Ok(ring) => Arc::new(ring),
            Err(error) => return self.queue_without_ring(depth, error),
        };
        let event = Arc::new(event);
        Ok(Box::new(RingQueue {
            order: Order::new(Arc::clone(&self.handle), Arc::clone(&event)),
            arena: Arena::new(Arc::clone(&ring), self.handle.stats()),
            ring,
            event,
            first: self.first,
            slots: (0..depth).map(|_| None).collect(),
            ended: Vec::new(),
            watcher: Watcher::default(),
            handle: Arc::clone(&self.handle),
        }))
    }
}

#[derive(Debug)]
struct RingQueue {
    handle: Arc<Handle>,
    order: Order,
    ring: Arc<Ring>,
    arena: Arc<Arena>,
    /// How an operation is tried first.
    first: Start,
    /// By tag, what the kernel has.
    slots: Vec<Option<Flight>>,
    /// What ended without the kernel.
    ended: Vec<Completion>,
    event: Arc<Event>,
    watcher: Watcher,
}

#[derive(Debug)]
struct Flight {
    going: Going,
    cancelled: bool,
}

/// How an operation is put into the ring, beside what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// On this thread, as far as that does not have to wait.
    Here,
    /// On one of the kernel's.
    Elsewhere,
}

impl RingQueue {
    fn start(&mut self, going: Going, start: Start) {
        let entry = self.entry(&going, start);
        let tag = going.tag;
        self.slots[tag as usize] = Some(Flight { going, cancelled: false });
        self.put(&entry.user_data(tag.into()));
    }

    fn put(&mut self, entry: &squeue::Entry) {
        // SAFETY: nobody else uses this side of the ring, and slot and handle keep memory and files until the completion.
        unsafe { self.ring.put(entry) };
    }

    /// Hands over to the kernel whatever is in the submission ring; or has somebody come back for it: who waits in the ring does so
    /// when that wait has taken its time.
    fn submit(&mut self) {
        // SAFETY: nobody else uses this side of the ring.
        if !unsafe { self.ring.submit() } {
            self.event.signal();
        }
    }

    fn entry(&self, going: &Going, start: Start) -> squeue::Entry {
        let file = if going.path == Path::Direct { DIRECT } else { BUFFERED };
        let entry = match &going.op {
            Op::Read { offset, span } => {
                let (at, len) = (span.address(), length(span.len()));
                match self.registered(span) {
                    Some(part) => opcode::ReadFixed::new(file, at, len, part).offset(*offset).build(),
                    None => opcode::Read::new(file, at, len).offset(*offset).build(),
                }
            }
            Op::Write { offset, span } => {
                let (at, len) = (span.address().cast_const(), length(span.len()));
                match self.registered(span) {
                    Some(part) => opcode::WriteFixed::new(file, at, len, part).offset(*offset).build(),
                    None => opcode::Write::new(file, at, len).offset(*offset).build(),
                }
            }
            Op::Flush { data_only } => {
                let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
                opcode::Fsync::new(file).flags(flags).build()
            }
            // The channel asks the limits first.
            Op::Copy { .. } | Op::List { .. } => opcode::Nop::new().build(),
        };
        let copies = going.path == Path::Buffered && going.op.span().is_some_and(|span| span.len() >= COPY);
        match start == Start::Elsewhere || copies {
            true => entry.flags(squeue::Flags::ASYNC),
            false => entry,
        }
    }

    /// The part of the registered memory that a span lies in.
    fn registered(&self, span: &Span) -> Option<u16> {
        let part = self.arena.find(span)?;
        self.handle.stats.fixed_requests.fetch_add(1, Relaxed);
        Some(part)
    }

    /// Takes in one completion of the kernel's.
    fn complete(&mut self, tag: u32, result: i32) {
        let Some(Flight { going, cancelled }) = self.slots[tag as usize].take() else { return };
        let result = if result < 0 { Err(Errno::from_raw(-result)) } else { Ok(result as usize) };
        match result {
            Err(Errno::ECANCELED | Errno::EINTR) if cancelled => self.ended.push(Completion::aborted(tag)),
            // The kernel gives up what waits for a thread that ends, whoever's it is; or what it could not do without waiting.
            Err(Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN) => self.start(going, Start::Elsewhere),
            Err(errno) if self.handle.may_fall_back(&going.op, going.path, errno) => self.go(going.by(Path::Buffered)),
            result => self.ended.push(self.handle.end(tag, &going.op, going.path, result)),
        }
    }

    /// Begins an operation, unless it has to wait for others.
    fn go(&mut self, going: Going) {
        match self.order.admit(going) {
            Some(going) => self.start(going, self.first),
            // Its turn is told by the event, not by the ring.
            None => self.rouse(),
        }
    }

    /// Wakes whoever waits in the ring: it completes at once.
    fn call(&mut self) {
        self.put(&opcode::Nop::new().build().user_data(CALL));
        self.submit();
    }
}

impl Queue for RingQueue {
    fn push(&mut self, tag: u32, op: Op, manner: Manner) -> Result<(), Rejected> {
        let path = self.handle.path(&op, manner.cache);
        self.go(Going::new(tag, op, path));
        Ok(())
    }

    fn kick(&mut self) {
        self.submit();
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        for going in self.order.released() {
            self.start(going, self.first);
        }
        let mut called = false;
        // SAFETY: nobody else uses this side of the ring.
        while let Some(completion) = unsafe { self.ring.next() } {
            match completion.user_data() {
                CANCELLATION => {}
                CALL => called = true,
                tag => self.complete(tag as u32, completion.result()),
            }
        }
        if called && self.watcher.call_again() {
            self.call();
        }
        self.submit();
        out.append(&mut self.ended);
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn acknowledge(&mut self) {
        self.event.clear();
    }

    /// What the disk has cannot be called back.
    fn stop(&mut self) -> bool {
        false
    }

    fn cancel(&mut self, tag: u32) {
        if let Some(going) = self.order.remove(tag) {
            drop(going);
            self.ended.push(Completion::aborted(tag));
            self.event.signal();
        } else if let Some(flight) = self.slots[tag as usize].as_mut().filter(|flight| !flight.cancelled) {
            flight.cancelled = true;
            self.put(&opcode::AsyncCancel::new(tag.into()).build().user_data(CANCELLATION));
            self.submit();
        }
    }

    fn watch(&mut self) -> Option<Arc<dyn Watch>> {
        // What waits for others, or for the kernel to have memory, is told of by the event.
        // SAFETY: nobody else uses this side of the ring.
        if !self.order.is_empty() || !unsafe { self.ring.is_submitted() } {
            return None;
        }
        self.watcher.lie_down();
        Some(Arc::clone(&self.ring) as Arc<dyn Watch>)
    }

    fn rouse(&mut self) {
        if self.watcher.call() {
            self.call();
        }
    }

    fn up(&mut self) {
        self.watcher.get_up();
    }
}

impl Drop for RingQueue {
    /// Closing a ring does not wait for its operations: their memory must not become anything else.
    fn drop(&mut self) {
        if self.slots.iter().all(Option::is_none) {
            self.ring.let_go();
        }
        self.slots.drain(..).flatten().for_each(mem::forget);
    }
}

fn length(len: usize) -> u32 {
    len.min(sys::MAX_RW) as u32
}
