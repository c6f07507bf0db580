//! Which bus addresses are free: a rule of numbers only.

use std::collections::BTreeMap;

/// Free ranges of bus addresses, as first address and length; neighbours are always merged.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    free: BTreeMap<u64, u64>,
    page: u64,
}

impl Addresses {
    /// Whole pages of the `ranges`, as (first, last). Address 0 is never given: to some devices it means that there is no memory.
    pub(super) fn new(ranges: &[(u64, u64)], page: u64) -> Addresses {
        let mut addresses = Addresses { free: BTreeMap::new(), page };
        for (first, last) in ranges {
            let start = first.max(&page).next_multiple_of(page);
            let end = last.saturating_add(1) / page * page;
            if start < end {
                addresses.put(start, end - start);
            }
        }
        addresses
    }

    /// The lowest `len` bytes that end at `end` or before it; from 2 MiB up they begin at a multiple of that, so that the IOMMU can
    /// use large pages.
    pub(super) fn take(&mut self, len: u64, end: u64) -> Option<u64> {
        let wanted = [super::LARGE_PAGE, self.page].into_iter().filter(|align| *align <= len.max(self.page));
        let (start, found) = wanted
            .flat_map(|align| {
                let fits = move |(start, size): (&u64, &u64)| {
                    let at = start.checked_next_multiple_of(align)?;
                    let stop = at.checked_add(len)?;
                    (stop <= start + size && stop <= end).then_some((*start, at))
                };
                self.free.iter().filter_map(fits).next()
            })
            .next()?;
        let size = self.free.remove(&start)?;
        if found > start {
            self.free.insert(start, found - start);
        }
        if found + len < start + size {
            self.free.insert(found + len, start + size - found - len);
        }
        Some(found)
    }

    /// Gives `len` bytes back that were taken.
    pub(super) fn put(&mut self, start: u64, len: u64) {
        let (mut start, mut len) = (start, len);
        if let Some((before, size)) = self.free.range(..start).next_back().map(|(before, size)| (*before, *size)) {
            if before + size == start {
                self.free.remove(&before);
                (start, len) = (before, size + len);
            }
        }
        if let Some(size) = self.free.remove(&(start + len)) {
            len += size;
        }
        self.free.insert(start, len);
    }

    /// The largest free range below `end`, in bytes.
    pub(super) fn largest(&self, end: u64) -> u64 {
        self.free.iter().map(|(start, size)| (start + size).min(end).saturating_sub(*start)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    #[test]
    fn the_holes_between_ranges_and_address_zero_are_never_given() {
        let mut addresses = Addresses::new(&[(0, 0x4fff), (0x6000, 0x6fff)], PAGE);
        assert_eq!(addresses.largest(u64::MAX), 0x4000);
        assert_eq!(addresses.take(0x4000, u64::MAX), Some(0x1000));
        assert_eq!(addresses.take(PAGE, u64::MAX), Some(0x6000));
        assert_eq!(addresses.take(PAGE, u64::MAX), None);
    }

    #[test]
    fn the_last_address_there_is_does_not_overflow() {
        let mut addresses = Addresses::new(&[(u64::MAX - 0x2fff, u64::MAX)], PAGE);
        assert_eq!(addresses.take(0x2000, u64::MAX), Some(u64::MAX - 0x2fff));
    }

    #[test]
    fn large_memory_begins_at_a_large_page_where_it_can() {
        let mut addresses = Addresses::new(&[(0, (8 << 20) - 1)], PAGE);
        assert_eq!(addresses.take(2 << 20, u64::MAX), Some(2 << 20));
        assert_eq!(addresses.take(PAGE, u64::MAX), Some(PAGE));
        assert_eq!(addresses.take(4 << 20, 8 << 20), Some(4 << 20));
        addresses.put(4 << 20, 4 << 20);
        assert_eq!(addresses.take(4 << 20, (8 << 20) - 1), None, "past the device's width");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_taken_overlaps_nothing_and_all_of_it_comes_back(
            steps in prop::collection::vec((1u64..700, any::<bool>(), 1u64..2048), 1..200),
        ) {
            let ranges = [(PAGE, 500 * PAGE - 1), (600 * PAGE, 2000 * PAGE - 1)];
            let mut addresses = Addresses::new(&ranges, PAGE);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (pages, give_back, end) in steps {
                if give_back && !taken.is_empty() {
                    let (start, len) = taken.swap_remove(pages as usize % taken.len());
                    addresses.put(start, len);
                    continue;
                }
                let (len, end) = (pages * PAGE, end * PAGE);
                let Some(start) = addresses.take(len, end) else { continue };
                prop_assert!(start % PAGE == 0 && start + len <= end);
                prop_assert!(ranges.iter().any(|(first, last)| *first <= start && start + len - 1 <= *last));
                prop_assert!(taken.iter().all(|(other, size)| start + len <= *other || other + size <= start));
                taken.push((start, len));
            }
            taken.into_iter().for_each(|(start, len)| addresses.put(start, len));
            prop_assert_eq!(addresses.free, Addresses::new(&ranges, PAGE).free);
        }
    }
}
