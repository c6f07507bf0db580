//! What an interrupt costs the CPU, and how long it waits for the CPU.
//!
//! A CPU handles one interrupt after the other. It enters the handler (saves its state and finds out who asked); from then on
//! whoever waits knows. It does the deferred work of each completion (softirq and NAPI poll of Linux), and leaves. What is completed
//! before the handler looks is handled by it too: as with a pending bit of a local APIC, a vector that waits stands for all of its
//! messages (Intel SDM, volume 3, 10.8.4). If more comes than the CPU has time for, the time between a message and its handler grows,
//! handlers get fewer than messages, and CPU time for anything else goes to 0: the livelock of Mogul and Ramakrishnan, "Eliminating
//! Receive Livelock in an Interrupt-driven Kernel", ACM TOCS 15(3), 1997.

mod cpus;

use std::collections::VecDeque;

pub(super) use self::cpus::Cpus;
use super::timing::Timing;
use super::trace::Master;
use crate::error::{Error, Result};

/// What an interrupt takes of the CPU's time, in nanoseconds; nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterruptCost {
    /// Before the handler looks at the device.
    pub entry: u64,
    /// After the handler is done.
    pub exit: u64,
    /// Of each completion, in the handler.
    pub deferred: u64,
}

/// The most nanoseconds of each.
const MOST: u64 = 1_000_000_000;

/// Presets and their names in Ruby.
const PRESETS: [(&str, InterruptCost); 2] =
    [("none", InterruptCost { entry: 0, exit: 0, deferred: 0 }), ("pc1998", InterruptCost::PC1998)];

impl InterruptCost {
    /// A PC with Linux and a network interface in 1998: 21 us of each interrupt are overhead, and a packet takes 11.5 us (CERN, WoTUG-21,
    /// "DsNIC", interrupt overhead: hsi.web.cern.ch/dshs/publications/wotug21/dsnic/html/node22.html). How much of the overhead comes
    /// before the packet is not told there: half is taken for it.
    pub const PC1998: InterruptCost = InterruptCost { entry: 10_500, exit: 10_500, deferred: 11_500 };

    /// The preset with this name in Ruby.
    pub fn from_name(name: &str) -> Option<InterruptCost> {
        PRESETS.iter().find(|(other, _)| *other == name).map(|(_, preset)| *preset)
    }

    /// Every preset's name.
    pub fn names() -> Vec<&'static str> {
        PRESETS.iter().map(|(name, _)| *name).collect()
    }

    pub(super) fn check(&self) -> Result<()> {
        let parts = [("entry", self.entry), ("exit", self.exit), ("deferred", self.deferred)];
        match parts.into_iter().find(|(_, time)| *time > MOST) {
            Some((name, time)) => Err(Error::Argument(format!(
                "interrupt_cost: {name}: {time} ns are more than {MOST} ns, which is a second; give less"
            ))),
            None => Ok(()),
        }
    }
}

/// The interrupts of a CPU, see the [module](self).
#[derive(Debug)]
pub(super) struct Handlers {
    cost: InterruptCost,
    timing: Timing,
    /// When the CPU is done with the handlers that have begun.
    free: u64,
    waiting: VecDeque<Waiting>,
    handled: u64,
    cycles: u64,
}

#[derive(Debug)]
struct Waiting {
    master: Master,
    since: u64,
    completions: u64,
}

/// A handler that has looked at its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handled {
    pub master: Master,
    /// When the CPU entered it, and when it leaves it.
    pub begin: u64,
    pub end: u64,
}

impl Handlers {
    pub(super) fn new(cost: InterruptCost, timing: Timing) -> Handlers {
        Handlers { cost, timing, free: 0, waiting: VecDeque::new(), handled: 0, cycles: 0 }
    }

    /// A message came, and tells of so many completions. Whether it is handled at once, because that takes no time.
    pub(super) fn ask(&mut self, master: Master, completions: u64, now: u64) -> bool {
        if self.are_free() {
            self.handled += 1;
            return true;
        }
        self.wait(master, completions, now);
        false
    }

    fn wait(&mut self, master: Master, completions: u64, now: u64) {
        match self.waiting.iter_mut().find(|waiting| waiting.master == master) {
            Some(waiting) => waiting.completions += completions,
            None => self.waiting.push_back(Waiting { master, since: now, completions }),
        }
    }

    /// Whether interrupts take no time.
    pub(super) fn are_free(&self) -> bool {
        self.cost == InterruptCost::default()
    }

    /// Whether a message of a channel waits for its handler.
    pub(super) fn has(&self, master: Master) -> bool {
        self.waiting.iter().any(|waiting| waiting.master == master)
    }

    /// When the next handler looks at its device.
    pub(super) fn due(&self) -> Option<u64> {
        self.waiting.front().map(|first| self.begin_of(first).saturating_add(self.timing.cycle_at(self.cost.entry)))
    }

    /// The handler that looks at its device by `now`.
    pub(super) fn serve(&mut self, now: u64) -> Option<Handled> {
        self.due().filter(|due| *due <= now)?;
        let first = self.waiting.pop_front()?;
        let begin = self.begin_of(&first);
        let InterruptCost { entry, exit, deferred } = self.cost;
        let time = deferred.saturating_mul(first.completions).saturating_add(entry + exit);
        let cycles = self.timing.cycle_at(time);
        self.free = begin.saturating_add(cycles);
        self.handled += 1;
        self.cycles = self.cycles.saturating_add(cycles);
        Some(Handled { master: first.master, begin, end: self.free })
    }

