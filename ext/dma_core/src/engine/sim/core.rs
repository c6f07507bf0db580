//! What happens next: the machine's time goes from the end of one transaction to the end of the next.

mod passing;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use super::arbiter::{Arbiter, Grant, MasterStats};
use super::controller::Bus;
use super::cpu::{Block, Cpu, Mode};
use super::fault_log::FaultLog;
use super::faults::Faults;
use super::handler::Cpus;
use super::memory::Memory;
use super::options::MachineOptions;
use super::remapping::Remapping;
use super::requester::Requester;
use super::timers::Timers;
use super::timing::Timing;
use super::trace::{Master, Record, Run};
use super::worker::Step;

/// The machine's state, under its lock.
#[derive(Debug)]
pub(super) struct Core {
    /// The most bytes of one transaction.
    pub burst: u64,
    /// The same of one that nobody can look into: nobody else asks for the bus, and nothing but the end of all is waited for. It takes
    /// what its parts would, unless `cuts_count` or it stops in the midst of it.
    pub whole: u64,
    /// Each part has costs of its own: it is a transaction, or takes whole cycles of a memory that is slower than the bus.
    pub cuts_count: bool,
    pub now: u64,
    /// Shows it to others, before each transaction.
    pub clock: Arc<AtomicU64>,
    pub options: MachineOptions,
    pub seats: Vec<Seat>,
    /// One that all share, or a link for each device.
    pub buses: Vec<Arbiter>,
    pub memory: Memory,
    /// None that wants the bus; where devices have links, memory.
    pub cpu: Option<Cpu>,
    /// Cycles for which channels had a bus.
    pub dma_cycles: u64,
    /// Words that the CPU moved by itself, and what it did for devices that are gone.
    pub operations: u64,
    pub faults: Faults,
    pub timers: Timers,
    pub handlers: Cpus,
    pub remapping: Remapping,
    pub log: FaultLog,
    pub trace: Option<Record>,
    pub devices: u32,
    pub stopped: bool,
}

/// A channel, or the controllers of several, and where it asks for the bus.
#[derive(Debug)]
pub(super) struct Seat {
    pub controller: Requester,
    pub bus: usize,
    /// Since when it asks.
    pub asked: Option<u64>,
    pub stats: MasterStats,
}

impl Seat {
    pub(super) fn new(controller: Requester, bus: usize) -> Seat {
        Seat { controller, bus, asked: None, stats: MasterStats::default() }
    }

    /// Whether it has a transaction to do.
    pub(super) fn asks(&mut self, now: u64) -> bool {
        let asks = self.controller.next_len(1).is_some();
        self.asked = if asks { self.asked.or(Some(now)) } else { None };
        asks
    }

    /// Whose transaction is next, and how many bytes it moves.
    fn next(&self) -> (Master, Option<u64>) {
        (self.controller.master(), self.controller.next_len(u64::MAX))
    }

    /// Asks no more, if it has nothing to do; what it waited by then, it has.
    fn withdraw(&mut self, until: u64) {
        if let Some(asked) = self.asked.take_if(|_| self.controller.next_len(1).is_none()) {
            self.stats.waits(until.saturating_sub(asked));
        }
    }
}

/// The transaction on a bus.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    /// Whose it is.
    pub index: usize,
    /// Bytes that it moves.
    len: u64,
    asked: u64,
    begin: u64,
    end: u64,
    /// Cycles for which memory keeps it waiting.
    waits: u64,
    mode: Mode,
    block: Block,
}

impl Core {
    /// Takes a device's channels in.
    pub(super) fn add(&mut self, mut controllers: Vec<Requester>) {
        for controller in &mut controllers {
            controller.enter(&mut self.remapping);
        }
        if self.options.timing.links {
            self.buses.push(Arbiter::default());
        }
        let bus = self.buses.len() - 1;
        self.seats.extend(controllers.into_iter().map(|controller| Seat::new(controller, bus)));
    }

