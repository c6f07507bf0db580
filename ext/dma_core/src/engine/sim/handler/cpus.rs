//! The CPUs of a machine: each handles one interrupt after the other, at the same time as the others.

use super::{Handled, Handlers, InterruptCost};
use crate::engine::sim::timing::Timing;
use crate::engine::sim::trace::Master;

/// See the [module](self).
#[derive(Debug)]
pub(in crate::engine::sim) struct Cpus(Vec<Handlers>);

impl Cpus {
    pub(in crate::engine::sim) fn new(count: u32, cost: InterruptCost, timing: Timing) -> Cpus {
        Cpus((0..count).map(|_| Handlers::new(cost, timing)).collect())
    }

    /// See [`Handlers::ask`].
    pub(in crate::engine::sim) fn ask(&mut self, cpu: u32, master: Master, completions: u64, now: u64) -> bool {
        self.0[cpu as usize].ask(master, completions, now)
    }

    /// A message comes that tells of nothing: whoever it is about is called all the same, when the CPU comes to it.
    pub(in crate::engine::sim) fn disturb(&mut self, cpu: u32, master: Master, now: u64) {
        self.0[cpu as usize].wait(master, 0, now);
    }

    /// Whether interrupts take no time.
    pub(in crate::engine::sim) fn are_free(&self) -> bool {
        self.0[0].are_free()
    }

    /// Whether a message of a channel waits for its handler.
    pub(in crate::engine::sim) fn has(&self, master: Master) -> bool {
        self.0.iter().any(|cpu| cpu.has(master))
    }

    /// When the next handler looks at its device.
    pub(in crate::engine::sim) fn due(&self) -> Option<u64> {
        self.0.iter().filter_map(Handlers::due).min()
    }

    /// The handler that looks at its device by `now`; the first one of the first CPU, where there are several.
    pub(in crate::engine::sim) fn serve(&mut self, now: u64) -> Option<Handled> {
        let due = self.due()?;
        self.0.iter_mut().find(|cpu| cpu.due() == Some(due))?.serve(now)
    }

    /// Lets nobody wait any more who belongs to a device.
    pub(in crate::engine::sim) fn forget(&mut self, device: u32) {
        self.0.iter_mut().for_each(|cpu| cpu.forget(device));
    }

    /// Of each CPU, handlers that have looked, and cycles that these have taken by `now`.
    pub(in crate::engine::sim) fn stats(&self, now: u64) -> Vec<(u64, u64)> {
        self.0.iter().map(|cpu| cpu.stats(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_handles_one_after_the_other_beside_the_others() {
        let cost = InterruptCost { entry: 10, exit: 5, deferred: 3 };
        let mut cpus = Cpus::new(2, cost, Timing::IDEAL);
        for (cpu, master) in [(0, (0, 0)), (1, (0, 1)), (0, (1, 0))] {
            assert!(!cpus.ask(cpu, master, 1, 100));
        }
        cpus.disturb(1, (0, 1), 101);
        assert_eq!((cpus.due(), cpus.serve(109)), (Some(110), None));
        let served: Vec<_> = (0..3).map(|_| cpus.serve(cpus.due().unwrap()).unwrap()).collect();
        let begins: Vec<_> = served.iter().map(|one| (one.master, one.begin, one.end)).collect();
        assert_eq!(begins, [((0, 0), 100, 118), ((0, 1), 100, 118), ((1, 0), 118, 136)]);
        assert_eq!((cpus.stats(200), cpus.due()), (vec![(2, 36), (1, 18)], None), "what waits stands for all");
    }

    #[test]
    fn what_tells_of_nothing_is_handled_where_nothing_takes_time_too() {
        let mut cpus = Cpus::new(1, InterruptCost::default(), Timing::IDEAL);
        cpus.disturb(0, (0, 0), 7);
        assert!(cpus.has((0, 0)) && !cpus.has((0, 1)));
        assert_eq!(cpus.serve(7), Some(Handled { master: (0, 0), begin: 7, end: 7 }));
        assert!(cpus.ask(0, (0, 0), 1, 8));
        assert_eq!(cpus.stats(8), [(2, 0)]);
    }
}
