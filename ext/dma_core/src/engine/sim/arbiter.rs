//! Who has a bus next, of those that ask for it.
//!
//! Each channel is a master. It asks for the bus (REQ#) as long as it has something to do, and is granted it (GNT#) for a
//! transaction at a time: a burst where it is alone, and where others wait what the bus calls a transaction, or as much as its
//! latency timer allows (PCI Local Bus Specification 2.2, 3.4 and 6.2.4).

use super::core::Current;
use super::timing::Timing;

/// How masters take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arbitration {
    /// The first one that asks: devices and channels in the order of their numbers. Those behind wait for ever, if need be.
    Fixed,
    /// Who had the bus comes last, after each transaction: all get as many, however long theirs are.
    #[default]
    Rotating,
    /// In the same order, but who has the bus keeps it for so many cycles: all get as much time.
    RoundRobin {
        /// The latency timer, in cycles.
        latency: u64,
    },
}

/// What a master got of the bus, and what it waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MasterStats {
    /// Times it was granted the bus.
    pub grants: u64,
    /// Cycles that it had it.
    pub cycles: u64,
    /// Cycles between asking and having, in all, and at most.
    pub waited: u64,
    /// The longest wait.
    pub longest: u64,
}

impl MasterStats {
    pub(super) fn count(&mut self, cycles: u64, waited: u64) {
        self.grants += 1;
        self.cycles = self.cycles.saturating_add(cycles);
        self.waits(waited);
    }

    pub(super) fn waits(&mut self, waited: u64) {
        self.waited = self.waited.saturating_add(waited);
        self.longest = self.longest.max(waited);
    }
}

/// A bus, or the link of one device.
#[derive(Debug, Default)]
pub(super) struct Arbiter {
    /// Who had it last, and since when.
    holder: Option<usize>,
    since: u64,
    /// What is on it.
    pub current: Option<Current>,
}

/// Who is granted the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub index: usize,
    /// The most bytes of its transaction.
    pub most: u64,
    /// Nobody else asks.
    pub is_alone: bool,
}

impl Arbiter {
    /// Chooses among those that ask, given by their numbers in rising order, and whether they go on with a block; the most bytes for
    /// one that is alone, and for others.
    pub(super) fn choose(
        &mut self,
        arbitration: Arbitration,
        now: u64,
        asking: impl Iterator<Item = (usize, bool)>,
        timing: &Timing,
        (alone, burst): (u64, u64),
    ) -> Option<Grant> {
        let kept = match arbitration {
            Arbitration::RoundRobin { latency } if now - self.since < latency => self.holder,
            _ => None,
        };
        // Whose turn it is first, and then the others' behind it.
        let first = match arbitration {
            Arbitration::Fixed => 0,
            _ => self.holder.map_or(0, |holder| if kept.is_some() { holder } else { holder + 1 }),
        };
        let mut count = 0;
        let (index, goes_on) = asking.inspect(|_| count += 1).min_by_key(|(index, _)| index.wrapping_sub(first))?;
        // The timer runs from the beginning of a block, wherever that is cut while nobody else asks.
        if self.holder != Some(index) || (kept.is_none() && !goes_on) {
            (self.holder, self.since) = (Some(index), now);
        }
        let most = match arbitration {
            _ if count == 1 => alone,
            Arbitration::RoundRobin { latency } => timing.fit(latency.saturating_sub(now - self.since)).min(burst),
            _ => timing.payload.min(burst),
        };
        Some(Grant { index, most, is_alone: count == 1 })
    }

    /// Forgets who had the bus: the numbers of masters have changed.
    pub(super) fn forget(&mut self) {
        self.holder = None;
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    /// Lets masters that always ask take `count` turns, each of which is as long as its master's transactions or what it is granted;
    /// the cycles that each got, and how often.
    fn run(arbitration: Arbitration, lens: &[u64], count: usize) -> Vec<(u64, u64)> {
        let (mut arbiter, mut now, mut got) = (Arbiter::default(), 0, vec![(0, 0); lens.len()]);
        for _ in 0..count {
            let grant = arbiter
                .choose(arbitration, now, (0..lens.len()).map(|index| (index, false)), &Timing::PCI, (4096, 4096))
                .unwrap();
            let cycles = Timing::PCI.cycles(lens[grant.index].min(grant.most));
            got[grant.index] = (got[grant.index].0 + cycles, got[grant.index].1 + 1);
            now += cycles;
        }
        got
    }

    #[test]
    fn fixed_priority_starves_all_but_the_first_that_asks() {
        assert_eq!(run(Arbitration::Fixed, &[4, 4096, 4], 100)[1..], [(0, 0), (0, 0)]);
        let mut arbiter = Arbiter::default();
        for asking in [vec![1, 2], vec![2], vec![0, 1, 2], vec![0, 2]] {
            let first = asking[0];
            let asking = asking.into_iter().map(|index| (index, false));
            let grant = arbiter.choose(Arbitration::Fixed, 0, asking, &Timing::PCI, (4096, 4096));
            assert_eq!(grant.map(|grant| grant.index), Some(first));
        }
    }

    #[test]
    fn rotating_priority_gives_each_as_many_transactions() {
        let got = run(Arbitration::Rotating, &[4096, 4, 400], 300);
        assert_eq!(got, [(3200, 100), (400, 100), (3200, 100)]);
    }

    #[test]
    fn a_latency_timer_gives_each_as_much_time() {
        for latency in [8, 32, 100] {
            let got = run(Arbitration::RoundRobin { latency }, &[4096, 4, 40], 3000);
            let [most, least] = [got.iter().max(), got.iter().min()].map(|got| got.unwrap().0);
            assert!(most - least <= latency, "{latency}: {got:?}");
        }
    }

    #[test]
    fn who_is_alone_gets_whole_bursts_and_nobody_nothing() {
        for arbitration in [Arbitration::Fixed, Arbitration::Rotating, Arbitration::RoundRobin { latency: 8 }] {
            let mut arbiter = Arbiter::default();
            for now in [0, 5, 500] {
                let grant = arbiter.choose(arbitration, now, iter::once((3, false)), &Timing::PCI, (4096, 4096));
                assert_eq!(grant, Some(Grant { index: 3, most: 4096, is_alone: true }));
            }
            assert_eq!(arbiter.choose(arbitration, 600, iter::empty(), &Timing::PCI, (4096, 4096)), None);
        }
    }
}
