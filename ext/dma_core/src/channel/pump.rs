//! Operations from requests into the engine's queue, and completions back.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::{Channel, Outcome, Request};
use crate::engine::{Manner, Rejected};
use crate::transfer::Status;

impl Channel {
    /// Takes out the request at `index` if it has ended; what came behind it learns of a failure.
    pub(super) fn settle(&mut self, index: usize, ended: &mut Vec<Outcome>) {
        let Some(outcome) = self.requests[index].outcome() else { return };
        if outcome.status.is_failure() {
            self.requests.iter_mut().skip(index).for_each(|state| state.poisoned = true);
        }
        if let Some(state) = self.requests.remove(index) {
            self.outstanding -= state.request.elements.len();
        }
        self.counters.count(&outcome);
        ended.push(outcome);
    }

    /// Pushes what fits of what may begin.
    pub(super) fn push(&mut self, ended: &mut Vec<Outcome>) {
        if let Some(merging) = &mut self.merging {
            merging.refused = false;
        }
        let mut next = 0;
        while let Some(&id) = self.waiting.get(next) {
            if self.held.is_some_and(|held| id >= held) {
                break;
            }
            let Ok(index) = self.find(id) else {
                self.waiting.remove(next);
                continue;
            };
            if self.requests[index].request.fence && index > 0 {
                break;
            }
            if self.must_wait(index) {
                next += 1;
                continue;
            }
            if self.requests[index].request.fence && self.requests[index].poisoned {
                self.requests[index].give_up(Status::NotAttempted);
            }
            let full = self.push_parts(index);
            if self.requests[index].waits() {
                next += 1;
            } else {
                self.waiting.remove(next);
                self.settle(index, ended);
            }
            if full {
                break;
            }
        }
        if let Some(queue) = &mut self.queue {
            queue.kick();
        }
    }

    /// Whether an earlier request has to end first.
    fn must_wait(&self, index: usize) -> bool {
        let state = &self.requests[index];
        self.is_device
            && !self.limits.ordered
            && self.requests.iter().take(index).any(|earlier| earlier.conflicts(state, &self.limits))
    }

    /// Pushes as much of one request as there is room for; true where there is no more.
    fn push_parts(&mut self, index: usize) -> bool {
        let (Some(queue), state) = (&mut self.queue, &mut self.requests[index]) else { return true };
        while let Some(&tag) = self.free.last() {
            if state.in_flight() >= self.share {
                return false;
            }
            let Some((position, len)) = state.next(self.limits) else { return false };
            let begun = state.begin(position, len, self.limits, &mut self.bounces, self.merging.as_mut());
            let (op, flight) = match begun {
                Ok(Some(begun)) => begun,
                Ok(None) => return false,
                Err(errno) => {
                    state.fail(position, Status::Os(errno));
                    return false;
                }
            };
            let Request { interrupt, cache, .. } = state.request;
            let manner = Manner { cache, interrupt, linked: position > 0 };
            let rejected = queue.push(tag, op, manner).err();
            if let Some(rejected) = rejected {
                state.take_back(&flight);
                self.bounces.extend(flight.bounce.map(|bounce| Arc::clone(bounce.region())));
                match rejected {
                    Rejected::Full(_) => return true,
                    Rejected::Failed(_, error) => state.fail(position, Status::of(&error)),
                }
                return false;
            }
            self.moves += 1;
            self.free.pop();
            self.slots[tag as usize] = Some(flight);
        }
        true
    }

    /// Takes completions in; false where there were none.
    pub(super) fn reap(&mut self, ended: &mut Vec<Outcome>) -> bool {
        let Some(queue) = &mut self.queue else { return false };
        let mut completions = std::mem::take(&mut self.completions);
        queue.reap(&mut completions);
        let any = !completions.is_empty();
        for completion in completions.drain(..) {
            let Some(mut flight) = self.slots[completion.tag as usize].take() else { continue };
            self.moves += 1;
            self.free.push(completion.tag);
            if let Ok(index) = self.find(flight.id) {
                let copied = self.requests[index].complete(&mut flight, &completion, self.limits);
                self.engine.stats().bounced_bytes.fetch_add(copied as u64, Relaxed);
                if let (true, Err(place)) = (self.requests[index].waits(), self.waiting.binary_search(&flight.id)) {
                    self.waiting.insert(place, flight.id);
                }
                self.settle(index, ended);
            }
            flight.settle();
            if let Some(bounce) = flight.bounce {
                self.bounces.push(Arc::clone(bounce.region()));
            }
        }
        self.completions = completions;
        any
    }
}
