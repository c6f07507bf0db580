//! Fibers that wait for transfers of one file. One of them, the host, waits on descriptors and tells the others, which their schedulers
//! block meanwhile: that takes no descriptor, and a fraction of the time that schedulers need to wait on one.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use dma_core::channel::Ticket;
use magnus::rb_sys::FromRawValue;
use magnus::value::{InnerValue, Opaque};
use magnus::{gc, prelude::*, Error, Ruby, Value};

use crate::error::held;
use crate::lock;

/// How many are called before one of them has looked: the others, and timers, get their turn in between.
const AT_ONCE: usize = 64;

/// See the [module](self). Called with the GVL, which keeps others out between the steps that call no Ruby code.
#[derive(Default)]
pub struct Fibers(Mutex<State>);

/// No Ruby code runs under its lock, so that the GC can take it to mark.
#[derive(Default)]
struct State {
    is_hosted: bool,
    /// In the order in which they came.
    parked: VecDeque<Arc<Parked>>,
    /// How many were called, and have not looked yet why.
    called: usize,
    /// There may be more to call.
    more: bool,
}

/// A fiber that its scheduler blocks until it is called: because its transfer has ended, or to be the host.
struct Parked {
    tickets: Vec<Arc<Ticket>>,
    scheduler: Opaque<Value>,
    fiber: Opaque<Value>,
    is_called: AtomicBool,
}

impl State {
    /// The first whose transfer has ended, unless enough were called already.
    fn next_ended(&mut self) -> Option<usize> {
        self.more = self.called >= AT_ONCE;
        let ended = |parked: &Arc<Parked>| Ticket::any_ended(&parked.tickets);
        if self.more {
            None
        } else {
            self.parked.iter().position(ended)
        }
    }
}

impl Fibers {
    /// For the GC.
    pub fn mark(&self, marker: &gc::Marker) {
        for parked in &lock(&self.0).parked {
            marker.mark(parked.scheduler);
            marker.mark(parked.fiber);
        }
    }

    /// Waits until one of these transfers has ended; as `host` does, where this fiber is the host.
    ///
    /// # Errors
    /// What interrupts the wait.
    pub fn wait(
        &self,
        ruby: &Ruby,
        tickets: &[Arc<Ticket>],
        host: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let waited = loop {
            if Ticket::any_ended(tickets) {
                break Ok(());
            }
            if !mem::replace(&mut lock(&self.0).is_hosted, true) {
                let waited = host();
                lock(&self.0).is_hosted = false;
                break waited;
            }
            if let Err(error) = self.park(ruby, tickets) {
                break Err(error);
            }
        };
        let _held = waited.as_ref().err().and_then(held);
        // What interrupts that, too, comes after, as from an ensure.
        self.leave(ruby).and(waited)
    }

    /// Calls those whose transfers have ended. Where they are many, those who were called call the rest.
    pub fn tell(&self, ruby: &Ruby) -> Result<(), Error> {
        while self.call(ruby, State::next_ended)? {}
        Ok(())
    }

    /// The end of a wait: calls who is to be called next, and one to be the host, if there is none and none is about to look.
    fn leave(&self, ruby: &Ruby) -> Result<(), Error> {
        if lock(&self.0).more {
            self.tell(ruby)?;
        }
        self.call(ruby, |state| (!state.is_hosted && state.called == 0).then_some(0)).map(drop)
    }

    /// Calls the one that is at the place, if there is one.
    fn call(&self, ruby: &Ruby, place: impl FnOnce(&mut State) -> Option<usize>) -> Result<bool, Error> {
        let mut state = lock(&self.0);
        let Some(parked) = place(&mut state).and_then(|place| state.parked.remove(place)) else { return Ok(false) };
        state.called += 1;
        drop(state);
        // On the stack, where the GC finds them.
        let (scheduler, fiber) = (parked.scheduler.get_inner_with(ruby), parked.fiber.get_inner_with(ruby));
        parked.is_called.store(true, Relaxed);
        let unblocked: Result<Value, Error> = scheduler.funcall("unblock", (ruby.to_symbol("dma"), fiber));
        if unblocked.is_err() && parked.is_called.swap(false, Relaxed) {
            // Interrupted, perhaps before it was woken.
            let mut state = lock(&self.0);
            state.called -= 1;
            state.parked.push_front(parked);
        }
        unblocked.map(|_| true)
    }

    /// Waits to be called.
    fn park(&self, ruby: &Ruby, tickets: &[Arc<Ticket>]) -> Result<(), Error> {
        // SAFETY: called with the GVL, by a Ruby thread.
        let scheduler = unsafe { Value::from_raw(rb_sys::rb_fiber_scheduler_current()) };
        // SAFETY: likewise.
        let fiber = unsafe { Value::from_raw(rb_sys::rb_fiber_current()) };
        let is_called = AtomicBool::new(false);
        let parked = Parked { tickets: tickets.to_vec(), scheduler: scheduler.into(), fiber: fiber.into(), is_called };
        let parked = Arc::new(parked);
        lock(&self.0).parked.push_back(Arc::clone(&parked));
        let mut blocked = Ok(());
        // Schedulers may wake a fiber for another reason.
        while blocked.is_ok() && !parked.is_called.load(Relaxed) {
            let block: Result<Value, Error> = scheduler.funcall("block", (ruby.to_symbol("dma"), ()));
            blocked = block.map(drop);
        }
        let mut state = lock(&self.0);
        if parked.is_called.swap(false, Relaxed) {
            state.called -= 1;
        } else {
            state.parked.retain(|other| !Arc::ptr_eq(other, &parked));
        }
        blocked
    }
}
