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
        self.cancel(ticket, Status::TimedOut);
        self.settle(slice::from_ref(ticket), grace);
        match ticket.outcome() {
            Some(outcome) if outcome.status != Status::TimedOut => Ok(outcome),
            _ => Err(self.timed_out(ticket, timeout)),
        }
    }

    /// The error of a wait that `timeout` ended.
    pub fn timed_out(&self, ticket: &Ticket, timeout: Option<Duration>) -> Error {
        let (id, len, index) = (ticket.id(), ticket.len(), self.index);
        Error::TimedOut(match timeout {
            Some(timeout) => format!(
                "transfer {id} of {len} bytes on channel {index} took longer than {} s and was given up; wait longer, or look at \
                 the channel's statistics for what it hangs on",
                timeout.as_secs_f64()
            ),
            None => format!(
                "transfer {id} of {len} bytes on channel {index} will never end: the machine has nothing left to do; it was given \
                 up"
            ),
        })
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
