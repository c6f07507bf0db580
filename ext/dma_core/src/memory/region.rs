//! A run of bytes that one buffer owns.

use std::cmp::Ordering;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;

use super::pages::{Layout, Lock, Pages, Residency};
use super::pool::Home;
use super::processor::{Attached, Processor, LINE};
use super::registry;
use crate::error::{Error, Result};

/// A run of bytes inside [`Pages`], shared by [`Arc`] between its buffer and the operations in flight: the memory stays as
/// long as either. The last one to let go gives a pool's region back to its pool.
///
/// All access is by raw copies with checked bounds; see [`Pages`] for why there is no slice.
#[derive(Debug)]
pub struct Region {
    pages: Arc<Pages>,
    offset: usize,
    len: usize,
    pub(super) in_flight: AtomicUsize,
    abandoned: AtomicUsize,
    /// Whether [`registry::find`] finds it.
    listed: AtomicBool,
    /// Gives the region back to its pool when dropped.
    home: Option<Home>,
    /// Keeps the region that this one is a part of.
    whole: Option<Arc<Region>>,
    attached: Attached,
}

impl Region {
    /// Allocates pages of its own: see [`Pages::allocate`] and [`Pages::lock`].
    pub fn allocate(layout: Layout, lock: Lock) -> Result<Arc<Region>> {
        let pages = Pages::allocate(layout)?;
        pages.lock(lock)?;
        Ok(Region::listed(Arc::new(pages), 0, layout.size, None))
    }

    /// A region that [`registry::find`] finds: its memory is ours.
    pub(super) fn listed(pages: Arc<Pages>, offset: usize, len: usize, home: Option<Home>) -> Arc<Region> {
        let region = Region::new(pages, offset, len, home);
        registry::enter(&region);
        region.listed.store(true, SeqCst);
        region
    }

    fn new(pages: Arc<Pages>, offset: usize, len: usize, home: Option<Home>) -> Arc<Region> {
        debug_assert!(offset + len <= pages.len());
        Arc::new(Region {
            pages,
            offset,
            len,
            in_flight: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            listed: AtomicBool::new(false),
            home,
            whole: None,
            attached: Attached::default(),
        })
    }

    /// A region of `len` bytes of `whole` from `offset`, whose memory it keeps. It is none that [`registry::find`] finds, which
    /// finds the whole.
    pub(crate) fn part(whole: &Arc<Region>, offset: usize, len: usize) -> Arc<Region> {
        debug_assert!(offset + len <= whole.len);
        Arc::new(Region {
            pages: Arc::clone(&whole.pages),
            offset: whole.offset + offset,
            len,
            in_flight: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            listed: AtomicBool::new(false),
            home: None,
            whole: Some(Arc::clone(whole)),
            attached: Attached::default(),
        })
    }

    /// Whether nobody else has bytes of its pages.
    fn is_alone(&self) -> bool {
        self.home.is_none() && self.whole.is_none()
    }

    /// The whole of some pages as one region.
    pub fn of(pages: Pages) -> Arc<Region> {
        let len = pages.len();
        Region::new(Arc::new(pages), 0, len, None)
    }

    /// What keeps its memory in place.
    pub fn residency(&self) -> Residency {
        self.pages.residency(self.address(), self.len.max(1))
    }

    /// The pages it lies in.
    pub fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    /// Offset of the first byte in [`Region::pages`].
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Address of the first byte.
    pub fn address(&self) -> usize {
        self.pages.address() + self.offset
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that a transfer may use from the start: to the end of the last page, if the pages are this region's alone.
    pub fn capacity(&self) -> usize {
        if self.is_alone() && self.offset == 0 {
            self.pages.len()
        } else {
            self.len
        }
    }

    /// Of a pool's region, address and length of what it is held in place with: memory that is used again and again is worth it.
    pub fn held_with(&self) -> Option<(usize, usize)> {
        match &self.whole {
            Some(whole) => whole.held_with(),
            None => self.home.as_ref().map(|home| home.part),
        }
    }

    /// Gives the memory back while its addresses stay, see [`Pages::discard`]: only where the pages are this region's alone and
    /// nothing is in flight. False where it did not.
    pub fn discard(&self) -> bool {
        self.is_alone() && self.in_flight() == 0 && self.pages.discard()
    }

    /// From now on [`registry::find`] does not find it: its buffer was freed, though others may still hold the memory.
    pub fn unlist(&self) {
        // The child of a fork has a list of its own, in which the same address may be another region's.
        if self.listed.swap(false, SeqCst) && self.pages.check().is_ok() {
            registry::leave(self.address());
        }
    }

    /// Operations in flight on these bytes.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(SeqCst)
    }

