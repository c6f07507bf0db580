//! Fibers that wait for transfers of one file. Of those that have one scheduler one, the host, waits on descriptors and tells the others,
//! which the scheduler blocks meanwhile: that takes no descriptor, and a fraction of the time that schedulers need to wait on one. Fibers
//! of other schedulers have a host of their own, since this one may not run while its thread does something else, or ever again.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use dma_core::channel::Ticket;
use magnus::rb_sys::{AsRawValue, FromRawValue};
use magnus::value::{InnerValue, Opaque};
use magnus::{gc, prelude::*, Error, Ruby, Value};

use crate::error::held;
use crate::lock;

/// How many are called before one of them has looked: the others, and timers, get their turn in between.
const AT_ONCE: usize = 64;

/// See the [module](self). Called with the GVL, which keeps others out between the steps that call no Ruby code.
#[derive(Default)]
pub struct Fibers(Mutex<Vec<State>>);

/// The fibers of a scheduler. No Ruby code runs under the lock, so that the GC can take it to mark.
struct State {
    scheduler: Opaque<Value>,
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
    fiber: Opaque<Value>,
    is_called: AtomicBool,
}

impl State {
    fn new(scheduler: Value) -> State {
        State { scheduler: scheduler.into(), is_hosted: false, parked: VecDeque::new(), called: 0, more: false }
    }

    /// Whether nobody waits.
    fn is_idle(&self) -> bool {
        !self.is_hosted && self.parked.is_empty() && self.called == 0
    }

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
        for State { scheduler, parked, .. } in &*lock(&self.0) {
            marker.mark(*scheduler);
            parked.iter().for_each(|parked| marker.mark(parked.fiber));
        }
    }

    /// Waits until one of these transfers has ended, in a fiber of this scheduler; as `host` does, where this fiber is the host.
    ///
    /// # Errors
    /// What interrupts the wait.
    pub fn wait(
        &self,
        ruby: &Ruby,
        scheduler: Value,
        tickets: &[Arc<Ticket>],
        host: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let waited = loop {
            if Ticket::any_ended(tickets) {
                break Ok(());
            }
            if !self.of(ruby, scheduler, |state| mem::replace(&mut state.is_hosted, true)) {
                let waited = host();
                self.of(ruby, scheduler, |state| state.is_hosted = false);
                break waited;
            }
            if let Err(error) = self.park(ruby, scheduler, tickets) {
                break Err(error);
            }
        };
        let _held = waited.as_ref().err().and_then(held);
        // What interrupts that, too, comes after, as from an ensure.
        self.leave(ruby, scheduler).and(waited)
    }

    /// Calls those of a scheduler whose transfers have ended. Where they are many, those who were called call the rest.
    pub fn tell(&self, ruby: &Ruby, scheduler: Value) -> Result<(), Error> {
        while self.call(ruby, scheduler, State::next_ended)? {}
        Ok(())
    }

    /// What is known of the fibers of a scheduler; nothing is kept of one for which nobody waits.
    fn of<T>(&self, ruby: &Ruby, scheduler: Value, work: impl FnOnce(&mut State) -> T) -> T {
        let mut states = lock(&self.0);
        let is_it = |state: &State| state.scheduler.get_inner_with(ruby).as_raw() == scheduler.as_raw();
        let place = states.iter().position(is_it).unwrap_or_else(|| {
            states.push(State::new(scheduler));
            states.len() - 1
        });
        let worked = work(&mut states[place]);
        if states[place].is_idle() {
            states.swap_remove(place);
        }
        worked
    }

    /// The end of a wait: calls who is to be called next, and one to be the host, if there is none and none is about to look.
    fn leave(&self, ruby: &Ruby, scheduler: Value) -> Result<(), Error> {
        if self.of(ruby, scheduler, |state| state.more) {
            self.tell(ruby, scheduler)?;
        }
        self.call(ruby, scheduler, |state| (!state.is_hosted && state.called == 0).then_some(0)).map(drop)
    }

    /// Calls the one that is at the place, if there is one.
    fn call(
        &self,
        ruby: &Ruby,
        scheduler: Value,
        place: impl FnOnce(&mut State) -> Option<usize>,
    ) -> Result<bool, Error> {
        let take = |state: &mut State| {
            let parked = place(state).and_then(|place| state.parked.remove(place));
            state.called += usize::from(parked.is_some());
            parked
        };
        let Some(parked) = self.of(ruby, scheduler, take) else { return Ok(false) };
        // On the stack, where the GC finds it.
        let fiber = parked.fiber.get_inner_with(ruby);
        parked.is_called.store(true, Relaxed);
        let unblocked: Result<Value, Error> = scheduler.funcall("unblock", (ruby.to_symbol("dma"), fiber));
        if unblocked.is_err() && parked.is_called.swap(false, Relaxed) {
            // Interrupted, perhaps before it was woken.
            self.of(ruby, scheduler, |state| {
                state.called -= 1;
                state.parked.push_front(parked);
            });
        }
        unblocked.map(|_| true)
    }

    /// Waits to be called.
    fn park(&self, ruby: &Ruby, scheduler: Value, tickets: &[Arc<Ticket>]) -> Result<(), Error> {
        // SAFETY: called with the GVL, by a Ruby thread.
        let fiber = unsafe { Value::from_raw(rb_sys::rb_fiber_current()) };
        let is_called = AtomicBool::new(false);
        let parked = Arc::new(Parked { tickets: tickets.to_vec(), fiber: fiber.into(), is_called });
        self.of(ruby, scheduler, |state| state.parked.push_back(Arc::clone(&parked)));
        let mut blocked = Ok(());
        // Schedulers may wake a fiber for another reason.
        while blocked.is_ok() && !parked.is_called.load(Relaxed) {
            let block: Result<Value, Error> = scheduler.funcall("block", (ruby.to_symbol("dma"), ()));
            blocked = block.map(drop);
        }
        self.of(ruby, scheduler, |state| {
            if parked.is_called.swap(false, Relaxed) {
                state.called -= 1;
            } else {
                state.parked.retain(|other| !Arc::ptr_eq(other, &parked));
            }
        });
        blocked
    }
}
