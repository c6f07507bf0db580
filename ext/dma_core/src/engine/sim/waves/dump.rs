//! Signals as a value change dump (IEEE 1364-2005, 18.2), which GTKWave and other viewers of waveforms open.
//!
//! A level is a wire, a mark an event, and a text a variable of the type `string`, which is GTKWave's extension: there is no white
//! space in it.

use std::collections::BTreeMap;
use std::io;

use vcd::{IdCode, TimescaleUnit, Value, VarType, Writer};

use super::{Changes, Wave, Waves};
use crate::engine::sim::timing::Timing;

/// What a line is at a time.
enum State<'a> {
    Level(bool),
    Text(&'a str),
    Mark,
}

impl Waves {
    /// The dump, in the time of the bus.
    pub fn to_vcd(&self, timing: &Timing) -> Vec<u8> {
        let mut dump = Vec::new();
        // Memory takes all that is written to it.
        let _ = self.write_vcd(timing, &mut Writer::new(&mut dump));
        dump
    }

    fn write_vcd(&self, timing: &Timing, dump: &mut Writer<&mut Vec<u8>>) -> io::Result<()> {
        let (unit, second) = scale(timing);
        dump.version("dma")?;
        dump.timescale(1, unit)?;
        dump.add_module("machine")?;
        let mut changes: BTreeMap<u64, Vec<(IdCode, State<'_>)>> = BTreeMap::new();
        for lines in self.list.chunk_by(|one, next| one.scope == next.scope) {
            dump.add_module(&lines[0].scope)?;
            for line in lines {
                let id = declare(line, dump)?;
                for (cycle, state) in states(&line.changes) {
                    changes.entry(cycle).or_default().push((id, state));
                }
            }
            dump.upscope()?;
        }
        dump.upscope()?;
        dump.enddefinitions()?;
        changes.entry(self.cycles.end).or_default();
        for (cycle, states) in changes {
            dump.timestamp(time(cycle, timing, second))?;
            states.into_iter().try_for_each(|(id, state)| change(id, &state, dump))?;
        }
        Ok(())
    }
}

/// Nanoseconds if cycles are whole ones, picoseconds otherwise; and how many are a second.
fn scale(timing: &Timing) -> (TimescaleUnit, u64) {
    let unit = if 1_000_000_000 % timing.frequency == 0 { TimescaleUnit::NS } else { TimescaleUnit::PS };
    (unit, unit.divisor())
}

fn time(cycle: u64, timing: &Timing, second: u64) -> u64 {
    let time = u128::from(cycle) * u128::from(second) / u128::from(timing.frequency);
    u64::try_from(time).unwrap_or(u64::MAX)
}

fn declare(line: &Wave, dump: &mut Writer<&mut Vec<u8>>) -> io::Result<IdCode> {
    let kind = match line.changes {
        Changes::Level(_) => VarType::Wire,
        Changes::Text(_) => VarType::String,
        Changes::Mark(_) => VarType::Event,
    };
    dump.add_var(kind, 1, &line.name, None)
}

fn states(changes: &Changes) -> Box<dyn Iterator<Item = (u64, State<'_>)> + '_> {
    match changes {
        Changes::Level(levels) => Box::new(levels.iter().map(|(cycle, level)| (*cycle, State::Level(*level)))),
        Changes::Text(texts) => Box::new(texts.iter().map(|(cycle, text)| (*cycle, State::Text(text)))),
        Changes::Mark(marks) => Box::new(marks.iter().map(|cycle| (*cycle, State::Mark))),
    }
}

fn change(id: IdCode, state: &State<'_>, dump: &mut Writer<&mut Vec<u8>>) -> io::Result<()> {
    match state {
        State::Level(level) => dump.change_scalar(id, *level),
        State::Mark => dump.change_scalar(id, Value::V1),
        State::Text("") => dump.change_string(id, "idle"),
        State::Text(text) => dump.change_string(id, &text.replace(' ', "_")),
    }
}
