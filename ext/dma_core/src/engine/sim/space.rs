//! The bus addresses of a simulated machine: what its devices see of host memory, through an IOMMU or without one.

use std::collections::{BTreeMap, HashMap};

use fastrand::Rng;
use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::{Access, Status};

/// What both an IOMMU and physical memory are divided into, whatever the page size of the host.
const PAGE: u64 = 4096;
/// The first page given out, so that no device ever finds memory at address 0.
const FIRST: u64 = 1;
/// The address bits of the bus: a device with more reaches nothing else with them, and no sum of addresses overflows.
const BUS_BITS: u32 = 48;

const FULL: &str =
    "no bus addresses are left for them; let transfers end, map less at once, or use a device with more address bits";
const OUT_OF_REACH: &str = "a device with more address bits uses the same memory, at a physical address past these; \
                            map it for this device first, or give the machine an IOMMU";
const MAPPED: &str = "it is mapped already, in pieces, across a boundary or out of reach; take that mapping away first";

/// What the devices of a machine see of host memory: the bytes that are mapped, at their bus addresses, and nothing
/// else.
#[derive(Debug)]
pub struct Space {
    held: HashMap<u64, Held>,
    last_id: u64,
    kind: Kind,
}

/// The memory of one mapping, in flight until it is unmapped, and the bus address of its first byte.
#[derive(Debug)]
struct Held {
    span: Span,
    first: u64,
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
        Space::new(Kind::Iommu(Iommu { mappings: BTreeMap::new(), next: FIRST }))
    }

    /// Without an IOMMU: bus addresses are those of simulated physical memory. Each host page has a frame of it as long
    /// as some mapping uses the page; `seed` decides which, all over what the device reaches, so that a large buffer is
    /// in many pieces.
    pub fn physical(seed: u64) -> Space {
        Space::new(Kind::Physical(Physical {
            random: Rng::with_seed(seed),
            frames: HashMap::new(),
            numbers: HashMap::new(),
        }))
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
        let is_there = |page| physical.numbers.get(&page).is_some_and(|number| *number < limit);
        let is_all_there = pages(span.address() as u64, span.len() as u64).all(is_there);
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
            Kind::Iommu(iommu) => iommu.map(id, host, len, access, limit).map(|bus| vec![(bus, len)]).ok_or(FULL),
            Kind::Physical(physical) => {
                let reserved = boundary.map_or(Ok(()), |boundary| physical.reserve(host, len, limit, boundary));
                reserved.and_then(|()| physical.map(id, host, len, limit))
            }
        }
        .map_err(refuse)?;
        self.last_id = id;
        self.held.insert(id, Held { span, first: pieces[0].0 });
        Ok((id, pieces))
    }

    /// Takes the mapping away and gives its memory back; nothing where there is none with this id.
    pub fn unmap(&mut self, id: u64) -> Option<Span> {
        let Held { span, first } = self.held.remove(&id)?;
        match &mut self.kind {
            Kind::Iommu(iommu) => drop(iommu.mappings.remove(&first)),
            Kind::Physical(physical) => physical.unmap(id, span.address() as u64, span.len() as u64),
        }
        Some(span)
    }

    /// The host address of bus address `address`, and how many bytes, at most `len`, the device can move from there on
    /// in one go; where these end before `len`, another call says how it goes on. The pointer is good until the mapping,
    /// whose id comes last, is taken away.
    ///
    /// # Errors
    /// With an IOMMU [`Status::IommuFault`] where nothing is mapped for this access. Without one
    /// [`Status::BusReadError`] or [`Status::BusWriteError`] where nothing is mapped at all.
    pub fn translate(&self, address: u64, len: u64, access: Access) -> Result<(*mut u8, u64, u64), Status> {
        let (host, contiguous, id) = match &self.kind {
            Kind::Iommu(iommu) => iommu.translate(address, access).ok_or(Status::IommuFault { address, access })?,
            Kind::Physical(physical) => physical.translate(address).ok_or(match access {
                Access::Read | Access::Both => Status::BusReadError,
                Access::Write => Status::BusWriteError,
            })?,
        };
        Ok((host as *mut u8, contiguous.min(len), id))
    }

    /// How many mappings there are.
    pub fn mappings(&self) -> usize {
        self.held.len()
    }
}

/// Mappings by the bus address of their first byte.
#[derive(Debug)]
struct Iommu {
    mappings: BTreeMap<u64, Mapping>,
    /// The page behind the last mapping made: the search for the next one begins there.
    next: u64,
}

#[derive(Debug)]
struct Mapping {
    id: u64,
    host: u64,
    len: u64,
    access: Access,
}

impl Iommu {
    /// The bus address of a new mapping, unless there is no room for it below page `limit`.
    fn map(&mut self, id: u64, host: u64, len: u64, access: Access, limit: u64) -> Option<u64> {
        let offset = host % PAGE;
        let pages = (offset + len).div_ceil(PAGE) + 1;
        let page = self.fit(self.next, pages, limit).or_else(|| self.fit(FIRST, pages, limit))?;
        self.next = page + pages;
        let bus = page * PAGE + offset;
        self.mappings.insert(bus, Mapping { id, host, len, access });
        Some(bus)
    }

