//! Everybody who waits for a transfer of one file: they share a channel, so that all their operations keep one ring busy.

use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use dma_core::channel::{Outcome, Request, Role, Ticket, Waiter};
use dma_core::engine::Cache;
use dma_core::file::File as CoreFile;
use dma_core::transfer::Status;
use dma_core::Error as Core;
use magnus::value::{InnerValue, Opaque};
use magnus::{gc, prelude::*, Error, RClass, Ruby, Value};

use super::fibers::Fibers;
use crate::buffer::with_memory;
use crate::error::{held, raise, OrRaise};
use crate::event::{scheduled, scheduler, Event};
use crate::gvl;
use crate::line::Line;

/// How many threads wait on descriptors at a time. The others wait until one of these has what it wanted: a thousand may read one
/// file, and a process has a thousand descriptors.
const PLACES: usize = 64;

/// How long it is left to others to look for completions.
const LOOK: Duration = Duration::from_millis(100);

/// The shared channel of a file.
pub struct Crowd {
    /// The channel, and who waits for it.
    pub line: Line,
    fibers: Fibers,
    /// How many places are free, and how many wait for one.
    free: AtomicUsize,
    waiting: AtomicUsize,
    /// A Thread::Queue, whose elements say that it is worth looking for a free place. Who takes one and finds none loses nothing.
    hints: Opaque<Value>,
}

impl Crowd {
    /// For `file`, of which each transfer keeps `depth` operations in flight.
    pub fn new(ruby: &Ruby, file: &CoreFile, depth: u32) -> Result<Crowd, Error> {
        let line = Line::new(ruby, with_memory(ruby, || file.shared(depth))?)?;
        let queue: RClass = ruby.class_thread().const_get("Queue")?;
        let hints: Value = queue.funcall("new", ())?;
        let fibers = Fibers::default();
        Ok(Crowd { line, fibers, free: AtomicUsize::new(PLACES), waiting: AtomicUsize::new(0), hints: hints.into() })
    }

    /// For the GC.
    pub fn mark(&self, marker: &gc::Marker) {
        self.line.mark(marker);
        self.fibers.mark(marker);
        marker.mark(self.hints);
    }

    /// Carries out a request, and waits for it.
    ///
    /// # Errors
    /// What the core raises of the request; what interrupts the wait, after the request was given up. `left` is called where the
    /// engine has not let go of its memory by then.
    pub fn carry_out(&self, ruby: &Ruby, request: Request, left: impl FnOnce()) -> Result<Outcome, Error> {
        let shared = &self.line.shared;
        let at_once = request.cache != Cache::Past || !scheduled();
        let ticket = shared.submit(request, false).or_raise(ruby)?;
        // Fibers that run now may have more, for which one doorbell is enough.
        if at_once || !shared.have_kicked() {
            shared.kick().or_raise(ruby)?;
            // What lies in the page cache has often come by now.
            if let Some(outcome) = ticket.outcome() {
                return Ok(outcome);
            }
        }
        let tickets = slice::from_ref(&ticket);
        self.wait(ruby, tickets).inspect_err(|error| {
            let _held = held(error);
            if !self.line.give_up(tickets, Status::Aborted) {
                shared.abandon(tickets);
                left();
            }
        })?;
        Ok(ticket.outcome().expect("no time was set for the wait"))
    }

    /// Waits until one of these transfers has ended.
    ///
    /// # Errors
    /// What interrupts the wait; they go on.
    pub fn wait(&self, ruby: &Ruby, tickets: &[Arc<Ticket>]) -> Result<(), Error> {
        let (line, scheduler) = (&self.line, scheduler());
        let fibers = scheduler.map(|scheduler| (&self.fibers, scheduler));
        let wait = || line.wait(ruby, tickets, None, |seat| FileWaiter { ruby, line, fibers, tickets, seat });
        if let Some(scheduler) = scheduler {
            return self.fibers.wait(ruby, scheduler, tickets, wait);
        }
        self.take_place(ruby)?;
        let waited = wait();
        let _held = waited.as_ref().err().and_then(held);
        // Whatever has ended the wait, the place is the next one's.
        self.free.fetch_add(1, Relaxed);
        // What interrupts that, too, comes after, as from an ensure.
        self.hint(ruby).and(waited)
    }

    /// Called with the GVL, which keeps others out between the steps.
    fn take_place(&self, ruby: &Ruby) -> Result<(), Error> {
        let hints = self.hints.get_inner_with(ruby);
        while self.free.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1)).is_err() {
            self.waiting.fetch_add(1, Relaxed);
            let hint: Result<Value, Error> = hints.funcall("pop", ());
            self.waiting.fetch_sub(1, Relaxed);
            if let Err(error) = hint {
                let _held = held(&error);
                // A hint that it was just given, or woken for, is another's.
                return self.hint(ruby).and(Err(error));
            }
        }
        Ok(())
    }

    /// Has one who waits look for a place, if anybody does.
    fn hint(&self, ruby: &Ruby) -> Result<(), Error> {
        if self.waiting.load(Relaxed) == 0 {
            return Ok(());
        }
        let given: Result<Value, Error> = self.hints.get_inner_with(ruby).funcall("push", (true,));
        given.map(drop)
    }
}

/// Waits as a thread or fiber that calls nobody back.
struct FileWaiter<'a> {
    ruby: &'a Ruby,
    line: &'a Line,
    /// Those that a fiber waits for, too, and its scheduler.
    fibers: Option<(&'a Fibers, Value)>,
    tickets: &'a [Arc<Ticket>],
    seat: Event,
}

impl Waiter for FileWaiter<'_> {
    type Error = Error;

    fn block(&mut self, role: Role, timeout: Duration) -> Result<(), Error> {
        match role {
            Role::Follow => {
                if !self.seat.wait(self.ruby, Some(LOOK))? {
                    // Who leads may be kept from it, by a handler of a signal in its thread, or by whatever else a reactor runs. Where
                    // the file is being closed, that ends all.
                    let _ = self.line.shared.kick();
                }
                Ok(())
            }
            // No interrupt of a file's is ever lost, and schedulers take long to set a timer.
            Role::Lead if self.tells() => {
                self.line.shared.lead().or_raise(self.ruby)?;
                // Who leads is not nudged for what it has reaped, and has taken a nudge that came before.
                self.reaped(&mut || {})?;
                if Ticket::any_ended(self.tickets) {
                    return Ok(());
                }
                self.line.event.wait(self.ruby, None).map(drop)
            }
            Role::Lead => {
                let (shared, tickets) = (&self.line.shared, self.tickets);
                // Without the GVL: of a long transfer each operation would have to wait for it otherwise.
                gvl::interruptible(self.ruby, || shared.serve(tickets, timeout))
            }
        }
    }

    fn reaped(&mut self, _leave: &mut dyn FnMut()) -> Result<(), Error> {
        self.fibers.map_or(Ok(()), |(fibers, scheduler)| fibers.tell(self.ruby, scheduler))
    }

    fn tells(&self) -> bool {
        self.fibers.is_some()
    }

    fn watches(&self) -> bool {
        !self.tells()
    }

    fn error(&mut self, error: Core) -> Error {
        raise(self.ruby, &error)
    }
}
