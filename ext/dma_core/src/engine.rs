//! What carries operations out: the contract between [`crate::channel`] and the engines behind it.
//!
//! An engine is a descriptor ring with a doorbell, whether a thread, io_uring or a chip serves it. Operations own the memory
//! they use until their completion has been reaped, so nobody can free it under them.

pub mod file;

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use nix::errno::Errno;

use crate::memory::Span;

/// One operation. The device address of a file is the offset in it.
#[derive(Debug)]
pub enum Op {
    /// From the device to memory.
    Read {
        /// Device address of the first byte.
        offset: u64,
        /// Where the bytes go.
        span: Span,
    },
    /// From memory to the device.
    Write {
        /// Device address of the first byte.
        offset: u64,
        /// Where the bytes come from.
        span: Span,
    },
    /// What was written becomes durable.
    Flush {
        /// Leave metadata that is not needed to read the data back (fdatasync(2)).
        data_only: bool,
    },
}

/// How an operation was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Past the page cache: the device moved the bytes to or from our memory.
    Direct,
    /// Through the kernel's page cache.
    Buffered,
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// The tag it was pushed with.
    pub tag: u32,
    /// Bytes moved, or why none were. ECANCELED: it was cancelled before it began.
    pub result: Result<usize, Errno>,
    /// A read that ended short because nothing is there to read.
    pub eof: bool,
    /// How it was carried out.
    pub path: Path,
}

/// What an engine needs of an operation to carry it out directly.
///
/// The channel brings reads into this shape with bounce buffers. Of a write, the partial granules at its edges stay as they are:
/// the engine must write them without touching their neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Direct operations start at a multiple of this device address and have a multiple of this length, in bytes; 1: any.
    pub granule: u64,
    /// Direct operations use memory at a multiple of this address; 1: any.
    pub memory: usize,
}

/// What an engine did, in running totals.
#[derive(Debug, Default)]
pub struct Stats {
    /// Operations that went past the page cache.
    pub direct_requests: AtomicU64,
    /// Bytes these moved.
    pub direct_bytes: AtomicU64,
    /// Operations that went through the page cache.
    pub buffered_requests: AtomicU64,
    /// Bytes these moved.
    pub buffered_bytes: AtomicU64,
    /// Bytes copied through a bounce buffer, because memory or offset was not aligned.
    pub bounced_bytes: AtomicU64,
    /// Times that direct I/O was wanted and page cache I/O done.
    pub fallbacks: AtomicU64,
}

impl Stats {
    /// Counts one operation and the bytes it moved.
    pub fn count(&self, path: Path, bytes: usize) {
        let (requests, total) = match path {
            Path::Direct => (&self.direct_requests, &self.direct_bytes),
            Path::Buffered => (&self.buffered_requests, &self.buffered_bytes),
        };
        requests.fetch_add(1, Relaxed);
        total.fetch_add(bytes as u64, Relaxed);
    }
}

/// An engine: what it needs, what it did, and queues to it.
pub trait Engine: Send + Sync + Debug {
    /// What it needs of an operation.
    fn limits(&self) -> Limits;
    /// What it did so far.
    fn stats(&self) -> Arc<Stats>;
    /// A queue for one user, with its own completion event.
    fn queue(&self) -> Result<Box<dyn Queue>, Errno>;
}

/// One user's way to an engine: operations go in by tag, completions come out in any order.
pub trait Queue: Send + Debug {
    /// Adds an operation. The engine may begin it at once, and must after [`Queue::kick`].
    fn push(&mut self, tag: u32, op: Op);
    /// The doorbell: whatever was pushed begins.
    fn kick(&mut self);
    /// Moves completions to `out`; none is a valid number.
    fn reap(&mut self, out: &mut Vec<Completion>);
    /// Readable while a completion waits to be reaped.
    fn event(&self) -> BorrowedFd<'_>;
    /// Asks that operations not begun yet be given up. Every operation still completes.
    fn cancel(&mut self);
}
