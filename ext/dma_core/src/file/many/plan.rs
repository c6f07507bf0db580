//! Which extents of a file are read together: a rule of numbers only.

use std::ops::Range;

use crate::engine::file::OPERATION;

/// Bytes of a file: `len` from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// Offset of the first byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// One read: whole blocks around extents that lie next to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cover {
    pub start: u64,
    pub len: usize,
    /// Which of the plan's extents lie in it.
    pub extents: Range<usize>,
}

/// Extents in the order of the file, and the reads that bring them.
#[derive(Debug)]
pub(super) struct Plan {
    extents: Vec<Extent>,
    granule: u64,
    merge: bool,
}

impl Plan {
    /// Reads of whole blocks of `granule` bytes; if `merge`, each for as many extents as one operation brings.
    pub fn new(mut extents: Vec<Extent>, granule: u64, merge: bool) -> Plan {
        extents.sort_unstable();
        Plan { extents, granule, merge }
    }

    pub fn extent(&self, index: usize) -> Extent {
        self.extents[index]
    }

    /// The read of the extent at `index`, and of those behind it that it brings too: they touch or overlap it, and an operation is
    /// not too short for all of them.
    pub fn from(&self, index: usize) -> Option<Cover> {
        let (start, mut end) = self.blocks(index)?;
        let mut last = index + 1;
        while let Some((next, further)) = self.blocks(last).filter(|_| self.merge) {
            let grown = end.max(further);
            if next > end || grown > end && grown - start > OPERATION as u64 {
                break;
            }
            (end, last) = (grown, last + 1);
        }
        Some(Cover { start, len: (end - start) as usize, extents: index..last })
    }

    /// The read of the extent at `index` alone.
    pub fn alone(&self, index: usize) -> Option<Cover> {
        let (start, end) = self.blocks(index)?;
        Some(Cover { start, len: (end - start) as usize, extents: index..index + 1 })
    }

    /// Start and end of the blocks that an extent lies in; none of one without bytes.
    fn blocks(&self, index: usize) -> Option<(u64, u64)> {
        let Extent { offset, len } = *self.extents.get(index)?;
        let start = offset - offset % self.granule;
        // No file goes on behind the largest offset, whatever its blocks.
        let end = if len == 0 { start } else { (offset + len).next_multiple_of(self.granule).min(i64::MAX as u64) };
        Some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn covers(plan: &Plan) -> Vec<Cover> {
        let mut index = 0;
        std::iter::from_fn(|| {
            let cover = plan.from(index)?;
            index = cover.extents.end;
            Some(cover)
        })
        .collect()
    }

    fn extents(pairs: &[(u64, u64)]) -> Vec<Extent> {
        pairs.iter().map(|&(offset, len)| Extent { offset, len }).collect()
    }

    /// Offsets close to each other, and lengths of all sizes.
    fn pairs() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let len = prop_oneof![Just(0), 1u64..5000, 4096u64..4097, 0u64..3 << 20];
        prop::collection::vec(
            (prop_oneof![0u64..50_000, 0u64..8 << 20, (0u64..500).prop_map(|n| n * 4096)], len),
            0..60,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_extent_lies_in_one_read_of_whole_blocks(pairs in pairs(), power in 0u32..13, merge: bool) {
            let granule = 1u64 << power;
            let plan = Plan::new(extents(&pairs), granule, merge);
            let covers = covers(&plan);
            let mut seen = Vec::new();
            for (position, cover) in covers.iter().enumerate() {
                prop_assert_eq!((cover.start % granule, cover.len as u64 % granule), (0, 0));
                prop_assert_eq!(cover.extents.start, seen.len(), "none is left out, none comes twice");
                prop_assert!(cover.extents.len() == 1 || merge && position < covers.len());
                let end = cover.start + cover.len as u64;
                let mut read = cover.start;
                for index in cover.extents.clone() {
                    let Extent { offset, len } = plan.extent(index);
                    seen.push((offset, len));
                    prop_assert!(len == 0 || offset >= cover.start && offset + len <= end);
                    // No hole between them is read: each begins in a block that is read for those before it, or in the next.
                    prop_assert!(offset - offset % granule <= read);
                    if len > 0 {
                        read = read.max((offset + len).next_multiple_of(granule));
                    }
                }
                prop_assert_eq!(read, end, "nothing is read that nobody asked for");
                let longest = cover.extents.clone().map(|index| plan.alone(index).unwrap().len).max().unwrap();
                prop_assert!(cover.len <= longest.max(OPERATION));
            }
            let mut sorted = pairs;
            sorted.sort_unstable();
            prop_assert_eq!(seen, sorted);
        }

        #[test]
        fn neighbours_are_apart_only_where_one_operation_does_not_bring_both(pairs in pairs(), power in 0u32..13) {
            let plan = Plan::new(extents(&pairs), 1 << power, true);
            for pair in covers(&plan).windows(2) {
                let end = pair[0].start + pair[0].len as u64;
                let next = plan.alone(pair[1].extents.start).unwrap();
                let together = (next.start + next.len as u64).max(end) - pair[0].start;
                prop_assert!(next.start > end || together > OPERATION as u64);
            }
        }
    }

    #[test]
    fn pages_in_any_order_make_operations_of_one_mebibyte() {
        let pages: Vec<_> = (0..600u64).map(|n| (n * 7 % 600 * 4096, 4096)).collect();
        let sizes: Vec<_> = covers(&Plan::new(extents(&pages), 512, true)).iter().map(|cover| cover.len).collect();
        assert_eq!(sizes, [OPERATION, OPERATION, 88 * 4096]);
    }

    #[test]
    fn what_is_larger_than_an_operation_brings_what_lies_in_it_and_nothing_else() {
        let plan = Plan::new(extents(&[(0, 3 << 20), (5, 10), (3 << 20, 1), (2 << 20, 1 << 20)]), 1, true);
        let covers: Vec<_> = covers(&plan).into_iter().map(|cover| (cover.start, cover.len, cover.extents)).collect();
        assert_eq!(covers, [(0, 3 << 20, 0..3), (3 << 20, 1, 3..4)]);
    }

    #[test]
    fn the_last_block_ends_at_the_largest_offset() {
        let last = i64::MAX as u64;
        let plan = Plan::new(extents(&[(last - 5, 5), (last, 0)]), 512, true);
        assert_eq!(covers(&plan), [Cover { start: last - 511, len: 511, extents: 0..2 }]);
    }
}
