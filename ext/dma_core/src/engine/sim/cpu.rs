//! The CPU as a master of the bus, and how a channel shares the bus with it.
//!
//! The CPU accesses memory, a cache line at a time, computes for a while, and does so again. An access that finds the bus taken stalls
//! it. Nothing is done cycle by cycle: what happens between two transactions of a channel follows from when the CPU wants the bus next.

use std::mem;

use super::memory::Memory;
use super::timing::Timing;
use super::trace::{Master, Run};

/// Bytes of an access: a line of the cache.
pub(super) const LINE: u64 = 64;
/// The most cycles that it computes after an access.
const GAP: u64 = 1 << 40;

/// How a channel takes the bus for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It keeps the bus until the block is done.
    #[default]
    Burst,
    /// It gives the bus to a CPU that waits after each word (on PCI Express, after 64 bytes).
    CycleStealing,
    /// It takes words only as long as the CPU does not want the bus.
    Transparent,
}

/// Modes and their names in Ruby.
const NAMES: [(Mode, &str); 3] =
    [(Mode::Burst, "burst"), (Mode::CycleStealing, "cycle_stealing"), (Mode::Transparent, "transparent")];

impl Mode {
    /// The mode with this name in Ruby.
    pub fn from_name(name: &str) -> Option<Mode> {
        NAMES.iter().find(|(_, other)| *other == name).map(|(mode, _)| *mode)
    }

    /// Every name.
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(_, name)| *name).collect()
    }
}

/// What a CPU did to the bus, and the bus to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuStats {
    /// Accesses that have begun.
    pub accesses: u64,
    /// Cycles that they took.
    pub cycles: u64,
    /// Cycles that the CPU waited for the bus.
    pub stalls: u64,
}

/// See the [module](self).
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    /// Cycles of an access, and of what is computed after it.
    access: u64,
    gap: u64,
    /// When it wants the bus next. Behind `held`, it has waited since.
    next: u64,
    /// Until when a channel had the bus, and until when the last access takes.
    held: u64,
    busy: u64,
    accesses: u64,
    stalls: u64,
}

impl Cpu {
    /// One that wants the bus for `load` of the time, from 0 to 1, as near as whole cycles come to it; none for 0.
    pub(super) fn new(load: f64, timing: &Timing, memory: &Memory) -> Option<Cpu> {
        let access = Block::new(LINE, Mode::Burst, timing, memory).cycles;
        let gap = ((access as f64 / load - access as f64).round() as u64).min(GAP);
        (load > 0.0).then_some(Cpu { access, gap, next: 0, held: 0, busy: 0, accesses: 0, stalls: 0 })
    }

    /// The part of the time that it wants the bus for.
    pub(super) fn load(&self) -> f64 {
        self.access as f64 / (self.access + self.gap) as f64
    }

    /// How it has fared so far.
    pub(super) fn stats(&self) -> CpuStats {
        CpuStats { accesses: self.accesses, cycles: self.accesses.saturating_mul(self.access), stalls: self.stalls }
    }

    /// A channel has the bus from `now` on, or from when the CPU's access is over, for a block; when that is done. Who had it when
    /// goes into `log`.
    pub(super) fn give(&mut self, mode: Mode, now: u64, block: Block, mut log: Option<(Master, &mut Vec<Run>)>) -> u64 {
        let runs = log.as_mut().map(|(_, runs)| &mut **runs);
        let start = if block.goes_on { now } else { self.run_until(now, runs) };
        self.held = match mode {
            Mode::Burst => {
                let end = start.saturating_add(block.cycles);
                log.into_iter().for_each(|(master, runs)| runs.push(Run::once(Some(master), start, end)));
                end
            }
            Mode::CycleStealing => self.share(start, block, |room| room.div_ceil(block.unit).max(1), log),
            Mode::Transparent => self.share(start, block, |room| room / block.unit, log),
        };
        self.held
    }

    /// Whether what takes the bus in units between two accesses ever gets it.
    pub(super) fn leaves_room(&self, timing: &Timing, memory: &Memory) -> bool {
        self.gap >= Block::new(1, Mode::Transparent, timing, memory).unit
    }

    /// Whether a channel has had the bus until `now`: what goes on where it left off need not give it away.
    pub(super) fn is_held(&self, now: u64) -> bool {
        self.held == now
    }

    /// It moves words by itself from `now` on, or from when its access is over: when that is, and in how many cycles it wanted the bus
    /// for anything else, which [`Cpu::resume`] takes.
    pub(super) fn pause(&mut self, now: u64, log: Option<&mut Vec<Run>>) -> (u64, u64) {
        let start = self.run_until(now, log);
        (start, mem::replace(&mut self.next, u64::MAX).saturating_sub(start))
    }

