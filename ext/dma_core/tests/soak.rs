//! Many small transfers from several threads, with cancels, timeouts and faults: nothing is lost, nothing leaks, the sums are right.
//!
//! DMA_SOAK says how many; otherwise a million in the release profile, and fewer in others. The million:
//! `cargo test --release -p dma-core --test soak`.

#[path = "support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, thread};

use dma_core::channel::{Request, Shared, Ticket};
use dma_core::device::Device;
use dma_core::engine::sim::{self, DeviceOptions, Fault, Kind, Machine, MachineOptions, Trigger};
use dma_core::memory::{Region, Span};
use dma_core::transfer::{Direction, Status};
use dma_core::{sys, Error};
use support::{bytes, region, whole};

const THREADS: u64 = 4;
/// Transfers that a thread leaves under way.
const AHEAD: usize = 24;
/// After how long a transfer is given up: long enough for all but those that hang, and what waits behind them.
const PATIENCE: Duration = Duration::from_millis(20);
const GRACE: Duration = Duration::from_secs(60);

fn transfers() -> u64 {
    let usual = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };
    env::var("DMA_SOAK").map_or(usual, |count| count.parse().expect("DMA_SOAK is a number of transfers"))
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * sys::page_size()
}

/// What one thread does, and how each of its transfers ended.
struct User<'a> {
    channel: &'a Shared,
    random: fastrand::Rng,
    region: Arc<Region>,
    open: VecDeque<Arc<Ticket>>,
    ended: &'a [AtomicU64; 16],
}

impl User<'_> {
    fn work(&mut self, transfers: u64) {
        for _ in 0..transfers {
            if self.open.len() == AHEAD || self.random.u8(..8) == 0 {
                self.settle_one();
            }
            self.submit();
            if self.random.u8(..32) == 0 {
                let victim = self.random.usize(..self.open.len());
                self.channel.cancel(&self.open[victim], Status::Aborted);
            }
        }
        while !self.open.is_empty() {
            self.settle_one();
        }
    }

    fn submit(&mut self) {
        loop {
            let (len, start) = (self.random.usize(1..512), self.random.usize(..3500));
            let direction = if self.random.bool() { Direction::ToDevice } else { Direction::FromDevice };
            let span = Span::new(&self.region, start, len).unwrap();
            let mut request = Request::new(direction.op(self.random.u64(..60_000), span));
            request.fence = self.random.u8(..64) == 0;
            request.interrupt = self.random.u8(..16) > 0;
            match self.channel.submit(request, true) {
                Ok(ticket) => return self.open.push_back(ticket),
                Err(Error::RingFull(_)) if self.open.is_empty() => thread::yield_now(),
                Err(Error::RingFull(_)) => self.settle_one(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn settle_one(&mut self) {
        let Some(ticket) = self.open.pop_front() else { return };
        let timeout = if self.random.u8(..64) == 0 { Duration::from_micros(5) } else { PATIENCE };
        let waited = self.channel.wait_plain(&ticket, Some(timeout), GRACE);
        let status = ticket.status();
        match waited {
            Ok(outcome) => assert_eq!(outcome.status, status),
            Err(Error::TimedOut(_)) => assert_eq!(status, Status::TimedOut, "a completion was lost"),
            Err(error) => panic!("{error}"),
        }
        self.ended[status.code() as usize].fetch_add(1, Relaxed);
    }
}

fn machine(iommu: bool) -> (Arc<sim::Device>, Arc<Device>) {
    let machine = Machine::new(MachineOptions { iommu, seed: 9, ..MachineOptions::default() }).unwrap();
    for (kind, probability) in [
        (Kind::BusError, 1e-3),
        (Kind::Poison, 1e-3),
        (Kind::IommuFault, 1e-3),
        (Kind::LostInterrupt, 1e-4),
        (Kind::Hang, 2e-5),
    ] {
        let trigger = Trigger::Probability(probability);
        machine.inject(Fault { kind, trigger, device: None, channel: None, count: None });
    }
    let options = DeviceOptions { memory: 1 << 16, ring_size: 64, channels: 2, ..DeviceOptions::default() };
    let sim = sim::Device::new(&machine, options).unwrap();
    let device = Device::of_sim(&sim, "soak");
    (sim, device)
}

/// Carries so many transfers out on one machine, two threads to a channel.
fn soak(iommu: bool, transfers: u64) {
    let (sim, device) = machine(iommu);
    let channels = [0, 1].map(|index| device.channel(index).unwrap());
    let ended: [AtomicU64; 16] = Default::default();
    let regions: Vec<_> = (0..THREADS).map(|seed| region(4096, seed as u8)).collect();
    thread::scope(|scope| {
        for (seed, region) in (0..).zip(&regions) {
            let (channel, region, random) =
                (&channels[seed as usize % 2], Arc::clone(region), fastrand::Rng::with_seed(seed));
            let mut user = User { channel, random, region, open: VecDeque::new(), ended: &ended };
            scope.spawn(move || user.work(transfers / THREADS));
        }
    });
    let sum = |counts: &[AtomicU64]| counts.iter().map(|count| count.load(Relaxed)).sum::<u64>();
    assert_eq!(sum(&ended), transfers / THREADS * THREADS, "each transfer ended once");
    println!("{transfers} transfers, IOMMU {iommu}, by status: {ended:?}");
    for (code, count) in ended.iter().enumerate() {
        let counted: u64 = channels.iter().map(|channel| channel.counters().ended[code].load(Relaxed)).sum();
        assert_eq!(counted, count.load(Relaxed), "{}", Status::from_code(code as u32).name());
    }
    for (channel, index) in channels.iter().zip(0..) {
        let counters = channel.counters();
        assert_eq!(counters.submitted.load(Relaxed), sum(&counters.ended));
        assert!(counters.bytes.load(Relaxed) <= sim.totals(index).1);
        assert_eq!(channel.pending().unwrap().len(), 0);
        assert_eq!(channel.room(), Ok(63));
    }
    assert_eq!(sim.mappings(), 4, "ring and chains of both channels");
    assert!(regions.iter().all(|region| region.in_flight() == 0 && Arc::strong_count(region) == 1));
    sim.machine().clear_faults();
    for channel in &channels {
        let (source, target) = (region(4096, 7), region(4096, 0));
        for op in [Direction::ToDevice.op(0, whole(&source)), Direction::FromDevice.op(0, whole(&target))] {
            let ticket = channel.submit(Request::new(op), true).unwrap();
            assert_eq!(channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap().status, Status::Complete);
        }
        assert_eq!(bytes(&target), [7; 4096], "the channel works as it did");
        channel.close(GRACE);
    }
    assert_eq!(sim.mappings(), 0);
}

#[test]
fn nothing_is_lost_and_nothing_leaks() {
    // What the process allocates once is there before.
    soak(true, 4_000);
    soak(false, 4_000);
    let before = resident();
    soak(true, transfers() / 2);
    soak(false, transfers() - transfers() / 2);
    // A sanitizer keeps memory that was freed, and books of its own.
    if !option_env!("RUSTFLAGS").is_some_and(|flags| flags.contains("sanitizer")) {
        let grown = resident().saturating_sub(before);
        assert!(grown < 4 << 20, "{grown} bytes more are resident than before");
    }
}
