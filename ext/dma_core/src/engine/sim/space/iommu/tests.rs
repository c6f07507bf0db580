use std::sync::Arc;

use super::*;
use crate::memory::{Huge, Layout, Lock, Pool, Region};

const ALL: u64 = 1 << 36;
const LARGE_PAGES: usize = LARGE as usize;

fn region(size: usize) -> Arc<Region> {
    Region::allocate(Layout::new(size), Lock::Never).unwrap()
}

fn map(iommu: &mut Iommu, region: &Arc<Region>, offset: usize, len: usize, limit: u64) -> Option<u64> {
    iommu.map(Span::new(region, offset, len).unwrap(), Access::Both, limit)
}

/// A lazy one with a delay of 1000, and its clock.
fn lazy() -> (Iommu, Arc<AtomicU64>) {
    let clock: Arc<AtomicU64> = Arc::default();
    (Iommu::new(Some((Arc::clone(&clock), 1000))), clock)
}

fn is_reached(iommu: &mut Iommu, address: u64) -> bool {
    iommu.translate(address, 1, Access::Read).is_some()
}

#[test]
fn large_pages_are_whole_and_where_memory_has_them_too() {
    let memory = region(4 * LARGE_PAGES);
    for (offset, len, small, large) in [
        (0, LARGE_PAGES, 0, 1),
        (0, LARGE_PAGES - 1, 0, 1),
        (0, LARGE_PAGES - 4096, 511, 0),
        (0, 2 * LARGE_PAGES - 4096, 511, 1),
        (4096, 2 * LARGE_PAGES, 512, 1),
        (4096, LARGE_PAGES, 512, 0),
        (100, 3 * LARGE_PAGES, 1, 3),
        (4196, 3 * LARGE_PAGES, 513, 2),
    ] {
        let mut iommu = Iommu::new(None);
        // What lies before makes no difference.
        map(&mut iommu, &memory, 0, 4096, ALL).unwrap();
        let bus = map(&mut iommu, &memory, offset, len, ALL).unwrap();
        let stats = iommu.stats();
        assert_eq!((stats.small - 1, stats.large), (small, large), "{len} bytes at {offset}");
        assert!(len < LARGE_PAGES || bus % LARGE == offset as u64);
        let (host, together, id) = iommu.translate(bus, u64::MAX, Access::Read).unwrap();
        assert_eq!((host, together, id), ((memory.address() + offset) as u64, len as u64, bus));
        iommu.unmap(bus).unwrap();
        assert_eq!((iommu.stats().small, iommu.stats().large), (1, 0));
    }
}

#[test]
fn where_no_room_is_alike_small_pages_have_to_do() {
    let memory = region(2 * LARGE_PAGES);
    let mut iommu = Iommu::new(None);
    // Below 5 MiB there is one place for 3 MiB that begin as the memory does: from 2 MiB on, which is taken.
    let limit = (5 << 20) / PAGE;
    map(&mut iommu, &memory, 0, 4096, limit).unwrap();
    let bus = map(&mut iommu, &memory, 0, LARGE_PAGES + (1 << 19), (5 << 20) / PAGE).unwrap();
    assert_eq!((bus, iommu.stats().large), (LARGE, 1));
    iommu.unmap(bus);
    let small = iommu.map(Span::new(&memory, 8192, 4096).unwrap(), Access::Both, limit).unwrap();
    assert_eq!(small, LARGE + (1 << 19) + LARGE + PAGE, "behind the last");
    let third = map(&mut iommu, &memory, 0, 2 * LARGE_PAGES, limit).unwrap();
    assert_ne!(third % LARGE, 0);
    assert_eq!(iommu.stats().large, 0);
}

#[test]
fn interrupt_messages_are_nobodys_memory() {
    let memory = region(1 << 30);
    let mut iommu = Iommu::new(None);
    let mut last = 0;
    while let Some(bus) = map(&mut iommu, &memory, 0, (1 << 20) + 1, 1 << 20) {
        assert!(bus + (1 << 20) < MESSAGES.start || bus >= MESSAGES.end, "{bus:#x}");
        last = last.max(bus);
    }
    assert!(last > MESSAGES.end, "there is room behind them");
    assert_eq!(iommu.translate(MESSAGES.start, 4, Access::Write), None);
    assert_eq!(iommu.reason(MESSAGES.start, Access::Write), Reason::InterruptBlocked);
    assert_eq!(iommu.reason(MESSAGES.end - 1, Access::Read), Reason::NoRead);
    assert_eq!(iommu.reason(1 << 48, Access::Write), Reason::OutOfRange);
}

