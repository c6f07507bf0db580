//! What happens on the bus of a machine with a manual clock is the same in every run; short scripts are compared with files, which
//! DMA_WRITE_TRACES=1 writes anew.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use dma_core::engine::sim::Event;
use dma_core::transfer::{Direction, Status};

use super::*;
use crate::support::{region, whole};

/// Compares with tests/traces.
fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces").join(name);
    if env::var_os("DMA_WRITE_TRACES").is_some() {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (number, (line, wanted)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(line, wanted, "{name}, line {}", number + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "lines of {name}");
}

fn text(events: &[Event]) -> String {
    events.iter().fold(String::new(), |mut text, event| {
        writeln!(text, "{event}").unwrap();
        text
    })
}

/// One of everything.
fn tour(iommu: bool) -> String {
    let bench = Bench::new(Clock::Manual, iommu);
    bench.machine.start_trace().unwrap();
    let (long, short) = (region(10_000, 1), region(100, 2));
    let (to, from) = (Direction::ToDevice, Direction::FromDevice);
    bench.carry_out(to.op(0, whole(&long)));
    bench.carry_out(from.op(64, whole(&short)));
    bench.carry_out(Op::Copy { from: 0, to: 4096, len: 1000 });
    for kind in [Kind::BusError, Kind::Poison, Kind::IommuFault, Kind::LostInterrupt, Kind::Hang, Kind::LinkDown] {
        bench.inject(kind, Trigger::Descriptor(0), Some(1));
        let ticket = bench.submit(from.op(64, whole(&short)));
        let _ = bench.channel().wait_plain(&ticket, Some(Duration::from_nanos(500)), GRACE);
        bench.device.reset(GRACE).unwrap();
    }
    let burst: Vec<_> = (0..3).map(|_| bench.submit(to.op(0, whole(&short)))).collect();
    bench.channel().cancel(&burst[1], Status::Aborted);
    bench.machine.run_until_idle();
    bench.channel().progress().unwrap();
    assert!(burst.iter().all(|ticket| ticket.outcome().is_some()));
    text(&bench.machine.take_trace().events)
}

#[test]
fn one_of_everything_leaves_the_trace_it_always_left() {
    check("tour_iommu.txt", &tour(true));
    check("tour_physical.txt", &tour(false));
}

/// A random script of 10,000 transfers with faults, cancels, timeouts and resets: its trace, and how each transfer ended.
fn script(iommu: bool) -> (String, Vec<Outcome>) {
    let bench = Bench::new(Clock::Manual, iommu);
    let mut random = fastrand::Rng::with_seed(42);
    for (kind, probability) in [
        (Kind::BusError, 0.01),
        (Kind::Poison, 0.01),
        (Kind::IommuFault, 0.01),
        (Kind::LostInterrupt, 0.01),
        (Kind::Hang, 0.001),
    ] {
        bench.inject(kind, Trigger::Probability(probability), None);
    }
    bench.machine.start_trace().unwrap();
    let channels = [0, 1].map(|index| bench.device.channel(index).unwrap());
    let (memory, mut open, mut ended) = (region(16_384, 3), Vec::new(), Vec::new());
    for _ in 0..10_000 {
        let channel = &channels[random.usize(..2)];
        let (len, offset) = (random.usize(1..2000), random.u64(..100_000));
        let span = dma_core::memory::Span::new(&memory, random.usize(..14_000), len).unwrap();
        let op = match random.u8(..5) {
            0 => Op::Copy { from: offset, to: random.u64(..100_000), len: len as u64 },
            1 | 2 => Op::Read { offset, span },
            _ => Op::Write { offset, span },
        };
        let mut request = Request::new(op);
        request.fence = random.u8(..20) == 0;
        open.push((channel, channel.submit(request, random.u8(..3) > 0).unwrap()));
        match random.u8(..40) {
            0 => channel.cancel(&open[random.usize(..open.len())].1, Status::Aborted),
            1 => bench.machine.step(random.u64(..1000)),
            2..=9 => {
                for (channel, ticket) in open.drain(..) {
                    channel.kick().unwrap();
                    let _ = channel.wait_plain(&ticket, Some(Duration::from_micros(100)), GRACE);
                    ended.extend(ticket.outcome());
                }
            }
            _ => {}
        }
    }
    for (channel, ticket) in open {
        channel.kick().unwrap();
        let _ = channel.wait_plain(&ticket, None, GRACE);
        ended.extend(ticket.outcome());
    }
    (text(&bench.machine.take_trace().events), ended)
}

#[test]
fn two_runs_of_a_random_script_leave_the_same_trace() {
    for (iommu, name) in [(true, "random_iommu.txt"), (false, "random_physical.txt")] {
        let (first, ended) = script(iommu);
        let (second, again) = script(iommu);
        assert_eq!(ended.len(), 10_000, "every transfer ended");
        assert_eq!(ended, again);
        assert!(first == second, "the traces differ");
        let sum = first
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let head: String = first.lines().take(100).fold(String::new(), |head, line| head + line + "\n");
        check(name, &format!("{head}... {} lines, FNV-1a {sum:016x}\n", first.lines().count()));
    }
}
