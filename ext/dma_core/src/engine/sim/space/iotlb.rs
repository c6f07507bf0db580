//! The IOTLB of a device: pages that it used, and whose they are.
//!
//! It has 64 entries in 16 sets of four. The low bits of a page's number, of its own size, choose the set; in a set, places are taken in
//! turn (round robin), whatever is there. A page of 2 MiB takes one entry. Nothing that is not mapped is kept.

use super::PAGE;

const SETS: usize = 16;
const WAYS: usize = 4;
/// Log 2 of the page sizes that there are.
const SIZES: [u32; 2] = [PAGE.ilog2(), 21];

/// Number and size of each page, and the mapping that it belongs to; 0: there is none. In one line of the cache, for copying drives all
/// else out of it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Set {
    tags: [u64; WAYS],
    ids: [u64; WAYS],
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Iotlb {
    sets: Box<[Set; SETS]>,
    /// The place of each set that is taken next.
    turns: [u8; SETS],
    /// Whether there may be large pages.
    has_large: bool,
}

impl Set {
    fn find(&self, tag: u64) -> Option<u64> {
        self.tags.iter().position(|other| *other == tag).map(|way| self.ids[way])
    }

    fn clear(&mut self, id: u64) {
        for (tag, other) in self.tags.iter_mut().zip(&mut self.ids).filter(|(_, other)| **other == id) {
            (*tag, *other) = (0, 0);
        }
    }
}

impl Iotlb {
    /// Whose page an address is in.
    pub(super) fn find(&self, address: u64) -> Option<u64> {
        let sizes = if self.has_large { &SIZES[..] } else { &SIZES[..1] };
        sizes.iter().find_map(|size| self.sets[index(address, *size)].find(tag(address, *size)))
    }

    /// Looks for the page of `size` bytes that an address is in, and takes it in for a mapping. Whether it was there.
    pub(super) fn find_or_insert(&mut self, address: u64, size: u64, id: u64) -> bool {
        let size = size.ilog2();
        let (index, tag) = (index(address, size), tag(address, size));
        let set = &mut self.sets[index];
        if set.find(tag).is_some() {
            return true;
        }
        self.has_large |= size > SIZES[0];
        let turn = &mut self.turns[index];
        let way = usize::from(*turn) % WAYS;
        *turn = turn.wrapping_add(1);
        (set.tags[way], set.ids[way]) = (tag, id);
        false
    }

    /// Takes the pages of the mapping at addresses `id..end` out.
    pub(super) fn invalidate(&mut self, id: u64, end: u64) {
        let (first, last) = (id / PAGE, (end - 1) / PAGE);
        if last - first < SETS as u64 {
            (first..=last).for_each(|page| self.sets[index(page * PAGE, SIZES[0])].clear(id));
        } else {
            self.sets.iter_mut().for_each(|set| set.clear(id));
        }
    }

    /// Takes all of them out.
    pub(super) fn flush(&mut self) {
        self.sets.fill(Set::default());
        self.has_large = false;
    }
}

fn index(address: u64, size: u32) -> usize {
    (address >> size) as usize % SETS
}

fn tag(address: u64, size: u32) -> u64 {
    address >> size << 6 | u64::from(size)
}
