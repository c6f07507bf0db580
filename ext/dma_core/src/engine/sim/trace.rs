//! What happened on the bus, in the order it did.

use std::fmt;
use std::ops::Range;

use crate::transfer::{Access, Status};

/// A kind of transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A descriptor was fetched.
    Fetch,
    /// Bytes went from memory to the device.
    ToDevice,
    /// Bytes went from the device to memory.
    FromDevice,
    /// Bytes went from one place of the device to another.
    Within,
    /// Bytes went from one place of memory to another.
    Memory,
    /// A channel of an 8237 reached its terminal count.
    TerminalCount,
    /// A status was written back, or shown in the status register.
    Status(Status),
    /// An interrupt was raised.
    Interrupt,
    /// The CPU was in the handler of an interrupt.
    Handler,
    /// An interrupt was due and got lost.
    LostInterrupt,
    /// The channel does nothing any more.
    Hang,
}

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When it was over, in cycles since the machine was made.
    pub cycle: u64,
    /// Since when its channel asked for the bus, and when it had it.
    pub asked: u64,
    /// See [`Event::asked`].
    pub begin: u64,
    /// How many of its cycles memory kept it waiting for.
    pub waits: u64,
    /// Which device of the machine.
    pub device: u32,
    /// Which channel of the device.
    pub channel: u16,
    /// What it was.
    pub what: What,
    /// The bus address of memory, of the byte that was written where it is from one place to another; for [`What::Within`] the
    /// device address that was written.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// A channel as a master of the bus: the numbers of its device and of itself.
pub type Master = (u32, u16);

/// A time for which somebody had the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// Who; `None`: the CPU.
    pub master: Option<Master>,
    /// Its first cycle.
    pub begin: u64,
    /// The first cycle after it.
    pub end: u64,
}

/// Tenures of one master that follow each other at equal distances, so that a CPU by itself takes no memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub master: Option<Master>,
    pub begin: u64,
    pub len: u64,
    pub period: u64,
    pub count: u64,
}

impl Run {
    pub(super) fn once(master: Option<Master>, begin: u64, end: u64) -> Run {
        Run { master, begin, len: end - begin, period: 1, count: u64::from(end > begin) }
    }

    /// The numbers of its tenures that are within `span`, if only in part.
    pub(super) fn within(&self, span: &Range<u64>) -> Range<u64> {
        let first = span.start.checked_sub(self.begin.saturating_add(self.len)).map_or(0, |gap| gap / self.period + 1);
        let last = span.end.saturating_sub(self.begin).div_ceil(self.period).min(self.count);
        first.min(last)..last
    }

    /// From the beginning of a tenure to the end of another.
    fn spanning(&self, first: u64, last: u64) -> Tenure {
        let begin = |index: u64| self.begin.saturating_add(index.saturating_mul(self.period));
        Tenure { master: self.master, begin: begin(first), end: begin(last).saturating_add(self.len) }
    }

    fn tenures(&self, span: &Range<u64>) -> impl Iterator<Item = Tenure> + '_ {
        self.within(span).map(|index| self.spanning(index, index))
    }

    /// Its tenures in `all`: those in `seen` and next to it by themselves, the rest before and behind in one part each.
    fn parts(&self, all: &Range<u64>, seen: &Range<u64>) -> impl Iterator<Item = Part> + '_ {
        let (all, seen) = (self.within(all), self.within(seen));
        let first = seen.start.saturating_sub(1).clamp(all.start, all.end);
        let last = seen.end.saturating_add(1).clamp(first, all.end);
        let part = |first: u64, end: u64, is_seen| {
            let cycles = (end - first).saturating_mul(self.len);
            Part { tenure: self.spanning(first, end - 1), cycles, is_seen }
        };
        let rest = |range: Range<u64>| (!range.is_empty()).then(|| part(range.start, range.end, false));
        let seen = (first..last).map(move |index| part(index, index + 1, true));
        rest(all.start..first).into_iter().chain(seen).chain(rest(last..all.end))
    }
}

/// A tenure, or many of a run that are not looked at one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub tenure: Tenure,
    /// For how many cycles its master has the bus.
    pub cycles: u64,
    pub is_seen: bool,
}

/// What was written down of a machine.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Every transaction and what else happened, in the order in which they ended.
    pub events: Vec<Event>,
    pub(super) runs: Vec<Run>,
}

impl Record {
    /// Who had the bus when, from cycle `from` until before cycle `to`, in order. The CPU is not on the links that devices have for
    /// themselves.
    pub fn tenures(&self, from: u64, to: u64) -> Vec<Tenure> {
        let mut tenures: Vec<Tenure> = self.runs.iter().flat_map(|run| run.tenures(&(from..to))).collect();
        tenures.sort_by_key(|tenure| tenure.begin);
        tenures
    }

    /// The same in `all`, in order; one by one are only those in `seen` and each run's nearest to it.
    pub(super) fn parts(&self, all: &Range<u64>, seen: &Range<u64>) -> Vec<Part> {
        let mut parts: Vec<Part> = self.runs.iter().flat_map(|run| run.parts(all, seen)).collect();
        parts.sort_by_key(|part| part.tenure.begin);
        parts
    }
}

impl What {
    /// Its name in Ruby.
    pub fn name(&self) -> &'static str {
        match self {
            What::Fetch => "fetch",
            What::ToDevice => "to_device",
            What::FromDevice => "from_device",
            What::Within => "within",
            What::Memory => "memory",
            What::TerminalCount => "terminal_count",
            What::Status(_) => "status",
            What::Interrupt => "interrupt",
            What::Handler => "handler",
            What::LostInterrupt => "lost_interrupt",
            What::Hang => "hang",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { cycle, device, channel, what, address, len, .. } = self;
        write!(f, "{cycle} {device}.{channel} {}", what.name())?;
        match what {
            What::Interrupt | What::Handler | What::LostInterrupt | What::Hang | What::TerminalCount => Ok(()),
            What::Status(Status::IommuFault { address: at, access }) => {
                write!(f, " {address:#x} iommu_fault {} {at:#x}", Access::name(*access))
            }
            What::Status(status) => write!(f, " {address:#x} {}", status.name()),
            _ => write!(f, " {address:#x} {len}"),
        }
    }
}
