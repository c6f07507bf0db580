//! How a Ruby thread or fiber waits for a channel.

use std::time::Duration;

use dma_core::channel::{Role, Waiter};
use dma_core::Error as Core;
use magnus::{Error, Ruby};

use super::Channel;
use crate::error::raise;
use crate::event::Event;

/// Steps of a machine with a manual clock before other threads and fibers get their turn, and interrupts theirs.
const STEPS: u32 = 1024;

/// Waits as a Ruby thread or fiber.
pub(super) struct RubyWaiter<'a> {
    ruby: &'a Ruby,
    channel: &'a Channel,
    seat: Event,
    steps: u32,
}

impl<'a> RubyWaiter<'a> {
    /// Waits on `seat` of `channel`.
    pub(super) fn new(ruby: &'a Ruby, channel: &'a Channel, seat: Event) -> Self {
        RubyWaiter { ruby, channel, seat, steps: 0 }
    }
}

impl Waiter for RubyWaiter<'_> {
    type Error = Error;

    fn block(&mut self, role: Role, timeout: Duration) -> Result<(), Error> {
        let event = if role == Role::Lead { self.channel.line.event } else { self.seat };
        event.wait(self.ruby, Some(timeout)).map(drop)
    }

    fn reaped(&mut self, leave: &mut dyn FnMut()) -> Result<(), Error> {
        self.channel.dispatch_and(self.ruby, leave)
    }

    fn step(&mut self) -> Result<(), Error> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps % STEPS == 0 {
            self.seat.wait(self.ruby, Some(Duration::ZERO))?;
        }
        Ok(())
    }

    fn error(&mut self, error: Core) -> Error {
        raise(self.ruby, &error)
    }
}
