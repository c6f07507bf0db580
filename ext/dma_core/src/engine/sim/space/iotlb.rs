//! The IOTLB of a device: the pages that it used last, with what the tables said of them.
//!
//! It has 64 entries in 16 sets of four. The low bits of a page's number, of its own size, choose the set; in a set the page goes that
//! was not used for longest. A page of 2 MiB takes one entry. Nothing that is not mapped is kept.

use super::PAGE;
use crate::transfer::Access;

const SETS: usize = 16;
const WAYS: usize = 4;
/// Log 2 of the page sizes that there are.
const SIZES: [u32; 2] = [PAGE.ilog2(), 21];

/// A page as far as it is mapped: bus addresses `bus..end` are memory from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub bus: u64,
    pub end: u64,
    pub host: u64,
    /// The mapping that it belongs to.
    pub id: u64,
    pub access: Access,
}

const EMPTY: Entry = Entry { bus: 0, end: 0, host: 0, id: 0, access: Access::Both };

/// See the [module](self). In a set the page comes first that was used last.
#[derive(Debug)]
pub(super) struct Iotlb {
    sets: Box<[[Entry; WAYS]; SETS]>,
    /// Whether there may be large pages.
    has_large: bool,
}

impl Default for Iotlb {
    fn default() -> Iotlb {
        Iotlb { sets: Box::new([[EMPTY; WAYS]; SETS]), has_large: false }
    }
}

impl Entry {
    fn contains(&self, address: u64) -> bool {
        (self.bus..self.end).contains(&address)
    }
}

impl Iotlb {
    /// The page that an address is in, which was used last from now on.
    pub(super) fn find(&mut self, address: u64) -> Option<Entry> {
        let sizes = if self.has_large { &SIZES[..] } else { &SIZES[..1] };
        for size in sizes {
            let set = &mut self.sets[index(address, *size)];
            if let Some(way) = set.iter().position(|entry| entry.contains(address)) {
                set[..=way].rotate_right(1);
                return Some(set[0]);
            }
        }
        None
    }

    /// What the page that an address is in allows, if it has it.
    pub(super) fn access(&self, address: u64) -> Option<Access> {
        self.sets.iter().flatten().find(|entry| entry.contains(address)).map(|entry| entry.access)
    }

    /// Takes a page of `size` bytes in.
    pub(super) fn insert(&mut self, entry: Entry, size: u64) {
        self.has_large |= size > PAGE;
        let set = &mut self.sets[index(entry.bus, size.ilog2())];
        let way = set.iter().position(|entry| entry.end == 0).unwrap_or(WAYS - 1);
        set[..=way].rotate_right(1);
        set[0] = entry;
    }

    /// Takes the pages of the mapping at addresses `id..end` out.
    pub(super) fn invalidate(&mut self, id: u64, end: u64) {
        let clear = |set: &mut [Entry; WAYS]| {
            set.iter_mut().filter(|entry| entry.id == id).for_each(|entry| *entry = EMPTY);
        };
        let (first, last) = (id / PAGE, (end - 1) / PAGE);
        if last - first < SETS as u64 {
            (first..=last).for_each(|page| clear(&mut self.sets[index(page * PAGE, SIZES[0])]));
        } else {
            self.sets.iter_mut().for_each(clear);
        }
    }

    /// Takes all of them out.
    pub(super) fn flush(&mut self) {
        self.sets.as_flattened_mut().fill(EMPTY);
        self.has_large = false;
    }
}

fn index(address: u64, size: u32) -> usize {
    (address >> size) as usize % SETS
}
