//! The bytes of regions that transfers are using.

use std::ptr;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

use super::processor::Operation;
use super::region::Region;
use crate::error::{Error, Result};

/// Where a mapping's memory is on the bus.
#[derive(Debug, Clone)]
pub struct BusAddresses(Arc<[Piece]>);

#[derive(Debug)]
struct Piece {
    /// Bytes of the mapping before it.
    before: u64,
    address: u64,
    len: u64,
}

impl BusAddresses {
    /// Of a mapping whose pieces have these addresses and lengths.
    pub fn new(segments: &[(u64, u64)]) -> BusAddresses {
        let mut before = 0;
        let pieces = segments.iter().map(|&(address, len)| {
            before += len;
            Piece { before: before - len, address, len }
        });
        BusAddresses(pieces.collect())
    }

    /// The address and length of each piece of `len` bytes from `skip` on.
    fn part(&self, skip: u64, len: u64) -> Vec<(u64, u64)> {
        let first = self.0.partition_point(|piece| piece.before + piece.len <= skip);
        let cut = |piece: &Piece| {
            let (low, high) = (skip.max(piece.before), (skip + len).min(piece.before + piece.len));
            (piece.address + (low - piece.before), high - low)
        };
        self.0[first..].iter().take_while(|piece| piece.before < skip + len).map(cut).collect()
    }
}

/// Bytes of a region that one operation uses: while it lives the region is in flight, and its memory stays.
#[derive(Debug)]
pub struct Span {
    region: Arc<Region>,
    offset: usize,
    len: usize,
    /// Where a device has it mapped already, and bytes of that mapping before the first.
    mapped: Option<(BusAddresses, u64)>,
}

impl Span {
    /// `len` bytes of `region` from `offset`; up to its [`Region::capacity`], which may pass what its buffer shows.
    pub fn new(region: &Arc<Region>, offset: usize, len: usize) -> Result<Span> {
        region.pages().check()?;
        if offset.checked_add(len).is_none_or(|end| end > region.capacity()) {
            let size = region.len();
            return Err(Error::Argument(format!(
                "{len} bytes at offset {offset} are outside a buffer of {size} bytes"
            )));
        }
        region.in_flight.fetch_add(1, SeqCst);
        Ok(Span { region: Arc::clone(region), offset, len, mapped: None })
    }

    /// A part of this span, in flight on its own.
    pub fn part(&self, offset: usize, len: usize) -> Span {
        debug_assert!(offset + len <= self.len);
        self.region.in_flight.fetch_add(1, SeqCst);
        let mapped = self.mapped.as_ref().map(|(addresses, skip)| (addresses.clone(), skip + offset as u64));
        Span { region: Arc::clone(&self.region), offset: self.offset + offset, len, mapped }
    }

    /// The same bytes, from `skip` on of a mapping with these addresses.
    pub fn at(mut self, addresses: &BusAddresses, skip: u64) -> Span {
        self.mapped = Some((addresses.clone(), skip));
        self
    }

    /// The bus address and length of each piece, where the bytes are mapped already.
    pub fn segments(&self) -> Option<Vec<(u64, u64)>> {
        self.mapped.as_ref().map(|(addresses, skip)| addresses.part(*skip, self.len as u64))
    }

    /// The region these bytes belong to.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Address of the first byte.
    pub fn address(&self) -> *mut u8 {
        (self.region.address() + self.offset) as *mut u8
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the first `len` bytes from `skip` on of this span to the start of `to`, as the driver of a device does whose memory is not
    /// where the device reaches it: what the CPU sees, into memory.
    pub fn copy_to(&self, skip: usize, to: &Span, len: usize) {
        assert!(skip + len <= self.len && len <= to.len, "a copy between spans stays inside both");
        let (source, target) = (self.region.attached().get(), to.region.attached().get());
        // SAFETY: both ranges were checked when the spans were made, and the regions live as long as the spans.
        unsafe {
            let (from, at) = (self.address().add(skip), to.address());
            if source.is_none() && target.is_none() {
                return ptr::copy(from, at, len);
            }
            let mut bytes = vec![0; len];
            match source {
                Some(source) => source.read(from as usize, bytes.as_mut_ptr(), len),
                None => ptr::copy(from, bytes.as_mut_ptr(), len),
            }
            let Some(target) = target else { return ptr::copy(bytes.as_ptr(), at, len) };
            target.write(at as usize, len, |part, skip| part.copy_from_slice(&bytes[skip..skip + part.len()]));
            target.operate(Operation::WriteBack, at as usize, len);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.region.in_flight.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Layout, Lock};

    fn region(size: usize) -> Arc<Region> {
        Region::allocate(Layout::new(size), Lock::Never).unwrap()
    }

    #[test]
    fn a_span_keeps_the_region_in_flight_and_its_memory_alive() {
        let region = region(4096);
        region.fill(0, 4096, 9).unwrap();
        let span = Span::new(&region, 1000, 96).unwrap();
        let part = span.part(6, 90);
        assert_eq!(region.in_flight(), 2);
        assert!(matches!(region.check_idle(), Err(Error::Busy(_))));
        drop(span);
        drop(region);
        // SAFETY: the part keeps the memory alive.
        assert_eq!(unsafe { part.address().read() }, 9);
        let region = Arc::clone(part.region());
        drop(part);
        assert_eq!(region.check_idle(), Ok(()));
    }

    #[test]
    fn a_part_of_mapped_bytes_is_in_the_pieces_that_it_lies_in() {
        let region = region(100);
        let span = Span::new(&region, 0, 100).unwrap();
        assert_eq!(span.segments(), None);
        let span = span.at(&BusAddresses::new(&[(9, 7), (1000, 10), (5000, 50), (3000, 40)]), 7);
        assert_eq!(span.segments(), Some(vec![(1000, 10), (5000, 50), (3000, 40)]));
        let part = span.part(5, 60);
        assert_eq!(part.segments(), Some(vec![(1005, 5), (5000, 50), (3000, 5)]));
        assert_eq!(part.part(5, 20).segments(), Some(vec![(5000, 20)]));
    }

    #[test]
    fn the_slack_of_the_last_page_is_for_spans_only() {
        let region = region(100);
        assert!(region.range(0, 4096).is_err());
        assert_eq!(Span::new(&region, 0, 4096).unwrap().len(), 4096);
        assert!(Span::new(&region, 0, 4097).is_err());
        assert!(Span::new(&region, usize::MAX, 2).is_err());
    }
}
