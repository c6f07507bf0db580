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

/// The transactions of a turn, one behind the other. When each begins follows from its number, so that of a long turn only what is
/// seen has to be drawn.
struct Course<'a> {
    blocks: Blocks,
    timing: &'a Timing,
    begin: u64,
    /// Cycles before the data of each transaction; those of a second address phase among them.
    lead: u64,
    dual: u64,
    /// Cycles that are not charged for bytes: wait states, a part for each data phase.
    waits: u64,
}

/// Of turns, and of those who still wait for one; as much as is seen between two cycles.
pub(super) fn waves(
    turns: &[Turn<'_>],
    waiting: &[&Event],
    timing: &Timing,
    (cycles, seen): (&Span, &Span),
) -> Vec<Wave> {
    let mut lines = Lines::default();
    for turn in turns {
        let address = lines.draw(turn, timing, seen);
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
    /// Draws what is seen of what a turn does on the bus; when the address phase of its last transaction begins.
    fn draw(&mut self, turn: &Turn<'_>, timing: &Timing, seen: &Span) -> u64 {
        let Some(blocks) = Blocks::of(turn, timing) else { return turn.span.start };
        let course = Course::new(&turn.span, blocks, timing);
        let count = course.count();
        let first = first(0..count, |number| course.at(number + 1) > seen.start);
        for number in (first..count).take_while(|number| course.at(*number) < seen.end) {
            self.transact(&course, number, seen);
        }
        course.addressed(count.saturating_sub(1))
    }

    /// Draws a transaction.
    fn transact(&mut self, course: &Course<'_>, number: u64, seen: &Span) {
        let (timing, address) = (course.timing, course.address(number));
        let (addressed, end) = (course.addressed(number), course.at(number + 1));
        let mut data = addressed.saturating_add(1);
        let high = address.map_or(0, |address| if course.dual > 0 { address >> 32 } else { 0 });
        let low = address.map(|address| if high > 0 { address & 0xffff_ffff } else { address });
        self.ad.push((addressed..data, low.map_or("A".into(), |low| format!("A {low:#x}"))));
        if high > 0 {
            // The other half comes in a second address phase (3.9, dual address cycle).
            let end = data.saturating_add(course.dual);
            self.ad.push((data..end, format!("A {high:#x}")));
            data = end;
        }
        // Of the setup one is the address phase, another the idle clock, and what is left is for decoding.
        let ready = data.saturating_add(timing.setup.saturating_sub(2));
        let phases = course.phases(number)..course.phases(number + 1);
        let until = |phase: u64| ready.saturating_add(course.cycles(phase).saturating_sub(course.cycles(phases.start)));
        let first = first(phases.clone(), |phase| until(phase + 1) > seen.start);
        let begin = |phase: u64| if phase == phases.start && course.blocks.writes { data } else { until(phase) };
        for phase in (first..phases.end).take_while(|phase| begin(*phase) < seen.end) {
            let end = until(phase + 1);
            self.trdy.push(end.saturating_sub(1)..end);
            self.ad.push((begin(phase)..end, format!("D{}", phase - phases.start + 1)));
        }
        let last = if phases.end - phases.start > 1 { until(phases.end - 1) } else { data };
        self.frame.push(addressed..last);
        self.irdy.push(data..end);
        self.devsel.push(ready.min(data.saturating_add(1))..end);
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

impl<'a> Course<'a> {
    fn new(span: &Span, blocks: Blocks, timing: &'a Timing) -> Course<'a> {
        let own = timing.at(blocks.address.unwrap_or(0));
        let charged = blocks.count.saturating_mul(own.cycles(blocks.len));
        let waits = (span.end - span.start).saturating_sub(charged);
        Course { blocks, timing, begin: span.start, lead: own.setup, dual: own.setup - timing.setup, waits }
    }

    /// Transactions of each block.
    fn each(&self) -> u64 {
        self.blocks.len.div_ceil(self.timing.payload)
    }

    fn count(&self) -> u64 {
        self.blocks.count.saturating_mul(self.each())
    }

    /// Bytes that come before a transaction: of whole blocks, and of its own.
    fn bytes(&self, number: u64) -> (u64, u64) {
        let (block, index) = (number / self.each(), number % self.each());
        (block * self.blocks.len, index * self.timing.payload)
    }

    /// Data phases that come before a transaction.
    fn phases(&self, number: u64) -> u64 {
        let (block, (_, bytes)) = (number / self.each(), self.bytes(number));
        block * self.blocks.len.div_ceil(self.timing.width) + bytes.div_ceil(self.timing.width)
    }

    /// Cycles of so many data phases, with what memory keeps them waiting.
    fn cycles(&self, phases: u64) -> u64 {
        let waits = u128::from(self.waits) * u128::from(phases) / u128::from(self.phases(self.count()).max(1));
        phases.saturating_mul(self.timing.beat).saturating_add(u64::try_from(waits).unwrap_or(u64::MAX))
    }

    /// When a transaction begins.
    fn at(&self, number: u64) -> u64 {
        let leads = number.saturating_mul(self.lead);
        self.begin.saturating_add(leads).saturating_add(self.cycles(self.phases(number)))
    }

    /// When its address phase begins, after the idle clock.
    fn addressed(&self, number: u64) -> u64 {
        self.at(number).saturating_add(u64::from(self.timing.setup > 1))
    }

    fn address(&self, number: u64) -> Option<u64> {
        let (blocks, bytes) = self.bytes(number);
        self.blocks.address.map(|address| address.wrapping_add(blocks + bytes))
    }
}

/// The first number that something is true for, as for all behind it; the end of the range where it is true for none.
fn first(range: Span, is_true: impl Fn(u64) -> bool) -> u64 {
    let Span { mut start, mut end } = range;
    while start < end {
        let middle = start + (end - start) / 2;
        match is_true(middle) {
            true => end = middle,
            false => start = middle + 1,
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::super::{Changes, Waves};
    use super::*;
    use crate::engine::sim::trace::{Record, Run};

    #[test]
    fn of_a_long_transaction_only_what_is_seen_is_drawn() {
        for payload in [1, 116, u64::MAX] {
            let (timing, len) = (Timing { payload, ..Timing::PCI }, u64::from(u32::MAX));
            let cycle = timing.cycles(len);
            let event = Event {
                asked: 0,
                begin: 0,
                cycle,
                waits: 0,
                device: 0,
                channel: 0,
                what: What::Within,
                address: 1 << 20,
                len,
            };
            let record = Record { events: vec![event], runs: vec![Run::once(Some((0, 0)), 0, cycle)] };
            for begin in [0, cycle / 2, cycle - 200] {
                let waves = Waves::new(&record, &timing, begin..begin + 200).unwrap();
                let ad = waves.list.into_iter().find(|wave| wave.name == "AD");
                let Some(Changes::Text(changes)) = ad.map(|wave| wave.changes) else { panic!("no AD") };
                assert!((100..400).contains(&changes.len()), "{} changes from {begin}", changes.len());
            }
        }
    }
}