    /// It has moved all words by `now`.
    pub(super) fn resume(&mut self, now: u64, left: u64) {
        self.next = now.saturating_add(left);
    }

    /// Lets the CPU have the bus for all that it wanted it for by `now`; when it is free again.
    pub(super) fn run_until(&mut self, now: u64, log: Option<&mut Vec<Run>>) -> u64 {
        if self.next < self.held {
            self.stalls = self.stalls.saturating_add(self.held - self.next);
            self.next = self.held;
        }
        if self.next > now {
            return now.max(self.busy);
        }
        let count = ((now - self.next) / (self.access + self.gap)).saturating_add(1);
        if let Some(runs) = log {
            runs.push(Run { master: None, begin: self.next, len: self.access, period: self.access + self.gap, count });
        }
        let last = self.next + (count - 1) * (self.access + self.gap);
        self.accesses = self.accesses.saturating_add(count);
        self.busy = last.saturating_add(self.access);
        self.next = self.busy.saturating_add(self.gap);
        now.max(self.busy)
    }

    /// Moves a block in units, as many at a time as `fit` says there are before the CPU, which wants the bus after so many cycles, has
    /// it; when that is done.
    fn share(
        &mut self,
        start: u64,
        block: Block,
        fit: impl Fn(u64) -> u64,
        log: Option<(Master, &mut Vec<Run>)>,
    ) -> u64 {
        let first = fit(self.next - start).min(block.units);
        let left = block.units - first;
        let end = start.saturating_add(first.saturating_mul(block.unit));
        if left == 0 {
            log.into_iter().for_each(|(master, runs)| runs.push(Run::once(Some(master), start, end)));
            return end;
        }
        // The CPU's access, as many units as fit after it, and so on. Each access begins when it is wanted, or when the last unit is
        // over.
        let each = fit(self.gap);
        let accesses = left.div_ceil(each);
        let moved = each.saturating_mul(block.unit);
        let busy = moved.max(self.gap);
        let begun = self.next.max(end);
        let (stalls, period) = ((accesses - 1).saturating_mul(busy - self.gap), self.access.saturating_add(busy));
        self.stalls = self.stalls.saturating_add(begun - self.next).saturating_add(stalls);
        self.accesses = self.accesses.saturating_add(accesses);
        self.busy = begun.saturating_add((accesses - 1).saturating_mul(period)).saturating_add(self.access);
        self.next = self.busy.saturating_add(self.gap);
        let done = self.busy.saturating_add((left - (accesses - 1) * each).saturating_mul(block.unit));
        if let Some((master, runs)) = log {
            let (master, len) = (Some(master), moved);
            runs.push(Run::once(master, start, end));
            runs.push(Run { master: None, begin: begun, len: self.access, period, count: accesses });
            runs.push(Run { master, begin: begun.saturating_add(self.access), len, period, count: accesses - 1 });
            runs.push(Run::once(master, self.busy, done));
        }
        done
    }
}

/// What a channel wants the bus for; where devices have links, memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// Cycles in one go.
    pub cycles: u64,
    /// Words or packets, and the cycles of each, in pieces.
    units: u64,
    unit: u64,
    /// It is the next part of a burst, and nobody else has had the bus since.
    pub goes_on: bool,
}

impl Block {
    /// `len` bytes, in a mode.
    pub(super) fn new(len: u64, mode: Mode, timing: &Timing, memory: &Memory) -> Block {
        let cycles = |len: u64| {
            let bus = if timing.links { 0 } else { timing.cycles(len) };
            bus.max(memory.cycles(len))
        };
        let (units, unit) = match mode {
            Mode::Burst => (0, 0),
            Mode::CycleStealing | Mode::Transparent => (len.div_ceil(timing.unit()), cycles(timing.unit())),
        };
        Block { cycles: cycles(len), units, unit, goes_on: false }
    }

    /// What is over of it in one go when only `rest` is left, and that.
    pub(super) fn cut(self, rest: Block) -> (Block, Block) {
        let cycles = self.cycles.saturating_sub(rest.cycles);
        (Block { cycles, ..self }, Block { goes_on: true, ..rest })
    }

    /// For how many cycles the channel has the bus.
    pub(super) fn taken(&self, mode: Mode) -> u64 {
        match mode {
            Mode::Burst => self.cycles,
            Mode::CycleStealing | Mode::Transparent => self.units.saturating_mul(self.unit),
        }
    }
}

#[cfg(test)]
mod tests;
