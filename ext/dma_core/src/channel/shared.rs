//! A channel of many users: each submits and waits for its own, whoever waits first reaps for all.

mod end;
mod lead;
mod manual;
mod open;
mod plain;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::slice;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::table::{Role, Seat, Table, Ticket};
use super::{Channel, Counters, Outcome, Request};
use crate::engine::ManualClock;
use crate::error::{Error, Result};
use crate::sync::{can_spin, lock, Mutex, MutexGuard};
use crate::sys;
use crate::transfer::Op;

pub(crate) use open::enter;
pub use open::progress_all;

/// How long a waiter looks for a device's completion before it sleeps: less than it takes to wake a thread. A disk takes longer.
const SPIN: Duration = Duration::from_micros(20);
/// After how long without an interrupt a waiter looks all the same: one may have been lost.
const SILENCE: Duration = Duration::from_secs(1);
/// The same where transfers are under way that raise none.
const POLL: Duration = Duration::from_millis(1);

/// How a caller waits: without the GVL, through a Fiber scheduler, or as a plain thread.
pub trait Waiter {
    /// What interrupts a wait.
    type Error;
    /// Waits for the channel's event or the seat's, no longer than `timeout`.
    fn block(&mut self, role: Role, timeout: Duration) -> Result<(), Self::Error>;
    /// Called after completions were reaped. It calls `leave` before it runs code that may take long, or wait on this channel
    /// itself: somebody else leads the channel meanwhile.
    fn reaped(&mut self, leave: &mut dyn FnMut()) -> Result<(), Self::Error>;
    /// Called between two steps of a machine that the waiter runs by itself.
    fn step(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
    /// Whether it has others to tell how their transfers ended: [`Waiter::reaped`] is then called whichever has.
    fn tells(&self) -> bool {
        false
    }
    /// Whether it waits by [`Shared::watch`] where it leads, which makes the event unreadable where that is needed.
    fn watches(&self) -> bool {
        false
    }
    /// What an error of the channel is to the caller.
    fn error(&mut self, error: Error) -> Self::Error;
}

/// A channel that any number of threads and fibers submit to and wait on; whoever waits first reaps for all.
#[derive(Debug)]
pub struct Shared {
    index: u16,
    /// The channel's event and the table's, in one. It stays open when the channel is closed under a waiter.
    event: OwnedFd,
    clock: Option<Arc<dyn ManualClock>>,
    counters: Arc<Counters>,
    capacity: usize,
    /// How long a waiter looks for its completion before it sleeps.
    spin: Duration,
    state: Mutex<State>,
    generation: u32,
}

#[derive(Debug)]
struct State {
    /// `None` once closed.
    channel: Option<Channel>,
    /// It takes no more.
    closing: bool,
    table: Table,
}

impl Shared {
    /// Shares `channel`, which is number `index` of its device.
    pub fn new(channel: Channel, index: u16) -> Result<Shared> {
        let table = Table::new()?;
        let event = sys::either(channel.event(), table.nudge().event().as_fd());
        let event = event.map_err(|errno| Error::os(errno, "cannot join two events"))?;
        let (clock, counters, capacity) = (channel.engine().clock(), channel.counters(), channel.room());
        let spin = if channel.is_device() && can_spin() { SPIN } else { Duration::ZERO };
        let state = Mutex::new(State { channel: Some(channel), closing: false, table });
        Ok(Shared { index, event, clock, counters, capacity, spin, state, generation: sys::fork_generation() })
    }

    /// Its number in the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Readable when a completion waits.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// How transfers ended so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a request; it begins now, or with the next [`Shared::kick`] if not to `kick`.
    ///
    /// # Errors
    /// See [`Channel::submit`]; [`Error::Closed`] once closed.
    pub fn submit(&self, request: Request, kick: bool) -> Result<Arc<Ticket>> {
        let len = request.elements.iter().map(|op| op.len() as usize).sum();
        let count = request.elements.len();
        let address = match &request.elements[..] {
            [Op::Read { offset, .. } | Op::Write { offset, .. }] => Some(*offset),
            _ => None,
        };
        let mut state = self.lock()?;
        if state.open()?.room() < count {
            state.spin()?;
        }
        let channel = state.open()?;
        let id = channel.enqueue(request)?;
        let ticket = state.table.add(id, len, address);
        if kick {
            state.open()?.kick();
            state.spin()?;
        }
        Ok(ticket)
    }

