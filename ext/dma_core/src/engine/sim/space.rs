//! The bus addresses of a simulated machine: what its devices see of host memory, through an IOMMU or without one.

mod iommu;
mod iotlb;
mod physical;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use nix::errno::Errno;

pub(super) use self::iommu::Forgotten;
use self::iommu::Iommu;
pub use self::iommu::IommuStats;
use self::physical::Physical;
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::{Access, Status};

/// What both an IOMMU and physical memory are divided into, whatever the page size of the host.
const PAGE: u64 = 4096;
/// The first page given out, so that no device ever finds memory at address 0.
const FIRST: u64 = 1;
/// The address bits of the bus: a device with more reaches nothing else with them, and no sum of addresses overflows.
const BUS_BITS: u32 = 48;
/// Where a write is an interrupt message, and nobody's memory is (Intel SDM, volume 3, 10.11.1).
pub(super) const MESSAGES: Range<u64> = 0xfee0_0000..0xfef0_0000;

const FULL: &str =
    "no bus addresses are left for them; let transfers end, map less at once, or use a device with more address bits";
const OUT_OF_REACH: &str = "a device with more address bits uses the same memory, at a physical address past these; \
                            map it for this device first, or give the machine an IOMMU";
const MAPPED: &str = "it is mapped already, in pieces, across a boundary or out of reach; take that mapping away first";

/// What the devices of a machine see of host memory: the bytes that are mapped, at their bus addresses, and nothing
/// else.
#[derive(Debug)]
pub struct Space {
    /// The memory of each mapping, in flight until it is unmapped, where there is no IOMMU.
    held: HashMap<u64, Span>,
    last_id: u64,
    kind: Kind,
}

/// Why an IOMMU lets an access not through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is mapped there.
    NotMapped,
    /// What is mapped there is not to be read.
    NoRead,
    /// What is mapped there is not to be written.
    NoWrite,
    /// The address has more bits than the tables.
    OutOfRange,
    /// It would be an interrupt that the device may not send.
    InterruptBlocked,
}

impl Reason {
    /// Its name in Ruby.
    pub fn name(self) -> &'static str {
        match self {
            Reason::NotMapped => "not_mapped",
            Reason::NoRead => "no_read",
            Reason::NoWrite => "no_write",
            Reason::OutOfRange => "out_of_range",
            Reason::InterruptBlocked => "interrupt_blocked",
        }
    }
}

#[derive(Debug)]
enum Kind {
    Iommu(Iommu),
    Physical(Physical),
}

impl Space {
    /// Behind a simulated IOMMU: each mapping is one run of bus addresses with its own access, and an unmapped page
    /// after it. An address that was unmapped is not given out again before those behind it, so that a device that kept
    /// it faults.
    pub fn iommu() -> Space {
        Space::new(Kind::Iommu(Iommu::new(None)))
    }

    /// The same, but what is unmapped stays in the IOTLB until 256 mappings wait there, `delay` cycles of `clock` after the first of
    /// these, or until somebody flushes it ([`Space::flush`]). Its memory stays for as long, unless it is not ours: that is gone at once.
    pub fn lazy_iommu(clock: Arc<AtomicU64>, delay: u64) -> Space {
        Space::new(Kind::Iommu(Iommu::new(Some((clock, delay)))))
    }

    /// Without an IOMMU: bus addresses are those of simulated physical memory. Each host page has a frame of it as long
    /// as some mapping uses the page; `seed` decides which, all over what the device reaches, so that a large buffer is
    /// in many pieces.
    pub fn physical(seed: u64) -> Space {
        Space::new(Kind::Physical(Physical::new(seed)))
    }

    fn new(kind: Kind) -> Space {
        Space { held: HashMap::new(), last_id: 0, kind }
    }

    /// Maps `span` for a device that reaches addresses below 2<sup>`address_bits`</sup>, and holds it until
    /// [`Space::unmap`]. Returns the mapping's id, and the bus address and length of each piece in order. The addresses
    /// keep the offset in the page. Without an IOMMU nobody looks at `access`.
    ///
    /// # Errors
    /// [`Error::Argument`] for no bytes; ENOSPC where no addresses are left that the device reaches.
    pub fn map(&mut self, span: Span, access: Access, address_bits: u32) -> Result<(u64, Vec<(u64, u64)>)> {
        self.map_pieces(span, access, address_bits, None)
    }

    /// The same in one piece, as a descriptor ring has to be; its memory must not be mapped already, unless it is so. Without an
    /// IOMMU the piece passes no multiple of `boundary`, where there is one; if it is longer it begins in the first page of one.
    pub fn map_contiguous(
        &mut self,
        span: Span,
        access: Access,
        address_bits: u32,
        boundary: Option<u64>,
    ) -> Result<(u64, u64)> {
        let boundary = boundary.map_or(1 << BUS_BITS, |boundary| boundary.max(PAGE));
        let (id, pieces) = self.map_pieces(span, access, address_bits, Some(boundary / PAGE))?;
        Ok((id, pieces[0].0))
    }

