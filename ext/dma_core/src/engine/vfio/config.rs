//! The configuration space of a function.

use std::thread;
use std::time::{Duration, Instant};

use super::bar::Bar;
use crate::engine::Registers;

/// Registers of the configuration space (PCI Local Bus Specification 3.0, 6.1 and 6.7).
mod register {
    pub const COMMAND: u64 = 0x04;
    pub const BUS_MASTER: u64 = 1 << 2;
    pub const MEMORY_SPACE: u64 = 1 << 1;
    pub const STATUS: u64 = 0x06;
    pub const HAS_CAPABILITIES: u64 = 1 << 4;
    pub const CAPABILITIES: u64 = 0x34;
    /// The power management capability, and in it the control register, whose lowest two bits are the power state
    /// (PCI Bus Power Management 1.2, 3.2.4).
    pub const POWER: u64 = 0x01;
    pub const POWER_CONTROL: u64 = 0x04;
    /// The PCI Express capability, its device status and there the bit that transactions are pending (PCI Express Base, 7.5.3).
    pub const EXPRESS: u64 = 0x10;
    pub const DEVICE_STATUS: u64 = 0x0a;
    pub const PENDING: u64 = 1 << 5;
}

/// How long a device may take to end the transactions it has begun.
const DRAIN: Duration = Duration::from_secs(1);

/// Registers that a program may write as well. Two things stay as they are for it, because BARs are mapped, and would end the process
/// with SIGBUS where they are not there: memory space stays on, and the function in its power state D0.
#[derive(Debug)]
pub(super) struct Config {
    bar: Bar,
    /// Where the power state is, if it has one.
    power: Option<u64>,
    /// Where it says that transactions are pending, if it does.
    status: Option<u64>,
}

impl Config {
    /// Looks where things are in it.
    pub(super) fn new(bar: Bar) -> Config {
        let power = capability(&bar, register::POWER).map(|at| at + register::POWER_CONTROL);
        let status = capability(&bar, register::EXPRESS).map(|at| at + register::DEVICE_STATUS);
        Config { bar, power, status }
    }

    fn command(&self, set: u64, clear: u64) {
        let command = self.bar.read(register::COMMAND, 2);
        self.bar.write(register::COMMAND, 2, command & !clear | set);
    }

    /// Memory space on, and bus mastering off.
    pub(super) fn begin(&self) {
        self.command(register::MEMORY_SPACE, register::BUS_MASTER);
    }

    pub(super) fn is_bus_master(&self) -> bool {
        self.bar.read(register::COMMAND, 2) & register::BUS_MASTER != 0
    }

    pub(super) fn start_mastering(&self) {
        self.command(register::BUS_MASTER, 0);
    }

    /// Returns when the transactions that were begun have ended.
    pub(super) fn stop_mastering(&self) {
        self.command(0, register::BUS_MASTER);
        let Some(status) = self.status else { return };
        let deadline = Instant::now() + DRAIN;
        // A device that is not there reads as all ones, and has nothing pending.
        let pending = |value: u64| value != 0xffff && value & register::PENDING != 0;
        while pending(self.bar.read(status, 2)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Where a capability is.
fn capability(bar: &Bar, id: u64) -> Option<u64> {
    if bar.read(register::STATUS, 2) & register::HAS_CAPABILITIES == 0 {
        return None;
    }
    let mut at = bar.read(register::CAPABILITIES, 1) & 0xfc;
    // There is room for 48 of them: a chain that is longer goes round.
    for _ in 0..48 {
        match at {
            0 => return None,
            at if bar.read(at, 1) == id => return Some(at),
            _ => at = bar.read(at + 1, 1) & 0xfc,
        }
    }
    None
}

impl Registers for Config {
    fn size(&self) -> u64 {
        self.bar.size()
    }

    fn read(&self, offset: u64, width: u8) -> u64 {
        self.bar.read(offset, width)
    }

    fn write(&self, offset: u64, width: u8, value: u64) {
        let lane =
            |register: u64| (offset..offset + u64::from(width)).contains(&register).then(|| 8 * (register - offset));
        let on = lane(register::COMMAND).map_or(0, |shift| register::MEMORY_SPACE << shift);
        let off = self.power.and_then(lane).map_or(0, |shift| 0b11 << shift);
        self.bar.write(offset, width, value & !off | on);
    }
}
