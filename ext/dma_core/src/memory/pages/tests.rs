use super::*;

#[test]
fn alignment_is_any_power_of_two_from_a_page_up() {
    for align in [1, 4096, 1 << 16, 1 << 21, 1 << 24] {
        let pages = Pages::allocate(Layout { size: 10_000, align, huge: Huge::Auto }).unwrap();
        assert_eq!(pages.address() % align.max(sys::page_size()), 0);
        assert_eq!(pages.len(), 12_288);
    }
    let odd = Pages::allocate(Layout { size: 1, align: 48, huge: Huge::Auto });
    assert!(matches!(odd, Err(Error::Alignment(_))), "{odd:?}");
}

#[test]
fn sizes_past_the_address_space_are_refused() {
    for size in [usize::MAX, usize::MAX - 4095, isize::MAX as usize] {
        let pages = Pages::allocate(Layout::new(size));
        assert!(matches!(pages, Err(Error::Argument(_) | Error::Os { .. })), "{pages:?}");
    }
}

#[test]
fn large_allocations_start_at_a_huge_page() {
    let pages = Pages::allocate(Layout::new(sys::HUGE_PAGE)).unwrap();
    assert_eq!(pages.address() % sys::HUGE_PAGE, 0);
}

#[test]
fn residency_is_locked_only_after_a_lock_that_worked() {
    let pages = Pages::allocate(Layout::new(4096)).unwrap();
    assert_eq!(pages.residency(pages.address(), pages.len()), Residency::Pageable);
    pages.lock(Lock::Never).unwrap();
    assert_eq!(pages.residency(pages.address(), pages.len()), Residency::Pageable);
    let before = sys::locked_bytes();
    if pages.lock(Lock::Now).is_ok() {
        assert_eq!(pages.residency(pages.address(), pages.len()), Residency::Locked);
        // Other tests lock and unlock at the same time: only that something is locked is certain.
        assert!(sys::locked_bytes() > 0, "{before}");
    }
}

#[test]
fn foreign_memory_is_neither_mapped_nor_given_back() {
    let memory = vec![7u8; 64];
    // SAFETY: the vector outlives the pages.
    let pages = unsafe { Pages::foreign(memory.as_ptr() as usize, 64) }.unwrap();
    assert_eq!((pages.address(), pages.len()), (memory.as_ptr() as usize, 64));
    drop(pages);
    assert_eq!(memory, [7; 64]);
    // SAFETY: refused, so nothing is looked after.
    assert!(unsafe { Pages::foreign(0, 64) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { Pages::foreign(usize::MAX, 64) }.is_err());
}
