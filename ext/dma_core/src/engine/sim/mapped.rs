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
use crate::memory::{Region, Span};
use crate::sys;
use crate::transfer::Access;

/// Memory that is mapped for a device until this is dropped.
#[derive(Debug)]
struct Mapped {
    common: Arc<Common>,
    id: u64,
    segments: Vec<(u64, u64)>,
    bounced: Option<Bounced>,
    generation: u32,
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
        let (bits, addresses) = (self.options().address_bits, &self.common().addresses);
        let whole = span.part(0, span.len());
        let Placed { id, pieces, slots } = addresses.map_as(span, access, bits, want)?;
        let bounced = addresses.own().filter(|_| !slots.is_empty()).map(|own| {
            let bounced = Bounced { span: whole, access, slots, own: Arc::clone(own), stats: self.stats() };
            bounced.copy(addresses, 0, u64::MAX, true);
            bounced
        });
        Ok(self.mapped(id, pieces, bounced))
    }

    /// Maps what is mapped already, in reach of so many address bits.
    pub(super) fn map_again(&self, span: &Span, access: Access, bits: u32) -> Option<Arc<dyn Mapping>> {
        let (id, segments) = self.common().addresses.map_again(span, access, bits)?;
        Some(self.mapped(id, segments, None))
    }

    fn mapped(&self, id: u64, segments: Vec<(u64, u64)>, bounced: Option<Bounced>) -> Arc<dyn Mapping> {
        Arc::new(Mapped {
            common: Arc::clone(self.common()),
            id,
            segments,
            bounced,
            generation: sys::fork_generation(),
        })
    }
}

impl Bounced {
    /// Hands bytes of the mapping over to the device, or takes them over from it, as far as it was to read or to write them.
    fn sync(&self, addresses: &Addresses, skip: u64, len: u64, for_device: bool) {
        let moves = if for_device { Access::Read } else { Access::Write };
        if self.access.allows(moves) {
            self.copy(addresses, skip, len, for_device);
        }
    }

    /// Copies up to `len` bytes of the mapping, from `skip` on, to the slots or back.
    fn copy(&self, addresses: &Addresses, skip: u64, len: u64, to_slots: bool) {
        for slot in &self.slots {
            let (low, high) = (slot.skip.max(skip), (slot.skip + slot.len).min(skip.saturating_add(len)));
            let Some(bytes) = high.checked_sub(low).filter(|bytes| *bytes > 0) else { continue };
            let (region, own) = (self.span.region(), self.own.address() as u64);
            let offset = self.span.address() as usize - region.address() + low as usize;
            let place = (own + slot.address + (low - slot.skip)) as *mut u8;
            // SAFETY: the slot is this mapping's, of the machine's own memory.
            let copied = unsafe {
                match to_slots {
                    true => region.read(offset, place, bytes as usize),
                    false => region.write(offset, place, bytes as usize),
                }
            };
            debug_assert!(copied.is_ok(), "a mapping's bytes are its region's");
            self.stats.bounced_bytes.fetch_add(bytes, Relaxed);
            addresses.copied(bytes);
        }
    }
}

impl Mapping for Mapped {
    fn segments(&self) -> &[(u64, u64)] {
        &self.segments
    }

    fn sync(&self, offset: usize, len: usize, for_device: bool) {
        if let Some(bounced) = &self.bounced {
            bounced.sync(&self.common.addresses, offset as u64, len as u64, for_device);
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // In the child of a fork, a thread that is not there may hold the lock.
        if self.generation != sys::fork_generation() {
            return;
        }
        self.sync(0, usize::MAX, false);
        // Waits for a burst that is using it.
        self.common.addresses.unmap(self.id);
    }
}
