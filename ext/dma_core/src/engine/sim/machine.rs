//! The machine: a bus on which one transaction happens at a time, and a clock that counts its cycles.
//!
//! With a free clock a thread carries transactions out as fast as memory is, and sleeps when there are none. With a manual clock
//! there is no thread: whoever steps the machine, or waits for it, does the same work, so that every run is the same.

use std::sync::Arc;
use std::thread;

use super::access::Addresses;
use super::controller::Bus;
use super::cpu::{Block, Cpu, CpuStats, Mode};
use super::faults::{Fault, Faults};
use super::master::Master;
use super::space::Space;
use super::timing::Timing;
use super::trace::Event;
use super::worker::{Step, Worker};
use crate::engine::ManualClock;
use crate::error::{Error, Result};
use crate::sys;

/// The most bytes of one transaction. Large enough to move them as fast as memory is; a manual clock shows more of what happens
/// in between.
const BURST_FREE: u64 = 64 << 10;
const BURST_MANUAL: u64 = 256;

/// Who lets time pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// A thread.
    Free,
    /// Whoever steps the machine.
    Manual,
}

/// What a machine is made like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineOptions {
    /// Who lets time pass.
    pub clock: Clock,
    /// Whether devices reach memory through an IOMMU, or by simulated physical addresses.
    pub iommu: bool,
    /// Decides where physical pages lie and when faults with a probability happen.
    pub seed: u64,
    /// What its bus is like.
    pub timing: Timing,
    /// The part of the time, from 0 to 1, for which the CPU wants the bus, as long as nothing keeps it waiting.
    pub cpu_load: f64,
}

impl Default for MachineOptions {
    fn default() -> Self {
        MachineOptions { clock: Clock::Free, iommu: true, seed: 0, timing: Timing::IDEAL, cpu_load: 0.0 }
    }
}

/// What happened on the bus since the machine was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineStats {
    /// Cycles that passed.
    pub cycles: u64,
    /// Cycles for which channels had the bus.
    pub dma_cycles: u64,
    /// What became of the CPU's accesses.
    pub cpu: CpuStats,
    /// The part of the time for which the CPU wants the bus: what was asked for, in whole cycles.
    pub cpu_load: f64,
}

/// A machine. It ends with the last of its devices and handles.
#[derive(Debug)]
pub struct Machine {
    worker: Arc<Worker<Core>>,
    options: MachineOptions,
    /// Memory by physical addresses is the same to all devices.
    physical: Arc<Addresses>,
    generation: u32,
}

#[derive(Debug)]
struct Core {
    /// The most bytes of one transaction.
    burst: u64,
    now: u64,
    masters: Vec<Master>,
    /// Who is asked first for the next transaction: round robin.
    turn: usize,
    current: Option<Current>,
    timing: Timing,
    /// None that wants the bus.
    cpu: Option<Cpu>,
    /// Cycles for which channels had the bus.
    dma_cycles: u64,
    faults: Faults,
    trace: Option<Vec<Event>>,
    devices: u32,
    stopped: bool,
}

/// The transaction on the bus.
#[derive(Debug, Clone, Copy)]
struct Current {
    /// Whose it is.
    index: usize,
    /// When it ends, and how the CPU has fared by then.
    end: u64,
    cpu: Option<Cpu>,
    /// Cycles of it that are not the CPU's.
    cycles: u64,
    /// See [`Block`].
    goes_on: bool,
}

impl Machine {
    /// A machine without devices.
    ///
    /// # Errors
    /// [`Error::Argument`] for a bus or a CPU that there cannot be, [`Error::Os`] where the system has no thread for it.
    pub fn new(options: MachineOptions) -> Result<Arc<Machine>> {
        options.timing.check()?;
        if !(0.0..=1.0).contains(&options.cpu_load) {
            return Err(Error::Argument(format!("cpu_load: {} is not in 0..1", options.cpu_load)));
        }
        let burst = if options.clock == Clock::Free { BURST_FREE } else { BURST_MANUAL };
        let worker = Arc::new(Worker::new(Core {
            burst: options.timing.whole(burst, BURST_FREE),
            now: 0,
            masters: Vec::new(),
            turn: 0,
            current: None,
            timing: options.timing,
            cpu: Cpu::new(options.cpu_load, &options.timing),
            dma_cycles: 0,
            faults: Faults::new(options.seed),
            trace: None,
            devices: 0,
            stopped: false,
        }));
        if options.clock == Clock::Free {
            let worker = Arc::clone(&worker);
            let started = thread::Builder::new().name("dma-sim".into()).spawn(move || {
                sys::block_signals();
                worker.serve(Core::step);
            });
            started.map_err(|error| Error::os(crate::error::errno(&error), "cannot start the machine's thread"))?;
        }
        let physical = Arc::new(Addresses::new(Space::physical(options.seed)));
        Ok(Arc::new(Machine { worker, options, physical, generation: sys::fork_generation() }))
    }