    /// Lets nobody wait any more who belongs to a device.
    pub(super) fn forget(&mut self, device: u32) {
        self.waiting.retain(|waiting| waiting.master.0 != device);
    }

    /// Handlers that have looked, and cycles that these have taken of the CPU by `now`.
    pub(super) fn stats(&self, now: u64) -> (u64, u64) {
        (self.handled, self.cycles.saturating_sub(self.free.saturating_sub(now)))
    }

    fn begin_of(&self, waiting: &Waiting) -> u64 {
        waiting.since.max(self.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: InterruptCost = InterruptCost { entry: 10, exit: 5, deferred: 3 };

    /// On a bus of which a cycle is a nanosecond.
    fn handlers(cost: InterruptCost) -> Handlers {
        Handlers::new(cost, Timing::IDEAL)
    }

    #[test]
    fn what_costs_nothing_is_handled_at_once() {
        let mut cpu = handlers(InterruptCost::default());
        assert!(cpu.ask((0, 0), 7, 100));
        assert_eq!((cpu.due(), cpu.stats(100)), (None, (1, 0)));
    }

    #[test]
    fn a_handler_enters_works_for_each_completion_and_leaves() {
        let mut cpu = handlers(COST);
        assert!(!cpu.ask((0, 1), 4, 100));
        assert_eq!((cpu.due(), cpu.serve(109)), (Some(110), None));
        assert_eq!(cpu.serve(110), Some(Handled { master: (0, 1), begin: 100, end: 100 + 10 + 4 * 3 + 5 }));
        assert_eq!((cpu.due(), cpu.stats(127)), (None, (1, 27)));
    }

    #[test]
    fn one_is_served_after_the_other_in_the_order_of_their_messages() {
        let mut cpu = handlers(COST);
        [(0, 1), (0, 0), (1, 0)].into_iter().zip(100..).for_each(|(master, now)| {
            cpu.ask(master, 1, now);
        });
        let served: Vec<_> = (0..3).map(|_| cpu.serve(cpu.due().unwrap()).unwrap()).collect();
        assert_eq!(served.iter().map(|one| one.master).collect::<Vec<_>>(), [(0, 1), (0, 0), (1, 0)]);
        assert_eq!(served.iter().map(|one| one.begin).collect::<Vec<_>>(), [100, 118, 136]);
    }

    #[test]
    fn a_vector_that_waits_stands_for_all_of_its_messages() {
        let mut cpu = handlers(COST);
        cpu.ask((0, 0), 1, 0);
        cpu.ask((0, 0), 2, 9);
        assert_eq!(cpu.serve(10).unwrap().end, 10 + 3 * 3 + 5);
        cpu.ask((0, 0), 1, 11);
        assert_eq!(cpu.due(), Some(24 + 10), "what comes while it works is another interrupt");
        assert_eq!(cpu.stats(24), (1, 24));
    }

    #[test]
    fn no_cycle_is_counted_before_it_has_passed() {
        let mut cpu = handlers(COST);
        cpu.ask((0, 0), 1, 100);
        assert_eq!(cpu.stats(110), (0, 0), "who has not looked yet is not counted");
        cpu.serve(110);
        assert_eq!([110, 111, 118, 500].map(|now| cpu.stats(now).1), [10, 11, 18, 18]);
        cpu.ask((0, 0), 1, 500);
        cpu.serve(510);
        assert_eq!([510, 518].map(|now| cpu.stats(now)), [(2, 28), (2, 36)], "those before are whole");
    }

    #[test]
    fn under_more_than_it_can_serve_the_cpu_does_nothing_else_and_handlers_get_fewer_than_messages() {
        let mut cpu = handlers(COST);
        for now in 0..10_000 {
            cpu.ask((0, (now % 3) as u16), 1, now);
            cpu.serve(now);
            assert!(cpu.stats(now).1 <= now, "more than there was of it");
        }
        let (handled, cycles) = cpu.stats(u64::MAX);
        assert!(cycles >= 10_000, "all of its time is gone: {cycles}");
        assert!(handled < 1000, "{handled}");
        assert!(cpu.waiting.len() <= 3, "no queue grows without end");
    }

    #[test]
    fn a_device_that_is_gone_is_served_no_more() {
        let mut cpu = handlers(COST);
        cpu.ask((0, 0), 1, 0);
        cpu.ask((1, 0), 1, 0);
        cpu.forget(0);
        assert_eq!(cpu.serve(10).unwrap().master, (1, 0));
        assert_eq!(cpu.due(), None);
    }

    #[test]
    fn costs_are_whole_cycles_of_the_bus_and_never_overflow() {
        let mut cpu = Handlers::new(COST, Timing::ISA);
        cpu.ask((0, 0), u64::MAX, u64::MAX);
        assert_eq!(cpu.due(), Some(u64::MAX));
        assert_eq!(cpu.serve(u64::MAX).unwrap().end, u64::MAX);
        assert!(InterruptCost { entry: MOST + 1, ..COST }.check().is_err());
        assert_eq!(PRESETS.map(|(_, preset)| preset.check().is_ok()), [true; 2]);
    }
}