    /// Takes a device's channels away, and the link that it had.
    pub(super) fn remove(&mut self, device: u32) {
        let Core { seats, buses, options, operations, handlers, remapping, .. } = self;
        let kept = |seat: &Seat| seat.controller.master().0 != device;
        for bus in buses.iter_mut() {
            // Whose transaction is on the bus goes on, wherever it is in the list then.
            bus.current = bus.current.filter(|current| kept(&seats[current.index])).map(|current| {
                let index = seats[..current.index].iter().filter(|seat| kept(seat)).count();
                Current { index, ..current }
            });
            bus.forget();
        }
        let link = seats.iter().find(|seat| !kept(seat)).map(|seat| seat.bus).filter(|_| options.timing.links);
        *operations += seats.iter().filter(|seat| !kept(seat)).map(|seat| seat.controller.operations()).sum::<u64>();
        seats.retain(kept);
        handlers.forget(device);
        remapping.leave(device);
        if let Some(link) = link {
            buses.remove(link);
            seats.iter_mut().filter(|seat| seat.bus > link).for_each(|seat| seat.bus -= 1);
        }
    }

    /// Runs `work` on one channel, or every channel of a device where `channel` is `None`.
    pub(super) fn visit(
        &mut self,
        device: u32,
        channel: Option<u16>,
        mut work: impl FnMut(&mut Requester, &mut Bus<'_>),
    ) {
        for index in 0..self.seats.len() {
            if self.seats[index].controller.is_of(device, channel) {
                self.touch(index, &mut work);
            }
        }
    }

    /// Runs `work` on one master, for which all has happened that is over by now.
    fn touch(&mut self, index: usize, work: impl FnOnce(&mut Requester, &mut Bus<'_>)) {
        self.settle(index);
        let (seats, buses, mut bus) = self.parts();
        let (now, seat) = (bus.now, &mut seats[index]);
        let before = seat.next();
        work(&mut seat.controller, &mut bus);
        // Another transaction begins anew. The same one goes on, so that who polls a register between small steps does not keep it
        // from its end.
        let changed = seat.next() != before;
        let gone = buses[seat.bus].current.take_if(|current| changed && current.index == index);
        seat.withdraw(gone.map_or(now, |current| current.begin));
    }

    /// Its channels, the buses, and what a channel needs where it has no bus: for what software or a timer has it do now.
    fn parts(&mut self) -> (&mut [Seat], &mut [Arbiter], Bus<'_>) {
        let Core { now, clock, seats, buses, faults, trace, timers, handlers, remapping, log, options, .. } = self;
        let (now, timing) = (*now, &options.timing);
        clock.store(now, Relaxed);
        let (len, asked, begin, waits) = (0, now, now, 0);
        (seats, buses, Bus { now, len, asked, begin, waits, faults, trace, timing, timers, handlers, remapping, log })
    }

    /// How each master has fared so far; who waits for a bus has done so until now.
    pub(super) fn masters(&self) -> Vec<((u32, Option<u16>), MasterStats)> {
        let waits = |(index, seat): (usize, &Seat)| {
            let mut stats = seat.stats;
            let current = self.buses[seat.bus].current.filter(|current| current.index == index);
            let waited =
                seat.asked.map_or(0, |asked| current.map_or(self.now, |current| current.begin).saturating_sub(asked));
            stats.waits(waited);
            (seat.controller.place(), stats)
        };
        self.seats.iter().enumerate().map(waits).collect()
    }

    /// Lets the CPU do what it wants the bus for before `cycle`, which is about now, where it is known how it fares: beside a
    /// transaction, or between two parts of a block, it is not before that is over.
    pub(super) fn catch_up(&mut self, cycle: u64) {
        let Some(last) = cycle.checked_sub(1) else { return };
        let idle = self.buses.iter().all(|bus| bus.current.is_none());
        let goes_on = |seat: &Seat| seat.controller.mode() == Mode::Burst && seat.controller.goes_on();
        let goes_on = self.seats.iter().any(goes_on);
        if let Some(cpu) = self.cpu.as_mut().filter(|cpu| idle && !(goes_on && cpu.is_held(self.now))) {
            let shared = !self.options.timing.links;
            cpu.run_until(last, self.trace.as_mut().filter(|_| shared).map(|record| &mut record.runs));
        }
    }

    /// Notes who asks for a bus from now on.
    pub(super) fn ask(&mut self) {
        let now = self.now;
        self.seats.iter_mut().for_each(|seat| _ = seat.asks(now));
    }

    /// One step of the machine's thread.
    pub(super) fn step(&mut self) -> Step {
        if self.stopped {
            Step::Stop
        } else if self.transact(None) {
            Step::Done
        } else {
            Step::Nothing
        }
    }

    /// Lets the next transaction happen, if it ends by the time `until`; otherwise the clock shows `until`, where there is one.
    pub(super) fn transact(&mut self, until: Option<u64>) -> bool {
        let alarm = self.alarm();
        // Whoever hears of an interrupt may do something within a transaction.
        let next = self.next(until.is_some() || alarm.is_some());
        // What ends in the cycle of an alarm is there for it.
        let next = next.filter(|(end, _)| alarm.is_none_or(|alarm| *end <= alarm));
        let end = next.map(|(end, _)| end).or(alarm);
        if end.is_none_or(|end| until.is_some_and(|until| end > until)) {
            self.now = until.unwrap_or(self.now).max(self.now);
            return false;
        }
        match (next.and_then(|(_, bus)| self.buses[bus].current.take()), alarm) {
            (Some(current), _) => self.end(current),
            (None, Some(alarm)) => self.ring(alarm),
            (None, None) => {}
        }
        true
    }

    /// When the transaction ends that ends first.
    pub(super) fn next_end(&mut self) -> Option<u64> {
        self.next(true).map(|(end, _)| end)
    }

    /// When something is due that is no transaction.
    pub(super) fn alarm(&mut self) -> Option<u64> {
        let Core { timers, seats, handlers, .. } = self;
        let waits = |cycle, master| {
            seats.iter().any(|seat| seat.controller.master() == master && seat.controller.due() == Some(cycle))
        };
        let timer = timers.first(waits).map(|(cycle, _)| cycle);
        timer.into_iter().chain(handlers.due()).min()
    }

    /// Lets happen what is due at `alarm` and no transaction: a handler, or what a timer was for.
    pub(super) fn ring(&mut self, alarm: u64) {
        self.now = self.now.max(alarm);
        let handled = self.handlers.serve(self.now);
        let master = handled.map(|handled| handled.master).or_else(|| self.timers.pop());
        let Some((device, channel)) = master else { return };
        let is_of = |seat: &Seat| seat.controller.is_of(device, Some(channel));
        let Some(index) = self.seats.iter().position(is_of) else { return };
        self.touch(index, |requester, bus| match handled {
            Some(handled) => requester.handled(handled, bus),
            None => requester.tell(bus),
        });
    }

    /// When the transaction ends that ends first, of those that are on the buses now, and on which it is. Somebody may look at what
    /// happens within it if `watched`.
    fn next(&mut self, watched: bool) -> Option<(u64, usize)> {
        let mut first = None;
        for bus in 0..self.buses.len() {
            if self.buses[bus].current.is_none() {
                self.buses[bus].current = self.arbitrate(bus, watched);
            }
            if let Some(Current { end, .. }) = self.buses[bus].current {
                if first.is_none_or(|(earliest, _)| end < earliest) {
                    first = Some((end, bus));
                }
            }
        }
        first
    }

    /// Who has a bus next, and until when.
    fn arbitrate(&mut self, bus: usize, watched: bool) -> Option<Current> {
        let Core { seats, buses, options, now, burst, whole, cuts_count, cpu, memory, trace, .. } = self;
        // On links others take turns at memory, between two bursts.
        let counts = *cuts_count || options.timing.links && (cpu.is_some() || buses.len() > 1);
        let alone = if watched || trace.is_some() || counts { *burst } else { *whole };
        let asking = seats.iter_mut().enumerate().filter_map(|(index, seat)| {
            let in_vain = |seat: &Seat| waits_in_vain(&seat.controller, cpu.as_ref(), &options.timing, memory);
            let asks = seat.bus == bus && seat.asks(*now) && !in_vain(seat);
            asks.then(|| (index, seat.controller.goes_on()))
        });
        let Grant { index, most, is_alone } =
            buses[bus].choose(options.arbitration, *now, asking, &options.timing, (alone, *burst))?;
        let Seat { controller, asked, .. } = &self.seats[index];
        // Descriptors come all at once, wherever other bursts are cut: what comes later may be other ones.
        let most = if is_alone && controller.fetches() { self.whole } else { most };
        let (mut len, mode) = (controller.next_len(most)?, controller.mode());
        if len > self.burst && controller.stops_within(len, &self.faults) {
            len = controller.next_len(self.burst)?;
        }
        let timing = timing(controller, &self.options.timing);
        let mut block = Block::new(len, mode, &timing, &self.memory);
        block.goes_on = !timing.links && mode == Mode::Burst && controller.goes_on();
        let (begin, alone) = (self.now, timing.cycles(len));
        let (asked, end) = (asked.unwrap_or(begin), begin.saturating_add(alone));
        let waits = block.cycles.saturating_sub(alone);
        let mut current = Current { index, len, asked, begin, end, waits, mode, block };
        if self.options.timing.links {
            self.serve(&mut current);
        } else {
            self.share(&mut current);
        }
        self.seats[index].controller.begin();
        Some(current)
    }

    /// On a link of its own the channel waits for nobody, but memory is to serve it too.
    fn serve(&mut self, current: &mut Current) {
        let start = current.begin.max(self.memory.free);
        self.memory.free = match &mut self.cpu {
            None => start.saturating_add(current.block.cycles),
            Some(cpu) => cpu.give(current.mode, start, current.block, None),
        };
        let late = self.memory.free.saturating_sub(current.end);
        (current.end, current.waits) = (current.end + late, late);
    }

    /// On a bus that all share the CPU has its turn, as the channel's mode says.
    fn share(&mut self, current: &mut Current) {
        let Some(cpu) = &mut self.cpu else {
            current.end = current.begin.saturating_add(current.block.cycles);
            return;
        };
        current.block.goes_on &= cpu.is_held(current.begin);
        if !current.block.goes_on {
            cpu.run_until(current.begin, self.trace.as_mut().map(|record| &mut record.runs));
        }
        // How the CPU fares by then counts when it is certain.
        current.end = cpu.clone().give(current.mode, current.begin, current.block, None);
    }

    /// Carries a transaction out, at its end.
    fn end(&mut self, current: Current) {
        let Current { index, len, asked, begin, end, waits, mode, block, .. } = current;
        self.now = end;
        let seat = &mut self.seats[index];
        let shared = !self.options.timing.links;
        // Without a CPU to give it to, it keeps the bus until the block is done in every mode.
        let cycles = if shared && self.cpu.is_some() { block.taken(mode) } else { end - begin };
        seat.stats.count(cycles, begin - asked);
        seat.asked = None;
        self.dma_cycles = self.dma_cycles.saturating_add(cycles);
        let log = self.trace.as_mut().map(|trace| (seat.controller.master(), &mut trace.runs));
        match (self.cpu.as_mut().filter(|_| shared), log) {
            (Some(cpu), log) => _ = cpu.give(mode, begin, block, log),
            (None, Some((master, runs))) => runs.push(Run::once(Some(master), begin, end)),
            (None, None) => {}
        }
        let (seats, _, bus) = self.parts();
        seats[index].controller.transact(&mut Bus { len, asked, begin, waits, ..bus });
    }
}

/// Whether it waits for a gap that the CPU never leaves, and so does not ask.
pub(super) fn waits_in_vain(requester: &Requester, cpu: Option<&Cpu>, bus: &Timing, memory: &Memory) -> bool {
    let leaves_room = |cpu: &Cpu| cpu.leaves_room(&timing(requester, bus), memory);
    requester.mode() == Mode::Transparent && !cpu.is_none_or(leaves_room)
}

/// What the next transaction of a master costs.
fn timing<'a>(requester: &Requester, bus: &'a Timing) -> Cow<'a, Timing> {
    match requester.timing(bus) {
        Some(own) => Cow::Owned(own),
        None if bus.dual > 0 => Cow::Owned(bus.at(requester.next_address())),
        None => Cow::Borrowed(bus),
    }
}
