//! The lines of a PCI bus, after the PCI Local Bus Specification 2.2: 3.2.1 (basic transfer control), 3.3.1 and 3.3.2 (reads and
//! writes, Figures 3-5 and 3-6), 3.4.1 (arbitration), 3.6.1 (DEVSEL#).
//!
//! A transaction begins with the idle clock that parts it from the one before, in which its master has GNT#. FRAME# falls for the
//! address phase and rises in the last data phase, IRDY# is low from the first data phase to the end. The target answers with
//! DEVSEL# a clock later than it could (medium speed), which is the turnaround cycle of a read; after that TRDY# is low in the clock
//! in which a data phase ends, and what a phase lasts beyond that are wait states of the target. So a transaction takes the cycles that
//! [`Timing::cycles`] charges. What memory keeps it waiting for is spread evenly over the data phases.
//!
//! A device has one REQ# and GNT# for its channels. It keeps REQ# low until FRAME# falls for its last transaction (3.4.1); the
//! arbiter takes GNT# away in the last data phase, where another master's may fall. The machine decides within a clock, so that on
//! an idle bus both fall at once. The CPU sits behind the bridge and has none.

use std::collections::BTreeMap;

use super::{Span, Turn, Wave};
use crate::engine::sim::cpu::LINE;
use crate::engine::sim::timing::Timing;
use crate::engine::sim::trace::{Event, What};

/// When lines are asserted.
#[derive(Default)]
struct Lines {
    frame: Vec<Span>,
    irdy: Vec<Span>,
    trdy: Vec<Span>,
    devsel: Vec<Span>,
    ad: Vec<(Span, String)>,
    req: BTreeMap<u32, Vec<Span>>,
    gnt: BTreeMap<u32, Vec<Span>>,
}

/// Transactions of a turn: `count` times as many as `len` bytes need.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    count: u64,
    len: u64,
    /// The address of the first byte.
    address: Option<u64>,
    writes: bool,
}

/// One of them.
struct Transaction {
    phases: u64,
    address: Option<u64>,
    writes: bool,
}

/// A turn's cycles that are not charged for its bytes: wait states, a part for each data phase.
struct Waits {
    cycles: u64,
    phases: u64,
    done: u64,
}

