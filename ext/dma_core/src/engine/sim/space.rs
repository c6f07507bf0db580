//! The bus addresses of a simulated machine: what its devices see of host memory, through an IOMMU or without one.

mod iommu;
mod iotlb;
mod physical;
mod ram;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use nix::errno::Errno;

pub(super) use self::iommu::Forgotten;
use self::iommu::Iommu;
pub use self::iommu::IommuStats;
use self::physical::Physical;
use self::ram::Ram;
use crate::error::{Error, Result};
use crate::memory::{Region, Span};
use crate::transfer::{Access, Status};

/// What both an IOMMU and physical memory are divided into, whatever the page size of the host.
const PAGE: u64 = 4096;
/// The first page given out, so that no device ever finds memory at address 0.
const FIRST: u64 = 1;
/// The address bits of the bus: a device with more reaches nothing else with them, and no sum of addresses overflows.
const BUS_BITS: u32 = 48;
/// The end of the numbers of pages on it.
const EVERYWHERE: u64 = 1 << (BUS_BITS - PAGE.ilog2());
/// Whose memory is that belongs to no mapping, but to the machine.
pub(super) const OWN: u64 = u64::MAX;
/// Where a write is an interrupt message, and nobody's memory is (Intel SDM, volume 3, 10.11.1).
pub(super) const MESSAGES: Range<u64> = 0xfee0_0000..0xfef0_0000;

const FULL: &str =
    "no bus addresses are left for them; let transfers end, map less at once, or use a device with more address bits";
const OUT_OF_REACH: &str = "a device with more address bits uses the same memory, at a physical address past these; \
                            map it for this device first, give the machine an IOMMU, or bounce it (type: :streaming, on a machine with ram:)";
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

/// What a mapping is to be like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    /// In one piece.
    pub row: Option<Row>,
    /// Pages that the device does not reach are bounced, where physical memory is of a fixed size.
    pub bounces: bool,
    /// Its pages stay where they are.
    pub is_pinned: bool,
}

/// Pages in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// In pages.
    boundary: u64,
    /// They are for a driver's own memory, of which there is some that others do not get.
    is_low: bool,
}

impl Row {
    /// What somebody asks for who could do with pieces.
    pub(super) const ASKED: Row = Row { boundary: EVERYWHERE, is_low: false };

    /// A driver's descriptors.
    pub(super) const DESCRIPTORS: Row = Row { boundary: EVERYWHERE, is_low: true };

    /// One that passes no multiple of a number of bytes.
    pub(super) fn within(boundary: u64, is_low: bool) -> Row {
        Row { boundary: boundary.max(PAGE) / PAGE, is_low }
    }
}

/// Where a mapping is.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub id: u64,
    /// Bus address and length of each piece, in order.
    pub pieces: Vec<(u64, u64)>,
    /// What of it is bounced.
    pub slots: Vec<Slot>,
}

/// Bytes that a device finds in memory of the machine's own instead of in their page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// Bytes of the mapping before them.
    pub skip: u64,
    pub address: u64,
    pub len: u64,
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
        Space::new(Kind::Physical(Physical::new(seed, None)))
    }

    /// The same with `bytes` of physical memory, of which others occupy a part, from 0 to 1. Where no mapping is, devices find memory
    /// of the machine's own.
    ///
    /// # Errors
    /// [`Error::Os`] where there is no memory for it.
    pub fn ram(seed: u64, bytes: u64, fragmentation: f64) -> Result<Space> {
        Ok(Space::new(Kind::Physical(Physical::new(seed, Some(Ram::new(bytes, fragmentation, seed)?)))))
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
        let placed = self.map_as(span, access, address_bits, Want { row: None, bounces: false, is_pinned: true })?;
        Ok((placed.id, placed.pieces))
    }

    /// Maps once more what is mapped already, if a device that reaches addresses below 2<sup>`address_bits`</sup> reaches all of it.
    pub fn map_again(&mut self, span: &Span, access: Access, address_bits: u32) -> Option<(u64, Vec<(u64, u64)>)> {
        let Kind::Physical(physical) = &self.kind else { return None };
        let limit = 1 << address_bits.min(BUS_BITS).saturating_sub(PAGE.ilog2());
        let is_all_there = physical.reaches(span.address() as u64, span.len() as u64, limit);
        is_all_there.then(|| self.map(span.part(0, span.len()), access, address_bits).ok())?
    }

    /// See [`Space::map`].
    pub(super) fn map_as(&mut self, span: Span, access: Access, address_bits: u32, want: Want) -> Result<Placed> {
        if span.is_empty() {
            return Err(Error::Argument("a mapping needs at least one byte".into()));
        }
        let (host, len) = (span.address() as u64, span.len() as u64);
        let limit = 1 << address_bits.min(BUS_BITS).saturating_sub(PAGE.ilog2());
        let (room, id) = ((limit - FIRST) * PAGE, self.last_id + 1);
        let errno = if want.row == Some(Row::ASKED) { Errno::ENOMEM } else { Errno::ENOSPC };
        let refuse = |reason: Cow<'static, str>| {
            let context = format!("cannot map {len} bytes for a device with {address_bits} address bits: {reason}");
            Error::os(errno, context)
        };
        if want.row.is_some() && pages(host, len).count() as u64 * PAGE > room {
            return Err(refuse(format!("it reaches {room} bytes in one piece; map less of them at once").into()));
        }
        let placed = match &mut self.kind {
            Kind::Iommu(iommu) => {
                let bus = iommu.map(span, access, limit).ok_or_else(|| refuse(FULL.into()))?;
                return Ok(Placed { id: bus, pieces: vec![(bus, len)], slots: Vec::new() });
            }
            Kind::Physical(physical) => physical.map(id, host, len, limit, &want),
        }
        .map_err(refuse)?;
        self.last_id = id;
        self.held.insert(id, span);
        Ok(placed)
    }

    /// Moves up to `most` pages that only mappings use which do not pin them; how many.
    pub(super) fn migrate(&mut self, most: usize) -> usize {
        match &mut self.kind {
            Kind::Physical(physical) => physical.migrate(most),
            Kind::Iommu(_) => 0,
        }
    }

    /// Memory of the machine's own, by address, where physical memory is of a fixed size.
    pub(super) fn own(&self) -> Option<Arc<Region>> {
        match &self.kind {
            Kind::Physical(physical) => physical.ram().map(|ram| Arc::clone(ram.memory())),
            Kind::Iommu(_) => None,
        }
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
fn pages(host: u64, len: u64) -> impl DoubleEndedIterator<Item = u64> {
    (host / PAGE..(host + len).div_ceil(PAGE)).map(|page| page * PAGE)
}

#[cfg(test)]
mod tests;
