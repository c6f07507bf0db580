//! The end of transfers that are not wanted any more, and of a channel.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Shared, POLL};
use crate::channel::table::Ticket;
use crate::error::Result;
use crate::sys;
use crate::transfer::Status;

/// How often somebody looks for what was abandoned.
const ABANDONED: Duration = Duration::from_millis(100);

impl Shared {
    /// Asks that a transfer be given up; it ends as `why` if that comes in time.
    pub fn cancel(&self, ticket: &Ticket, why: Status) {
        if let Ok(mut state) = self.lock() {
            if let Some(channel) = &mut state.channel {
                channel.cancel(ticket.id(), why);
                let _ = state.progress();
            }
        }
    }

    /// Gives up transfers that nobody waits for any more. The memory of those that the engine does not let go of at once is refused
    /// to others, and a thread waits until it does.
    pub fn abandon(self: &Arc<Self>, tickets: &[Arc<Ticket>]) {
        tickets.iter().rev().for_each(|ticket| self.cancel(ticket, Status::Aborted));
        let left: Vec<_> = tickets.iter().filter(|ticket| ticket.outcome().is_none()).cloned().collect();
        if left.is_empty() {
            return;
        }
        if let Ok(mut state) = self.lock() {
            if let Some(channel) = &mut state.channel {
                left.iter().for_each(|ticket| channel.abandon(ticket.id()));
            }
        }
        let shared = Arc::clone(self);
        let wait = move || {
            sys::block_signals();
            while left.iter().any(|ticket| ticket.outcome().is_none()) && shared.progress().is_ok() {
                // Another who waits may take the signal, and the completion with it.
                sys::wait_readable(shared.event(), ABANDONED);
            }
        };
        // Without a thread somebody else's transfer finds out.
        let _ = thread::Builder::new().name("dma-settle".into()).spawn(wait);
    }

    /// Waits up to `timeout`, as a thread, for transfers that were cancelled; true when all have ended.
    pub fn settle(&self, tickets: &[Arc<Ticket>], timeout: Duration) -> bool {
        let (deadline, clock) = (Instant::now() + timeout, &self.clock);
        loop {
            let progress = self.progress();
            let settled = tickets.iter().all(|ticket| ticket.outcome().is_some());
            if settled || progress.is_err() {
                return settled;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if !clock.as_ref().is_some_and(|clock| clock.step_until(None)) {
                sys::wait_readable(self.event(), left.min(POLL));
            }
        }
    }

    /// Gives up what is in flight and takes no more. What the engine does not let go of within `grace` keeps its memory until it
    /// does.
    pub fn close(&self, grace: Duration) {
        let Ok(mut state) = self.lock() else { return };
        state.closing = true;
        drop(state);
        let _ = self.reset(grace);
        let Ok(mut state) = self.lock() else { return };
        state.table.abort(&self.counters);
        state.rouse();
        let channel = state.channel.take();
        drop(state);
        // What it has not let go of is its own thread's to wait for.
        drop(channel);
    }

    /// Aborts what is in flight and waits up to `grace` for it, which keeps nobody else waiting; true when all of it has ended.
    pub fn reset(&self, grace: Duration) -> Result<bool> {
        let mut state = self.lock()?;
        let channel = state.channel()?;
        let given_up: Vec<u64> = channel.pending().collect();
        channel.cancel_all();
        let given_up: Vec<_> = given_up.into_iter().filter_map(|id| state.table.get(id)).collect();
        drop(state);
        Ok(self.settle(&given_up, grace))
    }
}
