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
use dma_core::engine::Limits;
use dma_core::memory::{Region, Span};
use dma_core::transfer::{Direction, Op, Status};

use crate::engines::Rig;
use crate::support::{bytes, region, whole};

/// How long something may take that does not hang: a limit for the test, which it never comes near.
pub const GRACE: Duration = Duration::from_secs(60);
/// What every engine reads and writes without bouncing.
pub const BLOCK: usize = 4096;
/// Where cases that make a device fail move bytes: past what opening a file may read.
pub const BASE: u64 = 0x2_0000;

/// The device address of block `index`.
pub fn block(index: usize) -> u64 {
    BASE + (index * BLOCK) as u64
}

/// Bytes in which every place is told from its neighbours.
pub fn numbered(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| ((n + seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect()
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

/// Reads of a block each from `count` blocks, and the memory they go to.
pub fn reads(count: usize) -> Vec<(Arc<Region>, Request)> {
    let read_block = |index| {
        let target = region(BLOCK, 0xee);
        let request = Request::new(read(block(index), &target, 0, BLOCK));
        (target, request)
    };
    (0..count).map(read_block).collect()
}

pub fn wait(channel: &Shared, ticket: &Arc<Ticket>) -> Outcome {
    channel.wait_plain(ticket, Some(GRACE), GRACE).unwrap()
}

/// Carries one operation out.
pub fn carry_out(channel: &Shared, op: Op) -> Outcome {
    let ticket = channel.submit(Request::new(op), true).unwrap();
    wait(channel, &ticket)
}

/// Checks that the channel does its work.
pub fn check_works(channel: &Shared, rig: &Rig) {
    let target = region(BLOCK, 0xee);
    let outcome = carry_out(channel, read(block(40), &target, 0, BLOCK));
    assert_eq!((outcome.status, outcome.bytes), (Status::Complete, BLOCK));
    assert_eq!(bytes(&target), rig.original(block(40), BLOCK));
}

impl Rig {
    /// Channel 0.
    pub fn channel(&self) -> Arc<Shared> {
        self.device.channel(0).unwrap()
    }

    pub fn limits(&self) -> Limits {
        self.device.engine().limits()
    }

    /// What offsets and lengths have to be a multiple of.
    pub fn grain(&self) -> u64 {
        let limits = self.limits();
        if limits.strict {
            limits.granule
        } else {
            1
        }
    }

    /// Writes `data` at `offset`.
    pub fn put(&self, offset: u64, data: &[u8]) {
        let source = filled(data);
        let outcome = carry_out(&self.channel(), write(offset, &source, 0, data.len()));
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, data.len()));
        assert_eq!(bytes(&source), data, "the source");
    }

    /// The bytes at `offset`.
    pub fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let target = region(len, 0);
        let outcome = carry_out(&self.channel(), Direction::FromDevice.op(offset, whole(&target)));
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len));
        bytes(&target)
    }

    /// Ends a case: nothing is under way, every transfer ended once, and nothing but rings is mapped.
    pub fn finish(self) {
        let channels = self.device.open_channels();
        for channel in &channels {
            assert_eq!(channel.pending().map(|pending| pending.len()), Ok(0), "a transfer was lost");
            check_sums(channel, 0);
            let moved = channel.counters().bytes.load(Relaxed);
            let seen = self.sim.as_ref().map_or(u64::MAX, |sim| sim.totals(channel.index()).1);
            assert!(moved <= seen, "the channel counts {moved} bytes, the device {seen}");
        }
        if let Some(sim) = &self.sim {
            assert_eq!(sim.mappings(), 2 * channels.len(), "ring and chains of each channel");
        }
    }
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
