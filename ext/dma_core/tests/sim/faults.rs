//! Faults on demand, as a channel sees them.

use dma_core::engine::Bank;
use dma_core::transfer::{Access, Direction, Status};

use super::*;
use crate::support::{bytes, region, whole};

const LEN: usize = 3 * 4096;

#[test]
fn a_fault_at_an_address_moves_what_lies_before_it_and_nothing_behind() {
    for (kind, reads, writes) in [
        (Kind::BusError, Status::BusReadError, Status::BusWriteError),
        (Kind::Poison, Status::DataPoison, Status::DataPoison),
    ] {
        for bench in machines() {
            for at in [0, 1, 1000, 4096, LEN - 1] {
                let device = 0x8_0000;
                bench.inject(kind, Trigger::Address(device + at as u64), Some(2));
                let target = region(LEN, 0xee);
                let outcome = bench.carry_out(Direction::FromDevice.op(device, whole(&target)));
                assert_eq!((outcome.status, outcome.bytes), (writes, at));
                let seen = bytes(&target);
                assert!(seen[..at].iter().all(|byte| *byte == 0) && seen[at..].iter().all(|byte| *byte == 0xee));
                let outcome = bench.carry_out(Direction::ToDevice.op(device, whole(&target)));
                assert_eq!((outcome.status, outcome.bytes), (reads, at));
                assert_eq!(bytes(&target), seen, "the source");
                let back = region(LEN, 1);
                assert_eq!(bench.carry_out(Direction::FromDevice.op(device, whole(&back))).status, Status::Complete);
                assert!(
                    bytes(&back).iter().all(|byte| *byte == 0),
                    "what was written lies before the fault, zeros too"
                );
                assert_eq!(target.in_flight(), 0);
            }
        }
    }
}

#[test]
fn an_iommu_fault_says_where_and_what_for() {
    for bench in machines() {
        for (direction, access) in [(Direction::FromDevice, Access::Write), (Direction::ToDevice, Access::Read)] {
            bench.inject(Kind::IommuFault, Trigger::Descriptor(0), Some(1));
            let memory = region(LEN, 0xee);
            let outcome = bench.carry_out(direction.op(0, whole(&memory)));
            let (count, last) = bench.sim.iommu_faults();
            assert_eq!((outcome.bytes, Some(&outcome.status)), (0, last.last()));
            assert!(matches!(outcome.status, Status::IommuFault { access: seen, .. } if seen == access));
            assert_eq!(count, last.len() as u64);
            assert_eq!(bytes(&memory), [0xee; LEN]);
        }
    }
}

