//! The IOTLB of a device: the pages that it used last, with what the tables said of them.
//!
//! It has 64 entries in 16 sets of four. The low bits of a page's number, of its own size, choose the set; in a set the page goes that
//! was not used for longest. A page of 2 MiB takes one entry. Nothing that is not mapped is kept.

use super::PAGE;

const SETS: usize = 16;
const WAYS: usize = 4;
/// Log 2 of the page sizes that there are.
const SIZES: [u32; 2] = [PAGE.ilog2(), 21];

/// A page, and the mapping that it belongs to.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Its number and size; 0: there is none.
    tag: u64,
    id: u64,
}

const FREE: Entry = Entry { tag: 0, id: 0 };

/// The page comes first that was used last. In one line of the cache, for copying drives all else out of it.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Set([Entry; WAYS]);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Iotlb {
    sets: Box<[Set; SETS]>,
    /// Whether there may be large pages.
    has_large: bool,
}

impl Default for Iotlb {
    fn default() -> Iotlb {
        Iotlb { sets: Box::new([Set([FREE; WAYS]); SETS]), has_large: false }
    }
}

impl Set {
    /// Puts an entry in front of those before `way`, whose place becomes free by that.
    fn push(&mut self, way: usize, entry: Entry) {
        self.0.copy_within(..way, 1);
        self.0[0] = entry;
    }
}

impl Iotlb {
    /// Whose page an address is in, which was used last from now on.
    pub(super) fn find(&mut self, address: u64) -> Option<u64> {
        let sizes = if self.has_large { &SIZES[..] } else { &SIZES[..1] };
        for size in sizes {
            let (set, tag) = (&mut self.sets[index(address, *size)], tag(address, *size));
            if let Some(way) = set.0.iter().position(|entry| entry.tag == tag) {
                let entry = set.0[way];
                set.push(way, entry);
                return Some(entry.id);
            }
        }
        None
    }

    /// The same, and nothing changes for having asked.
    pub(super) fn peek(&self, address: u64) -> Option<u64> {
        let entries = SIZES.iter().flat_map(|size| self.sets[index(address, *size)].0);
        let mut there = entries.filter(|entry| SIZES.iter().any(|size| entry.tag == tag(address, *size)));
        there.next().map(|entry| entry.id)
    }

    /// Takes the page of `size` bytes in that an address is in.
    pub(super) fn insert(&mut self, address: u64, size: u64, id: u64) {
        self.has_large |= size > PAGE;
        let size = size.ilog2();
        let set = &mut self.sets[index(address, size)];
        let way = set.0.iter().position(|entry| entry.tag == 0).unwrap_or(WAYS - 1);
        set.push(way, Entry { tag: tag(address, size), id });
    }

    /// Takes the pages of the mapping at addresses `id..end` out.
    pub(super) fn invalidate(&mut self, id: u64, end: u64) {
        let clear = |set: &mut Set| set.0.iter_mut().filter(|entry| entry.id == id).for_each(|entry| *entry = FREE);
        let (first, last) = (id / PAGE, (end - 1) / PAGE);
        if last - first < SETS as u64 {
            (first..=last).for_each(|page| clear(&mut self.sets[index(page * PAGE, SIZES[0])]));
        } else {
            self.sets.iter_mut().for_each(clear);
        }
    }

    /// Takes all of them out.
    pub(super) fn flush(&mut self) {
        self.sets.fill(Set([FREE; WAYS]));
        self.has_large = false;
    }
}

fn index(address: u64, size: u32) -> usize {
    (address >> size) as usize % SETS
}

fn tag(address: u64, size: u32) -> u64 {
    address >> size << 6 | u64::from(size)
}
