//! Which region an address belongs to: for callers who have nothing but a pointer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::region::Region;
use crate::sys::PerProcess;

/// Regions by the address of their first byte; none overlaps another. Memory that belongs to somebody else is not among
/// them: nobody could say how long it stays.
type Table = BTreeMap<usize, (usize, Weak<Region>)>;

fn table() -> MutexGuard<'static, Table> {
    static TABLE: PerProcess<Mutex<Table>> = PerProcess::new();
    // Nothing that panics runs under the lock.
    TABLE.get(|_| Mutex::default()).lock().unwrap_or_else(PoisonError::into_inner)
}

/// The region that the byte at `address` lies in, and where in it.
pub fn find(address: usize) -> Option<(Arc<Region>, usize)> {
    let table = table();
    let (start, (len, region)) = table.range(..=address).next_back()?;
    let offset = address - start;
    // A region of no bytes has an address all the same. Nothing may fail after the upgrade: the last one to let go of a
    // region takes the lock.
    if offset >= (*len).max(1) {
        return None;
    }
    Some((region.upgrade()?, offset))
}

pub(super) fn enter(region: &Arc<Region>) {
    table().insert(region.address(), (region.len(), Arc::downgrade(region)));
}

pub(super) fn leave(address: usize) {
    // Freed after the lock: it may be the last trace of the region.
    let _gone = table().remove(&address);
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::{Huge, Layout, Lock, Pages, Pool, Span};
    use super::*;

    fn is_found(address: usize) -> bool {
        find(address).is_some()
    }

    #[test]
    fn every_byte_of_a_region_is_found_as_long_as_it_lives() {
        let region = Region::allocate(Layout::new(5000), Lock::Never).unwrap();
        let start = region.address();
        for offset in [0, 1, 4999] {
            let (found, at) = find(start + offset).unwrap();
            assert!(Arc::ptr_eq(&found, &region) && at == offset);
        }
        assert!(!is_found(start + 5000) && !is_found(start.wrapping_sub(1)) && !is_found(0) && !is_found(usize::MAX));
        let span = Span::new(&region, 0, 1).unwrap();
        drop(region);
        assert!(is_found(start), "a transfer has it");
        drop(span);
        assert!(!is_found(start));
    }

    #[test]
    fn an_empty_region_is_found_by_its_address() {
        let region = Region::allocate(Layout::new(0), Lock::Never).unwrap();
        assert!(is_found(region.address()) && !is_found(region.address() + 1));
    }

    #[test]
    fn what_was_freed_is_not_found_while_others_hold_it() {
        let region = Region::allocate(Layout::new(4096), Lock::Never).unwrap();
        region.unlist();
        assert!(!is_found(region.address()));
    }

    #[test]
    fn of_a_pool_the_regions_that_are_out_are_found() {
        let pool = Pool::new(2, 100, 1, Huge::Auto, Lock::Never).unwrap();
        let taken = pool.checkout().unwrap().unwrap();
        let start = taken.address();
        assert!(is_found(start + 99) && !is_found(start + 100) && !is_found(start + 4096));
        drop(taken);
        assert!(!is_found(start));
    }

    #[test]
    fn memory_of_somebody_else_is_not_found() {
        let memory = [0u8; 64];
        // SAFETY: the array outlives the region.
        let region = Region::of(unsafe { Pages::foreign(memory.as_ptr() as usize, 64) }.unwrap());
        assert!(!is_found(region.address()));
    }

    #[test]
    fn regions_come_and_go_while_others_look() {
        let pool = Pool::new(4, 64, 1, Huge::Auto, Lock::Never).unwrap();
        let (first, all) = (pool.pages().address(), pool.pages().len());
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let taken = pool.checkout().unwrap().expect("three threads take one of four each");
                        let (found, _) = find(taken.address()).expect("it is out");
                        assert!(Arc::ptr_eq(&found, &taken));
                        drop((taken, found));
                    }
                });
            }
            scope.spawn(|| (0..8000).for_each(|n| drop(find(first + n * 64 % all))));
        });
        assert!((first..first + all).step_by(64).all(|address| !is_found(address)));
    }
}
