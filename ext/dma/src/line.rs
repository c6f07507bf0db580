//! A channel of many users as Ruby threads and fibers use it: a seat for each who waits, and memory for their Strings.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dma_core::channel::{Seat, Shared, Ticket, Waiter};
use dma_core::memory::{Layout, Lock, Region};
use dma_core::transfer::Status;
use dma_core::{sys, Error as Core};
use magnus::{gc, Error, Ruby};

use crate::buffer::with_memory;
use crate::event::{Event, BRIEF, GRACE};
use crate::gvl;
use crate::lock;

/// Seats that are kept for the next who waits.
const IDLE_SEATS: usize = 16;
/// Memory for Strings that is kept for the next one.
const STAGES: usize = 8;
const STAGE: usize = 1 << 20;

/// A shared channel with what Ruby needs to wait for it.
pub struct Line {
    /// The channel.
    pub shared: Arc<Shared>,
    /// Its event.
    pub event: Event,
    /// No Ruby code runs under the lock, so that the GC can take it to mark.
    seats: Mutex<Vec<(Arc<Seat>, Event)>>,
    stages: Mutex<Vec<Arc<Region>>>,
}

impl Line {
    /// Waits for `shared`.
    pub fn new(ruby: &Ruby, shared: Arc<Shared>) -> Result<Line, Error> {
        let event = Event::new(ruby, shared.event())?;
        Ok(Line { shared, event, seats: Mutex::default(), stages: Mutex::default() })
    }

    /// For the GC.
    pub fn mark(&self, marker: &gc::Marker) {
        marker.mark(self.event.io());
        lock(&self.seats).iter().for_each(|(_, event)| marker.mark(event.io()));
    }

    /// Waits for one of these transfers, as the waiter does that `with` makes of the event of a seat. See [`Shared::wait_any`].
    pub fn wait<W: Waiter<Error = Error>>(
        &self,
        ruby: &Ruby,
        tickets: &[Arc<Ticket>],
        timeout: Option<Duration>,
        with: impl FnOnce(Event) -> W,
    ) -> Result<(), Error> {
        let idle = lock(&self.seats).pop();
        let (seat, event) = match idle {
            Some(pair) => pair,
            None => {
                let seat = with_memory(ruby, Seat::new)?;
                let event = Event::new(ruby, seat.event())?;
                (seat, event)
            }
        };
        let waited = self.shared.wait_any(tickets, &seat, timeout, &mut with(event));
        let mut seats = lock(&self.seats);
        if waited.is_ok() && seats.len() < IDLE_SEATS {
            seats.push((seat, event));
        }
        waited
    }

    /// Cancels transfers, and waits a moment for the engine to let go of their memory. False where it has not.
    pub fn give_up(&self, tickets: &[Arc<Ticket>], why: Status) -> bool {
        let shared = &self.shared;
        // The newest first: what waits behind one that hangs must not begin when that is over.
        tickets.iter().rev().for_each(|ticket| shared.cancel(ticket, why));
        shared.settle(tickets, BRIEF) || gvl::without_if_possible(|| shared.settle(tickets, GRACE))
    }

    /// Memory for the bytes of a String: some that nobody uses any more, or new.
    pub fn stage(&self, len: usize) -> Result<Arc<Region>, Core> {
        let mut stages = lock(&self.stages);
        let free = stages.iter().find(|region| region.len() >= len && Arc::strong_count(region) == 1);
        if let Some(region) = free {
            return Ok(Arc::clone(region));
        }
        let size = len.max(1).next_multiple_of(sys::page_size());
        let region = Region::allocate(Layout::new(size), Lock::Auto)?;
        if size <= STAGE && stages.len() < STAGES {
            stages.push(Arc::clone(&region));
        }
        Ok(region)
    }
}
