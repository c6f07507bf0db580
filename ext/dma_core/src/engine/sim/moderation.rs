//! Interrupt moderation: when a channel tells the CPU of what it completed.
//!
//! A channel may hold completions back, so that one interrupt tells of many: until there are so many of them, or until so much time
//! has passed since the first of them, as `rx-frames` and `rx-usecs` of ethtool(8) have it
//! (Documentation/networking/ethtool-netlink.rst, `COALESCE_GET`). What is held back is told of at that time at the latest.
//!
//! **Adaptive** moderation follows the classes of interrupt throttling in Intel's drivers (Linux,
//! Documentation/networking/device_drivers/ethernet/intel/e1000.rst, `InterruptThrottleRate`): interrupts are so far apart that at
//! most 70,000, 20,000 or 4,000 come in a second. One that comes later than that after the last is not held back at all. Those
//! drivers sort traffic by bytes and packets into the classes; here each interrupt decides about the next: if it told of more than
//! [`MANY`] completions, the channel goes on in the next slower class, if of fewer than [`FEW`], in the next faster one. Because a
//! ring is empty before long, no interrupt tells of more than [`Coalesce::THROUGHPUT`] allows.

use super::timing::Timing;
use crate::error::{Error, Result};

/// Completions of one interrupt from which on an adaptive channel becomes slower, and below which it becomes faster.
const MANY: u64 = 8;
const FEW: u64 = 4;
/// Nanoseconds between two interrupts in each class of an adaptive channel, fastest first.
const GAPS: [u64; 3] = [1_000_000_000 / 70_000, 1_000_000_000 / 20_000, 1_000_000_000 / 4_000];

/// The longest time that completions may be held back, in nanoseconds.
const LONGEST: u64 = 1_000_000_000;

/// When a channel interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coalesce {
    /// When there are `count` completions, or `time` nanoseconds after the first of them.
    Fixed {
        /// 1: each completion is told of at once.
        count: u64,
        /// Nanoseconds.
        time: u64,
    },
    /// As the traffic is: at most 70,000, 20,000 or 4,000 interrupts a second, fewer the more each of them tells of.
    Adaptive,
}

/// Presets and their names in Ruby.
const PRESETS: [(&str, Coalesce); 4] = [
    ("none", Coalesce::NONE),
    ("low_latency", Coalesce::LOW_LATENCY),
    ("throughput", Coalesce::THROUGHPUT),
    ("adaptive", Coalesce::Adaptive),
];

impl Coalesce {
    /// Each completion is told of at once.
    pub const NONE: Coalesce = Coalesce::Fixed { count: 1, time: 0 };

    /// The fastest profile of the kernel's dynamic interrupt moderation (`NET_DIM_RX_CQE_PROFILES`, lib/dim/net_dim.c).
    pub const LOW_LATENCY: Coalesce = Coalesce::Fixed { count: 256, time: 2_000 };

    /// Its slowest.
    pub const THROUGHPUT: Coalesce = Coalesce::Fixed { count: 64, time: 64_000 };

    /// So many completions, or so many nanoseconds after the first; what is not said is not what it waits for, but a second.
    pub fn fixed(count: Option<u64>, time: Option<u64>) -> Coalesce {
        Coalesce::Fixed { count: count.unwrap_or(u64::MAX), time: time.unwrap_or(LONGEST) }
    }

    /// The preset with this name in Ruby.
    pub fn from_name(name: &str) -> Option<Coalesce> {
        PRESETS.iter().find(|(other, _)| *other == name).map(|(_, preset)| *preset)
    }

    /// Every preset's name.
    pub fn names() -> Vec<&'static str> {
        PRESETS.iter().map(|(name, _)| *name).collect()
    }

    pub(super) fn check(&self) -> Result<()> {
        match *self {
            Coalesce::Fixed { count: 0, .. } => {
                Err(Error::Argument("coalesce: count: 0 completions are none to tell of; give 1 or more".into()))
            }
            Coalesce::Fixed { time, .. } if time > LONGEST => Err(Error::Argument(format!(
                "coalesce: time: {} s is longer than 1 s, for which completions are held back at most",
                time as f64 / 1e9
            ))),
            _ => Ok(()),
        }
    }
}

/// What one channel holds back, in cycles of its bus.
#[derive(Debug)]
pub(super) struct Moderation {
    /// Completions from which on it holds none back.
    count: u64,
    rule: Rule,
    /// Completions that nobody was told of, and when the interrupt for them comes at the latest.
    held: u64,
    due: u64,
}

#[derive(Debug)]
enum Rule {
    /// Cycles from the first completion.
    Fixed(u64),
    /// Cycles between two interrupts in each class, the class, and when the last interrupt was.
    Adaptive { gaps: [u64; 3], class: usize, last: Option<u64> },
}

impl Moderation {
    pub(super) fn new(coalesce: Coalesce, timing: &Timing) -> Moderation {
        let (count, rule) = match coalesce {
            Coalesce::Fixed { count, time } => (count, Rule::Fixed(timing.cycle_at(time))),
            Coalesce::Adaptive => {
                let Coalesce::Fixed { count, .. } = Coalesce::THROUGHPUT else { unreachable!("it is fixed") };
                (count, Rule::Adaptive { gaps: GAPS.map(|gap| timing.cycle_at(gap)), class: 0, last: None })
            }
        };
        Moderation { count, rule, held: 0, due: 0 }
    }

    /// Follows another rule from `now` on. What is held back is told of no later than it would have been.
    pub(super) fn change(&mut self, coalesce: Coalesce, timing: &Timing, now: u64) {
        let before = std::mem::replace(self, Moderation::new(coalesce, timing));
        if before.held > 0 {
            (self.held, self.due) = (before.held, before.due.min(self.due_of_first(now)));
            self.hurry(now);
        }
    }

    /// Whether it holds any completions back.
    pub(super) fn holds(&self) -> bool {
        self.count > 1
    }

    /// Takes a completion in.
    pub(super) fn add(&mut self, now: u64) {
        self.held += 1;
        if self.held == 1 {
            self.due = self.due_of_first(now);
        }
        self.hurry(now);
    }

    /// The cycle in which the interrupt has to come, if it has not before; `None` where nothing is held back.
    pub(super) fn due(&self) -> Option<u64> {
        (self.held > 0).then_some(self.due)
    }

    /// Tells of all that is held back; how many completions that is.
    pub(super) fn take(&mut self, now: u64) -> u64 {
        let told = std::mem::take(&mut self.held);
        if let Rule::Adaptive { gaps, class, last } = &mut self.rule {
            *last = Some(now);
            *class = match told {
                _ if told > MANY => (*class + 1).min(gaps.len() - 1),
                _ if told < FEW => class.saturating_sub(1),
                _ => *class,
            };
        }
        told
    }

    /// Forgets what is held back.
    pub(super) fn clear(&mut self) {
        self.held = 0;
    }

    fn due_of_first(&self, now: u64) -> u64 {
        match &self.rule {
            Rule::Fixed(time) => now.saturating_add(*time),
            Rule::Adaptive { gaps, class, last } => last.map_or(now, |last| last.saturating_add(gaps[*class]).max(now)),
        }
    }

    fn hurry(&mut self, now: u64) {
        if self.held >= self.count {
            self.due = now;
        }
    }
}

#[cfg(test)]
mod tests;
