//! What is to happen at a time, rather than after a transaction.

use std::collections::BTreeMap;

use super::trace::Master;

/// Times at which channels want to be called. Each waits for one at most, so that none are left behind of what came to pass earlier.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<Master, u64>,
}

impl Timers {
    /// Calls a channel at `cycle` instead of when it wanted to be called before, unless it does not wait for that any more.
    pub(super) fn set(&mut self, cycle: u64, master: Master) {
        self.due.insert(master, cycle);
    }

    /// The first timer that somebody waits for; others before it are forgotten, so that no time passes for them.
    pub(super) fn first(&mut self, waits: impl Fn(u64, Master) -> bool) -> Option<(u64, Master)> {
        loop {
            let (cycle, master) = self.earliest()?;
            if waits(cycle, master) {
                return Some((cycle, master));
            }
            self.due.remove(&master);
        }
    }

    /// Takes the first timer away: whose it was.
    pub(super) fn pop(&mut self) -> Option<Master> {
        let (_, master) = self.earliest()?;
        self.due.remove(&master);
        Some(master)
    }

    fn earliest(&self) -> Option<(u64, Master)> {
        self.due.iter().map(|(master, cycle)| (*cycle, *master)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_comes_first_and_what_nobody_waits_for_never() {
        let mut timers = Timers::default();
        [(30, (0, 1)), (10, (0, 0)), (20, (1, 0))].iter().for_each(|(cycle, who)| timers.set(*cycle, *who));
        assert_eq!(timers.first(|_, _| true), Some((10, (0, 0))));
        assert_eq!(timers.first(|_, (device, _)| device == 1), Some((20, (1, 0))));
        timers.pop();
        assert_eq!(timers.first(|cycle, _| cycle == 30), Some((30, (0, 1))));
        timers.pop();
        assert_eq!(timers.first(|_, _| true), None);
    }

    #[test]
    fn a_channel_waits_for_one_time_only_however_often_it_says_so() {
        let mut timers = Timers::default();
        (0..1000).for_each(|cycle| timers.set(cycle, (0, 0)));
        timers.set(5, (1, 0));
        assert_eq!(timers.due.len(), 2);
        assert_eq!((timers.pop(), timers.first(|_, _| true)), (Some((1, 0)), Some((999, (0, 0)))));
    }
}
