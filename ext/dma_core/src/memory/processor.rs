//! The CPU of a simulated machine, as far as memory shows it: what lies between the programs that use a [`Region`](super::Region) and
//! its bytes, which are what devices see.
//!
//! A write-back cache of whole lines, which follows what devices do to memory or does not; a store buffer and an invalidate queue, which
//! let stores and loads pass each other. Only memory that is mapped for a device goes this way, and only on a machine that was asked for
//! it: see [`Attachment`].
//!
//! Lines lie at multiples of [`LINE`], and are cut where their memory ends, so that no byte beside it is touched. All of it is under one
//! lock, inside of which no other is taken.

mod attachment;
mod cache;
mod ordering;
mod path;
mod places;
#[cfg(test)]
mod tests;

use std::sync::atomic::{fence, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use self::ordering::Store;
use self::path::Path;
use self::places::{Line, Places};
use crate::error::Result;
use crate::sys::PerProcess;
use crate::transfer::Access;

pub(super) use self::attachment::Attached;
pub use self::attachment::Attachment;
pub use self::cache::CacheStats;

/// Bytes of a line: those of x86 and of most ARM cores.
pub const LINE: usize = 64;

/// The addresses of the lines that a range touches.
pub fn lines_of(address: usize, len: usize) -> impl Iterator<Item = usize> {
    let first = if len == 0 { address } else { address & !(LINE - 1) };
    (first..address + len).step_by(LINE)
}

/// What a processor is made like.
#[derive(Debug, Clone, Copy)]
pub struct ProcessorOptions {
    /// The cache follows what devices do to memory.
    pub coherent: bool,
    /// Lines of the cache; none: there is no model of it, which makes no difference where it is coherent.
    pub lines: Option<usize>,
    /// What devices write goes into the cache, instead of making its lines invalid.
    pub injection: bool,
    /// Cycles after which a store is visible, and what a device wrote is seen, without a barrier; none: at once.
    pub delay: Option<u64>,
    /// Cycles that a miss takes.
    pub miss: u64,
    /// Decides which line leaves a full cache.
    pub seed: u64,
}

/// What software has the cache do to lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Dirty ones are written to memory, and none stays.
    Flush,
    /// None stays; what was dirty is lost.
    Invalidate,
    /// Dirty ones are written to memory; all stay, clean.
    WriteBack,
    /// The same, but those that memory agrees with are not written.
    Clean,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Processor {
    options: ProcessorOptions,
    state: Mutex<State>,
    /// The machine's time, in cycles.
    clock: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    places: Places,
    path: Path,
}

fn weak_ones() -> MutexGuard<'static, Vec<Weak<Processor>>> {
    static WEAK: PerProcess<Mutex<Vec<Weak<Processor>>>> = PerProcess::new();
    // Nothing that panics runs under the lock.
    WEAK.get(|_| Mutex::default()).lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was stored before is visible to devices before what is stored afterwards, of this process and of every simulated machine.
pub fn write_barrier() {
    fence(SeqCst);
    each_weak(Processor::write_barrier);
}

/// What is loaded afterwards is at least as new as what was loaded before, of this process and of every simulated machine.
pub fn read_barrier() {
    fence(SeqCst);
    each_weak(Processor::read_barrier);
}

fn each_weak(work: impl Fn(&Processor)) {
    // The last one to let go of a processor may do so here, without the lock.
    let found: Vec<_> = weak_ones().iter().filter_map(Weak::upgrade).collect();
    found.iter().for_each(|processor| work(processor));
}

impl Processor {
    /// One whose cache is empty, of a machine with this clock.
    pub fn new(options: ProcessorOptions, clock: Arc<AtomicU64>) -> Arc<Processor> {
        let state = Mutex::new(State { places: Places::default(), path: Path::new(&options) });
        let processor = Arc::new(Processor { options, state, clock });
        if options.delay.is_some() {
            let mut weak = weak_ones();
            weak.retain(|other| other.strong_count() > 0);
            weak.push(Arc::downgrade(&processor));
        }
        processor
    }

    /// What its cache did; none where there is no model of it.
    pub fn stats(&self) -> Option<CacheStats> {
        self.state().path.cache.as_ref().map(|cache| cache.stats)
    }

    /// Whether `len` bytes at `address` can be read and written past it, for nothing of them is ever in here.
    pub(super) fn passes(&self, address: usize, len: usize) -> bool {
        let cached = |piece: places::Piece| piece.line.is_some() && piece.cached && self.options.lines.is_some();
        self.options.delay.is_none() && !self.state().places.pieces(address, len.max(1)).any(cached)
    }

    /// Copies `len` bytes, as the CPU sees them, to `to`.
    ///
    /// # Safety
    /// `address` must be valid for reading `len` bytes, and `to` for writing them.
    pub(super) unsafe fn read(&self, address: usize, mut to: *mut u8, len: usize) {
        let State { places, path } = &mut *self.state();
        path.expire(self.now());
        for piece in places.pieces(address, len) {
            // SAFETY: the pieces are those of the range; that of a line lies in it.
            unsafe {
                match piece.line {
                    None => to.copy_from(piece.at as *const u8, piece.len),
                    Some(line) => {
                        let bytes = path.load(line, piece.cached);
                        to.copy_from(bytes.as_ptr().add(piece.at - line.address), piece.len);
                    }
                }
                to = to.add(piece.len);
            }
        }
    }

    /// Stores `len` bytes, a piece at a time: `source` fills it, and is told how many bytes came before.
    ///
    /// # Safety
    /// `address` must be valid for writing `len` bytes.
    pub(super) unsafe fn write(&self, address: usize, len: usize, mut source: impl FnMut(&mut [u8], usize)) {
        let State { places, path } = &mut *self.state();
        let now = self.now();
        path.expire(now);
        for piece in places.pieces(address, len) {
            let mut bytes = [0; LINE];
            let skip = piece.at - address;
            match piece.line {
                // SAFETY: the piece is of the range, and up to a line of it at a time is copied.
                None => (0..piece.len).step_by(LINE).for_each(|done| unsafe {
                    let part = &mut bytes[..LINE.min(piece.len - done)];
                    source(part, skip + done);
                    ((piece.at + done) as *mut u8).copy_from(part.as_ptr(), part.len());
                }),
                Some(line) => {
                    let low = piece.at - line.address;
                    source(&mut bytes[low..low + piece.len], skip);
                    let mask = (u64::MAX >> (LINE - piece.len)) << low;
                    path.store(Store { line, cached: piece.cached, bytes, mask, since: now });
                }
            }
        }
    }

    /// Has a device do something to `len` bytes at `address`, in memory.
    pub fn device<T>(&self, access: Access, address: usize, len: usize, work: impl FnOnce() -> T) -> T {
        let State { places, path } = &mut *self.state();
        let now = self.now();
        path.expire(now);
        let lines = || places.pieces(address, len).filter_map(|piece| Some((piece.line?, piece.cached)));
        if access != Access::Write {
            lines().for_each(|(line, _)| path.before_read(line));
        }
        if access != Access::Read {
            lines().for_each(|(line, _)| path.before_write(line, now));
        }
        let result = work();
        if access != Access::Read {
            lines().for_each(|(line, cached)| path.after_write(line, cached));
        }
        result
    }

    /// Has the cache do something to all lines of a range, once both barriers have passed.
    pub fn operate(&self, operation: Operation, address: usize, len: usize) {
        let State { places, path } = &mut *self.state();
        path.settle();
        if let Some(cache) = &mut path.cache {
            places.lines(address, len).for_each(|line| cache.operate(operation, line));
        }
    }

    /// Hands a range over to a device that does this to it, or takes it over from it. A coherent cache has nothing to do.
    pub fn sync(&self, address: usize, len: usize, access: Access, for_device: bool) {
        let operation = match (access, for_device) {
            (Access::Read | Access::Both, true) => Operation::WriteBack,
            (Access::Write, true) | (Access::Write | Access::Both, false) => Operation::Invalidate,
            (Access::Read, false) => return self.barrier(),
        };
        match self.options.coherent {
            true => self.barrier(),
            false => self.operate(operation, address, len),
        }
    }

    /// Address, validity and dirtiness of each line of a range.
    pub fn lines(&self, address: usize, len: usize) -> Vec<(usize, bool, bool)> {
        let State { places, path } = &mut *self.state();
        let state = |line: Line| path.cache.as_ref().and_then(|cache| cache.state(line));
        let lines = places.pieces(address, len).flat_map(|piece| match piece.line {
            Some(line) => vec![(line.address, state(line).is_some(), state(line) == Some(true))],
            None => lines_of(piece.at, piece.len).map(|at| (at, false, false)).collect(),
        });
        lines.collect()
    }

    /// See [`write_barrier`].
    pub fn write_barrier(&self) {
        self.state().path.drain();
    }

    /// See [`read_barrier`].
    pub fn read_barrier(&self) {
        self.state().path.look();
    }

    /// Both.
    pub fn barrier(&self) {
        self.state().path.settle();
    }

    /// Refuses memory that overlaps a place and is none.
    fn check(&self, place: (usize, usize)) -> Result<()> {
        self.state().places.check(place)
    }

    /// From now on `place` goes this way. Of `area`, which lies in it, nothing is cached if it is `uncached`.
    fn attach(&self, place: (usize, usize), area: (usize, usize), uncached: bool) -> Result<()> {
        let State { places, path } = &mut *self.state();
        places.check(place)?;
        if uncached {
            path.settle();
            if let Some(cache) = &mut path.cache {
                places.lines(area.0, area.1).for_each(|line| cache.operate(Operation::Flush, line));
            }
        }
        let held = places.add(place);
        held.attached += 1;
        held.uncached.extend(uncached.then_some(area));
        Ok(())
    }

    /// Undoes one [`Processor::attach`]. With the last one, all goes to memory.
    fn detach(&self, place: (usize, usize), area: (usize, usize), uncached: bool) {
        let State { places, path } = &mut *self.state();
        let Some(held) = places.get(place.0) else { return };
        path.settle();
        if let Some(index) = held.uncached.iter().position(|other| uncached && *other == area) {
            held.uncached.swap_remove(index);
        }
        held.attached -= 1;
        if held.attached == 0 {
            places.remove(place.0);
            if let Some(cache) = &mut path.cache {
                cache.leave(place);
            }
        }
    }

    fn now(&self) -> u64 {
        self.clock.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
