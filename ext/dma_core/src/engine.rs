//! What carries operations out: the contract between [`crate::channel`] and the engines behind it.
//!
//! An engine is a descriptor ring with a doorbell, whether a thread, io_uring or a chip serves it. Operations own the memory
//! they use until their completion has been reaped, so nobody can free it under them.

pub mod edges;
pub mod file;
pub mod sim;
pub mod vfio;
mod watch;

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::{Access, Completion, Op, Path};

use edges::Edges;
pub use watch::Watch;
pub(crate) use watch::Watcher;

/// What an engine takes. The channel brings requests into this shape: it splits them, and where memory is not aligned it copies
/// through bounce buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations start at a multiple of this device address and have a multiple of this length, in bytes; 1: any.
    pub granule: u64,
    /// Operations use memory at a multiple of this address; 1: any.
    pub memory: usize,
    /// What is not aligned is refused. Otherwise it is carried out all the same, in a slower way: the channel reads whole granules,
    /// and brings memory where it is aligned. The partial granules at the edges of a write reach the engine as they are, and it has
    /// to leave their neighbours as they are; or the channel merges them, for an engine with [`Engine::edges`].
    pub strict: bool,
    /// The most bytes of one operation.
    pub max_len: u64,
    /// The same of those that may be longer where they are not bounced: writes, the next of which has to wait, and reads of what lies
    /// in the page cache.
    pub max_long: u64,
    /// No operation's memory crosses a multiple of this address; 0: any does.
    pub boundary: usize,
    /// The most elements of one scatter-gather request.
    pub max_segments: usize,
    /// Device addresses lie below this one.
    pub size: u64,
    /// Operations of one queue are carried out in the order they were pushed. Otherwise the channel keeps apart what would
    /// conflict.
    pub ordered: bool,
    /// Its device addresses need not tell places apart, as those of a stream: the channel has reads wait for each other, and writes
    /// too, wherever they go.
    pub serial: bool,
    /// It takes [`Op::Copy`] and [`Op::List`].
    pub copies: bool,
    /// The most bytes of one copy, which is never split: the parts could overlap.
    pub max_copy: u64,
    /// It takes [`Op::Flush`].
    pub flushes: bool,
}

impl Limits {
    /// Whatever alignment, up to the largest offset of a file, in any order.
    pub const ANY: Limits = Limits {
        granule: 1,
        memory: 1,
        strict: false,
        max_len: u64::MAX,
        max_long: 0,
        boundary: 0,
        max_segments: usize::MAX,
        size: i64::MAX as u64,
        ordered: false,
        serial: false,
        copies: false,
        max_copy: 0,
        flushes: true,
    };

    /// Refuses what does not lie in the device.
    pub fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.size;
        if offset.checked_add(len).is_some_and(|end| end <= size) {
            return Ok(());
        }
        Err(Error::Argument(match size == Limits::ANY.size {
            true => format!("{len} bytes at offset {offset} pass the largest offset, 2**63 - 1"),
            false => format!("{len} bytes at device address {offset:#x} are outside the device's {size} bytes"),
        }))
    }
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
    /// Reads that could have gone past the page cache, whose bytes were in it.
    pub cached_requests: AtomicU64,
    /// Operations on memory that the kernel had been told of beforehand, and holds in place.
    pub fixed_requests: AtomicU64,
    /// Why memory was not held in place though it was to be.
    pub registration_error: OnceLock<String>,
    /// Why threads serve a queue that io_uring was to serve.
    pub ring_error: OnceLock<String>,
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

/// Memory as a device sees it: valid until it is dropped.
pub trait Mapping: Send + Sync + Debug {
    /// The bus address and length of each piece, in the order of the memory.
    fn segments(&self) -> &[(u64, u64)];

    /// Has the CPU use the memory as `coherent` memory from now on, or through its cache, with [`Mapping::sync`] between turns. To most
    /// that is the same.
    ///
    /// # Errors
    /// [`Error::Busy`] where another simulated machine has it in its cache.
    fn attach(&self, _coherent: bool) -> Result<()> {
        Ok(())
    }

    /// Hands `len` bytes from `offset` over to the device, or takes them over from it. The caller checked the range. Where caches are
    /// coherent there is nothing to do.
    fn sync(&self, _offset: usize, _len: usize, _for_device: bool) {}
}

