//! The machine, as devices and programs see it; what happens in it is the [core](super::core)'s.
//!
//! With a free clock a thread carries transactions out as fast as memory is, and sleeps when there are none. With a manual clock
//! there is no thread: whoever steps the machine, or waits for it, does the same work, so that every run is the same.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;

use super::access::Addresses;
use super::arbiter::{Arbiter, MasterStats};
use super::controller::{Bus, Controller};
use super::core::Core;
use super::cpu::{Cpu, CpuStats};
use super::fault_log::{FaultLog, IommuFault};
use super::faults::{Fault, Faults};
use super::handler::Cpus;
use super::isa::Isa;
use super::memory::Memory;
use super::options::{Clock, MachineOptions, MemoryOptions};
use super::remapping::Remapping;
use super::requester::Requester;
use super::space::Space;
use super::timers::Timers;
use super::trace::Record;
use super::worker::Worker;
use crate::engine::ManualClock;
use crate::error::{Error, Result};
use crate::memory::processor::{lines_of, Processor};
use crate::sys;

/// The most bytes of one transaction. Large enough to move them as fast as memory is; a manual clock shows more of what happens
/// in between.
const BURST_FREE: u64 = 64 << 10;
const BURST_MANUAL: u64 = 256;
/// Nanoseconds for which the first of several unmaps waits in the IOTLB (Linux, drivers/iommu/dma-iommu.c, `IOVA_DEFAULT_FQ_TIMEOUT`).
const LAZY: u64 = 10_000_000;

/// What happened on the bus since the machine was made.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineStats {
    /// Cycles that passed.
    pub cycles: u64,
    /// Cycles for which channels had the bus.
    pub dma_cycles: u64,
    /// What became of the CPU's accesses.
    pub cpu: CpuStats,
    /// The part of the time for which the CPU wants the bus: what was asked for, in whole cycles.
    pub cpu_load: f64,
    /// Loads and stores that the CPU carried out on devices, descriptors and for interrupts.
    pub operations: u64,
    /// What each channel got, in the order of devices and channels, by their numbers; `None`: the 8237s of a device, which are one
    /// master.
    pub masters: Vec<((u32, Option<u16>), MasterStats)>,
    /// Interrupts that the CPU has handled, or is handling, and cycles that it has spent on them.
    pub interrupts: u64,
    /// See [`MachineStats::interrupts`].
    pub interrupt_cycles: u64,
    /// Interrupts of each CPU.
    pub interrupts_by_cpu: Vec<u64>,
    /// Messages that came by a transfer, not because something was completed: those that were let through, and those that were not.
    pub spurious_interrupts: u64,
    /// See [`MachineStats::spurious_interrupts`].
    pub blocked_interrupts: u64,
    /// Faults of the IOMMU that are known no more.
    pub fault_overflows: u64,
}

/// A machine. It ends with the last of its devices and handles.
#[derive(Debug)]
pub struct Machine {
    worker: Arc<Worker<Core>>,
    options: MachineOptions,
    processor: Option<Arc<Processor>>,
    /// Memory by physical addresses is the same to all devices.
    physical: Arc<Addresses>,
    /// The cycle, for those that look at the time without the machine's lock.
    clock: Arc<AtomicU64>,
    generation: u32,
}

