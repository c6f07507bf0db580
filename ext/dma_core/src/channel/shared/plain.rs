//! Waiting as a thread of no scheduler.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::{Shared, Waiter};
use crate::channel::table::{Role, Seat, Ticket};
use crate::channel::Outcome;
use crate::error::{Error, Result};
use crate::sys;
use crate::transfer::Status;

/// A waiter that is a thread of no scheduler.
#[derive(Debug)]
pub struct PlainWaiter<'a> {
    shared: &'a Shared,
    seat: Arc<Seat>,
}

impl Shared {
    /// Waits for one transfer as a plain thread. A timeout gives it up, and so ends it too, unless the engine keeps it longer
    /// than `grace`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::Closed`] in the child of a fork.
    pub fn wait_plain(&self, ticket: &Arc<Ticket>, timeout: Option<Duration>, grace: Duration) -> Result<Outcome> {
        let seat = Seat::new()?;
        let mut waiter = PlainWaiter { shared: self, seat: Arc::clone(&seat) };
        if let Some(outcome) = self.wait(ticket, &seat, timeout, &mut waiter)? {
            return Ok(outcome);
        }
        let obstacle = self.obstacle();
        self.cancel(ticket, Status::TimedOut);
        self.settle(slice::from_ref(ticket), grace);
        match ticket.outcome() {
            Some(outcome) if outcome.status != Status::TimedOut => Ok(outcome),
            _ => Err(self.timed_out(ticket, timeout, obstacle)),
        }
    }

    /// What is in the way of its transfers, where no longer wait would help: to be asked before they are given up.
    pub fn obstacle(&self) -> Option<String> {
        self.lock().ok()?.channel.as_ref()?.engine().obstacle(self.index)
    }

    /// The error of a wait that `timeout` ended, while an [obstacle](Shared::obstacle) was in the way.
    pub fn timed_out(&self, ticket: &Ticket, timeout: Option<Duration>, obstacle: Option<String>) -> Error {
        let (id, len, index) = (ticket.id(), ticket.len(), self.index);
        let (what, advice) = match timeout {
            Some(timeout) => (
                format!("took longer than {} s and was given up", timeout.as_secs_f64()),
                "; wait longer, where the device is slow or has much to do before it",
            ),
            None => ("will never end: the machine has nothing left to do; it was given up".into(), ""),
        };
        let advice = obstacle.map_or(advice.into(), |obstacle| format!("; {obstacle}"));
        Error::TimedOut(format!("transfer {id} of {len} bytes on channel {index} {what}{advice}"))
    }
}

impl Waiter for PlainWaiter<'_> {
    type Error = Error;

    fn block(&mut self, role: Role, timeout: Duration) -> Result<()> {
        let fd = if role == Role::Lead { self.shared.event() } else { self.seat.event() };
        sys::wait_readable(fd, timeout);
        Ok(())
    }

    fn reaped(&mut self, _leave: &mut dyn FnMut()) -> Result<()> {
        Ok(())
    }

    fn error(&mut self, error: Error) -> Error {
        error
    }
}