#[test]
fn a_fault_in_a_copy_stops_it_there() {
    for bench in machines() {
        for (at, moved) in [(0x100, 0x100), (0x4_0000 + 70_000, 70_000), (0x4_0000, 0)] {
            let data: Vec<u8> = (0..100_000).map(|n| (n % 251 + 1) as u8).collect();
            let source = region(data.len(), 0);
            // SAFETY: both have the same length.
            unsafe { source.write(0, data.as_ptr(), data.len()) }.unwrap();
            let zeros = region(100_000, 0);
            bench.carry_out(Direction::ToDevice.op(0, whole(&source)));
            bench.carry_out(Direction::ToDevice.op(0x4_0000, whole(&zeros)));
            bench.inject(Kind::Poison, Trigger::Address(at), Some(1));
            let outcome = bench.carry_out(Op::Copy { from: 0, to: 0x4_0000, len: 100_000 });
            assert_eq!((outcome.status, outcome.bytes), (Status::DataPoison, moved));
            let back = region(100_000, 1);
            bench.carry_out(Direction::FromDevice.op(0x4_0000, whole(&back)));
            let seen = bytes(&back);
            assert!(seen[..moved] == data[..moved] && seen[moved..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_link_that_is_down_comes_up_with_a_reset() {
    for bench in machines() {
        for _ in 0..3 {
            let channel = bench.channel();
            bench.inject(Kind::LinkDown, Trigger::Descriptor(1), Some(1));
            let targets: Vec<_> = (0..6).map(|_| region(4096, 0xee)).collect();
            let read = |target| Request::new(Direction::FromDevice.op(0, whole(target)));
            let tickets: Vec<_> = targets.iter().map(|target| channel.submit(read(target), false).unwrap()).collect();
            channel.kick().unwrap();
            let ended = |ticket| channel.wait_plain(ticket, Some(GRACE), GRACE).unwrap().status;
            assert_eq!((ended(&tickets[0]), ended(&tickets[1])), (Status::Complete, Status::LinkDown));
            assert!(!bench.sim.has_link());
            assert!(tickets[2..].iter().all(|ticket| ended(ticket) == Status::LinkDown));
            assert_eq!(bench.carry_out(Direction::FromDevice.op(0, whole(&targets[0]))).status, Status::LinkDown);
            assert_eq!(bytes(&targets[5]), [0xee; 4096]);
            let registers = bench.device.engine().registers(Bank::Bar(0)).unwrap();
            assert_eq!((registers.read(0, 4), registers.read(0x10, 4)), (0xffff_ffff, 0));
            assert_eq!(bench.device.reset(GRACE), Ok(true));
            assert!(tickets.iter().all(|ticket| ticket.outcome().is_some()));
            assert!(targets.iter().all(|target| target.in_flight() == 0));
            assert!(bench.sim.has_link());
            let outcome = bench.carry_out(Direction::FromDevice.op(0, whole(&targets[5])));
            assert_eq!(outcome.status, Status::Complete);
            assert_eq!(bytes(&targets[5]), [0; 4096]);
        }
    }
}

#[test]
fn a_transfer_whose_interrupt_got_lost_completes() {
    for bench in machines() {
        bench.inject(Kind::LostInterrupt, Trigger::Descriptor(0), Some(1));
        let target = region(4096, 0xee);
        let outcome = bench.carry_out(Direction::FromDevice.op(0, whole(&target)));
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, 4096));
        assert_eq!(bytes(&target), [0; 4096]);
        assert_eq!(bench.sim.totals(0).2, 0, "no interrupt was raised");
    }
}

/// How many of eight transfers end in which way, with these faults at descriptors.
fn burst(bench: &Bench, faults: &[(Kind, u64, Option<u64>)]) -> Vec<Status> {
    for (kind, number, count) in faults {
        bench.inject(*kind, Trigger::Descriptor(*number), *count);
    }
    let target = region(64, 0);
    (0..8).map(|_| bench.carry_out(Direction::FromDevice.op(0, whole(&target))).status).collect()
}

#[test]
fn faults_count_every_descriptor_since_they_were_injected() {
    let (ok, poison, bus) = (Status::Complete, Status::DataPoison, Status::BusWriteError);
    let bench = Bench::new(Clock::Manual, true);
    let faults = [(Kind::Poison, 0, Some(1)), (Kind::BusError, 1, Some(1)), (Kind::Poison, 4, Some(2))];
    assert_eq!(burst(&bench, &faults), [poison, bus, ok, ok, poison, poison, ok, ok]);
    assert_eq!(burst(&bench, &[(Kind::Poison, 0, Some(0)), (Kind::BusError, 7, None)])[6..], [ok, bus]);
    bench.machine.clear_faults();
    assert_eq!(burst(&bench, &[]), [ok; 8]);
}

#[test]
fn faults_keep_to_their_device_and_channel() {
    let bench = Bench::new(Clock::Manual, true);
    for (device, channel) in [(Some(1), None), (None, Some(1))] {
        let trigger = Trigger::Probability(1.0);
        bench.machine.inject(Fault { kind: Kind::Poison, trigger, device, channel, count: None });
    }
    assert_eq!(burst(&bench, &[]), [Status::Complete; 8]);
    let (other, target) = (bench.device.channel(1).unwrap(), region(64, 0));
    let request = Request::new(Direction::FromDevice.op(0, whole(&target)));
    let ticket = other.submit(request, true).unwrap();
    assert_eq!(other.wait_plain(&ticket, Some(GRACE), GRACE).unwrap().status, Status::DataPoison);
}
