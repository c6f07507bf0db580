//! Bus addresses behind an IOMMU: each mapping has a run of its own.

use std::collections::BTreeMap;

use super::{FIRST, PAGE};
use crate::transfer::Access;

/// Mappings by the bus address of their first byte.
#[derive(Debug)]
pub(super) struct Iommu {
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
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    pub(super) fn new() -> Iommu {
        Iommu { mappings: BTreeMap::new(), next: FIRST }
    }

    /// The bus address of a new mapping, unless there is no room for it below page `limit`.
    pub(super) fn map(&mut self, id: u64, host: u64, len: u64, access: Access, limit: u64) -> Option<u64> {
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

    /// Takes away the mapping that begins at bus address `first`.
    pub(super) fn unmap(&mut self, first: u64) {
        self.mappings.remove(&first);
    }

    pub(super) fn translate(&self, address: u64, access: Access) -> Option<(u64, u64, u64)> {
        let (bus, mapping) = self.mappings.range(..=address).next_back()?;
        let offset = address - bus;
        let allowed = offset < mapping.len && mapping.access.allows(access);
        allowed.then(|| (mapping.host + offset, mapping.len - offset, mapping.id))
    }
}