    /// What it was made like.
    pub fn options(&self) -> MachineOptions {
        self.options
    }

    /// Refuses the child of a fork, where the machine's thread is not.
    pub fn check(&self) -> Result<()> {
        if self.generation == sys::fork_generation() {
            return Ok(());
        }
        Err(Error::Closed("this simulated machine belongs to the parent process; make one anew after fork".into()))
    }

    /// Those of memory by physical address.
    pub(super) fn physical(&self) -> Arc<Addresses> {
        Arc::clone(&self.physical)
    }

    /// The bus addresses of a new device.
    pub(super) fn addresses(&self) -> Arc<Addresses> {
        match self.options.iommu {
            true => Arc::new(Addresses::new(Space::iommu())),
            false => Arc::clone(&self.physical),
        }
    }

    /// The number of a new device.
    pub(super) fn number(&self) -> u32 {
        self.with(|core| {
            core.devices += 1;
            core.devices - 1
        })
    }

    /// Takes a device's masters in.
    pub(super) fn add(&self, masters: impl IntoIterator<Item = Master>) {
        self.with(|core| core.masters.extend(masters));
    }

    /// Takes a device's channels away.
    pub(super) fn remove(&self, device: u32) {
        if self.check().is_err() {
            return;
        }
        self.with(|core| {
            let Core { masters, turn, current, .. } = core;
            // Whose transaction is on the bus goes on, wherever it is in the list then.
            let kept = |master: &Master| master.device() != device;
            *current = current.filter(|current| kept(&masters[current.index])).map(|current| {
                let index = masters[..current.index].iter().filter(|master| kept(master)).count();
                Current { index, ..current }
            });
            masters.retain(kept);
            *turn = 0;
        });
    }

