//! Signals: what a [`Record`] looks like on the lines of the bus and of its masters, as a logic analyser shows it.
//!
//! Nothing is drawn while the machine runs. Lines are made afterwards, out of when transactions began and ended; the work is that of
//! what changes, not of the cycles in between.

mod dump;
mod pci;

use std::collections::BTreeMap;
use std::ops::Range;

use super::timing::Timing;
use super::trace::{Event, Master, Part, Record, Run, Tenure, What};
use crate::error::{Error, Result};

/// From the first cycle to the one after the last.
type Span = Range<u64>;

/// The course of a line. The first change says what it is in the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// High or low.
    Level(Vec<(u64, bool)>),
    /// What is on it; empty: nothing.
    Text(Vec<(u64, String)>),
    /// When it happened.
    Mark(Vec<u64>),
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// Where it is: `bus`, or a device as `dev0`.
    pub scope: String,
    /// What it is called; low active ones end in `#`.
    pub name: String,
    /// Its course.
    pub changes: Changes,
}

/// All lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waves {
    /// The cycles that they show.
    pub cycles: Span,
    /// Those of the bus, then those of each device.
    pub list: Vec<Wave>,
}

/// A tenure, and what it was for.
#[derive(Debug, Clone)]
struct Turn<'a> {
    /// `None`: the CPU.
    master: Option<Master>,
    span: Span,
    /// `None` where nothing was moved.
    event: Option<&'a Event>,
    /// For how many cycles the same event has had the bus before, and has it in all.
    before: u64,
    whole: u64,
}

/// The most tenures that are drawn.
const TENURES: u64 = 1 << 20;

impl Record {
    /// From the first cycle to the last.
    pub fn cycles(&self) -> Span {
        let ends = |run: &Run| {
            let last = run.begin.saturating_add(run.count.saturating_sub(1).saturating_mul(run.period));
            last.saturating_add(run.len)
        };
        let runs = || self.runs.iter().filter(|run| run.count > 0);
        let first = runs().map(|run| run.begin).chain(self.events.iter().map(|event| event.asked)).min();
        let last = runs().map(ends).chain(self.events.iter().map(|event| event.cycle)).max();
        first.unwrap_or(0)..last.unwrap_or(0)
    }

    /// How much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        size_of_val(&*self.events) + size_of_val(&*self.runs)
    }

    /// Refuses more than anybody looks at: a CPU goes on for as long as time passes.
    ///
    /// # Errors
    /// [`Error::Argument`]
    pub fn check(&self, cycles: &Span) -> Result<()> {
        let within = |run: &Run| run.within(cycles);
        let counts = self.runs.iter().map(within).map(|numbers| numbers.end - numbers.start);
        let count = counts.fold(0, u64::saturating_add);
        match count {
            ..=TENURES => Ok(()),
            _ => Err(Error::Argument(format!(
                "the bus has changed hands {count} times from cycle {} to {}, more than {TENURES}; say from: and to: which cycles",
                cycles.start, cycles.end
            ))),
        }
    }
}

impl Waves {
    /// The lines of a bus from a cycle to another.
    ///
    /// # Errors
    /// [`Error::Argument`] for more than can be looked at; see [`Record::check`].
    pub fn new(record: &Record, timing: &Timing, cycles: Span) -> Result<Waves> {
        // What is on the bus at either end is drawn as a whole, and then cut; and what is next, for it is granted the bus before.
        let until = cycles.end.saturating_add(2);
        let events =
            || record.events.iter().filter(|event| event.moves() && event.begin < until && event.cycle > cycles.start);
        let first = events().map(|event| event.begin).chain([cycles.start]).min().unwrap_or(0);
        let last = events().map(|event| event.cycle).chain([until]).max().unwrap_or(0);
        let whole = first..last;
        record.check(&cycles)?;
        let seen = cycles.start.saturating_sub(2)..until;
        let turns = turns(&record.events, &record.parts(&whole, &seen));
        let waiting: Vec<&Event> = record.events.iter().filter(|event| event.waits_beyond(whole.end)).collect();
        let mut list = owners(&turns, timing, &whole);
        if timing.has_address_phases() {
            list.extend(pci::waves(&turns, &waiting, timing, (&whole, &seen)));
        }
        list.extend(handlers(&record.events, &whole));
        list.extend(channels(&record.events, &turns, &waiting, &whole));
        // Lines of the bus come first, those of a device together; otherwise they stay in their order.
        list.sort_by_key(|wave| wave.scope.strip_prefix("dev").and_then(|number| number.parse::<u32>().ok()));
        for wave in &mut list {
            wave.changes = wave.changes.within(&cycles);
        }
        Ok(Waves { cycles, list })
    }
}

