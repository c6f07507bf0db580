//! Transfers by the numbers that C knows them by.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_core::channel::{Shared, Ticket};
use dma_core::transfer::Status;

use crate::device::Use;
use crate::error::{Code, Failure};

/// How many transfers are remembered; more only where so many have not ended.
pub(crate) const REMEMBERED: usize = 1 << 16;

/// A transfer, and the way to its end while it has not ended.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) way: Option<Way>,
}

/// What carries a transfer out.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) channel: Arc<Shared>,
    /// The device stays open for it.
    pub(crate) _device: Arc<Use>,
}

impl Transfer {
    /// How it ended, or [`Status::Pending`]. Whoever looks first reaps what ended.
    fn look(&self) -> Status {
        if let (None, Some(way)) = (self.ticket.outcome(), &self.way) {
            // Closed: all its transfers have ended.
            let _ = way.channel.progress();
        }
        self.ticket.status()
    }
}

/// The transfers of the process.
#[derive(Debug, Default)]
pub(crate) struct Transfers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: c_int,
    known: HashMap<c_int, Transfer>,
    /// Those that are known, in the order in which they will be forgotten.
    order: VecDeque<c_int>,
}

impl Transfers {
    /// Takes a transfer in; its id.
    pub(crate) fn add(&self, transfer: Transfer) -> c_int {
        let mut state = self.state();
        let forgotten = state.forget();
        let id = state.next();
        state.known.insert(id, transfer);
        state.order.push_back(id);
        drop(state);
        // After the lock, for it may be the last user of a device.
        drop(forgotten);
        id
    }

    /// The transfer with this id.
    pub(crate) fn get(&self, id: c_int) -> Result<Transfer, Failure> {
        let state = self.state();
        state.known.get(&id).cloned().ok_or_else(|| {
            let text = match id {
                ..=0 => format!(
                    "{id} is no transfer's id: they are positive, and a negative number is an error of \
                     dma_submit_transfer"
                ),
                _ => format!(
                    "no transfer has the id {id}: dma_submit_transfer of this process did not return it, or \
                     {REMEMBERED} transfers were begun since"
                ),
            };
            Failure::new(Code::Id, text)
        })
    }

    /// How a transfer ended, or [`Status::Pending`].
    pub(crate) fn look(&self, id: c_int) -> Result<(Transfer, Status), Failure> {
        let transfer = self.get(id)?;
        let status = transfer.look();
        if status != Status::Pending {
            self.let_go(id);
        }
        Ok((transfer, status))
    }

    /// Lets go of the devices of all transfers that have ended.
    pub(crate) fn sweep(&self) {
        let under_way: Vec<_> = {
            let state = self.state();
            state.known.iter().filter(|(_, transfer)| transfer.way.is_some()).map(|(id, _)| *id).collect()
        };
        for id in under_way {
            // Another thread may have made it forgotten.
            let _ = self.look(id);
        }
    }

    fn let_go(&self, id: c_int) {
        let way = self.state().known.get_mut(&id).and_then(|transfer| transfer.way.take());
        drop(way);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A number that no known transfer has. They start again after the largest.
    fn next(&mut self) -> c_int {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.known.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Forgets the oldest transfer that has ended, where there are too many.
    fn forget(&mut self) -> Option<Transfer> {
        if self.known.len() < REMEMBERED {
            return None;
        }
        for _ in 0..self.order.len() {
            let id = self.order.pop_front()?;
            if self.known.get(&id).is_none_or(|transfer| transfer.look() != Status::Pending) {
                return self.known.remove(&id);
            }
            self.order.push_back(id);
        }
        None
    }
}