    /// Refuses memory that a transfer is using: freeing it or handing it on must wait.
    pub fn check_idle(&self) -> Result<()> {
        match self.in_flight() {
            0 => Ok(()),
            // How many is no number that anybody knows: a transfer is several operations.
            _ => Err(Error::Busy(
                "operations in flight or mappings use this buffer; wait for the transfers, and unmap the mappings"
                    .into(),
            )),
        }
    }

    /// Refuses memory into which an interrupted transfer may still write.
    pub fn check_settled(&self) -> Result<()> {
        match self.abandoned.load(SeqCst) {
            0 => Ok(()),
            _ => Err(Error::Busy(
                "an interrupted transfer has not let go of this buffer yet; use another, or try again later".into(),
            )),
        }
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.fetch_add(1, SeqCst);
    }

    pub(crate) fn settle(&self) {
        self.abandoned.fetch_sub(1, SeqCst);
    }

    /// The address of `[offset, offset + len)`, once the range and the process have been checked.
    ///
    /// # Errors
    /// [`Error::Argument`] outside the region, [`Error::Closed`] in the child of a fork.
    pub fn range(&self, offset: usize, len: usize) -> Result<*mut u8> {
        self.pages.check()?;
        check_range(offset, len, self.len)?;
        Ok((self.address() + offset) as *mut u8)
    }

    pub(super) fn attached(&self) -> &Attached {
        &self.attached
    }

    /// What programs read and write of it is what a simulated CPU has in its caches: memory is what devices see.
    pub fn processor(&self) -> Option<Arc<Processor>> {
        self.attached.get()
    }

    /// Refuses to show the bytes from `offset` on to somebody who reads and writes them in place, where those are not what the CPU sees.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn check_shown(&self, offset: usize, len: usize) -> Result<()> {
        if self.processor().is_none_or(|processor| processor.passes(self.address() + offset, len)) {
            return Ok(());
        }
        Err(Error::Unsupported(
            "this buffer is mapped for a simulated machine whose CPU may have its bytes in a cache or a store buffer, and who uses \
             memory in place would not see them; use the methods of the buffer, or unmap it first (with ordering: :strong, \
             type: :coherent does as well)"
                .into(),
        ))
    }

    /// Copies `len` bytes from `offset` to `to`.
    ///
    /// # Safety
    /// `to` must be valid for writing `len` bytes.
    pub unsafe fn read(&self, offset: usize, to: *mut u8, len: usize) -> Result<()> {
        let from = self.range(offset, len)?;
        match self.attached.get() {
            // SAFETY: `from` was checked, the caller vouches for `to`; copy allows them to overlap.
            None => unsafe { ptr::copy(from, to, len) },
            // SAFETY: the same.
            Some(processor) => unsafe { processor.read(from as usize, to, len) },
        }
        Ok(())
    }

    /// Copies `len` bytes from `from` to `offset`.
    ///
    /// # Safety
    /// `from` must be valid for reading `len` bytes.
    pub unsafe fn write(&self, offset: usize, from: *const u8, len: usize) -> Result<()> {
        let to = self.range(offset, len)?;
        match self.attached.get() {
            // SAFETY: `to` was checked, the caller vouches for `from`; copy allows them to overlap.
            None => unsafe { ptr::copy(from, to, len) },
            // SAFETY: the same; each part is of these bytes.
            Some(processor) => unsafe {
                let part = |part: &mut [u8], skip: usize| part.as_mut_ptr().copy_from(from.add(skip), part.len());
                processor.write(to as usize, len, part);
            },
        }
        Ok(())
    }

    /// Sets `len` bytes from `offset` to `byte`.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<()> {
        let to = self.range(offset, len)?;
        match self.attached.get() {
            // SAFETY: the range was checked.
            None => unsafe { ptr::write_bytes(to, byte, len) },
            // SAFETY: the same.
            Some(processor) => unsafe { processor.write(to as usize, len, |part, _| part.fill(byte)) },
        }
        Ok(())
    }

    /// Compares `[offset, offset + len)` bytewise with memory at `other`.
    ///
    /// # Safety
    /// `other` must be valid for reading `len` bytes.
    pub unsafe fn compare(&self, offset: usize, other: *const u8, len: usize) -> Result<Ordering> {
        let ours = self.range(offset, len)?;
        if let Some(processor) = self.attached.get() {
            let mut bytes = [0; LINE];
            let mut skip = 0;
            while skip < len {
                let part = (LINE - (ours as usize + skip) % LINE).min(len - skip);
                // SAFETY: `ours` was checked, the caller vouches for `other`; a part has at most the bytes of a line.
                let order = unsafe {
                    processor.read(ours as usize + skip, bytes.as_mut_ptr(), part);
                    libc::memcmp(bytes.as_ptr().cast(), other.add(skip).cast(), part)
                };
                if order != 0 {
                    return Ok(order.cmp(&0));
                }
                skip += part;
            }
            return Ok(Ordering::Equal);
        }
        // SAFETY: `ours` was checked, the caller vouches for `other`.
        Ok(unsafe { libc::memcmp(ours.cast(), other.cast(), len) }.cmp(&0))
    }
}

