//! A fixed number of equal regions from one allocation.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::EventFd;

use super::pages::{check_alignment, Layout, Lock, Pages};
use super::region::Region;
use crate::error::{Error, Result};
use crate::sys;

/// Regions of one size that are taken, and come back when the last user lets go, operations in flight included.
#[derive(Debug)]
pub struct Pool {
    pages: Arc<Pages>,
    slots: Arc<Slots>,
    count: usize,
    size: usize,
    stride: usize,
}

#[derive(Debug)]
struct Slots {
    state: Mutex<State>,
    generation: u32,
}

#[derive(Debug)]
struct State {
    free: Vec<usize>,
    /// Who waits for a region, first come first: the free ones belong to as many at the front.
    waiters: VecDeque<Arc<EventFd>>,
}

/// Somebody who waits for a region.
#[derive(Debug)]
pub struct Waiter(Arc<EventFd>);

impl Waiter {
    /// A waiter in no queue yet.
    pub fn new() -> Result<Waiter> {
        let event = sys::eventfd().map_err(|errno| Error::os(errno, "cannot make an event to wait for"))?;
        Ok(Waiter(Arc::new(event)))
    }

    /// Readable when a region may be free.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The place in its pool to which a region returns when it is dropped.
#[derive(Debug)]
pub(super) struct Home {
    slots: Arc<Slots>,
    slot: usize,
    /// See [`Region::held_with`].
    pub(super) part: (usize, usize),
}

impl Pool {
    /// Maps `count` regions of `size` bytes, each aligned to `align`.
    pub fn new(count: usize, size: usize, align: usize, huge: super::Huge, lock: Lock) -> Result<Pool> {
        if count == 0 || size == 0 {
            return Err(Error::Argument(format!("a pool of {count} buffers of {size} bytes holds nothing")));
        }
        check_alignment(align)?;
        let align = align.max(sys::page_size());
        let too_big = || Error::Argument(format!("{count} buffers of {size} bytes do not fit the address space"));
        let stride = size.checked_next_multiple_of(align).ok_or_else(too_big)?;
        let total = stride.checked_mul(count).ok_or_else(too_big)?;
        let pages = Pages::allocate(Layout { size: total, align, huge })?;
        pages.lock(lock)?;
        let state = State { free: (0..count).rev().collect(), waiters: VecDeque::new() };
        let slots = Slots { state: Mutex::new(state), generation: sys::fork_generation() };
        Ok(Pool { pages: Arc::new(pages), slots: Arc::new(slots), count, size, stride })
    }

    /// Takes a region, or `None` when all are taken; whoever waits for one is passed over.
    pub fn checkout(&self) -> Result<Option<Arc<Region>>> {
        self.take(|state| !state.free.is_empty())
    }

    /// Takes a region that nobody waits for.
    pub fn checkout_spare(&self) -> Result<Option<Arc<Region>>> {
        self.take(|state| state.free.len() > state.waiters.len())
    }

    /// Takes a region and ends the wait, when it is the turn of `waiter`.
    pub fn checkout_in_turn(&self, waiter: &Waiter) -> Result<Option<Arc<Region>>> {
        self.take(|state| {
            // Cleared where the state is seen: a signal that comes later tells of a later state.
            sys::clear(&waiter.0);
            let turn = state.waiters.iter().take(state.free.len()).position(|other| Arc::ptr_eq(other, &waiter.0));
            turn.and_then(|position| state.waiters.remove(position)).is_some()
        })
    }

    fn take(&self, may: impl FnOnce(&mut State) -> bool) -> Result<Option<Arc<Region>>> {
        self.pages.check()?;
        let mut state = self.slots.lock();
        let slot = if may(&mut state) { state.free.pop() } else { None };
        drop(state);
        Ok(slot.map(|slot| {
            let home = Home { slots: Arc::clone(&self.slots), slot, part: self.part(slot) };
            Region::listed(Arc::clone(&self.pages), slot * self.stride, self.size, Some(home))
        }))
    }

    /// Address and length of the regions around `slot` that lie in a huge page's room together; of a larger one alone.
    fn part(&self, slot: usize) -> (usize, usize) {
        let each = (sys::HUGE_PAGE / self.stride).max(1);
        let first = slot - slot % each;
        let count = each.min(self.count - first);
        (self.pages.address() + first * self.stride, count * self.stride)
    }

    /// Puts `waiter` at the end of the queue. Its event is readable when it is its turn to call [`Pool::checkout_in_turn`]; in the
    /// end, whatever happened, it calls [`Pool::leave`].
    pub fn enter(&self, waiter: &Waiter) {
        let mut state = self.slots.lock();
        state.waiters.push_back(Arc::clone(&waiter.0));
        state.wake();
    }