impl Changes {
    fn within(&self, cycles: &Span) -> Changes {
        match self {
            Changes::Level(changes) => Changes::Level(part(changes, cycles)),
            Changes::Text(changes) => Changes::Text(part(changes, cycles)),
            Changes::Mark(marks) => Changes::Mark(
                marks.iter().copied().filter(|cycle| (cycles.start..=cycles.end).contains(cycle)).collect(),
            ),
        }
    }
}

/// The last value before or at the beginning, as the first, and what changes after it, until the end and at it.
fn part<T: Clone>(changes: &[(u64, T)], cycles: &Span) -> Vec<(u64, T)> {
    let first = changes.partition_point(|(cycle, _)| *cycle <= cycles.start).saturating_sub(1);
    let inside = changes[first..].iter().take_while(|(cycle, _)| *cycle <= cycles.end);
    inside.map(|(cycle, value)| ((*cycle).max(cycles.start), value.clone())).collect()
}

impl Wave {
    /// A line that is asserted from time to time; low then, if its name says so.
    fn level(scope: &str, name: &str, mut asserted: Vec<Span>, cycles: &Span) -> Wave {
        asserted.sort_by_key(|span| span.start);
        let mut apart: Vec<Span> = Vec::new();
        for span in asserted.into_iter().filter(|span| !span.is_empty()) {
            match apart.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => apart.push(span),
            }
        }
        let low = name.ends_with('#');
        let first = (apart.first().is_none_or(|span| span.start > cycles.start)).then_some((cycles.start, low));
        let edges = apart.iter().flat_map(|span| [(span.start, !low), (span.end, low)]);
        let changes = Changes::Level(first.into_iter().chain(edges).collect());
        Wave { scope: scope.into(), name: name.into(), changes }
    }

    /// A line with something on it from time to time. Where one begins the one before ends.
    fn text(scope: &str, name: &str, mut spans: Vec<(Span, String)>, cycles: &Span) -> Wave {
        spans.sort_by_key(|(span, _)| span.start);
        let mut changes = vec![(cycles.start, String::new())];
        let ends: Vec<u64> = spans.iter().skip(1).map(|(span, _)| span.start).chain([cycles.end]).collect();
        for ((span, text), next) in spans.into_iter().zip(ends) {
            let (start, end) = (span.start.max(cycles.start), span.end.min(next));
            if end <= start {
                continue;
            }
            if changes.last().is_some_and(|(cycle, _)| *cycle == start) {
                changes.pop();
            }
            if changes.last().is_none_or(|(_, before)| *before != text) {
                changes.push((start, text));
            }
            changes.push((end, String::new()));
        }
        Wave { scope: scope.into(), name: name.into(), changes: Changes::Text(changes) }
    }
}

/// Every tenure that is seen with its event.
fn turns<'a>(events: &'a [Event], parts: &[Part]) -> Vec<Turn<'a>> {
    let mut lists: BTreeMap<Master, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.moves()) {
        lists.entry(event.master()).or_default().push(event);
    }
    let mut left: BTreeMap<Master, _> =
        lists.into_iter().map(|(master, events)| (master, events.into_iter().peekable())).collect();
    let mut turns: Vec<Turn<'_>> = Vec::new();
    // For how many cycles the event that each master is at has had the bus.
    let mut had: BTreeMap<(Master, u64), u64> = BTreeMap::new();
    for &Part { tenure: Tenure { master, begin, end }, cycles, is_seen } in parts {
        let mut turn = Turn { master, span: begin..end, event: None, before: 0, whole: 0 };
        if let Some((master, events)) = master.and_then(|master| Some((master, left.get_mut(&master)?))) {
            while events.next_if(|event| event.cycle < end).is_some() {}
            turn.event = events.peek().copied().filter(|event| event.begin <= begin);
            if let Some(event) = turn.event {
                let had = had.entry((master, event.cycle)).or_default();
                turn.before = *had;
                *had = had.saturating_add(cycles);
            }
        }
        if is_seen {
            turns.push(turn);
        }
    }
    for turn in &mut turns {
        let event = turn.event.map(|event| (event.master(), event.cycle));
        turn.whole = event.and_then(|event| had.get(&event).copied()).unwrap_or(0);
    }
    turns
}

