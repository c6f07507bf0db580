//! Pages that are locked while a mapping lives. The kernel does not count locks: the first munlock(2) undoes them all.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pages::lock_error;
use crate::error::Result;
use crate::sys::{self, PerProcess};

/// How many hold each locked page, by its address. The child of a fork inherits no locks.
fn held() -> MutexGuard<'static, HashMap<usize, u32>> {
    static HELD: PerProcess<Mutex<HashMap<usize, u32>>> = PerProcess::new();
    // Nothing that panics runs under the lock.
    HELD.get(|_| Mutex::default()).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the pages of a range from being swapped out until it is dropped.
#[derive(Debug)]
pub struct PageLock {
    first: usize,
    count: usize,
    generation: u32,
}

impl PageLock {
    /// Locks the pages that `[address, address + len)` lies in.
    ///
    /// # Safety
    /// They must stay mapped until the lock is dropped, and nobody else may unlock them.
    ///
    /// # Errors
    /// [`crate::Error::LockLimit`] past RLIMIT_MEMLOCK; [`crate::Error::Os`] otherwise.
    pub unsafe fn new(address: usize, len: usize) -> Result<PageLock> {
        let page = sys::page_size();
        let first = address - address % page;
        let count = (address + len).next_multiple_of(page).saturating_sub(first) / page;
        let lock = PageLock { first, count, generation: sys::fork_generation() };
        let mut held = held();
        for index in 0..count {
            *held.entry(first + index * page).or_insert(0) += 1;
        }
        // Bringing the pages in takes long. They are counted, so that nobody unlocks them meanwhile; where it fails, dropping the
        // lock undoes it.
        drop(held);
        // SAFETY: the caller vouches for the pages.
        unsafe { sys::mlock(first as *const u8, count * page, false) }
            .map_err(|errno| lock_error(errno, (count * page) as u64, true))?;
        Ok(lock)
    }
}

impl Drop for PageLock {
    fn drop(&mut self) {
        // What the parent of a fork locked is not locked here.
        if self.generation != sys::fork_generation() {
            return;
        }
        let (mut held, page) = (held(), sys::page_size());
        for index in 0..self.count {
            let address = self.first + index * page;
            let left = held.get_mut(&address).map_or(0, |holders| {
                *holders -= 1;
                *holders
            });
            if left == 0 {
                held.remove(&address);
                // SAFETY: whoever made the lock vouched for the pages until now, and nobody holds this one any more.
                let _ = unsafe { sys::munlock(address as *const u8, page) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, Pages};
    use super::*;

    fn is_held(address: usize) -> bool {
        held().contains_key(&address)
    }

    #[test]
    fn a_page_stays_locked_until_the_last_of_its_holders_lets_go() {
        let page = sys::page_size();
        let pages = Pages::allocate(Layout::new(3 * page)).unwrap();
        let address = pages.address();
        // SAFETY: the pages outlive the locks.
        let Ok(first) = (unsafe { PageLock::new(address + 1, 2 * page) }) else {
            return; // no page may be locked here
        };
        // SAFETY: as above.
        let second = unsafe { PageLock::new(address, page + 1) }.unwrap();
        assert!((0..3).all(|index| is_held(address + index * page)));
        drop(first);
        assert!(is_held(address) && is_held(address + page) && !is_held(address + 2 * page));
        drop(second);
        assert!(!is_held(address) && !is_held(address + page));
    }
}
