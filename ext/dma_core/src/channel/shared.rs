//! A channel of many users: each submits and waits for its own, whoever waits first reaps for all.

mod open;
mod plain;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::table::{Role, Seat, Table, Ticket};
use super::{Channel, Counters, Outcome, Request};
use crate::engine::ManualClock;
use crate::error::{Error, Result};
use crate::sync::{can_spin, lock, Mutex, MutexGuard};
use crate::sys;
use crate::transfer::{Op, Status};

pub(crate) use open::enter;
pub use open::progress_all;

/// How long a waiter looks for its completion before it sleeps: less than it takes to wake a thread.
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
        let event = sys::either(channel.event(), table.nudge().as_fd());
        let event = event.map_err(|errno| Error::os(errno, "cannot join two events"))?;
        let (clock, counters, capacity) = (channel.engine().clock(), channel.counters(), channel.room());
        let state = Mutex::new(State { channel: Some(channel), closing: false, table });
        Ok(Shared { index, event, clock, counters, capacity, state, generation: sys::fork_generation() })
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

    /// Asks that a transfer be given up; it ends as `why` if that comes in time.
    pub fn cancel(&self, ticket: &Ticket, why: Status) {
        if let Ok(mut state) = self.lock() {
            if let Some(channel) = &mut state.channel {
                channel.cancel(ticket.id(), why);
                let _ = state.progress();
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
        if let Some(clock) = &self.clock {
            return self.run(&**clock, ticket, timeout, waiter);
        }
        let started = Instant::now();
        let deadline = timeout.and_then(|timeout| started.checked_add(timeout));
        let spin = if can_spin() { SPIN } else { Duration::ZERO };
        while ticket.outcome().is_none() && started.elapsed() < spin {
            self.seek(ticket).map_err(|error| waiter.error(error))?;
            std::hint::spin_loop();
        }
        if ticket.outcome().is_none() {
            self.sit(seat, ticket).map_err(|error| waiter.error(error))?;
            let seated = self.wait_seated(ticket, seat, deadline, waiter);
            self.rise(seat);
            seated?;
        }
        waiter.reaped(&mut || {})?;
        Ok(ticket.outcome())
    }

    fn wait_seated<W: Waiter>(
        &self,
        ticket: &Arc<Ticket>,
        seat: &Arc<Seat>,
        deadline: Option<Instant>,
        waiter: &mut W,
    ) -> Result<(), W::Error> {
        let mut silent = false;
        loop {
            let role = self.look(seat, silent).map_err(|error| waiter.error(error))?;
            if ticket.outcome().is_some() {
                return Ok(());
            }
            let mut away = false;
            waiter.reaped(&mut || {
                if !std::mem::replace(&mut away, true) {
                    self.rise(seat);
                }
            })?;
            if away {
                self.sit(seat, ticket).map_err(|error| waiter.error(error))?;
                continue;
            }
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(());
            }
            let pause = if self.must_poll() { POLL } else { SILENCE };
            let (before, pause_or_end) = (Instant::now(), left.min(pause));
            waiter.block(role, pause_or_end)?;
            silent = role == Role::Lead && pause == SILENCE && before.elapsed() >= pause_or_end;
        }
    }

    /// Reaps, and says what to wait for.
    fn look(&self, seat: &Arc<Seat>, silent: bool) -> Result<Role> {
        let mut state = self.lock()?;
        let role = state.table.look(seat);
        let before = state.table.pending();
        if state.channel.is_some() {
            state.progress()?;
        }
        if silent {
            self.counters.lost_interrupts.fetch_add((before - state.table.pending()) as u64, Relaxed);
        }
        let refused = state.channel.as_ref().is_some_and(Channel::is_refused);
        drop(state);
        if refused {
            // What another channel occupies may be free, and nobody has looked.
            progress_all();
        }
        Ok(role)
    }

    /// Runs a machine with a manual clock until the transfer ends.
    fn run<W: Waiter>(
        &self,
        clock: &dyn ManualClock,
        ticket: &Ticket,
        timeout: Option<Duration>,
        waiter: &mut W,
    ) -> Result<Option<Outcome>, W::Error> {
        let nanos = timeout.map(|timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let until = nanos.map(|nanos| clock.now().saturating_add(nanos));
        loop {
            let before = self.seek(ticket).map_err(|error| waiter.error(error))?;
            waiter.reaped(&mut || {})?;
            if ticket.outcome().is_some() {
                return Ok(ticket.outcome());
            }
            if clock.step_until(until) {
                waiter.step()?;
                continue;
            }
            // Another thread may have let happen what this one waits for, or what that has to wait for.
            let after = self.seek(ticket).map_err(|error| waiter.error(error))?;
            if before == after {
                return Ok(ticket.outcome());
            }
        }
    }

    /// Reaps completions and pushes what fits, unless the transfer has ended, if only because the channel was closed; a number that
    /// changes with whatever was pushed or reaped.
    fn seek(&self, ticket: &Ticket) -> Result<u64> {
        let mut state = self.lock()?;
        if ticket.outcome().is_none() {
            state.channel()?;
            state.spin()?;
        }
        Ok(state.channel.as_ref().map_or(0, |channel| channel.moves))
    }

    /// Waits up to `timeout`, as a thread, for a transfer that was cancelled; true when it has ended.
    pub fn settle(&self, ticket: &Ticket, timeout: Duration) -> bool {
        let (deadline, clock) = (Instant::now() + timeout, &self.clock);
        loop {
            if self.progress().is_err() || ticket.outcome().is_some() {
                return ticket.outcome().is_some();
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
        let channel = state.channel.take();
        state.table.abort(&self.counters);
        drop(state);
        // What it has not let go of is its own thread's to wait for.
        drop(channel);
    }

    /// Aborts what is in flight and waits up to `grace` for it, which keeps nobody else waiting; true when all of it has ended.
    pub fn reset(&self, grace: Duration) -> Result<bool> {
        let deadline = Instant::now() + grace;
        let mut state = self.lock()?;
        let channel = state.channel()?;
        let given_up: Vec<u64> = channel.pending().collect();
        channel.cancel_all();
        let given_up: Vec<_> = given_up.into_iter().filter_map(|id| state.table.get(id)).collect();
        drop(state);
        // Where one outlasts the grace there is none left for the others.
        Ok(given_up.iter().all(|ticket| self.settle(ticket, deadline.saturating_duration_since(Instant::now()))))
    }

    /// Whether it was closed, here or by a fork.
    pub fn is_closed(&self) -> bool {
        self.lock().map_or(true, |state| state.closing || state.channel.is_none())
    }

    fn must_poll(&self) -> bool {
        self.lock().is_ok_and(|state| state.channel.as_ref().is_some_and(Channel::must_poll))
    }

    fn sit(&self, seat: &Arc<Seat>, ticket: &Arc<Ticket>) -> Result<()> {
        self.lock()?.table.sit(seat, ticket);
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

    /// The channel, if it takes requests.
    fn open(&mut self) -> Result<&mut Channel> {
        self.channel.as_mut().filter(|_| !self.closing).ok_or_else(closed)
    }

    fn progress(&mut self) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        self.table.end(channel.progress()?);
        Ok(())
    }

    /// As [`State::progress`], for whoever does not wait next.
    fn spin(&mut self) -> Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        self.table.end(channel.spin()?);
        Ok(())
    }
}

fn closed() -> Error {
    Error::Closed("the device was closed".into())
}

#[cfg(all(test, loom))]
mod loom;