    /// Runs `work` on every master of a device.
    pub(super) fn with_masters(&self, device: u32, mut work: impl FnMut(&mut Master, &mut Bus<'_>)) {
        self.with(|core| {
            let Core { burst, now, masters, faults, trace, current, .. } = core;
            let mut bus = Bus { now: *now, burst: *burst, faults, trace };
            for (index, master) in masters.iter_mut().enumerate().filter(|(_, master)| master.device() == device) {
                let before = master.next_len(*burst);
                work(master, &mut bus);
                // Another transaction begins anew. The same one goes on, so that who polls a register between small steps does
                // not keep it from its end.
                let changed = master.next_len(*burst) != before;
                current.take_if(|current| changed && current.index == index);
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        self.worker.with(work)
    }

    /// Somebody rang a doorbell.
    pub(super) fn wake(&self) {
        self.worker.tell();
    }

    /// Makes something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.with(|core| core.faults.add(fault));
    }

    /// Lets go wrong nothing more of what was injected.
    pub fn clear_faults(&self) {
        self.with(|core| core.faults.clear());
    }

    /// Cycles of the bus since the machine was made.
    pub fn cycles(&self) -> u64 {
        self.with(|core| core.now)
    }

    /// What happened on the bus so far.
    pub fn stats(&self) -> MachineStats {
        self.with(|core| {
            let Core { now, dma_cycles, mut cpu, current, .. } = *core;
            // Beside a transaction it is not known how the CPU fares before that is over, and whether another follows at once.
            if let Some(cpu) = cpu.as_mut().filter(|cpu| current.is_none() && !cpu.is_held(now)) {
                cpu.run_until(now);
            }
            let (cpu, cpu_load) = cpu.map_or((CpuStats::default(), 0.0), |cpu| (cpu.stats(), cpu.load()));
            MachineStats { cycles: now, dma_cycles, cpu, cpu_load }
        })
    }

    /// Begins to write down what happens.
    ///
    /// # Errors
    /// [`Error::Busy`] where somebody does so already.
    pub fn start_trace(&self) -> Result<()> {
        self.with(|core| match core.trace {
            Some(_) => Err(Error::Busy("this machine is being traced already; take one trace after the other".into())),
            None => {
                core.trace = Some(Vec::new());
                Ok(())
            }
        })
    }

    /// What happened since [`Machine::start_trace`].
    pub fn take_trace(&self) -> Vec<Event> {
        self.with(|core| core.trace.take().unwrap_or_default())
    }

    /// Lets `cycles` pass, with all transactions that end by then.
    pub fn step(&self, cycles: u64) {
        let until = self.cycles().saturating_add(cycles);
        while self.transact(Some(until)) {}
    }

    /// Lets everything happen that can; how many cycles that took.
    pub fn run_until_idle(&self) -> u64 {
        let before = self.cycles();
        while self.transact(None) {}
        self.cycles() - before
    }

    /// Lets the next transaction happen if it ends by cycle `until`; false where there is none, and it is that cycle now.
    pub fn transact(&self, until: Option<u64>) -> bool {
        self.with(|core| core.transact(until))
    }
}

impl ManualClock for Machine {
    fn now(&self) -> u64 {
        self.options.timing.nanoseconds(self.cycles())
    }

    fn step_until(&self, until: Option<u64>) -> bool {
        self.transact(until.map(|until| self.options.timing.cycle_at(until)))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The parent's thread is not in the child of a fork, and may hold the lock there for ever.
        if self.check().is_err() {
            return;
        }
        self.with(|core| core.stopped = true);
        self.wake();
    }
}

impl Core {
    /// One step of the machine's thread.
    fn step(&mut self) -> Step {
        if self.stopped {
            Step::Stop
        } else if self.transact(None) {
            Step::Done
        } else {
            Step::Nothing
        }
    }

    /// Lets the next transaction happen, if it ends by the time `until`; otherwise the clock shows `until`, where there is one.
    fn transact(&mut self, until: Option<u64>) -> bool {
        let Some(current) = self.current.take().or_else(|| self.arbitrate()) else {
            self.now = until.unwrap_or(self.now).max(self.now);
            return false;
        };
        let Current { index, end, cpu, cycles, .. } = current;
        if until.is_some_and(|until| end > until) {
            self.current = Some(current);
            self.now = until.unwrap_or(self.now).max(self.now);
            return false;
        }
        (self.now, self.cpu) = (end, cpu);
        self.dma_cycles += cycles;
        let mut bus = Bus { now: end, burst: self.burst, faults: &mut self.faults, trace: &mut self.trace };
        self.masters[index].transact(&mut bus);
        true
    }

    /// Who has the bus next, and until when.
    fn arbitrate(&mut self) -> Option<Current> {
        let count = self.masters.len();
        let current = (0..count).find_map(|step| self.request((self.turn + step) % count))?;
        self.turn = (current.index + 1) % count;
        if let Some(cpu) = self.cpu.as_mut().filter(|_| !current.goes_on) {
            cpu.run_until(self.now);
        }
        Some(current)
    }

    /// The next transaction of a channel, if it has one, and the CPU leaves room for it.
    fn request(&self, index: usize) -> Option<Current> {
        let master = &self.masters[index];
        let len = master.next_len(self.burst)?;
        let timing = master.timing(&self.timing);
        let Some(mut cpu) = self.cpu else {
            let cycles = timing.cycles(len);
            return Some(Current { index, end: self.now.saturating_add(cycles), cpu: None, cycles, goes_on: false });
        };
        let goes_on = master.mode() == Mode::Burst && master.goes_on() && cpu.is_held(self.now);
        let block = Block::new(&timing, len, goes_on);
        let end = cpu.give(master.mode(), self.now, block)?;
        Some(Current { index, end, cpu: Some(cpu), cycles: block.taken(master.mode()), goes_on })
    }
}