    /// Maps once more what is mapped already, if a device that reaches addresses below 2<sup>`address_bits`</sup> reaches all of it.
    pub fn map_again(&mut self, span: &Span, access: Access, address_bits: u32) -> Option<(u64, Vec<(u64, u64)>)> {
        let Kind::Physical(physical) = &self.kind else { return None };
        let limit = 1 << address_bits.min(BUS_BITS).saturating_sub(PAGE.ilog2());
        let is_all_there = physical.reaches(span.address() as u64, span.len() as u64, limit);
        is_all_there.then(|| self.map(span.part(0, span.len()), access, address_bits).ok())?
    }

    fn map_pieces(
        &mut self,
        span: Span,
        access: Access,
        address_bits: u32,
        boundary: Option<u64>,
    ) -> Result<(u64, Vec<(u64, u64)>)> {
        if span.is_empty() {
            return Err(Error::Argument("a mapping needs at least one byte".into()));
        }
        let (host, len) = (span.address() as u64, span.len() as u64);
        let limit = 1 << address_bits.min(BUS_BITS).saturating_sub(PAGE.ilog2());
        let (room, id) = ((limit - FIRST) * PAGE, self.last_id + 1);
        let refuse = |reason: &str| {
            let context = format!("cannot map {len} bytes for a device with {address_bits} address bits: {reason}");
            Error::os(Errno::ENOSPC, context)
        };
        if boundary.is_some() && pages(host, len).count() as u64 * PAGE > room {
            return Err(refuse(&format!("it reaches {room} bytes in one piece; map less of them at once")));
        }
        let pieces = match &mut self.kind {
            Kind::Iommu(iommu) => {
                let bus = iommu.map(span, access, limit).ok_or_else(|| refuse(FULL))?;
                return Ok((bus, vec![(bus, len)]));
            }
            Kind::Physical(physical) => {
                let reserved = boundary.map_or(Ok(()), |boundary| physical.reserve(host, len, limit, boundary));
                reserved.and_then(|()| physical.map(id, host, len, limit))
            }
        }
        .map_err(refuse)?;
        self.last_id = id;
        self.held.insert(id, span);
        Ok((id, pieces))
    }

    /// Takes the mapping away and gives its memory back; nothing where there is none with this id.
    pub fn unmap(&mut self, id: u64) -> Option<Span> {
        match &mut self.kind {
            Kind::Iommu(iommu) => iommu.unmap(id),
            Kind::Physical(physical) => {
                let span = self.held.remove(&id)?;
                physical.unmap(id, span.address() as u64, span.len() as u64);
                Some(span)
            }
        }
    }

    /// The host address of bus address `address`, and how many bytes, at most `len`, the device can move from there on
    /// in one go; where these end before `len`, another call says how it goes on. The pointer is good until the mapping,
    /// whose id comes last, is taken away.
    ///
    /// # Errors
    /// With an IOMMU [`Status::IommuFault`] where nothing is mapped for this access. Without one
    /// [`Status::BusReadError`] or [`Status::BusWriteError`] where nothing is mapped at all.
    pub fn translate(&mut self, address: u64, len: u64, access: Access) -> Result<(*mut u8, u64, u64), Status> {
        let (host, contiguous, id) = match &mut self.kind {
            Kind::Iommu(iommu) => {
                iommu.translate(address, len, access).ok_or(Status::IommuFault { address, access })?
            }
            Kind::Physical(physical) => physical.translate(address).ok_or(match access {
                Access::Read | Access::Both => Status::BusReadError,
                Access::Write => Status::BusWriteError,
            })?,
        };
        Ok((host as *mut u8, contiguous.min(len), id))
    }

    /// Whether the device can move `len` bytes at bus address `address` in one go. Nothing changes for having asked.
    pub fn lie_together(&self, address: u64, len: u64, access: Access) -> bool {
        match &self.kind {
            Kind::Iommu(iommu) => iommu.lie_together(address, len, access),
            Kind::Physical(physical) => physical.translate(address).is_some_and(|(_, together, _)| together >= len),
        }
    }

    /// Why there was a fault of the IOMMU.
    pub fn reason(&self, address: u64, access: Access) -> Reason {
        match &self.kind {
            Kind::Iommu(iommu) => iommu.reason(address, access),
            Kind::Physical(_) => Reason::NotMapped,
        }
    }

    /// Empties the IOTLB, if there is one.
    pub fn flush(&mut self) {
        if let Kind::Iommu(iommu) = &mut self.kind {
            iommu.flush();
        }
    }

    /// Memory that is not reached any more since somebody last asked, other than what [`Space::unmap`] gave back.
    pub(super) fn forgotten(&mut self) -> Vec<Forgotten> {
        match &mut self.kind {
            Kind::Iommu(iommu) => iommu.forgotten(),
            Kind::Physical(_) => Vec::new(),
        }
    }

    /// What the IOMMU has and did, if there is one.
    pub fn iommu_stats(&mut self) -> Option<IommuStats> {
        match &mut self.kind {
            Kind::Iommu(iommu) => Some(iommu.stats()),
            Kind::Physical(_) => None,
        }
    }

    /// How many mappings there are.
    pub fn mappings(&self) -> usize {
        match &self.kind {
            Kind::Iommu(iommu) => iommu.len(),
            Kind::Physical(_) => self.held.len(),
        }
    }
}

/// The addresses of the pages that `len` bytes from `host` on lie in.
fn pages(host: u64, len: u64) -> impl Iterator<Item = u64> {
    (host / PAGE..(host + len).div_ceil(PAGE)).map(|page| page * PAGE)
}

#[cfg(test)]
mod tests;
