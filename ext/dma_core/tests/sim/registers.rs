//! A driver that does everything by hand: one transfer through the registers of a channel.

use dma_core::engine::sim::channel_offset;
use dma_core::engine::{Bank, Engine, Mapping, Registers};
use dma_core::memory::Region;
use dma_core::transfer::{flags, Access, Status};

use super::*;
use crate::support::{bytes, region, whole};

pub const START: u64 = 1 << 8;
pub const ABORT: u64 = 1 << 9;
pub const RESET: u64 = 1 << 10;
pub const BUSY: u64 = 1;
const DONE: u64 = 2;
const ERROR: u64 = 4;
pub const HALTED: u64 = 8;

/// Registers of channel 2, which nobody else uses.
pub struct Driver(Arc<dyn Registers>);

impl Driver {
    pub fn new(bench: &Bench) -> Driver {
        Driver(bench.sim.registers(Bank::Bar(0)).unwrap())
    }

    pub fn get(&self, at: u64, width: u8) -> u64 {
        self.0.read(channel_offset(2) + at, width)
    }

    pub fn set(&self, at: u64, width: u8, value: u64) {
        self.0.write(channel_offset(2) + at, width, value);
    }

    pub fn begin(&self, source: u64, destination: u64, count: u64, control: u32) {
        self.set(0x00, 8, source);
        self.set(0x08, 8, destination);
        self.set(0x10, 4, count);
        self.set(0x14, 2, u64::from(control) | START);
    }

    /// Bits of the status, and the code of how it ended.
    pub fn status(&self) -> (u64, Status) {
        let status = self.get(0x16, 2);
        (status & 0xff, Status::from_code((status >> 8) as u32))
    }

    /// Waits as a driver does that polls.
    pub fn finish(&self, bench: &Bench) -> (u64, Status) {
        while self.status().0 & BUSY != 0 {
            if bench.device.engine().clock().is_some() {
                bench.machine.step(64);
            } else {
                std::thread::yield_now();
            }
        }
        self.status()
    }
}

/// Memory of one page, and its bus address.
pub fn mapped(bench: &Bench, byte: u8) -> (Arc<Region>, Arc<dyn Mapping>, u64) {
    let memory = region(4096, byte);
    let mapping = bench.sim.map(whole(&memory), Access::Both).unwrap();
    let address = mapping.segments()[0].0;
    (memory, mapping, address)
}

#[test]
fn the_device_says_what_it_is() {
    let bench = Bench::new(Clock::Free, true);
    let registers = bench.sim.registers(Bank::Bar(0)).unwrap();
    assert_eq!(registers.size(), channel_offset(4));
    assert_eq!((registers.read(0, 4), registers.read(4, 4)), (0x444d_4131, 4));
    assert_eq!((registers.read(8, 8), registers.read(0x10, 4)), (MEMORY, 1));
    assert_eq!(registers.read(0, 1), 0x31, "little-endian");
}

#[test]
fn a_transfer_is_started_and_polled_for() {
    for bench in machines() {
        let driver = Driver::new(&bench);
        let (source, _held, from) = mapped(&bench, 7);
        let (target, _kept, to) = mapped(&bench, 0xee);
        driver.begin(from, 512, 1000, flags::TO_DEVICE | flags::INTERRUPT);
        assert_eq!(driver.finish(&bench), (DONE, Status::Complete));
        assert_eq!((driver.get(0x10, 4), driver.get(0x18, 4)), (0, 1000), "COUNT and POSITION");
        driver.begin(512, to + 1, 1000, flags::FROM_DEVICE);
        assert_eq!(driver.finish(&bench), (DONE, Status::Complete));
        let seen = bytes(&target);
        assert!(seen[1..1001].iter().all(|byte| *byte == 7));
        assert!(seen[..1].iter().chain(&seen[1001..]).all(|byte| *byte == 0xee));
        driver.begin(512, 8192, 1000, flags::TO_DEVICE | flags::FROM_DEVICE);
        assert_eq!(driver.finish(&bench), (DONE, Status::Complete));
        let back = region(1000, 0);
        bench.carry_out(Op::Read { offset: 8192, span: whole(&back) });
        assert_eq!(bytes(&back), [7; 1000]);
        assert_eq!(bytes(&source), [7; 4096]);
        assert_eq!(bench.sim.totals(2).2, 1, "only the first one asked for an interrupt");
    }
}

