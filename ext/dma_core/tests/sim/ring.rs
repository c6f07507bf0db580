//! A descriptor ring that is driven by hand, on a channel without a driver.

use dma_core::engine::{Bank, Mapping};
use dma_core::ring::{Memory, Ring};
use dma_core::transfer::{flags, Descriptor, Status};

use super::registers::{mapped, Driver, BUSY, HALTED, RESET};
use super::*;
use crate::support::{bytes, region, whole};

const SLOTS: u32 = 4;

/// A ring in memory that the channel has been told of.
fn ring(bench: &Bench, driver: &Driver) -> (Ring, Arc<dyn Mapping>) {
    let memory = region(4096, 0);
    let mapping = bench.sim.map_ring(whole(&memory)).unwrap();
    driver.set(0x20, 8, mapping.segments()[0].0);
    driver.set(0x28, 4, u64::from(SLOTS));
    (Ring::new(Memory::new(&memory, 0, SLOTS).unwrap()).unwrap(), mapping)
}

/// Takes descriptors off until the ring is empty.
fn drain(bench: &Bench, ring: &mut Ring) -> Vec<Status> {
    let mut ended = Vec::new();
    while ring.pending() > 0 {
        match ring.pop() {
            Some((_, descriptor)) => ended.push(Status::from_code(descriptor.status)),
            None if bench.device.engine().clock().is_some() => bench.machine.step(64),
            None => std::thread::yield_now(),
        }
    }
    ended
}

fn write(source: u64, destination: u64, control: u32) -> Descriptor {
    Descriptor { source, destination, length: 64, flags: flags::TO_DEVICE | control, ..Descriptor::default() }
}

#[test]
fn a_ring_is_driven_round_and_round() {
    for bench in machines() {
        let driver = Driver::new(&bench);
        let (mut ring, _mapping) = ring(&bench, &driver);
        let (_source, _held, from) = mapped(&bench, 7);
        for round in 0..10u64 {
            let count = 1 + round % 3;
            for index in 0..count {
                ring.add(write(from, 64 * (3 * round + index), 0)).unwrap();
            }
            driver.set(0x2c, 4, u64::from(ring.tail()));
            assert_eq!(drain(&bench, &mut ring), vec![Status::Complete; count as usize]);
            let back = region(192, 1);
            bench.carry_out(Op::Read { offset: 192 * round, span: whole(&back) });
            let seen = bytes(&back);
            let written = 64 * count as usize;
            assert!(seen[..written].iter().all(|byte| *byte == 7) && seen[written..].iter().all(|byte| *byte == 0));
        }
        while driver.get(0x1c, 4) != u64::from(ring.head()) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_fence_in_a_ring_is_not_passed_after_a_failure_until_it_is_empty() {
    for bench in machines() {
        let driver = Driver::new(&bench);
        let (mut ring, _mapping) = ring(&bench, &driver);
        let (_source, _held, from) = mapped(&bench, 7);
        for (destination, control) in [(MEMORY, 0), (0, 0), (64, flags::FENCE)] {
            ring.add(write(from, destination, control)).unwrap();
        }
        driver.set(0x2c, 4, u64::from(ring.tail()));
        let ended = drain(&bench, &mut ring);
        assert_eq!(ended, [Status::BadDestination, Status::Complete, Status::NotAttempted]);
        // The status is written back before the device has moved on.
        while driver.get(0x1c, 4) != u64::from(ring.tail()) {
            std::thread::yield_now();
        }
        ring.add(write(from, 64, flags::FENCE)).unwrap();
        driver.set(0x2c, 4, u64::from(ring.tail()));
        assert_eq!(drain(&bench, &mut ring), [Status::Complete]);
    }
}

#[test]
fn a_descriptor_that_software_cancels_in_time_is_skipped() {
    for bench in machines() {
        let driver = Driver::new(&bench);
        let (mut ring, _mapping) = ring(&bench, &driver);
        let (_source, _held, from) = mapped(&bench, 7);
        let slots: Vec<u32> = (0..3).map(|index| ring.add(write(from, 64 * index, 0)).unwrap()).collect();
        ring.cancel(slots[1]);
        driver.set(0x2c, 4, u64::from(ring.tail()));
        assert_eq!(drain(&bench, &mut ring), [Status::Complete, Status::Aborted, Status::Complete]);
        let back = region(192, 1);
        bench.carry_out(Op::Read { offset: 0, span: whole(&back) });
        assert!(bytes(&back)[64..128].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_ring_that_cannot_be_read_halts_the_channel_until_it_is_reset() {
    for bench in machines() {
        let driver = Driver::new(&bench);
        driver.set(0x20, 8, 0x6_0000_0000);
        driver.set(0x28, 4, u64::from(SLOTS));
        driver.set(0x2c, 4, 1);
        while driver.status().0 & HALTED == 0 {
            bench.machine.step(1);
        }
        assert!(driver.status().1.is_failure() && driver.status().0 & BUSY == 0);
        driver.set(0x14, 2, RESET);
        assert_eq!((driver.status().0, driver.get(0x28, 4), driver.get(0x2c, 4)), (0, 0, 0));
        let (mut ring, _mapping) = ring(&bench, &driver);
        let (_source, _held, from) = mapped(&bench, 7);
        ring.add(write(from, 0, 0)).unwrap();
        driver.set(0x2c, 4, u64::from(ring.tail()));
        assert_eq!(drain(&bench, &mut ring), [Status::Complete]);
    }
}

#[test]
fn registers_of_a_ring_that_has_a_driver_are_not_written() {
    for bench in machines() {
        let registers = bench.device.engine().registers(Bank::Bar(0)).unwrap();
        let channel = bench.channel();
        let block = dma_core::engine::sim::channel_offset(channel.index());
        let before = [0x20, 0x28, 0x2c].map(|at| registers.read(block + at, 4));
        for at in [0x20, 0x28, 0x2c] {
            registers.write(block + at, 4, 99);
        }
        assert_eq!([0x20, 0x28, 0x2c].map(|at| registers.read(block + at, 4)), before);
        registers.write(block + 0x14, 2, RESET);
        let target = region(64, 1);
        assert_eq!(bench.carry_out(Op::Read { offset: 0, span: whole(&target) }).status, Status::Complete);
    }
}
