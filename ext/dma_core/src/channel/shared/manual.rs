//! Waiting on a machine with a manual clock: who waits runs it, and hears its interrupts.

use std::sync::Arc;
use std::time::Duration;

use super::{Shared, Waiter};
use crate::channel::table::Ticket;
use crate::channel::Channel;
use crate::engine::ManualClock;

/// After how many steps without an interrupt whoever waits looks all the same, as long as the machine has something to do: one may
/// have been lost.
const SILENCE: u32 = 1 << 16;

/// What whoever runs a machine by hand knew when it last looked for completions: it looks for more when it is told of them.
#[derive(Default)]
struct Heard {
    /// Interrupts that had come. `None`: that is not known.
    count: Option<u64>,
    /// Not all completions have interrupts.
    polls: bool,
    steps: u32,
}

impl Heard {
    /// So many interrupts have come: whether one of them asked to look again.
    fn of_more(&self, count: Option<u64>) -> bool {
        self.polls || count.is_none() || count != self.count
    }
}

impl Shared {
    /// Runs a machine with a manual clock until one of the transfers ends.
    pub(super) fn run<W: Waiter>(
        &self,
        clock: &dyn ManualClock,
        tickets: &[Arc<Ticket>],
        timeout: Option<Duration>,
        waiter: &mut W,
    ) -> Result<(), W::Error> {
        let nanos = timeout.map(|timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let until = nanos.map(|nanos| clock.now().saturating_add(nanos));
        let (mut before, mut heard) = (None, Heard::default());
        loop {
            let is_asked = before.is_none() || heard.of_more(self.interrupts());
            if is_asked || heard.steps >= SILENCE {
                heard = Heard {
                    polls: self.lock().is_ok_and(|state| state.must_poll()),
                    count: self.interrupts(),
                    steps: 0,
                };
                before = Some(self.seek(tickets, is_asked).map_err(|error| waiter.error(error))?);
            }
            waiter.reaped(&mut || {})?;
            if Ticket::any_ended(tickets) {
                return Ok(());
            }
            if clock.step_until(until) {
                heard.steps += 1;
                waiter.step()?;
                continue;
            }
            // Another thread may have let happen what this one waits for, or what that has to wait for.
            let is_asked = heard.of_more(self.interrupts());
            let after = self.seek(tickets, is_asked).map_err(|error| waiter.error(error))?;
            if before.replace(after) == Some(after) {
                return Ok(());
            }
        }
    }

    fn interrupts(&self) -> Option<u64> {
        self.lock().ok().and_then(|state| state.channel.as_ref().and_then(Channel::interrupts))
    }
}
