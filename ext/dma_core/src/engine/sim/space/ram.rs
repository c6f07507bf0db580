//! Physical memory of a fixed size: which of its frames are free, and the bytes of those that nobody has mapped.
//!
//! The lowest frames are a zone of their own, as the kernel's ZONE_DMA (Documentation/admin-guide/mm/concepts.rst): for descriptors, for
//! bounce buffers, and for devices that reach no others. Of the rest, others occupy a part. A frame that was freed is the next one to be
//! given out, as from the kernel's lists of each CPU: what a device does to an address that it was told once, it does to its next owner.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use super::{FIRST, PAGE};
use crate::error::{Error, Result};
use crate::memory::{Huge, Layout, Lock, Region};

/// The most bytes of the zone: what 24 bits reach.
const ZONE: u64 = 16 << 20;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Ram {
    /// All of it. Frames that are mapped are elsewhere, and have here what they had last; those that nobody writes take nothing.
    memory: Arc<Region>,
    frames: u64,
    /// The end of the zone, and its free frames.
    zone: u64,
    low: BTreeSet<u64>,
    freed: Freed,
    fragmentation: f64,
    seed: u64,
}

/// Frames that were used and are free, by when they were freed.
#[derive(Debug, Default)]
struct Freed {
    frames: BTreeMap<u64, u64>,
    times: HashMap<u64, u64>,
    time: u64,
}

impl Ram {
    /// `bytes` of it, of which others occupy a part, from 0 to 1, behind the zone.
    pub(super) fn new(bytes: u64, fragmentation: f64, seed: u64) -> Result<Ram> {
        let layout = Layout { huge: Huge::Never, ..Layout::new(bytes as usize) };
        let memory = Region::allocate(layout, Lock::Never).map_err(|error| match error {
            Error::Os { errno, context } => {
                Error::os(errno, format!("{context}, for ram: {bytes}; give the machine less"))
            }
            other => other,
        })?;
        let (frames, zone) = (bytes / PAGE, ZONE.min(bytes / 4) / PAGE);
        let low = (FIRST..zone).collect();
        Ok(Ram { memory, frames, zone, low, freed: Freed::default(), fragmentation, seed })
    }

    /// Its bytes, by address.
    pub(super) fn memory(&self) -> &Arc<Region> {
        &self.memory
    }

    /// How many frames there are.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// The frames for a device that reaches those below `limit`: all behind the zone, or, where it reaches none of these, in it.
    pub(super) fn area(&self, limit: u64) -> Range<u64> {
        if limit > self.zone {
            self.zone..limit.min(self.frames)
        } else {
            FIRST..limit
        }
    }

    /// Whether nobody but a mapping has the frame.
    pub(super) fn is_spare(&self, number: u64) -> bool {
        if number < self.zone {
            return self.low.contains(&number);
        }
        self.fragmentation == 0.0 || part(self.seed, number) >= self.fragmentation
    }

    /// The frame that was freed last, of those in `area`.
    pub(super) fn last_freed(&self, area: &Range<u64>) -> Option<u64> {
        self.freed.frames.values().rev().copied().find(|number| area.contains(number))
    }

    /// A frame is not free any more.
    pub(super) fn take(&mut self, number: u64) {
        self.low.remove(&number);
        if let Some(time) = self.freed.times.remove(&number) {
            self.freed.frames.remove(&time);
        }
    }

    /// It is free again.
    pub(super) fn give_back(&mut self, number: u64) {
        if number < self.zone {
            self.low.insert(number);
            return;
        }
        let Freed { frames, times, time } = &mut self.freed;
        *time += 1;
        frames.insert(*time, number);
        times.insert(number, *time);
    }

    /// Takes a frame of the zone to bounce through, below `limit`; none where these are all in use.
    pub(super) fn slot(&mut self, limit: u64) -> Option<u64> {
        let slot = self.low.first().copied().filter(|slot| *slot < limit)?;
        self.low.remove(&slot);
        Some(slot)
    }

    /// Bytes of the zone below `limit`, all and those that are free.
    pub(super) fn slots(&self, limit: u64) -> (u64, u64) {
        let end = limit.min(self.zone);
        ((end - FIRST) * PAGE, self.low.range(..end).count() as u64 * PAGE)
    }

    /// What is mapped no longer at `address` is there still.
    ///
    /// # Safety
    /// `len` bytes at `host` can be read.
    pub(super) unsafe fn keep(&self, address: u64, host: u64, len: u64) {
        // SAFETY: the caller vouches for `host`; mapped frames lie in this memory, whose pages nobody takes away.
        unsafe { ptr::copy_nonoverlapping(host as *const u8, self.at(address), len as usize) };
    }

    /// The place of an address in it.
    pub(super) fn at(&self, address: u64) -> *mut u8 {
        (self.memory.address() as u64 + address) as *mut u8
    }
}

/// A number in 0..1 for each frame, by the seed: SplitMix64's of that place (Steele, Lea and Flood, OOPSLA 2014).
fn part(seed: u64, number: u64) -> f64 {
    let place = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (place ^ place >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ mixed >> 31) >> 11) as f64 / (1u64 << 53) as f64
}
