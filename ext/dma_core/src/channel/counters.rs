//! How transfers ended, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Outcome;
#[cfg(doc)]
use crate::transfer::Status;

/// How requests ended, in running totals: every one that was submitted is in `ended` once, or outstanding.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests taken.
    pub submitted: AtomicU64,
    /// Requests ended, by [`Status::code`]; those that the operating system refused come last.
    pub ended: [AtomicU64; 18],
    /// Bytes that were moved, as the outcomes say.
    pub bytes: AtomicU64,
    /// Completions that were found though no interrupt told of them.
    pub lost_interrupts: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, outcome: &Outcome) {
        self.ended[(outcome.status.code() as usize).min(self.ended.len() - 1)].fetch_add(1, Relaxed);
        self.bytes.fetch_add(outcome.bytes as u64, Relaxed);
    }
}