    /// Ends a wait. A region that the waiter did not take is the next one's: none is lost with its waiter.
    pub fn leave(&self, waiter: &Waiter) {
        let mut state = self.slots.lock();
        state.waiters.retain(|other| !Arc::ptr_eq(other, &waiter.0));
        state.wake();
    }

    /// How many regions there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many are free now.
    ///
    /// # Errors
    /// [`Error::Closed`] in the child of a fork.
    pub fn available(&self) -> Result<usize> {
        self.pages.check()?;
        Ok(self.slots.lock().free.len())
    }

    /// Bytes of each region.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The pages all regions lie in.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&self) {
        self.waiters.iter().take(self.free.len()).for_each(|waiter| sys::signal(waiter));
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // In the child of a fork the lock may have been held by a thread that is not there.
        if self.slots.generation != sys::fork_generation() {
            return;
        }
        let mut state = self.slots.lock();
        state.free.push(self.slot);
        state.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Huge;
    use super::*;
    use std::thread;
    use std::time::Duration;

    fn pool(count: usize, size: usize) -> Pool {
        Pool::new(count, size, 1, Huge::Auto, Lock::Never).unwrap()
    }

    #[test]
    fn regions_are_distinct_aligned_and_come_back() {
        let pool = pool(3, 5000);
        let taken: Vec<_> = (0..3).map(|_| pool.checkout().unwrap().unwrap()).collect();
        let mut addresses: Vec<_> = taken.iter().map(|region| region.address()).collect();
        addresses.sort_unstable();
        assert!(addresses.windows(2).all(|pair| pair[1] - pair[0] >= 5000), "{addresses:?}");
        assert!(addresses.iter().all(|address| address % sys::page_size() == 0));
        assert!(pool.checkout().unwrap().is_none());
        drop(taken);
        assert_eq!(pool.available(), Ok(3));
    }

    #[test]
    fn an_operation_in_flight_holds_the_region_back() {
        let pool = pool(1, 4096);
        let region = pool.checkout().unwrap().unwrap();
        let span = super::super::Span::new(&region, 0, 4096).unwrap();
        drop(region);
        assert!(pool.checkout().unwrap().is_none());
        drop(span);
        assert!(pool.checkout().unwrap().is_some());
    }

    fn is_woken(waiter: &Waiter) -> bool {
        sys::wait_readable(waiter.event(), Duration::ZERO)
    }

    #[test]
    fn regions_go_to_waiters_in_the_order_they_came() {
        let pool = pool(2, 4096);
        let mut regions: Vec<_> = (0..2).map(|_| pool.checkout().unwrap().unwrap()).collect();
        let waiters: Vec<_> = (0..3).map(|_| Waiter::new().unwrap()).collect();
        waiters.iter().for_each(|waiter| pool.enter(waiter));
        drop(regions.pop());
        assert!(is_woken(&waiters[0]) && !is_woken(&waiters[1]));
        assert!(pool.checkout_spare().unwrap().is_none(), "somebody waits for it");
        assert!(pool.checkout_in_turn(&waiters[1]).unwrap().is_none(), "it is not its turn");
        let taken = pool.checkout_in_turn(&waiters[0]).unwrap();
        assert!(taken.is_some());
        assert!(!is_woken(&waiters[1]));
        drop((taken, regions));
        assert!(is_woken(&waiters[1]) && is_woken(&waiters[2]));
        assert!(pool.checkout_spare().unwrap().is_none());
        pool.leave(&waiters[2]);
        assert!(pool.checkout_spare().unwrap().is_some());
    }

    #[test]
    fn a_region_that_a_waiter_leaves_behind_goes_to_the_next() {
        let pool = pool(1, 4096);
        let region = pool.checkout().unwrap().unwrap();
        let (first, second) = (Waiter::new().unwrap(), Waiter::new().unwrap());
        pool.enter(&first);
        pool.enter(&second);
        drop(region);
        assert!(is_woken(&first) && !is_woken(&second));
        pool.leave(&first);
        assert!(is_woken(&second));
    }

    #[test]
    fn many_threads_never_share_a_region() {
        let pool = Arc::new(pool(3, 4096));
        let threads: Vec<_> = (1..=8u8)
            .map(|id| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || {
                    let waiter = Waiter::new().unwrap();
                    for _ in 0..200 {
                        pool.enter(&waiter);
                        let woken = sys::wait_readable(waiter.event(), Duration::from_secs(30));
                        assert!(woken, "a wake-up was lost");
                        let region = pool.checkout_in_turn(&waiter).unwrap().expect("whoever is woken is next");
                        region.fill(0, 4096, id).unwrap();
                        thread::yield_now();
                        let mut seen = [0u8; 4096];
                        // SAFETY: `seen` has 4096 bytes.
                        unsafe { region.read(0, seen.as_mut_ptr(), 4096) }.unwrap();
                        assert_eq!(seen, [id; 4096]);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(pool.available(), Ok(3));
    }
}