/// Memory whose bus address is its own.
#[derive(Debug)]
struct OwnAddress {
    segment: (u64, u64),
    /// Keeps the memory.
    _span: Span,
}

impl OwnAddress {
    fn of(span: Span) -> Result<OwnAddress> {
        if span.is_empty() {
            return Err(Error::Argument("a mapping needs at least one byte".into()));
        }
        Ok(OwnAddress { segment: (span.address() as u64, span.len() as u64), _span: span })
    }
}

impl Mapping for OwnAddress {
    fn segments(&self) -> &[(u64, u64)] {
        slice::from_ref(&self.segment)
    }
}

/// How memory is to be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// It needs no [`Mapping::sync`].
    pub coherent: bool,
    /// In one piece.
    pub contiguous: bool,
    /// It stays where it is as long as it is mapped.
    pub pinned: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { coherent: true, contiguous: false, pinned: true }
    }
}

/// Which of a device's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bank {
    /// A base address register of a PCI function; 0: the registers of a device that has but one bank.
    Bar(u8),
    /// The configuration space of a PCI function.
    Config,
}

/// Registers of a device, little-endian. An access is aligned to its width, and happens once, as written.
pub trait Registers: Send + Sync + Debug {
    /// Bytes of register space.
    fn size(&self) -> u64;
    /// Reads a register of `width` bytes: 1, 2, 4 or 8. The caller checked range and alignment.
    fn read(&self, offset: u64, width: u8) -> u64;
    /// Writes a register of `width` bytes: 1, 2, 4 or 8. The caller checked range and alignment.
    fn write(&self, offset: u64, width: u8, value: u64);
}

/// The clock of a machine that does nothing unless somebody lets it: who waits for it runs it.
pub trait ManualClock: Send + Sync + Debug {
    /// Nanoseconds of simulated time.
    fn now(&self) -> u64;
    /// Lets the machine take its next step, if it ends by the time `until`. False where nothing is left to do before then; the
    /// clock shows `until` in that case.
    fn step_until(&self, until: Option<u64>) -> bool;
}

/// An engine: what it takes, what it did, and queues to it.
pub trait Engine: Send + Sync + Debug {
    /// What kind of engine it is, in a word.
    fn name(&self) -> &'static str;

    /// What it takes.
    fn limits(&self) -> Limits;

    /// What channel `index` of it takes, where that is not the same for all.
    fn channel_limits(&self, _index: u16) -> Limits {
        self.limits()
    }

    /// What it did so far.
    fn stats(&self) -> Arc<Stats>;

    /// A queue with its own completion event, of up to `depth` operations, to channel `index` of the engine.
    ///
    /// # Errors
    /// [`Error::Busy`] where the channel has a queue and can have no second one; [`Error::Os`] where it cannot be made.
    fn queue(&self, index: u16, depth: u32) -> Result<Box<dyn Queue>>;

    /// Gives the engine bus addresses for the memory, until the mapping is dropped. An engine that reads and writes memory by its own
    /// address, as those of files do, keeps that.
    ///
    /// # Errors
    /// [`Error::Argument`] for no bytes; [`Error::Os`] (ENOSPC) where no addresses are left.
    fn map(&self, span: Span, _access: Access) -> Result<Arc<dyn Mapping>> {
        OwnAddress::of(span).map(|mapping| Arc::new(mapping) as _)
    }

    /// The same on terms, which are nothing to choose where one IOMMU maps all memory: it is coherent, pinned and in one piece.
    ///
    /// # Errors
    /// As [`Engine::map`]; [`Error::Argument`] for memory that is not to be pinned, where all is; [`Error::Os`] (ENOMEM) where there is
    /// no place for it in one piece.
    fn map_with(&self, span: Span, access: Access, terms: Terms) -> Result<Arc<dyn Mapping>> {
        if !terms.pinned {
            return Err(Error::Argument(
                "pin: false is for a simulated machine without an IOMMU; this device's memory stays where it is; leave pin: out".into(),
            ));
        }
        self.map(span, access)
    }

