//! What is to happen at a time, rather than after a transaction.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::trace::Master;

/// Times at which channels want to be called: each the numbers of a device and a channel.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BinaryHeap<Reverse<(u64, Master)>>,
}

impl Timers {
    /// Calls a channel at `cycle`, unless it does not wait for that any more.
    pub(super) fn push(&mut self, cycle: u64, master: Master) {
        let timer = Reverse((cycle, master));
        // A timer that many ask for is one.
        if self.queue.peek() != Some(&timer) {
            self.queue.push(timer);
        }
    }

    /// The first timer that somebody waits for; others before it are forgotten, so that no time passes for them.
    pub(super) fn first(&mut self, waits: impl Fn(u64, Master) -> bool) -> Option<(u64, Master)> {
        while let Some(Reverse((cycle, master))) = self.queue.peek().copied() {
            if waits(cycle, master) {
                return Some((cycle, master));
            }
            self.queue.pop();
        }
        None
    }

    /// Takes the first timer away: whose it was.
    pub(super) fn pop(&mut self) -> Option<Master> {
        self.queue.pop().map(|Reverse((_, master))| master)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_comes_first_and_what_nobody_waits_for_never() {
        let mut timers = Timers::default();
        [(30, (0, 1)), (10, (0, 0)), (20, (1, 0)), (10, (0, 0))]
            .iter()
            .for_each(|(cycle, who)| timers.push(*cycle, *who));
        assert_eq!(timers.first(|_, _| true), Some((10, (0, 0))));
        assert_eq!(timers.first(|_, (device, _)| device == 1), Some((20, (1, 0))));
        timers.pop();
        assert_eq!(timers.first(|cycle, _| cycle == 30), Some((30, (0, 1))));
        timers.pop();
        assert_eq!(timers.first(|_, _| true), None);
    }
}
