//! The descriptor ring that software and a device share: software's side of it, and what a device does to one descriptor.
//!
//! Software writes descriptors at the tail and tells the [`Doorbell`]; the device carries them out in any order and writes a
//! status back into each; software takes them off at the head, in order. One slot stays free, so that equal head and tail
//! mean empty.

use std::fmt::Debug;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::memory::{Region, Span};
use crate::sync;
use crate::transfer::{flags, Descriptor, Status};

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

/// How a side hands over what it wrote before. The loom tests' stand-in for [`Memory`] uses the same two orderings.
const HAND_OVER: Ordering = Release;
/// How the other side takes it.
const TAKE: Ordering = Acquire;

/// Descriptors in memory that software and device share.
///
/// # Panics
/// Every method does, where `index` is not below [`Slots::count`].
pub trait Slots: Send + Debug {
    /// How many there are.
    fn count(&self) -> u32;

    /// Writes all fields. The device sees them once it sees the tail that a [`Doorbell`] was told afterwards.
    fn put(&self, index: u32, descriptor: &Descriptor);

    /// Reads all fields, the status first: what the device wrote before it is seen, too.
    fn get(&self, index: u32) -> Descriptor;

    /// The status alone; what the device wrote before it is seen, too.
    fn status(&self, index: u32) -> u32;

    /// Writes the status as a device does, after all that goes with it.
    fn set_status(&self, index: u32, code: u32);

    /// Adds control flags in one step, because the device may be fetching the descriptor.
    fn add_flags(&self, index: u32, flags: u32);
}

/// Descriptors in a region, one after the other. While this lives the region is in flight, and its memory stays.
///
/// The child of a fork must not use it: see [`Region::pages`] and [`crate::memory::Pages::check`].
#[derive(Debug)]
pub struct Memory {
    span: Span,
    count: u32,
}

impl Memory {
    /// `count` descriptors from `offset` of `region`, with whatever bytes lie there.
    ///
    /// # Errors
    /// [`Error::Argument`] where they do not fit; [`Error::Alignment`] where the first is not at a multiple of 8;
    /// [`Error::Closed`] in the child of a fork.
    pub fn new(region: &Arc<Region>, offset: usize, count: u32) -> Result<Memory> {
        let len = (count as usize).saturating_mul(Descriptor::SIZE);
        let address = region.range(offset, len)?;
        if address as usize % align_of::<Descriptor>() != 0 {
            return Err(Error::Alignment(format!(
                "descriptors at offset {offset} have address {address:p}, which is no multiple of {}",
                align_of::<Descriptor>()
            )));
        }
        Ok(Memory { span: Span::new(region, offset, len)?, count })
    }

    /// The memory they lie in.
    pub fn span(&self) -> &Span {
        &self.span
    }

    fn at(&self, index: u32) -> *mut u8 {
        assert!(index < self.count, "slot {index} of {}", self.count);
        // SAFETY: the span has `count` descriptors.
        unsafe { self.span.address().add(index as usize * Descriptor::SIZE) }
    }
}

impl Slots for Memory {
    fn count(&self) -> u32 {
        self.count
    }

    fn put(&self, index: u32, descriptor: &Descriptor) {
        let at = self.at(index);
        let to: *mut Descriptor = at.cast();
        // SAFETY: `at` is a whole, aligned descriptor of memory that the span keeps.
        unsafe {
            (&raw mut (*to).source).write_volatile(descriptor.source);
            (&raw mut (*to).destination).write_volatile(descriptor.destination);
            (&raw mut (*to).length).write_volatile(descriptor.length);
            (&raw mut (*to).next).write_volatile(descriptor.next);
            field(at, Descriptor::FLAGS).store(descriptor.flags, Relaxed);
            field(at, Descriptor::STATUS).store(descriptor.status, Relaxed);
        }
    }

    fn get(&self, index: u32) -> Descriptor {
        // SAFETY: `at` is a whole, aligned descriptor of memory that the span keeps.
        unsafe { fetch(self.at(index)) }
    }