    /// Begins what was enqueued: the doorbell.
    pub fn kick(&self) -> Result<()> {
        let mut state = self.lock()?;
        state.open()?.kick();
        state.spin()
    }

    /// Reaps all completions there are, and pushes what fits. The event is readable only once there is something new.
    pub fn progress(&self) -> Result<()> {
        let mut state = self.lock()?;
        state.channel()?;
        loop {
            let told = state.table.told();
            state.progress()?;
            if state.table.told() == told {
                return Ok(());
            }
        }
    }

    /// Transfers that have not ended, oldest first.
    pub fn pending(&self) -> Result<Vec<Arc<Ticket>>> {
        let state = self.lock()?;
        let ids = state.channel.iter().flat_map(Channel::pending);
        Ok(ids.filter_map(|id| state.table.get(id)).collect())
    }

    /// How many transfers have ended: where that is as before, none needs to be looked at.
    pub fn told(&self) -> u64 {
        self.lock().map_or(0, |state| state.table.told())
    }

    /// How many elements it holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many elements fit now.
    pub fn room(&self) -> Result<usize> {
        let mut state = self.lock()?;
        Ok(state.open()?.room())
    }

    /// Waits for one transfer on `seat`. `None` after `timeout`, which is simulated time on a machine with a manual clock, or
    /// where such a machine has nothing left to do.
    pub fn wait<W: Waiter>(
        &self,
        ticket: &Arc<Ticket>,
        seat: &Arc<Seat>,
        timeout: Option<Duration>,
        waiter: &mut W,
    ) -> Result<Option<Outcome>, W::Error> {
        self.wait_any(slice::from_ref(ticket), seat, timeout, waiter)?;
        Ok(ticket.outcome())
    }

    /// The same for the first of several transfers, whichever that is.
    pub fn wait_any<W: Waiter>(
        &self,
        tickets: &[Arc<Ticket>],
        seat: &Arc<Seat>,
        timeout: Option<Duration>,
        waiter: &mut W,
    ) -> Result<(), W::Error> {
        if let Some(clock) = &self.clock {
            return self.run(&**clock, tickets, timeout, waiter);
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if !self.spin.is_zero() {
            let started = Instant::now();
            while !Ticket::any_ended(tickets) && started.elapsed() < self.spin {
                self.seek(tickets, true).map_err(|error| waiter.error(error))?;
                std::hint::spin_loop();
            }
        }
        if !Ticket::any_ended(tickets) {
            self.sit(seat, tickets, waiter)?;
            let seated = self.wait_seated(tickets, seat, deadline, waiter);
            self.rise(seat);
            seated?;
        }
        waiter.reaped(&mut || {})
    }

    fn wait_seated<W: Waiter>(
        &self,
        tickets: &[Arc<Ticket>],
        seat: &Arc<Seat>,
        deadline: Option<Instant>,
        waiter: &mut W,
    ) -> Result<(), W::Error> {
        let mut silent = false;
        loop {
            let looked = self.look(seat, silent, waiter.watches());
            let (role, pause) = looked.map_err(|error| waiter.error(error))?;
            if Ticket::any_ended(tickets) {
                return Ok(());
            }
            let mut away = false;
            waiter.reaped(&mut || {
                if !std::mem::replace(&mut away, true) {
                    self.rise(seat);
                }
            })?;
            if away {
                self.sit(seat, tickets, waiter)?;
                continue;
            }
            let before = Instant::now();
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(before));
            if left.is_zero() {
                return Ok(());
            }
            let pause_or_end = left.min(pause);
            waiter.block(role, pause_or_end)?;
            // Who waited for the event looks once more, so that it is not left readable.
            if (role == Role::Follow || waiter.watches()) && Ticket::any_ended(tickets) {
                return Ok(());
            }
            silent = role == Role::Lead && pause == SILENCE && before.elapsed() >= pause_or_end;
        }
    }