impl Machine {
    /// A machine without devices.
    ///
    /// # Errors
    /// [`Error::Argument`] for a bus or a CPU that there cannot be, [`Error::Os`] where the system has no thread for it.
    pub fn new(options: MachineOptions) -> Result<Arc<Machine>> {
        options.check()?;
        let burst = if options.clock == Clock::Free { BURST_FREE } else { BURST_MANUAL };
        let timing = &options.timing;
        let memory = Memory::new(options.memory_bandwidth, timing);
        let burst = timing.whole(burst, BURST_FREE);
        let costs = timing.payload > BURST_FREE && (timing.setup, timing.overhead, timing.dual) != (0, 0, 0);
        let clock: Arc<AtomicU64> = Arc::default();
        let processor = options.memory.processor(timing, options.seed, &clock);
        let worker = Arc::new(Worker::new(Core {
            clock: Arc::clone(&clock),
            burst,
            // Whole bursts, so that these are the same ones wherever a block is cut into them.
            whole: timing.whole(BURST_FREE, BURST_FREE).next_multiple_of(burst),
            cuts_count: costs || memory.cycles(burst) > timing.cycles(burst),
            now: 0,
            options,
            seats: Vec::new(),
            buses: if options.timing.links { Vec::new() } else { vec![Arbiter::default()] },
            cpu: Cpu::new(options.cpu_load, &options.timing, &memory),
            memory,
            dma_cycles: 0,
            operations: 0,
            faults: Faults::new(options.seed),
            timers: Timers::default(),
            handlers: Cpus::new(options.memory.cpus, options.interrupt_cost, options.timing),
            remapping: Remapping::new(options.iommu, options.memory.cpus),
            log: FaultLog::default(),
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
        let MemoryOptions { ram, fragmentation, .. } = options.memory;
        let space = ram.map_or_else(
            || Ok(Space::physical(options.seed)),
            |bytes| Space::ram(options.seed, bytes, fragmentation),
        )?;
        let physical = Arc::new(Addresses::new(space, processor.clone()));
        Ok(Arc::new(Machine { worker, options, processor, physical, clock, generation: sys::fork_generation() }))
    }

    /// What it was made like.
    pub fn options(&self) -> MachineOptions {
        self.options
    }

    /// Its CPU, where that can be told from none: the caches are not coherent, or stores and loads pass each other.
    pub fn processor(&self) -> Option<&Arc<Processor>> {
        self.processor.as_ref()
    }

    /// Address, validity and dirtiness of each line of a range in its CPU's cache.
    pub fn lines(&self, address: usize, len: usize) -> Vec<(usize, bool, bool)> {
        match &self.processor {
            Some(processor) => processor.lines(address, len),
            None => lines_of(address, len).map(|at| (at, false, false)).collect(),
        }
    }

    /// What its CPU stored is visible, and it sees what devices wrote.
    pub(super) fn barrier(&self) {
        self.processor.iter().for_each(|processor| processor.barrier());
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

    /// Moves up to `most` pages of physical memory that are mapped and not pinned; how many.
    pub fn migrate(&self, most: usize) -> usize {
        self.physical.migrate(most)
    }

    /// The bus addresses of a new device.
    pub(super) fn addresses(&self) -> Arc<Addresses> {
        let delay = self.options.timing.cycle_at(LAZY);
        match (self.options.iommu, self.options.memory.lazy) {
            (true, false) => Arc::new(Addresses::new(Space::iommu(), self.processor.clone())),
            (true, true) => {
                let space = Space::lazy_iommu(Arc::clone(&self.clock), delay);
                Arc::new(Addresses::new(space, self.processor.clone()))
            }
            (false, _) => Arc::clone(&self.physical),
        }
    }

    /// The number of a new device.
    pub(super) fn number(&self) -> u32 {
        self.with(|core| {
            core.devices += 1;
            core.devices - 1
        })
    }

    /// Takes a device's channels in.
    pub(super) fn add(&self, controllers: Vec<Requester>) {
        self.with(|core| core.add(controllers));
    }

    /// Takes a device's channels away.
    pub(super) fn remove(&self, device: u32) {
        if self.check().is_ok() {
            self.with(|core| core.remove(device));
        }
    }

    /// Runs `work` on one channel, or every channel of a device where `channel` is `None`.
    pub(super) fn with_controllers(
        &self,
        device: u32,
        channel: Option<u16>,
        mut work: impl FnMut(&mut Controller, &mut Bus<'_>),
    ) {
        self.with(|core| {
            core.visit(device, channel, |requester, bus| match requester {
                Requester::Ring(controller) => work(controller, bus),
                Requester::Isa(_) => {}
            });
        });
    }

    /// Runs `work` on the controllers of a device that has 8237s.
    pub(super) fn with_isa(&self, device: u32, mut work: impl FnMut(&mut Isa, &mut Bus<'_>)) {
        self.with(|core| {
            core.visit(device, None, |requester, bus| match requester {
                Requester::Isa(isa) => work(isa, bus),
                Requester::Ring(_) => {}
            });
        });
    }

    /// The CPU reads or writes so many words of a device.
    pub(super) fn operate(&self, words: u64, width: u64, reads: bool) {
        let timing = &self.options.timing;
        let cycles = timing.cycles(width) + if reads { timing.read } else { 0 };
        self.with(|core| core.operate(words, cycles));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        self.worker.with(|core| {
            let result = work(core);
            self.clock.store(core.now, Relaxed);
            result
        })
    }

    /// What keeps a channel from the bus for ever, if anything does.
    pub(super) fn starvation(&self, device: u32, channel: u16) -> Option<String> {
        self.with(|core| core.starvation(device, channel))
    }

    /// Somebody rang a doorbell.
    pub(super) fn wake(&self) {
        match self.options.clock {
            Clock::Free => self.worker.tell(),
            Clock::Manual => self.with(Core::ask),
        }
    }

    /// Makes something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.with(|core| core.faults.add(fault));
    }

    /// Whether there is what a fault is to strike.
    ///
    /// # Errors
    /// [`Error::Argument`] for a device or a channel that there is not, and an address that none reaches.
    pub fn check_fault(&self, fault: &Fault) -> Result<()> {
        self.with(|core| core.check_place(fault))
    }

    /// Lets go wrong nothing more of what was injected.
    pub fn clear_faults(&self) {
        self.with(|core| core.faults.clear());
    }

    /// What the IOMMU refused, the oldest first.
    pub fn iommu_faults(&self) -> Vec<IommuFault> {
        self.with(|core| core.log.faults())
    }

    /// Empties the IOTLBs of all devices, if there are any.
    pub fn flush_iotlb(&self) {
        let spaces = self.with(|core| {
            let first = core.seats.iter().filter(|seat| seat.controller.master().1 == 0);
            first.filter_map(|seat| seat.controller.addresses()).collect::<Vec<_>>()
        });
        // A burst may go on, which is waited for without the machine's lock.
        spaces.iter().for_each(|addresses| addresses.flush());
    }

    /// Cycles of the bus since the machine was made.
    pub fn cycles(&self) -> u64 {
        self.with(|core| core.now)
    }

    /// What happened on the bus so far.
    pub fn stats(&self) -> MachineStats {
        self.with(|core| {
            // An access that begins now is one.
            core.catch_up(core.now.saturating_add(1));
            let Core { now, dma_cycles, cpu, .. } = *core;
            let (cpu, cpu_load) = cpu.map_or((CpuStats::default(), 0.0), |cpu| (cpu.stats(), cpu.load()));
            let seats = core.seats.iter().map(|seat| seat.controller.operations()).sum::<u64>();
            let operations = core.operations + seats + self.physical.words();
            let masters = core.masters();
            let (interrupts_by_cpu, interrupt_cycles): (Vec<u64>, Vec<u64>) =
                core.handlers.stats(now).into_iter().unzip();
            MachineStats {
                cycles: now,
                dma_cycles,
                cpu,
                cpu_load,
                operations,
                masters,
                interrupts: interrupts_by_cpu.iter().sum(),
                interrupt_cycles: interrupt_cycles.into_iter().fold(0, u64::saturating_add),
                interrupts_by_cpu,
                spurious_interrupts: core.remapping.spurious,
                blocked_interrupts: core.remapping.blocked,
                fault_overflows: core.log.overflows,
            }
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
                core.catch_up(core.now);
                core.trace = Some(Record::default());
                Ok(())
            }
        })
    }

    /// What happened since [`Machine::start_trace`].
    pub fn take_trace(&self) -> Record {
        let record = self.with(|core| {
            core.catch_up(core.now);
            core.trace.take()
        });
        let mut record = record.unwrap_or_default();
        // A handler is written down when it looks, and ends later.
        record.events.sort_by_key(|event| event.cycle);
        record
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