    fn status(&self, index: u32) -> u32 {
        // SAFETY: `at` is a whole, aligned descriptor of memory that the span keeps.
        unsafe { field(self.at(index), Descriptor::STATUS) }.load(TAKE)
    }

    fn set_status(&self, index: u32, code: u32) {
        // SAFETY: `at` is a whole, aligned descriptor of memory that the span keeps.
        unsafe { field(self.at(index), Descriptor::STATUS) }.store(code, HAND_OVER);
    }

    fn add_flags(&self, index: u32, flags: u32) {
        // SAFETY: `at` is a whole, aligned descriptor of memory that the span keeps.
        unsafe { field(self.at(index), Descriptor::FLAGS) }.fetch_or(flags, Relaxed);
    }
}

/// Reads the descriptor at `at`, the status first. A device does so once the [`Doorbell`]'s tail has passed it.
///
/// # Safety
/// `at` must be a multiple of 8 and valid for reading [`Descriptor::SIZE`] bytes, to which no one writes meanwhile but to flags
/// and status, through [`Slots`] or [`write_back`].
pub unsafe fn fetch(at: *const u8) -> Descriptor {
    let from: *const Descriptor = at.cast();
    // SAFETY: the caller vouches for the bytes and their alignment.
    unsafe {
        Descriptor {
            status: field(at.cast_mut(), Descriptor::STATUS).load(TAKE),
            source: (&raw const (*from).source).read_volatile(),
            destination: (&raw const (*from).destination).read_volatile(),
            length: (&raw const (*from).length).read_volatile(),
            flags: field(at.cast_mut(), Descriptor::FLAGS).load(Relaxed),
            next: (&raw const (*from).next).read_volatile(),
        }
    }
}

/// Ends a descriptor whose status field is at `at`: software that sees `status` sees all that was written before. A device does
/// so last, because software may use the slot anew from then on.
///
/// # Safety
/// `at` must be a multiple of 4 and valid for reading and writing 4 bytes, which others use only through this module.
pub unsafe fn write_back(at: *mut u8, status: Status) {
    // SAFETY: the caller vouches for the bytes and their alignment.
    unsafe { AtomicU32::from_ptr(at.cast()) }.store(status.code(), HAND_OVER);
}

/// The 32-bit field `offset` bytes into the descriptor at `at`.
///
/// # Safety
/// As for [`fetch`], and valid for writing; only loads where the bytes may not be written. The result must not outlive the memory.
unsafe fn field<'a>(at: *mut u8, offset: usize) -> &'a AtomicU32 {
    // SAFETY: the caller vouches for the descriptor; flags and status are at multiples of 4 in it.
    unsafe { AtomicU32::from_ptr(at.add(offset).cast()) }
}

/// Software's side of a descriptor ring. A ring of `n` slots holds `n - 1` descriptors.
#[derive(Debug)]
pub struct Ring<S = Memory> {
    slots: S,
    /// The oldest descriptor that was not taken off.
    head: u32,
    /// Where the next one goes.
    tail: u32,
}

impl<S: Slots> Ring<S> {
    /// An empty ring of all `slots`, whatever is in them.
    ///
    /// # Errors
    /// [`Error::Argument`] for fewer than 2 slots, which would hold nothing.
    pub fn new(slots: S) -> Result<Ring<S>> {
        match slots.count() {
            count @ (0 | 1) => Err(Error::Argument(format!(
                "a descriptor ring of {count} holds nothing, because one slot stays free; give it at least 2"
            ))),
            _ => Ok(Ring { slots, head: 0, tail: 0 }),
        }
    }

    /// How many slots there are.
    pub fn size(&self) -> u32 {
        self.slots.count()
    }

    /// How many descriptors it can hold: all slots but one.
    pub fn capacity(&self) -> u32 {
        self.size() - 1
    }

    /// How many descriptors it holds: added and not taken off, completed or not.
    pub fn pending(&self) -> u32 {
        self.distance(self.tail)
    }

    /// How many more fit.
    pub fn room(&self) -> u32 {
        self.capacity() - self.pending()
    }

