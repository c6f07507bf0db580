//! A channel of the simulated device: fetches descriptors, moves bytes, writes statuses back, raises interrupts. Each of these is
//! one transaction on the bus, which the [machine](super::machine) lets happen one at a time.

mod fetching;

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::cpu::Mode;
use super::fault_log::{FaultLog, IommuFault};
use super::faults::{Faults, Kind};
use super::handler::Cpus;
use super::port::{Port, Record};
use super::registers::{control, Bank};
use super::remapping::Remapping;
use super::signal::Signal;
use super::space::{Reason, MESSAGES};
use super::timers::Timers;
use super::timing::Timing;
use super::trace::{self, Event, Master, What};
use super::work::{check, truncate, Phase, Work};
use crate::transfer::{flags, Access, Descriptor, Status};

/// Bytes of a status, and of the register that starts a transfer.
const STATUS: u64 = 4;
/// Bytes of an interrupt message.
const MESSAGE: u32 = 4;

/// What a channel needs of its machine for one transaction.
pub(super) struct Bus<'a> {
    pub now: u64,
    /// Bytes that it was granted the bus for.
    pub len: u64,
    /// See [`Event`].
    pub asked: u64,
    pub begin: u64,
    pub waits: u64,
    pub faults: &'a mut Faults,
    pub trace: &'a mut Option<trace::Record>,
    pub timing: &'a Timing,
    pub timers: &'a mut Timers,
    pub handlers: &'a mut Cpus,
    pub remapping: &'a mut Remapping,
    pub log: &'a mut FaultLog,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Controller {
    pub port: Arc<Port>,
    pub bank: Bank,
    /// How it shares the bus with the CPU.
    pub mode: Mode,
    pub signal: Signal,
    work: Option<Work>,
    /// Descriptors of the ring that were fetched with the one in hand.
    ahead: VecDeque<Descriptor>,
    /// Something failed since the ring was last empty: fences are not passed.
    failed: bool,
    /// The last transfer of the ring failed: what is linked to it is not attempted.
    broken: bool,
    /// The ring cannot be read.
    halted: bool,
}

impl Controller {
    pub(super) fn new(port: Arc<Port>) -> Controller {
        Controller {
            port,
            bank: Bank::default(),
            mode: Mode::default(),
            signal: Signal::default(),
            work: None,
            ahead: VecDeque::new(),
            failed: false,
            broken: false,
            halted: false,
        }
    }

    /// How many bytes the next transaction moves; `None` where there is nothing to do.
    pub(super) fn next_len(&self, burst: u64) -> Option<u64> {
        match &self.work {
            Some(work) => match work.phase {
                Phase::Fetch => Some(Descriptor::SIZE as u64),
                Phase::Move => Some(work.next_burst(burst)),
                Phase::Finish => Some(STATUS),
                Phase::Hung => None,
            },
            None if self.bank.start => Some(STATUS),
            None => self.has_descriptor().then(|| self.next_fetch(burst) * Descriptor::SIZE as u64),
        }
    }

    /// Whether it stops within the next `len` bytes, of which it is not granted more than a burst at a time then: what is not even
    /// begun costs nothing.
    pub(super) fn stops_within(&self, len: u64, faults: &Faults) -> bool {
        let Some(work) = self.work.as_ref().filter(|work| work.phase == Phase::Move) else { return false };
        let ((device, channel), [from, to]) = (self.master(), work.ranges(len));
        let lie_together = |(address, len), access| self.port.common.addresses.lie_together(address, len, access);
        work.fault.is_some()
            || faults.is_within(device, channel, &[from, to])
            || match work.descriptor.flags & (flags::TO_DEVICE | flags::FROM_DEVICE) {
                flags::TO_DEVICE => !lie_together(from, Access::Read),
                flags::FROM_DEVICE => !lie_together(to, Access::Write),
                _ => false,
            }
    }

    /// Whether that is a fetch from its ring.
    pub(super) fn fetches(&self) -> bool {
        self.work.is_none() && !self.bank.start
    }

    /// The bus address of what it moves.
    pub(super) fn next_address(&self) -> u64 {
        let Some(work) = &self.work else { return self.next_descriptor() };
        match work.phase {
            Phase::Fetch => work.descriptor.next,
            Phase::Finish | Phase::Hung => work.at,
            Phase::Move if work.is_within() => 0,
            Phase::Move if work.descriptor.flags & flags::TO_DEVICE != 0 => work.descriptor.source + work.done,
            Phase::Move => work.descriptor.destination + work.done,
        }
    }

    /// The numbers of device and channel.
    pub(super) fn master(&self) -> Master {
        (self.port.common.number, self.port.index)
    }