impl Drop for Region {
    /// Before the pages go, or the pool gives the address to another region.
    fn drop(&mut self) {
        self.unlist();
    }
}

/// Refuses what does not lie in a buffer of `size` bytes, whatever the sum of offset and length.
pub fn check_range(offset: usize, len: usize, size: usize) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::Argument(format!("{len} bytes at offset {offset} are outside a buffer of {size} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::bytes;
    use crate::memory::Span;

    fn region(size: usize) -> Arc<Region> {
        Region::allocate(Layout::new(size), Lock::Never).unwrap()
    }

    #[test]
    fn new_memory_is_zero_and_copies_touch_only_their_range() {
        let region = region(100);
        assert_eq!(bytes(&region), [0; 100]);
        // SAFETY: the literal has three bytes.
        unsafe { region.write(10, b"abc".as_ptr(), 3) }.unwrap();
        region.fill(50, 2, 0xff).unwrap();
        let mut expected = [0u8; 100];
        expected[10..13].copy_from_slice(b"abc");
        expected[50..52].fill(0xff);
        assert_eq!(bytes(&region), expected);
        // SAFETY: `expected` has 100 bytes.
        assert_eq!(unsafe { region.compare(0, expected.as_ptr(), 100) }, Ok(Ordering::Equal));
    }

    #[test]
    fn no_offset_and_length_reaches_outside_whatever_their_sum() {
        let region = region(100);
        for (offset, len) in [(101, 0), (0, 101), (100, 1), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)]
        {
            assert!(matches!(region.range(offset, len), Err(Error::Argument(_))), "{offset} {len}");
        }
        assert!(region.range(100, 0).is_ok());
    }

    #[test]
    fn memory_is_discarded_only_where_no_one_else_counts_on_it() {
        let region = region(8192);
        region.fill(0, 8192, 9).unwrap();
        let span = Span::new(&region, 0, 1).unwrap();
        assert!(!region.discard());
        drop(span);
        assert!(region.discard());
        assert_eq!(bytes(&region), [0; 8192]);
        let pool = super::super::Pool::new(1, 4096, 1, super::super::Huge::Auto, Lock::Never).unwrap();
        assert!(!pool.checkout().unwrap().unwrap().discard());
    }

    #[test]
    fn a_part_keeps_the_whole_and_gives_none_of_its_memory_back() {
        let region = region(8192);
        region.fill(0, 8192, 9).unwrap();
        let part = Region::part(&region, 4096, 10);
        assert_eq!((part.address(), part.capacity()), (region.address() + 4096, 10));
        assert_eq!(Region::part(&region, 0, 10).capacity(), 10);
        drop(region);
        part.unlist();
        assert!(!part.discard());
        assert_eq!(bytes(&part), [9; 10]);
        assert!(registry::find(part.address()).is_some());
    }
}