#[test]
fn what_waits_is_reached_until_its_time_has_come() {
    let (mut iommu, clock) = lazy();
    let memory = region(8192);
    clock.store(5, Relaxed);
    let [one, two] = [0, 4096].map(|offset| map(&mut iommu, &memory, offset, 4096, ALL).unwrap());
    assert!(is_reached(&mut iommu, one) && is_reached(&mut iommu, two));
    iommu.unmap(one).unwrap();
    clock.store(900, Relaxed);
    iommu.unmap(two).unwrap();
    assert!(iommu.unmap(two).is_none(), "it is gone, for the program");
    assert_eq!((memory.in_flight(), iommu.len(), iommu.stats().queued), (0, 0, 2));
    clock.store(1004, Relaxed);
    assert!(is_reached(&mut iommu, one) && is_reached(&mut iommu, two));
    clock.store(1005, Relaxed);
    assert!(!is_reached(&mut iommu, two) && !is_reached(&mut iommu, one));
    assert_eq!((iommu.stats().flushes, iommu.forgotten().len(), iommu.is_empty()), (1, 2, true));
}

#[test]
fn a_flush_is_for_all_and_what_is_mapped_is_looked_up_again() {
    let (mut iommu, _) = lazy();
    let memory = region(8192);
    let [one, two] = [0, 4096].map(|offset| map(&mut iommu, &memory, offset, 4096, ALL).unwrap());
    assert!(is_reached(&mut iommu, one) && is_reached(&mut iommu, two));
    iommu.unmap(one).unwrap();
    iommu.flush();
    assert!(!is_reached(&mut iommu, one) && is_reached(&mut iommu, two));
    let stats = IommuStats { small: 1, misses: 4, flushes: 1, ..IommuStats::default() };
    assert_eq!(iommu.stats(), stats);
}

#[test]
fn addresses_that_wait_are_given_out_last() {
    let (mut iommu, _) = lazy();
    let memory = region(4096);
    // Of 16 pages there is room for seven mappings.
    for round in 0..3 {
        let given: Vec<_> = (0..7)
            .map(|_| {
                let bus = map(&mut iommu, &memory, 0, 4096, 16).unwrap();
                iommu.unmap(bus).unwrap();
                bus / PAGE
            })
            .collect();
        assert_eq!((given, iommu.stats().flushes), (vec![1, 3, 5, 7, 9, 11, 13], round));
    }
}

#[test]
fn what_waits_keeps_its_pages_but_not_its_buffer() {
    let (mut iommu, _) = lazy();
    let pool = Pool::new(1, 4096, 1, Huge::Auto, Lock::Never).unwrap();
    let bus = {
        let buffer = pool.checkout().unwrap().unwrap();
        buffer.fill(0, 4096, 7).unwrap();
        let bus = map(&mut iommu, &buffer, 0, 4096, ALL).unwrap();
        assert!(is_reached(&mut iommu, bus));
        iommu.unmap(bus).unwrap();
        bus
    };
    assert_eq!(pool.available(), Ok(1), "the next has it at once");
    drop(pool);
    let (host, ..) = iommu.translate(bus, 1, Access::Read).unwrap();
    // SAFETY: what waits keeps its pages.
    assert_eq!(unsafe { (host as *const u8).read() }, 7);
}

#[test]
fn in_a_set_pages_take_places_in_turn() {
    let mut iommu = Iommu::new(None);
    let memory = region(65 * 4096);
    let bus = map(&mut iommu, &memory, 0, 65 * 4096, ALL).unwrap();
    let misses = |iommu: &mut Iommu, page: u64| {
        let before = iommu.stats().misses;
        assert!(is_reached(iommu, bus + page * PAGE));
        iommu.stats().misses - before
    };
    assert_eq!((0..64).map(|page| misses(&mut iommu, page)).sum::<u64>(), 64);
    assert_eq!((0..64).map(|page| misses(&mut iommu, page)).sum::<u64>(), 0, "all are there");
    assert_eq!((misses(&mut iommu, 0), misses(&mut iommu, 64)), (0, 1), "one more in the first's set");
    assert_eq!([64, 16, 32, 48, 0, 16].map(|page| misses(&mut iommu, page)), [0, 0, 0, 0, 1, 1]);
}