    /// Reaps, and says what to wait for, and how long. Who `watches` need not find the event unreadable, and who follows waits for
    /// another.
    fn look(&self, seat: &Arc<Seat>, silent: bool, watches: bool) -> Result<(Role, Duration)> {
        let mut state = self.lock()?;
        let role = state.table.look(seat);
        let before = state.table.pending();
        if state.channel.is_some() {
            match role {
                Role::Lead if watches => state.led(State::spin)?,
                Role::Lead => state.led(State::progress)?,
                Role::Follow => state.spin()?,
            }
        }
        if silent {
            self.lose(before, &state);
        }
        let refused = state.channel.as_ref().is_some_and(Channel::is_refused);
        let must_poll = state.must_poll();
        drop(state);
        if refused {
            // What another channel occupies may be free, and nobody has looked.
            progress_all();
        }
        Ok((role, if must_poll { POLL } else { SILENCE }))
    }

    /// Reaps completions and pushes what fits, unless one of the transfers has ended, if only because the channel was closed; a
    /// number that changes with whatever was pushed or reaped. Where no interrupt asked for it, the interrupts of what is found were
    /// lost, unless they are still to come.
    fn seek(&self, tickets: &[Arc<Ticket>], is_asked: bool) -> Result<u64> {
        let mut state = self.lock()?;
        if !Ticket::any_ended(tickets) {
            let channel = state.channel()?;
            let is_owed = is_asked || channel.is_owed();
            let before = state.table.pending();
            state.spin()?;
            if !is_owed {
                self.lose(before, &state);
            }
        }
        Ok(state.channel.as_ref().map_or(0, |channel| channel.moves))
    }

    /// Counts what was found since so many were pending, and no interrupt has told of.
    fn lose(&self, before: usize, state: &State) {
        self.counters.lost_interrupts.fetch_add((before - state.table.pending()) as u64, Relaxed);
    }

    /// Whether it was closed, here or by a fork.
    pub fn is_closed(&self) -> bool {
        self.lock().map_or(true, |state| state.closing || state.channel.is_none())
    }

    fn sit<W: Waiter>(&self, seat: &Arc<Seat>, tickets: &[Arc<Ticket>], waiter: &mut W) -> Result<(), W::Error> {
        let tickets = (!waiter.tells()).then_some(tickets);
        self.lock().map_err(|error| waiter.error(error))?.table.sit(seat, tickets);
        Ok(())
    }

    fn rise(&self, seat: &Arc<Seat>) {
        if let Ok(mut state) = self.lock() {
            state.table.rise(seat);
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        // In the child of a fork a thread that is not there may hold the lock.
        if self.generation != sys::fork_generation() {
            return Err(Error::Closed("this device belongs to the parent process; open it anew after fork".into()));
        }
        Ok(lock(&self.state))
    }
}

impl State {
    fn channel(&mut self) -> Result<&mut Channel> {
        self.channel.as_mut().ok_or_else(closed)
    }

    /// Whether not all completions are told of.
    fn must_poll(&self) -> bool {
        self.channel.as_ref().is_some_and(Channel::must_poll)
    }

    /// The channel, if it takes requests.
    fn open(&mut self) -> Result<&mut Channel> {
        self.channel.as_mut().filter(|_| !self.closing).ok_or_else(closed)
    }

    fn progress(&mut self) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        let ended = channel.progress()?;
        self.tell(ended);
        Ok(())
    }

    /// Reaps as whoever leads, who hears of it without a nudge.
    fn led(&mut self, reap: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        self.table.lead(true);
        let reaped = reap(self);
        self.table.lead(false);
        reaped
    }

    /// As [`State::progress`], for whoever does not wait next.
    fn spin(&mut self) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        let ended = channel.spin()?;
        self.tell(ended);
        Ok(())
    }

    fn tell(&mut self, ended: Vec<Outcome>) {
        self.table.end(ended);
        self.rouse();
    }

    /// Has a nudge reach whoever leads in the engine as well.
    fn rouse(&mut self) {
        if self.table.nudge().is_rung() {
            self.channel.iter_mut().for_each(Channel::rouse);
        }
    }
}

fn closed() -> Error {
    Error::Closed("the device was closed".into())
}

#[cfg(all(test, loom))]
mod loom;
