//! What whoever leads does for all.

use std::sync::Arc;
use std::time::Duration;

use super::{Shared, State};
use crate::channel::table::Ticket;
use crate::channel::Channel;
use crate::error::Result;
use crate::sys;

impl Shared {
    /// [`Shared::kick`] by whoever leads.
    pub fn lead(&self) -> Result<()> {
        let mut state = self.lock()?;
        // Nothing begins while the channel is being closed, but what there is still ends.
        if let Ok(channel) = state.open() {
            channel.kick();
        }
        state.channel()?;
        state.led(State::spin)
    }

    /// The doorbell for what was enqueued, by whoever leads: before it waits again it rings once for all, which is what a
    /// [`Waiter`](super::Waiter) that leads is to do. False where nobody leads now.
    pub fn have_kicked(&self) -> bool {
        self.lock().is_ok_and(|mut state| {
            let leads = state.table.call();
            state.rouse();
            leads
        })
    }

    /// Rings and reaps for all, and pushes what follows, as a thread that leads, until one of the transfers ends that it waits for.
    /// Returns, too, when nothing has happened for the time, when a signal interrupts it, and when the channel is closed.
    pub fn serve(&self, tickets: &[Arc<Ticket>], timeout: Duration) {
        // First of all: a nudge that asked for it may have come before.
        while self.lead().is_ok() && !Ticket::any_ended(tickets) && self.watch(timeout) {}
    }

    /// Waits, as a thread that leads, until it is worth looking: in the engine, where that can be. False after `timeout`, and where a
    /// signal interrupts the wait.
    pub fn watch(&self, timeout: Duration) -> bool {
        let Ok(mut state) = self.lock() else { return false };
        if state.table.nudge().is_rung() {
            return true;
        }
        let watch = state.channel.as_mut().and_then(Channel::watch);
        drop(state);
        let Some(watch) = watch else {
            // A channel that was closed meanwhile has ended all.
            return self.progress().is_err() || sys::wait_readable(self.event(), timeout);
        };
        let woken = watch.wait(timeout);
        if let Ok(mut state) = self.lock() {
            state.channel.iter_mut().for_each(Channel::up);
        }
        woken
    }
}