    /// Index of the oldest descriptor that was not taken off; equal to [`Ring::tail`] where the ring is empty.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Index one past the newest descriptor: what to tell the [`Doorbell`].
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// Puts a descriptor at the tail, pending whatever its status says, and returns its index. The device does not look at it
    /// before the [`Doorbell`] is told.
    ///
    /// # Errors
    /// [`Error::RingFull`], and no slot has changed.
    pub fn add(&mut self, descriptor: Descriptor) -> Result<u32> {
        if self.room() == 0 {
            let (size, capacity) = (self.size(), self.capacity());
            return Err(Error::RingFull(format!(
                "Descriptor ring full: 1 more does not fit, {capacity} of {capacity} are taken (a ring of {size} holds \
                 {capacity}); reap completions first, or use a larger ring"
            )));
        }
        let index = self.tail;
        self.slots.put(index, &Descriptor { status: Status::Pending.code(), ..descriptor });
        self.tail = self.after(index);
        Ok(index)
    }

    /// Takes the descriptor at the head off if it has ended. One that ended before an older one waits for that.
    pub fn pop(&mut self) -> Option<(u32, Descriptor)> {
        let index = self.head;
        if index == self.tail || self.slots.status(index) == Status::Pending.code() {
            return None;
        }
        self.head = self.after(index);
        Some((index, self.slots.get(index)))
    }

    /// Ends a descriptor as the device would: for software that stands in for one.
    ///
    /// # Errors
    /// [`Error::Argument`] where `index` has no descriptor that is pending, or `status` is no end.
    pub fn complete(&self, index: u32, status: Status) -> Result<()> {
        if status == Status::Pending {
            return Err(Error::Argument(format!("slot {index} cannot be completed as pending; give another status")));
        }
        if !self.holds(index) || self.slots.status(index) != Status::Pending.code() {
            let (head, tail) = (self.head, self.tail);
            return Err(Error::Argument(format!(
                "slot {index} has no pending descriptor to complete; the head is {head}, the tail {tail}"
            )));
        }
        self.slots.set_status(index, status.code());
        Ok(())
    }

    /// Asks the device to skip a descriptor, and to tell by an interrupt when it has. It may be too late; the status will tell.
    /// Nothing happens where `index` has none.
    pub fn cancel(&self, index: u32) {
        if self.holds(index) {
            self.slots.add_flags(index, flags::CANCEL | flags::INTERRUPT);
        }
    }

    /// What is in a slot, whether or not the ring holds it.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is no such slot.
    pub fn slot(&self, index: u32) -> Result<Descriptor> {
        match self.size() {
            size if index < size => Ok(self.slots.get(index)),
            size => Err(Error::Argument(format!("slot {index} is outside a descriptor ring of {size}"))),
        }
    }

    /// The memory it is in.
    pub fn slots(&self) -> &S {
        &self.slots
    }

    fn holds(&self, index: u32) -> bool {
        index < self.size() && self.distance(index) < self.pending()
    }

    /// How many slots `index` is after the head.
    fn distance(&self, index: u32) -> u32 {
        match index.checked_sub(self.head) {
            Some(slots) => slots,
            None => self.size() - self.head + index,
        }
    }

    fn after(&self, index: u32) -> u32 {
        match index + 1 {
            next if next == self.size() => 0,
            next => next,
        }
    }
}

/// The register by which software tells the device its tail: descriptors up to there are ready to be fetched.
#[derive(Debug)]
pub struct Doorbell(sync::AtomicU32);

impl Default for Doorbell {
    fn default() -> Doorbell {
        Doorbell::new()
    }
}

impl Doorbell {
    /// With tail 0, as of a new ring.
    pub fn new() -> Doorbell {
        Doorbell(sync::AtomicU32::new(0))
    }

    /// Tells the device [`Ring::tail`]. All that software wrote before, the device sees once it sees this.
    pub fn ring(&self, tail: u32) {
        self.0.store(tail, HAND_OVER);
    }

    /// The tail that software told last, for the device.
    pub fn tail(&self) -> u32 {
        self.0.load(TAKE)
    }
}
