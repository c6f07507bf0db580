//! Memory as a simulated device sees it, and the bounce buffers of what it does not reach.
//!
//! A page past a device's address bits is bounced as the kernel's swiotlb does it (Documentation/core-api/swiotlb.rst): the device is told
//! the address of a slot in reach, and the CPU copies between that and the page, when it is mapped, synced and unmapped. A slot is filled
//! when it is mapped also where the device is to write: what it does not write comes back as it was, and not as the slot's last user left
//! it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::access::Addresses;
use super::device::Device;
use super::port::Common;
use super::space::{Placed, Row, Slot, Want};
use crate::engine::{Engine, Mapping, Stats, Terms};
use crate::error::{Error, Result};
use crate::memory::processor::{Attachment, Processor};
use crate::memory::{Region, Span};
use crate::sync::{lock, Mutex};
use crate::sys;
use crate::transfer::Access;

/// Memory that is mapped for a device until this is dropped. What most mappings have not is in boxes: there is one for each transfer,
/// and small ones are allocated in half the time.
#[derive(Debug)]
struct Mapped {
    /// Dropped before the other spans: what is written back goes to memory that is still in flight.
    cached: Option<Box<Cached>>,
    bounced: Option<Box<Bounced>>,
    common: Arc<Common>,
    id: u64,
    segments: Vec<(u64, u64)>,
    generation: u32,
}

/// What of it goes through a CPU that was asked for.
#[derive(Debug)]
struct Cached {
    /// How many bytes are before each.
    attachments: Mutex<Vec<(u64, Attachment)>>,
    processor: Arc<Processor>,
    span: Span,
    access: Access,
}

/// What of it the device finds elsewhere.
#[derive(Debug)]
struct Bounced {
    span: Span,
    access: Access,
    slots: Vec<Slot>,
    /// The memory that they are in.
    own: Arc<Region>,
    stats: Arc<Stats>,
}

impl Device {
    /// Maps the descriptors of a ring, in one piece.
    pub fn map_ring(&self, span: Span) -> Result<Arc<dyn Mapping>> {
        self.map_row(span, Access::Both, Row::DESCRIPTORS, true)
    }

    /// Maps memory in one piece.
    pub(super) fn map_row(&self, span: Span, access: Access, row: Row, is_pinned: bool) -> Result<Arc<dyn Mapping>> {
        self.map_as(span, access, Want { row: Some(row), bounces: false, is_pinned })
    }

    /// Maps memory as somebody wants it. Behind an IOMMU it is always in one piece.
    pub(super) fn map_on(&self, span: Span, access: Access, terms: Terms) -> Result<Arc<dyn Mapping>> {
        let Terms { coherent, contiguous, pinned } = terms;
        if self.is_isa() {
            return self.map_isa(span, access, pinned);
        }
        if self.machine().options().iommu && !pinned {
            return Err(Error::Argument(
                "pin: false is for a machine without an IOMMU (iommu: false): whoever maps memory in an IOMMU pins it; leave pin: out".into(),
            ));
        }
        let row = contiguous.then_some(Row::ASKED);
        self.map_as(span, access, Want { row, bounces: !coherent && !contiguous, is_pinned: pinned })
    }

    fn map_as(&self, span: Span, access: Access, want: Want) -> Result<Arc<dyn Mapping>> {
        self.machine().check()?;
        // Before anything is copied.
        self.machine().processor().map_or(Ok(()), |processor| Attachment::check(processor, &span))?;
        let (bits, addresses) = (self.options().address_bits, &self.common().addresses);
        let again = || span.part(0, span.len());
        let (for_cpu, for_slots) = (self.machine().processor().map(|_| again()), addresses.own().map(|_| again()));
        let Placed { id, pieces, slots } = addresses.map_as(span, access, bits, want)?;
        let bounced = addresses.own().zip(for_slots).filter(|_| !slots.is_empty()).map(|(own, span)| {
            let bounced = Bounced { span, access, slots, own: Arc::clone(own), stats: self.stats() };
            bounced.slots.iter().for_each(|slot| bounced.copy(addresses, slot, (slot.skip, slot.len), true));
            Box::new(bounced)
        });
        Ok(self.mapped(id, pieces, bounced, for_cpu, access))
    }

    /// Maps what is mapped already, in reach of so many address bits.
    pub(super) fn map_again(&self, span: &Span, access: Access, bits: u32) -> Option<Arc<dyn Mapping>> {
        let (id, segments) = self.common().addresses.map_again(span, access, bits)?;
        let for_cpu = self.machine().processor().map(|_| span.part(0, span.len()));
        Some(self.mapped(id, segments, None, for_cpu, access))
    }