    /// Whether that is the next part of a block that it is moving.
    pub(super) fn goes_on(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.phase == Phase::Move && work.done > 0)
    }

    /// Carries the next transaction out.
    pub(super) fn transact(&mut self, bus: &mut Bus<'_>) {
        match self.work.take() {
            None if self.bank.start => self.start(bus),
            None => self.fetch_first(bus),
            Some(mut work) => {
                match work.phase {
                    Phase::Fetch => self.fetch_chained(&mut work, bus),
                    Phase::Move => self.advance(&mut work, bus),
                    Phase::Finish => return self.finish(work, bus),
                    Phase::Hung => {}
                }
                self.work = Some(work);
            }
        }
    }

    fn start(&mut self, bus: &mut Bus<'_>) {
        self.bank.start = false;
        let mut work = Work::new(None, 0, self.bank.descriptor());
        self.begin(&mut work, bus);
        self.work = Some(work);
    }

    /// Decides what becomes of the descriptor in hand.
    fn begin(&mut self, work: &mut Work, bus: &mut Bus<'_>) {
        let common = &self.port.common;
        truncate(common, &mut work.descriptor);
        let Descriptor { flags: control, length, .. } = work.descriptor;
        work.phase = Phase::Move;
        work.failure = if control & flags::CANCEL != 0 {
            // What is chained to it is let alone: its transfer is over, and its memory may be another's.
            work.descriptor.flags &= !flags::CHAIN;
            Some(Status::Aborted)
        } else if work.chain_failure.is_some()
            || (control & flags::FENCE != 0 && self.failed)
            || (control & flags::LINK != 0 && self.broken)
        {
            Some(Status::NotAttempted)
        } else if !common.link.load(Relaxed) {
            Some(Status::LinkDown)
        } else if length == 0 && control & flags::CHAIN != 0 {
            None
        } else {
            check(common, &work.descriptor).err()
        };
        let counts = length > 0 && (work.at == work.first || work.is_list);
        let fault = if counts { bus.faults.at_descriptor(common.number, self.port.index) } else { None };
        match fault.filter(|_| work.failure.is_none()) {
            Some(Kind::LostInterrupt) => work.quiet = true,
            Some(Kind::Hang) => return self.hang(work, bus),
            fault => work.fault = fault,
        }
        if work.failure.is_some() || length == 0 {
            work.phase = Phase::Finish;
        }
    }

    fn hang(&self, work: &mut Work, bus: &mut Bus<'_>) {
        work.phase = Phase::Hung;
        self.note(bus, What::Hang, work.at, 0);
    }

    /// Moves one burst.
    fn advance(&mut self, work: &mut Work, bus: &mut Bus<'_>) {
        let mut len = work.next_burst(bus.len);
        if work.fault.is_none() {
            let ranges = work.ranges(len);
            if let Some((kind, at)) = bus.faults.at_addresses(self.port.common.number, self.port.index, &ranges) {
                match kind {
                    Kind::LostInterrupt => work.quiet = true,
                    Kind::Hang => return self.hang(work, bus),
                    kind => {
                        // What lies before the address is moved all the same.
                        let offsets = ranges.map(|(start, _)| at.wrapping_sub(start));
                        len = len.min(offsets[0]).min(offsets[1]);
                        work.fault = Some(kind);
                    }
                }
            }
        } else {
            len = 0;
        }
        let moved = match work.fault {
            Some(kind) if len == 0 => Err(self.spoil(kind, work)),
            _ => self.move_bytes(work, len, bus),
        };
        match moved {
            Ok(moved) => {
                work.done += moved;
                self.port.bytes.fetch_add(moved, Relaxed);
                if work.chain_failure.is_none() {
                    work.total += moved;
                }
                self.bank.show(work.total, work.left());
                if work.left() == 0 {
                    work.phase = Phase::Finish;
                }
            }
            Err(status) => {
                self.log(status, bus);
                (work.failure, work.phase) = (Some(status), Phase::Finish);
            }
        }
    }

    /// The status of a fault that was injected.
    fn spoil(&self, kind: Kind, work: &Work) -> Status {
        let Descriptor { source, destination, flags: control, .. } = work.descriptor;
        let reads = control & flags::TO_DEVICE != 0;
        match kind {
            Kind::Poison => Status::DataPoison,
            Kind::IommuFault if reads => Status::IommuFault { address: source + work.done, access: Access::Read },
            Kind::IommuFault => Status::IommuFault { address: destination + work.done, access: Access::Write },
            Kind::LinkDown => {
                self.port.common.link.store(false, Relaxed);
                Status::LinkDown
            }
            _ if reads => Status::BusReadError,
            _ => Status::BusWriteError,
        }
    }

    /// Moves up to `len` bytes: as many as lie together in host memory.
    fn move_bytes(&self, work: &Work, len: u64, bus: &mut Bus<'_>) -> Result<u64, Status> {
        let Descriptor { source, destination, flags: control, .. } = work.descriptor;
        let (from, to, common) = (source + work.done, destination + work.done, &self.port.common);
        let (what, address, len) = if work.is_within() {
            common.within(from, to, len);
            (What::Within, to, len)
        } else if control & flags::TO_DEVICE != 0 {
            (What::ToDevice, from, common.copy_in(from, to, len)?)
        } else if MESSAGES.contains(&to) && work.descriptor.length == MESSAGE && to % u64::from(MESSAGE) == 0 {
            if !self.write_message(from, to, bus) {
                return Err(Status::IommuFault { address: to, access: Access::Write });
            }
            (What::FromDevice, to, work.left())
        } else {
            (What::FromDevice, to, common.copy_out(from, to, len)?)
        };
        self.note(bus, what, address, len);
        Ok(len)
    }

    /// Writes the status of the descriptor in hand back, and goes on with the chain or ends it.
    fn finish(&mut self, mut work: Work, bus: &mut Bus<'_>) {
        let status = work.failure.unwrap_or(Status::Complete);
        if let Some(failure) = work.failure {
            work.chain_failure.get_or_insert(failure);
            self.port.common.record(failure);
        }
        if work.at != work.first {
            self.write_back(work.at, status, bus);
        }
        if work.descriptor.flags & flags::CHAIN != 0 {
            work.phase = Phase::Fetch;
            self.work = Some(work);
            return;
        }
        self.end(&work, bus);
    }

    fn end(&mut self, work: &Work, bus: &mut Bus<'_>) {
        let status = work.chain_failure.unwrap_or(Status::Complete);
        self.bank.end(status, false);
        let interrupts = match work.slot {
            Some(slot) => {
                if status.is_failure() {
                    self.port.report(Record { slot, bytes: work.total, status });
                }
                self.write_back(work.first, status, bus);
                self.bank.head = (slot + 1) % self.bank.ring_size.max(1);
                self.broken = status.is_failure();
                self.failed = (self.failed || self.broken) && self.has_descriptor();
                work.first_flags & flags::INTERRUPT != 0
            }
            None => {
                self.note(bus, What::Status(status), 0, 0);
                self.bank.control & control::INTERRUPT != 0
            }
        };
        if interrupts {
            self.interrupt(work.quiet, bus);
        }
        if let Some(descriptor) = self.ahead.pop_front() {
            self.begin_slot(descriptor, bus);
        }
    }

    fn write_back(&self, at: u64, status: Status, bus: &mut Bus<'_>) {
        self.note(bus, What::Status(status), at, 4);
        if let Err(fault) = self.port.common.write_back(at, status) {
            self.fault(fault, bus);
        }
    }

    /// Notes that a descriptor was not read, or its status not written.
    fn fault(&self, status: Status, bus: &mut Bus<'_>) {
        self.log(status, bus);
        self.port.common.record(status);
    }

    /// Keeps a fault of the IOMMU with all that is known of it.
    fn log(&self, status: Status, bus: &mut Bus<'_>) {
        if let Status::IommuFault { address, access } = status {
            let reason = self.port.common.addresses.reason(address, access);
            bus.remapping.blocked += u64::from(reason == Reason::InterruptBlocked);
            bus.log.add(IommuFault { master: self.master(), address, access, reason, cycle: bus.now });
        }
    }

    pub(super) fn note(&self, bus: &mut Bus<'_>, what: What, address: u64, len: u64) {
        if let Some(trace) = bus.trace {
            let (device, channel) = self.master();
            let Bus { now: cycle, asked, begin, waits, .. } = *bus;
            trace.events.push(Event { cycle, asked, begin, waits, device, channel, what, address, len });
        }
    }

    /// Ends the transfer in `slot` as aborted, if it is under way.
    pub(super) fn abort(&mut self, slot: Option<u32>, bus: &mut Bus<'_>) {
        self.refetch();
        if self.work.as_ref().is_some_and(|work| work.slot == slot) {
            if let Some(mut work) = self.work.take() {
                work.chain_failure.get_or_insert(Status::Aborted);
                self.end(&work, bus);
            }
        }
        if slot.is_none() && self.bank.start {
            // It was asked for and not begun: whoever waits for its status learns that it never will be.
            self.bank.start = false;
            self.bank.end(Status::Aborted, false);
            self.note(bus, What::Status(Status::Aborted), 0, 0);
            if self.bank.control & control::INTERRUPT != 0 {
                self.interrupt(false, bus);
            }
        }
    }

    /// Aborts what is under way, and looks at the ring again if it could not be read.
    pub(super) fn abort_current(&mut self, bus: &mut Bus<'_>) {
        if let Some(slot) = self.work.as_ref().map(|work| work.slot) {
            self.abort(slot, bus);
        }
        self.abort(None, bus);
        (self.failed, self.broken, self.halted) = (false, false, false);
    }

    /// Aborts what is under way and forgets the ring.
    pub(super) fn reset(&mut self, bus: &mut Bus<'_>) {
        self.abort_current(bus);
        self.bank = Bank::default();
        self.port.doorbell.ring(0);
        self.port.forget_records();
        self.signal.forget();
    }
}