/// Of turns, and of those who still wait for one.
pub(super) fn waves(turns: &[Turn<'_>], waiting: &[&Event], timing: &Timing, cycles: &Span) -> Vec<Wave> {
    let mut lines = Lines::default();
    for turn in turns {
        let address = lines.draw(turn, timing);
        lines.arbitrate(turn, address);
    }
    for event in waiting {
        lines.req.entry(event.device).or_default().push(event.asked..cycles.end);
    }
    let Lines { frame, irdy, trdy, devsel, ad, req, gnt } = lines;
    let bus = |name, asserted| Wave::level("bus", name, asserted, cycles);
    let mut waves = vec![bus("FRAME#", frame), Wave::text("bus", "AD", ad, cycles)];
    waves.extend([bus("IRDY#", irdy), bus("TRDY#", trdy), bus("DEVSEL#", devsel)]);
    for (name, lines) in [("REQ#", req), ("GNT#", gnt)] {
        waves
            .extend(lines.into_iter().map(|(device, spans)| Wave::level(&format!("dev{device}"), name, spans, cycles)));
    }
    waves
}

impl Lines {
    /// Draws what a turn does on the bus; when the address phase of its last transaction begins.
    fn draw(&mut self, turn: &Turn<'_>, timing: &Timing) -> u64 {
        let mut now = turn.span.start;
        let mut last = now;
        let Some(blocks) = Blocks::of(turn, timing) else { return last };
        let mut waits = Waits::of(&turn.span, &blocks, timing);
        for block in 0..blocks.count {
            let (mut bytes, mut beats) = (0, 0);
            while bytes < blocks.len {
                let address = blocks.address.map(|address| address.wrapping_add(block * blocks.len + bytes));
                bytes = bytes.saturating_add(timing.payload).min(blocks.len);
                let until = bytes.div_ceil(timing.width);
                let transaction = Transaction { phases: until - beats, address, writes: blocks.writes };
                (last, now) = self.transact(now, timing, &transaction, &mut waits);
                beats = until;
            }
        }
        last
    }

    /// Draws a transaction; when its address phase begins, and when it is over.
    fn transact(&mut self, begin: u64, timing: &Timing, what: &Transaction, waits: &mut Waits) -> (u64, u64) {
        // Of the setup one is the address phase, another the idle clock, and what is left is for decoding.
        let addressed = begin.saturating_add(u64::from(timing.setup > 1));
        let mut data = addressed.saturating_add(1);
        let high = what.address.map_or(0, |address| if timing.dual > 0 { address >> 32 } else { 0 });
        let low = what.address.map(|address| if high > 0 { address & 0xffff_ffff } else { address });
        self.ad.push((addressed..data, low.map_or("A".into(), |low| format!("A {low:#x}"))));
        if high > 0 {
            // The other half comes in a second address phase (3.9, dual address cycle).
            let end = data.saturating_add(timing.dual);
            self.ad.push((data..end, format!("A {high:#x}")));
            data = end;
        }
        let ready = data.saturating_add(timing.setup.saturating_sub(2));
        let (mut last, mut now) = (data, ready);
        for phase in 1..=what.phases {
            let begin = if phase == 1 && what.writes { data } else { now };
            last = if phase == 1 { data } else { now };
            now = now.saturating_add(timing.beat).saturating_add(waits.next());
            self.trdy.push(now - 1..now);
            self.ad.push((begin..now, format!("D{phase}")));
        }
        self.frame.push(addressed..last);
        self.irdy.push(data..now);
        self.devsel.push(ready.min(data.saturating_add(1))..now);
        (addressed, now)
    }

    /// Draws REQ# and GNT# of a turn, the address phase of whose last transaction begins at `address`.
    fn arbitrate(&mut self, turn: &Turn<'_>, address: u64) {
        let Some((device, _)) = turn.master else { return };
        let Span { start, end } = turn.span;
        let asked = turn.event.map_or(start, |event| event.asked).min(start);
        let is_last = turn.event.is_none_or(|event| event.cycle <= end);
        self.req.entry(device).or_default().push(asked..if is_last { address } else { end });
        self.gnt.entry(device).or_default().push(asked.max(start.saturating_sub(1))..end.saturating_sub(1));
    }
}

impl Blocks {
    fn of(turn: &Turn<'_>, timing: &Timing) -> Option<Blocks> {
        let Some(event) = turn.event else {
            return turn.master.is_none().then(|| Blocks::of_cpu(turn, timing));
        };
        let writes = !matches!(event.what, What::Fetch | What::ToDevice);
        let block = Blocks { count: 1, len: event.len.max(1), address: Some(event.address), writes };
        let timing = timing.at(event.address);
        let (unit, cycles) = (timing.unit(), turn.span.end - turn.span.start);
        // In units, each by itself, it takes another time than in one go.
        let each = turn.whole / block.len.div_ceil(unit);
        if (turn.before == 0 && turn.whole == timing.cycles(block.len) + event.waits) || each < timing.cycles(unit) {
            return Some(block);
        }
        let offset = turn.before / each * unit;
        let address = Some(event.address.wrapping_add(offset));
        Some(Blocks { count: (cycles / each).max(1), len: unit.min(block.len), address, writes })
    }

    /// An access of a line, or of a word.
    fn of_cpu(turn: &Turn<'_>, timing: &Timing) -> Blocks {
        let cycles = turn.span.end - turn.span.start;
        let len = if cycles < timing.cycles(LINE) { timing.unit() } else { LINE };
        Blocks { count: 1, len, address: None, writes: false }
    }
}

impl Waits {
    fn of(span: &Span, blocks: &Blocks, timing: &Timing) -> Waits {
        let timing = &timing.at(blocks.address.unwrap_or(0));
        let charged = blocks.count.saturating_mul(timing.cycles(blocks.len));
        let cycles = (span.end - span.start).saturating_sub(charged);
        Waits { cycles, phases: blocks.count.saturating_mul(blocks.len.div_ceil(timing.width)), done: 0 }
    }

    /// Wait states of the next data phase.
    fn next(&mut self) -> u64 {
        let until = |phase: u64| u128::from(self.cycles) * u128::from(phase) / u128::from(self.phases.max(1));
        let waits = until(self.done + 1) - until(self.done);
        self.done += 1;
        u64::try_from(waits).unwrap_or(u64::MAX)
    }
}