#[test]
fn what_the_device_cannot_do_is_an_error_of_its_own() {
    for clock in [Clock::Free, Clock::Manual] {
        let bench = Bench::with(clock, true, DeviceOptions { alignment: 64, ..DeviceOptions::default() });
        let driver = Driver::new(&bench);
        let (memory, _held, here) = mapped(&bench, 9);
        let (to, from, within) = (flags::TO_DEVICE, flags::FROM_DEVICE, flags::TO_DEVICE | flags::FROM_DEVICE);
        for (source, destination, count, control, expected) in [
            (here, 0, 0, to, Status::BadLength),
            (here, 0, 63, to, Status::BadLength),
            (here + 1, 0, 64, to, Status::BadSource),
            (here, 32, 64, to, Status::BadDestination),
            (here, MEMORY, 64, to, Status::BadDestination),
            (here, MEMORY - 64, 128, to, Status::BadDestination),
            (here, u64::MAX - 63, 128, to, Status::BadDestination),
            (1 << 48, 0, 64, to, Status::BadSource),
            (MEMORY, here, 64, from, Status::BadSource),
            (0, 1 << 50, 64, from, Status::BadDestination),
            (0, MEMORY - 64, 128, within, Status::BadDestination),
            (here, 0, 64, 0, Status::DescriptorError),
        ] {
            driver.begin(source, destination, count, control);
            assert_eq!(driver.finish(&bench), (ERROR, expected), "{source:#x} {destination:#x} {count} {control}");
            assert_eq!(driver.get(0x18, 4), 0, "POSITION");
        }
        driver.begin(0x5_0000_0000, 0, 64, to);
        assert!(matches!(driver.finish(&bench), (ERROR, Status::IommuFault { .. })));
        assert_eq!(driver.get(0x30, 8), 0x5_0000_0000, "FAULT");
        assert_eq!(bytes(&memory), [9; 4096]);
        driver.begin(here, 0, 64, to);
        assert_eq!(driver.finish(&bench), (DONE, Status::Complete));
    }
}

#[test]
fn an_abort_stops_where_position_says() {
    let bench = Bench::new(Clock::Manual, true);
    let driver = Driver::new(&bench);
    let (target, _kept, to) = mapped(&bench, 0xee);
    driver.begin(0, to, 4096, flags::FROM_DEVICE);
    bench.machine.step(100);
    let moved = driver.get(0x18, 4) as usize;
    assert!(moved > 0 && moved < 4096 && driver.get(0x10, 4) == 4096 - moved as u64);
    driver.set(0x14, 2, ABORT);
    assert_eq!(driver.status(), (ERROR, Status::Aborted));
    bench.machine.run_until_idle();
    let seen = bytes(&target);
    assert!(seen[..moved].iter().all(|byte| *byte == 0) && seen[moved..].iter().all(|byte| *byte == 0xee));
}

#[test]
fn an_abort_or_reset_before_the_beginning_is_seen() {
    for stop in [ABORT, RESET] {
        let bench = Bench::new(Clock::Manual, true);
        let driver = Driver::new(&bench);
        let (target, _kept, to) = mapped(&bench, 0xee);
        driver.begin(0, to, 4096, flags::FROM_DEVICE);
        assert_eq!(driver.status().0, BUSY);
        driver.set(0x14, 2, stop);
        assert_eq!(driver.status().0 & BUSY, 0, "who polls for the end would never see it");
        bench.machine.run_until_idle();
        assert_eq!(bytes(&target), [0xee; 4096]);
        driver.begin(0, to, 64, flags::FROM_DEVICE);
        assert_eq!(driver.finish(&bench), (DONE, Status::Complete));
    }
}

#[test]
fn the_reset_register_ends_a_transfer_that_hangs() {
    for bench in machines() {
        let driver = Driver::new(&bench);
        let (_target, _kept, to) = mapped(&bench, 0xee);
        bench.inject(Kind::Hang, Trigger::Descriptor(0), Some(1));
        driver.begin(0, to, 64, flags::FROM_DEVICE);
        bench.machine.run_until_idle();
        assert_eq!(driver.status().0, BUSY);
        bench.sim.registers(Bank::Bar(0)).unwrap().write(0x14, 4, 1);
        assert_eq!(driver.finish(&bench), (ERROR, Status::Aborted));
    }
}

#[test]
fn pollers_do_not_keep_the_machine_from_its_work() {
    let bench = Bench::new(Clock::Free, true);
    let driver = Driver::new(&bench);
    let (_target, _kept, to) = mapped(&bench, 0xee);
    for _ in 0..50 {
        driver.begin(0, to, 4096, flags::FROM_DEVICE);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(driver.finish(&bench), (DONE, Status::Complete)));
            }
        });
    }
}