impl Event {
    fn master(&self) -> Master {
        (self.device, self.channel)
    }

    /// Whether it is a transaction on the bus.
    fn moves(&self) -> bool {
        use What::{Handler, Hang, Interrupt, LostInterrupt, TerminalCount};
        !matches!(self.what, Interrupt | Handler | LostInterrupt | TerminalCount | Hang)
    }

    /// Whether its channel asked for the bus before a cycle, and did not have it by then.
    fn waits_beyond(&self, end: u64) -> bool {
        self.moves() && self.asked < end && self.begin >= end
    }
}

/// Who has the bus, or the link of each device.
fn owners(turns: &[Turn<'_>], timing: &Timing, cycles: &Span) -> Vec<Wave> {
    let mut buses: BTreeMap<String, Vec<(Span, String)>> = BTreeMap::new();
    for turn in turns {
        let (scope, owner) = match turn.master {
            Some((device, channel)) if timing.links => (format!("dev{device}"), format!("ch{channel}")),
            Some((device, channel)) => ("bus".into(), format!("dev{device}.ch{channel}")),
            None => ("bus".into(), "CPU".into()),
        };
        buses.entry(scope).or_default().push((turn.span.clone(), owner));
    }
    if !timing.links {
        buses.entry("bus".into()).or_default();
    }
    let name = if timing.links { "link" } else { "owner" };
    buses.into_iter().map(|(scope, spans)| Wave::text(&scope, name, spans, cycles)).collect()
}

/// Whose interrupt the CPU handles, if that takes its time.
fn handlers(events: &[Event], cycles: &Span) -> Option<Wave> {
    let handlers = events.iter().filter(|event| event.what == What::Handler);
    let spans: Vec<_> =
        handlers.map(|event| (event.begin..event.cycle, format!("dev{}.ch{}", event.device, event.channel))).collect();
    (!spans.is_empty()).then(|| Wave::text("cpu", "handler", spans, cycles))
}

/// What each channel does, and its interrupts.
fn channels(events: &[Event], turns: &[Turn<'_>], waiting: &[&Event], cycles: &Span) -> Vec<Wave> {
    let mut work: BTreeMap<Master, Vec<(Span, String)>> = BTreeMap::new();
    for turn in turns {
        let Some(master) = turn.master else { continue };
        let spans = work.entry(master).or_default();
        let free = spans.last().map_or(0, |(span, _)| span.end);
        if let Some(event) = turn.event {
            spans.push((free.max(event.asked)..turn.span.start, "waits".into()));
        }
        spans.push((turn.span.clone(), turn.event.map_or("nothing".into(), describe)));
    }
    for event in waiting {
        work.entry(event.master()).or_default().push((event.asked..cycles.end, "waits".into()));
    }
    let mut marks: BTreeMap<(Master, &str), Vec<u64>> = BTreeMap::new();
    for event in events {
        let master = event.master();
        match event.what {
            What::Interrupt => marks.entry((master, "irq")).or_default().push(event.cycle),
            What::LostInterrupt => marks.entry((master, "irq_lost")).or_default().push(event.cycle),
            What::TerminalCount => marks.entry((master, "tc")).or_default().push(event.cycle),
            What::Hang => work.entry(master).or_default().push((event.cycle..u64::MAX, "hangs".into())),
            _ => {}
        }
    }
    let work = work.into_iter().map(|((device, channel), spans)| {
        ((device, channel), Wave::text(&format!("dev{device}"), &format!("ch{channel}"), spans, cycles))
    });
    let marks = marks.into_iter().map(|(((device, channel), kind), marks)| {
        let (scope, name) = (format!("dev{device}"), format!("ch{channel}_{kind}"));
        ((device, channel), Wave { scope, name, changes: Changes::Mark(marks) })
    });
    let mut waves: Vec<(Master, Wave)> = work.chain(marks).collect();
    waves.sort_by_key(|(master, _)| *master);
    waves.into_iter().map(|(_, wave)| wave).collect()
}

fn describe(event: &Event) -> String {
    match event.what {
        What::Status(status) => format!("status {}", status.name()),
        _ => format!("{} {} B at {:#x}", event.what.name(), event.len, event.address),
    }
}

#[cfg(test)]
mod tests;