    /// Looks at an operation before it is taken, so that whoever submits it learns what is in the way: refuses a direction that the
    /// device has not, and makes memory ready that has to be.
    ///
    /// # Errors
    /// [`Error::Unsupported`], which says why there is none; [`Error::LockLimit`] and others as [`Engine::map`].
    fn prepare(&self, _op: &Op) -> Result<()> {
        Ok(())
    }

    /// Whether memory is pinned while it is mapped, so that nobody needs to lock it.
    fn pins(&self) -> bool {
        false
    }

    /// Its registers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an engine that has none; [`Error::Argument`] where there are none in this bank.
    fn registers(&self, _bank: Bank) -> Result<Arc<dyn Registers>> {
        Err(Error::Unsupported("a file has no registers".into()))
    }

    /// Brings the device back to where it was when it was opened. What is in flight ends.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a device that cannot be reset; [`Error::Os`] for one that does not come up again.
    fn reset(&self) -> Result<()> {
        Ok(())
    }

    /// What is in the way of channel `index`, and how it is taken away, where no longer wait would help.
    fn obstacle(&self, _index: u16) -> Option<String> {
        None
    }

    /// What keeps merges apart, one for the whole device, where it takes nothing but whole granules: the channel reads, changes and
    /// writes back the partial ones of a write. Such an engine is not ordered and takes no copies.
    fn edges(&self) -> Option<&Arc<Edges>> {
        None
    }

    /// Its clock, where it runs only when it is told to.
    fn clock(&self) -> Option<Arc<dyn ManualClock>> {
        None
    }
}

/// Where the bytes of a file are to be read from, by an engine that can go past the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// From the device.
    Past,
    /// From the page cache, which has them.
    Through,
    /// From the page cache if most of them are there, which the engine looks up for each operation.
    Ask,
}

/// How an operation is to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Where a file is read from.
    pub cache: Cache,
    /// Its completion makes the event readable.
    pub interrupt: bool,
    /// It goes on with what the one pushed before it began: where that failed, an engine that works in order does not attempt it.
    pub linked: bool,
}

/// Why an operation was not taken; it comes back.
#[derive(Debug)]
pub enum Rejected {
    /// No room before something was reaped.
    Full(Op),
    /// It cannot be taken at all.
    Failed(Op, Error),
}

/// One user's way to an engine: operations go in by tag, completions come out in any order.
pub trait Queue: Send + Debug {
    /// Adds an operation. The engine may begin it at once, and must after [`Queue::kick`].
    fn push(&mut self, tag: u32, op: Op, manner: Manner) -> Result<(), Rejected>;
    /// The doorbell: whatever was pushed begins.
    fn kick(&mut self);
    /// Moves completions to `out`; none is a valid number. The event may stay readable.
    fn reap(&mut self, out: &mut Vec<Completion>);
    /// Readable when there may be a completion with an interrupt to reap.
    fn event(&self) -> BorrowedFd<'_>;
    /// Makes the event unreadable. Whoever is going to wait for it reaps once more after this: an interrupt for what was
    /// completed before may not come any more.
    fn acknowledge(&mut self);
    /// How many interrupts have come, where that is known: who runs a machine by hand looks for completions when another has. `None`:
    /// after each step.
    fn interrupts(&self) -> Option<u64> {
        None
    }
    /// Whether an interrupt for what has completed is still to come, where that is known: it is held back, masked, or not handled yet.
    fn is_owed(&self) -> bool {
        false
    }
    /// Stops everything at once, where the engine can do that: it uses no memory of ours from now on, and completes nothing more.
    /// Otherwise false.
    fn stop(&mut self) -> bool;
    /// Asks that an operation be given up. It still completes, as [`crate::transfer::Status::Aborted`] or as it ends otherwise.
    fn cancel(&mut self, tag: u32);
    /// Where one thread at a time can wait, until [`Queue::up`] says that it does no more, if there is such a place now. A
    /// completion ends the wait that comes meanwhile, or is there when it begins. Who reaps one between this and the wait has to
    /// [`Queue::rouse`] whoever wants to know.
    fn watch(&mut self) -> Option<Arc<dyn Watch>> {
        None
    }
    /// Ends the wait of whoever watches, even one that is still to begin.
    fn rouse(&mut self) {}
    /// Nobody watches any more.
    fn up(&mut self) {}
}