    fn mapped(
        &self,
        id: u64,
        segments: Vec<(u64, u64)>,
        bounced: Option<Box<Bounced>>,
        for_cpu: Option<Span>,
        access: Access,
    ) -> Arc<dyn Mapping> {
        let (common, generation) = (Arc::clone(self.common()), sys::fork_generation());
        let cached = self.machine().processor().zip(for_cpu).map(|(processor, span)| {
            let (attachments, processor) = (Mutex::default(), Arc::clone(processor));
            Box::new(Cached { attachments, processor, span, access })
        });
        Arc::new(Mapped { cached, bounced, common, id, segments, generation })
    }
}

impl Bounced {
    /// The bytes from `low` to before `high` of the mapping in parts: where each begins, its length, and the slot that it is in.
    fn parts(&self, low: u64, high: u64) -> Vec<(u64, u64, Option<&Slot>)> {
        let mut parts = Vec::new();
        let mut at = low;
        for slot in &self.slots {
            let (from, to) = (slot.skip.max(at), (slot.skip + slot.len).min(high));
            if from < to {
                parts.push((at, from - at, None));
                parts.push((from, to - from, Some(slot)));
                at = to;
            }
        }
        parts.push((at, high - at, None));
        parts.retain(|(_, len, _)| *len > 0);
        parts
    }

    /// Hands `len` bytes from `skip` on over to the device, or takes them over from it, as far as it was to read or to write them.
    fn sync(&self, addresses: &Addresses, slot: &Slot, part: (u64, u64), for_device: bool) {
        let moves = if for_device { Access::Read } else { Access::Write };
        if self.access.allows(moves) {
            self.copy(addresses, slot, part, for_device);
        }
    }

    /// Copies `len` bytes from `skip` on to their slot, or back: as the CPU sees them, which it is that copies.
    fn copy(&self, addresses: &Addresses, slot: &Slot, (skip, len): (u64, u64), to_slot: bool) {
        let (region, own) = (self.span.region(), self.own.address() as u64);
        let offset = self.span.address() as usize - region.address() + skip as usize;
        let place = (own + slot.address + (skip - slot.skip)) as *mut u8;
        // SAFETY: the slot is this mapping's, of the machine's own memory.
        let copied = unsafe {
            match to_slot {
                true => region.read(offset, place, len as usize),
                false => region.write(offset, place, len as usize),
            }
        };
        debug_assert!(copied.is_ok(), "a mapping's bytes are its region's");
        self.stats.bounced_bytes.fetch_add(len, Relaxed);
        addresses.copied(len);
    }
}

impl Mapped {
    /// What of it is not bounced.
    fn direct(&self, low: u64, high: u64) -> Vec<(u64, u64)> {
        let Some(bounced) = &self.bounced else { return vec![(low, high - low)] };
        let parts = bounced.parts(low, high).into_iter();
        parts.filter(|(_, _, slot)| slot.is_none()).map(|(skip, len, _)| (skip, len)).collect()
    }

    fn barrier(&self) {
        self.cached.iter().for_each(|cached| cached.processor.barrier());
    }
}

impl Cached {
    fn sync(&self, (skip, len): (u64, u64), for_device: bool) {
        let attachments = lock(&self.attachments);
        if let Some((first, attachment)) = attachments.iter().rfind(|(first, _)| *first <= skip) {
            attachment.sync((skip - first) as usize, len as usize, for_device);
        }
    }
}

impl Mapping for Mapped {
    fn segments(&self) -> &[(u64, u64)] {
        &self.segments
    }

    /// What is bounced stays the CPU's own, and in its cache, if that has it.
    fn attach(&self, coherent: bool) -> Result<()> {
        self.barrier();
        let Some(cached) = &self.cached else { return Ok(()) };
        for (skip, len) in self.direct(0, cached.span.len() as u64) {
            let part = cached.span.part(skip as usize, len as usize);
            let attachment = Attachment::new(&cached.processor, &part, cached.access, coherent)?;
            lock(&cached.attachments).push((skip, attachment));
        }
        Ok(())
    }

    fn sync(&self, offset: usize, len: usize, for_device: bool) {
        self.barrier();
        let (low, high) = (offset as u64, (offset + len) as u64);
        if let Some(cached) = &self.cached {
            self.direct(low, high).into_iter().for_each(|part| cached.sync(part, for_device));
        }
        let Some(bounced) = &self.bounced else { return };
        for (skip, len, slot) in bounced.parts(low, high) {
            slot.iter().for_each(|slot| bounced.sync(&self.common.addresses, slot, (skip, len), for_device));
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // In the child of a fork, a thread that is not there may hold the lock.
        if self.generation != sys::fork_generation() {
            return;
        }
        if let Some(bounced) = &self.bounced {
            // Its cache is done with the mapping before the CPU copies.
            self.cached.iter().for_each(|cached| lock(&cached.attachments).clear());
            self.barrier();
            let addresses = &self.common.addresses;
            bounced.slots.iter().for_each(|slot| bounced.sync(addresses, slot, (slot.skip, slot.len), false));
        }
        // Waits for a burst that is using it.
        self.common.addresses.unmap(self.id);
    }
}