    /// The first of `pages` free ones in a row, at or after `from` and all below `limit`.
    fn fit(&self, from: u64, pages: u64, limit: u64) -> Option<u64> {
        let behind = |(bus, mapping): (&u64, &Mapping)| (bus + mapping.len).div_ceil(PAGE) + 1;
        let mut page = from.max(self.mappings.range(..from * PAGE).next_back().map_or(FIRST, behind));
        for (bus, mapping) in self.mappings.range(from * PAGE..) {
            if page + pages > limit || page + pages <= bus / PAGE {
                break;
            }
            page = behind((bus, mapping));
        }
        (page + pages <= limit).then_some(page)
    }

    fn translate(&self, address: u64, access: Access) -> Option<(u64, u64, u64)> {
        let (bus, mapping) = self.mappings.range(..=address).next_back()?;
        let offset = address - bus;
        let allowed = offset < mapping.len && mapping.access.allows(access);
        allowed.then(|| (mapping.host + offset, mapping.len - offset, mapping.id))
    }
}

/// Page frames by their number, and the numbers by the host address of the page that has the frame.
#[derive(Debug)]
struct Physical {
    random: Rng,
    frames: HashMap<u64, Frame>,
    numbers: HashMap<u64, u64>,
}

/// The host address of the page, and the bytes of it that are mapped.
#[derive(Debug)]
struct Frame {
    host: u64,
    uses: Vec<Use>,
}

/// The bytes of a page, from `low` to before `high`, that belong to mapping `id`.
#[derive(Debug)]
struct Use {
    id: u64,
    low: u64,
    high: u64,
}

impl Physical {
    /// The pieces of a new mapping, unless one of its pages cannot have a frame below number `limit`.
    fn map(&mut self, id: u64, host: u64, len: u64, limit: u64) -> Result<Vec<(u64, u64)>, &'static str> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for page in pages(host, len) {
            let number = match self.frame(page, limit) {
                Ok(number) => number,
                Err(reason) => {
                    self.unmap(id, host, len);
                    return Err(reason);
                }
            };
            let (low, high) = (host.saturating_sub(page), (host + len - page).min(PAGE));
            self.frames.entry(number).or_insert_with(|| Frame { host: page, uses: Vec::new() }).uses.push(Use {
                id,
                low,
                high,
            });
            let bus = number * PAGE + low;
            match pieces.last_mut() {
                Some((first, bytes)) if *first + *bytes == bus => *bytes += high - low,
                _ => pieces.push((bus, high - low)),
            }
        }
        Ok(pieces)
    }

    /// Gives the pages frames in a row, before they are mapped. If these have room within `boundary` frames, they do not pass a
    /// multiple of it, and otherwise begin at one.
    fn reserve(&mut self, host: u64, len: u64, limit: u64, boundary: u64) -> Result<(), &'static str> {
        let pages: Vec<u64> = pages(host, len).collect();
        let count = pages.len() as u64;
        let fits = |first: u64| first % boundary == 0 || first % boundary + count <= boundary;
        if pages.iter().any(|page| self.numbers.contains_key(page)) {
            let first = self.numbers.get(&pages[0]).copied().filter(|first| fits(*first) && first + count <= limit);
            let is_row =
                |first| pages.iter().zip(first..).all(|(page, number)| self.numbers.get(page) == Some(&number));
            return first.filter(|first| is_row(*first)).map(drop).ok_or(MAPPED);
        }
        let last = limit.checked_sub(count).filter(|last| *last >= FIRST).ok_or(FULL)?;
        let start = self.random.u64(FIRST..=last);
        let is_free = |first: u64| (first..first + count).all(|number| !self.frames.contains_key(&number));
        let free = |first: &u64| fits(*first) && is_free(*first);
        let first = (start..=last).chain(FIRST..start).find(free).ok_or(FULL)?;
        self.numbers.extend(pages.into_iter().zip(first..));
        Ok(())
    }

    /// Takes mapping `id` off its pages, also off those of a mapping that was not finished.
    fn unmap(&mut self, id: u64, host: u64, len: u64) {
        for page in pages(host, len) {
            let Some(number) = self.numbers.get(&page) else { continue };
            let Some(frame) = self.frames.get_mut(number) else { continue };
            frame.uses.retain(|used| used.id != id);
            if frame.uses.is_empty() {
                self.frames.remove(number);
                self.numbers.remove(&page);
            }
        }
    }

    /// The frame of a host page: the one it has, or one drawn from those that nobody has.
    fn frame(&mut self, page: u64, limit: u64) -> Result<u64, &'static str> {
        match self.numbers.get(&page) {
            Some(&number) if number < limit => return Ok(number),
            Some(_) => return Err(OUT_OF_REACH),
            None if limit <= FIRST => return Err(FULL),
            None => {}
        }
        let start = self.random.u64(FIRST..limit);
        let free = (start..limit).chain(FIRST..start).find(|number| !self.frames.contains_key(number)).ok_or(FULL)?;
        self.numbers.insert(page, free);
        Ok(free)
    }

    /// Where mappings overlap, the one that goes on furthest counts.
    fn translate(&self, address: u64) -> Option<(u64, u64, u64)> {
        let (frame, offset) = (self.frames.get(&(address / PAGE))?, address % PAGE);
        let here = frame.uses.iter().filter(|used| (used.low..used.high).contains(&offset));
        here.map(|used| (frame.host + offset, used.high - offset, used.id)).max()
    }
}

/// The addresses of the pages that `len` bytes from `host` on lie in.
fn pages(host: u64, len: u64) -> impl Iterator<Item = u64> {
    (host / PAGE..(host + len).div_ceil(PAGE)).map(|page| page * PAGE)
}

#[cfg(test)]
mod tests;
