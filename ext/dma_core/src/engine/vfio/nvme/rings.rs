//! A submission queue and its completion queue in memory (NVM Express Base Specification 2.0, 3.3.1 and 3.3.3).

use std::ptr;
use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;

use super::super::bar::Bar;
use super::super::space::Pinned;
use super::super::Function;
use crate::error::Result;
use crate::memory::{Huge, Layout, Lock, Region, Span};
use crate::transfer::Access;

/// A command: sixteen little-endian words.
pub(super) type Command = [u32; 16];
const COMMAND: usize = size_of::<Command>();
/// Bytes of a completion.
const COMPLETION: usize = 16;
/// Where the doorbells are in BAR 0.
pub(super) const DOORBELLS: u64 = 0x1000;

/// Memory that only driver and controller use, in whole pages of its own.
#[derive(Debug)]
pub(super) struct DmaMemory {
    // Unmapped before the memory is let go of.
    pinned: Arc<Pinned>,
    span: Span,
}

impl DmaMemory {
    pub(super) fn new(function: &Function, len: usize) -> Result<DmaMemory> {
        let layout = Layout { huge: Huge::Never, ..Layout::new(len) };
        let region = Region::allocate(layout, Lock::Never)?;
        let span = Span::new(&region, 0, region.capacity())?;
        let pinned = function.reach(&span, Access::Both)?;
        Ok(DmaMemory { pinned, span })
    }

    /// The bus address of the byte at `offset`.
    pub(super) fn address(&self, offset: usize) -> u64 {
        self.pinned.address_of(self.span.address()) + offset as u64
    }

    /// Reads a little-endian value at a multiple of its size.
    pub(super) fn read<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= self.span.len(), "a read stays inside the memory");
        // SAFETY: inside the span, aligned by every caller, of plain integers; the controller writes it at any time.
        unsafe { ptr::read_volatile(self.span.address().add(offset).cast()) }
    }

    /// Writes a little-endian value at a multiple of its size.
    pub(super) fn write<T: Copy>(&self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= self.span.len(), "a write stays inside the memory");
        // SAFETY: as in `read`.
        unsafe { ptr::write_volatile(self.span.address().add(offset).cast(), value) };
    }

    fn zero(&self) {
        // SAFETY: all of the span, which nobody makes references to.
        unsafe { ptr::write_bytes(self.span.address(), 0, self.span.len()) };
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// The command's identifier.
    pub id: u16,
    /// Status code type and status code.
    pub code: u16,
    /// What an admin command returns.
    pub result: u32,
}

/// The two queues of a pair, with the driver's place in each.
#[derive(Debug)]
pub(super) struct Rings {
    registers: Arc<Bar>,
    doorbell: u64,
    stride: u64,
    pub submission: DmaMemory,
    pub completion: DmaMemory,
    pub entries: u16,
    tail: u16,
    rung: u16,
    head: u16,
    released: u16,
    /// What the phase bit of a new entry is.
    phase: u16,
}

impl Rings {
    /// Pair `id` with `entries` of each; doorbells are `stride` bytes apart.
    pub(super) fn new(function: &Function, registers: &Arc<Bar>, id: u16, entries: u16, stride: u64) -> Result<Rings> {
        Ok(Rings {
            registers: Arc::clone(registers),
            doorbell: DOORBELLS + u64::from(id) * 2 * stride,
            stride,
            submission: DmaMemory::new(function, usize::from(entries) * COMMAND)?,
            completion: DmaMemory::new(function, usize::from(entries) * COMPLETION)?,
            entries,
            tail: 0,
            rung: 0,
            head: 0,
            released: 0,
            phase: 1,
        })
    }

    /// Both queues empty, as the controller takes them when they are created.
    pub(super) fn restart(&mut self) {
        (self.tail, self.rung, self.head, self.released, self.phase) = (0, 0, 0, 0, 1);
        self.completion.zero();
    }

    fn next(&self, place: u16) -> u16 {
        (place + 1) % self.entries
    }

    /// Writes a command into the next slot. There is room: no more commands are in flight than one less than there are slots, and
    /// each of them has one.
    pub(super) fn put(&mut self, command: &Command) {
        self.submission.write(usize::from(self.tail) * COMMAND, *command);
        self.tail = self.next(self.tail);
    }

    /// Rings the doorbell, if there is something new.
    pub(super) fn ring(&mut self) {
        if self.rung != self.tail {
            // The commands are in memory before the controller learns of them.
            fence(Ordering::SeqCst);
            self.registers.write32(self.doorbell, self.tail.into());
            self.rung = self.tail;
        }
    }

    /// The next command that ended.
    pub(super) fn take(&mut self) -> Option<Ended> {
        let at = usize::from(self.head) * COMPLETION;
        let last: u32 = self.completion.read(at + 12);
        if (last >> 16) as u16 & 1 != self.phase {
            return None;
        }
        // The rest of the entry, and the data, are there when the phase is.
        fence(Ordering::SeqCst);
        self.head = self.next(self.head);
        if self.head == 0 {
            self.phase ^= 1;
        }
        Some(Ended { id: last as u16, code: (last >> 17) as u16 & 0x7ff, result: self.completion.read(at) })
    }

    /// Gives the controller the slots back that were read.
    pub(super) fn release(&mut self) {
        if self.released != self.head {
            self.registers.write32(self.doorbell + self.stride, self.head.into());
            self.released = self.head;
        }
    }
}
