//! The cases, by what they are about, and what they have in common.

pub mod bytes;
pub mod life;
pub mod order;
pub mod room;
pub mod waits;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use dma_core::channel::{Outcome, Request, Shared, Ticket};
use dma_core::memory::{Region, Span};
use dma_core::transfer::{Direction, Op, Status};

use crate::support::{bytes, region, whole};

/// How long something may take that does not hang: a limit for the test, which it never comes near.
pub const GRACE: Duration = Duration::from_secs(60);

/// Bytes in which every place is told from its neighbours.
pub fn numbered(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| ((n + seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// Whether memory that was filled with 0xee is so still.
pub fn is_untouched(region: &Region) -> bool {
    bytes(region).iter().all(|byte| *byte == 0xee)
}

/// Memory with these bytes.
pub fn filled(data: &[u8]) -> Arc<Region> {
    let region = region(data.len(), 0);
    // SAFETY: both have the same length.
    unsafe { region.write(0, data.as_ptr(), data.len()) }.unwrap();
    region
}

pub fn read(offset: u64, region: &Arc<Region>, start: usize, len: usize) -> Op {
    Direction::FromDevice.op(offset, Span::new(region, start, len).unwrap())
}

pub fn write(offset: u64, region: &Arc<Region>, start: usize, len: usize) -> Op {
    Direction::ToDevice.op(offset, Span::new(region, start, len).unwrap())
}

pub fn wait(channel: &Shared, ticket: &Arc<Ticket>) -> Outcome {
    channel.wait_plain(ticket, Some(GRACE), GRACE).unwrap()
}

/// Carries one operation out.
pub fn carry_out(channel: &Shared, op: Op) -> Outcome {
    let ticket = channel.submit(Request::new(op), true).unwrap();
    wait(channel, &ticket)
}

/// Checks that each transfer of the channel ended once, all but `pending` of them.
pub fn check_sums(channel: &Shared, pending: u64) {
    let counters = channel.counters();
    let ended: u64 = counters.ended.iter().map(|count| count.load(Relaxed)).sum();
    assert_eq!(counters.submitted.load(Relaxed), ended + pending, "{counters:?}");
}

/// How many transfers ended with this status.
pub fn count(channel: &Shared, status: Status) -> u64 {
    let ended = &channel.counters().ended;
    ended[(status.code() as usize).min(ended.len() - 1)].load(Relaxed)
}
