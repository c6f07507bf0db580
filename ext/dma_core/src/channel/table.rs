//! Who waits for what on a shared channel: a ticket for each request, a seat for each waiter.
//!
//! Only one waiter at a time waits for the channel's event: the one on the first seat, who reaps for all. The others wait for the
//! event of their own seat, which is signalled when their transfer has ended, or when the first seat has become theirs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::{Counters, Outcome};
use crate::error::{Error, Result};
use crate::sync::Event;
use crate::transfer::Status;

/// One request of a shared channel, for whoever wants to know how it ended.
#[derive(Debug)]
pub struct Ticket {
    id: u64,
    len: usize,
    address: Option<u64>,
    outcome: OnceLock<Outcome>,
}

impl Ticket {
    /// The number of the request in its channel.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Bytes that were asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The device address of its first byte, where it has one element that reads or writes.
    pub fn address(&self) -> Option<u64> {
        self.address
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome.get().copied()
    }

    /// Whether one of these has ended.
    pub fn any_ended(tickets: &[Arc<Ticket>]) -> bool {
        tickets.iter().any(|ticket| ticket.outcome.get().is_some())
    }

    /// How it ended, or [`Status::Pending`].
    pub fn status(&self) -> Status {
        self.outcome.get().map_or(Status::Pending, |outcome| outcome.status)
    }
}

/// An event that is signalled and cleared under the table's lock only, so that no system call is needed to know whether there is
/// something to clear.
#[derive(Debug)]
pub(super) struct Bell {
    event: Event,
    rung: AtomicBool,
}

impl Bell {
    fn new() -> Result<Bell> {
        let event = Event::new().map_err(|errno| Error::os(errno, "cannot make an event to wait for"))?;
        Ok(Bell { event, rung: AtomicBool::new(false) })
    }

    fn signal(&self) {
        if !self.rung.swap(true, Relaxed) {
            self.event.signal();
        }
    }

    fn clear(&self) {
        if self.rung.swap(false, Relaxed) {
            self.event.clear();
        }
    }

    pub(super) fn event(&self) -> &Event {
        &self.event
    }

    /// Under the table's lock, too.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Relaxed)
    }
}

/// A place to wait on.
#[derive(Debug)]
pub struct Seat {
    pub(super) signal: Bell,
}

impl Seat {
    /// A seat that nobody sits on.
    pub fn new() -> Result<Arc<Seat>> {
        Ok(Arc::new(Seat { signal: Bell::new()? }))
    }

    /// Readable when it is worth looking again.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.signal.event.as_fd()
    }
}

/// What somebody who waits has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The channel's event, on behalf of all.
    Lead,
    /// The seat's event.
    Follow,
}

/// Somebody who waits.
#[derive(Debug)]
struct Sitter {
    seat: Arc<Seat>,
    /// Of which one has to end; none where it is worth looking whichever ends.
    tickets: Option<Vec<Arc<Ticket>>>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Table {
    tickets: BTreeMap<u64, Arc<Ticket>>,
    seats: Vec<Sitter>,
    /// For whoever leads, part of what it waits for: somebody else has reaped its completion, and the channel's own signal with
    /// it.
    nudge: Arc<Bell>,
    /// Whoever leads is the one that looks now, and needs no nudge.
    is_led: bool,
    /// How many tickets have got their outcome.
    told: u64,
}

impl Table {
    pub(super) fn new() -> Result<Table> {
        Ok(Table { tickets: BTreeMap::new(), seats: Vec::new(), nudge: Arc::new(Bell::new()?), is_led: false, told: 0 })
    }

    pub(super) fn nudge(&self) -> &Arc<Bell> {
        &self.nudge
    }

    /// A ticket for a request that was taken.
    pub(super) fn add(&mut self, id: u64, len: usize, address: Option<u64>) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket { id, len, address, outcome: OnceLock::new() });
        self.tickets.insert(id, Arc::clone(&ticket));
        ticket
    }

    /// The ticket of a request that has not ended.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Ticket>> {
        self.tickets.get(&id).cloned()
    }

    /// How many tickets have got their outcome.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// How many have not ended.
    pub(super) fn pending(&self) -> usize {
        self.tickets.len()
    }

    /// Tells how requests ended.
    pub(super) fn end(&mut self, outcomes: impl IntoIterator<Item = Outcome>) {
        let before = self.tickets.len();
        for outcome in outcomes {
            if let Some(ticket) = self.tickets.remove(&outcome.id) {
                let _ = ticket.outcome.set(outcome);
                self.told += 1;
            }
        }
        if self.tickets.len() < before {
            self.wake();
        }
    }

    /// Ends what is left: there is no channel any more.
    pub(super) fn abort(&mut self, counters: &Counters) {
        let outcome = |id: &u64| Outcome { id: *id, bytes: 0, status: Status::Aborted };
        let left: Vec<_> = self.tickets.keys().map(outcome).collect();
        left.iter().for_each(|outcome| counters.count(outcome));
        self.end(left);
    }

    fn wake(&self) {
        for (place, Sitter { seat, tickets }) in self.seats.iter().enumerate() {
            let concerned = tickets.as_ref().is_none_or(|tickets| Ticket::any_ended(tickets));
            if concerned && !(place == 0 && self.is_led) {
                // Who has come to the first seat and does not know yet was signalled for that.
                if place == 0 { &self.nudge } else { &seat.signal }.signal();
            }
        }
    }

    pub(super) fn sit(&mut self, seat: &Arc<Seat>, tickets: Option<&[Arc<Ticket>]>) {
        self.seats.push(Sitter { seat: Arc::clone(seat), tickets: tickets.map(<[_]>::to_vec) });
    }

    /// Says that whoever leads looks now, which is what a nudge would ask for, or has looked.
    pub(super) fn lead(&mut self, is_led: bool) {
        self.nudge.clear();
        self.is_led = is_led;
    }

    /// What to wait for on `seat`. Signals up to now are taken: one that comes later tells of a later state.
    pub(super) fn look(&self, seat: &Arc<Seat>) -> Role {
        seat.signal.clear();
        if self.is_first(seat) {
            self.nudge.clear();
            return Role::Lead;
        }
        Role::Follow
    }

    /// Has whoever leads look, if anybody does.
    pub(super) fn call(&self) -> bool {
        if !self.seats.is_empty() {
            self.nudge.signal();
        }
        !self.seats.is_empty()
    }

    /// Whoever sits behind may be the first now.
    pub(super) fn rise(&mut self, seat: &Arc<Seat>) {
        if self.is_first(seat) {
            self.nudge.clear();
        }
        self.seats.retain(|other| !Arc::ptr_eq(&other.seat, seat));
        if let Some(first) = self.seats.first() {
            first.seat.signal.signal();
        }
    }

    fn is_first(&self, seat: &Arc<Seat>) -> bool {
        self.seats.first().is_some_and(|first| Arc::ptr_eq(&first.seat, seat))
    }
}
