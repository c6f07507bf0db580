//! Who asks for the bus: a channel of a device with a descriptor ring, or the two 8237 of a device that has these.

use super::controller::{Bus, Controller};
use super::cpu::Mode;
use super::isa::Isa;
use super::timing::Timing;

/// See the [module](self).
#[derive(Debug)]
pub(super) enum Master {
    Ring(Controller),
    Isa(Box<Isa>),
}

impl Master {
    /// Its device's number.
    pub(super) fn device(&self) -> u32 {
        match self {
            Master::Ring(controller) => controller.port.common.number,
            Master::Isa(isa) => isa.number(),
        }
    }

    /// How many bytes its next transaction moves; `None` where there is nothing to do.
    pub(super) fn next_len(&self, burst: u64) -> Option<u64> {
        match self {
            Master::Ring(controller) => controller.next_len(burst),
            Master::Isa(isa) => isa.next_len(),
        }
    }

    /// Whether that is the next part of a block that it is moving.
    pub(super) fn goes_on(&self) -> bool {
        match self {
            Master::Ring(controller) => controller.goes_on(),
            Master::Isa(isa) => isa.goes_on(),
        }
    }

    /// How it shares the bus with the CPU.
    pub(super) fn mode(&self) -> Mode {
        match self {
            Master::Ring(controller) => controller.mode,
            Master::Isa(isa) => isa.mode(),
        }
    }

    /// What its transactions cost on a bus that is like this for others.
    pub(super) fn timing(&self, bus: &Timing) -> Timing {
        match self {
            Master::Ring(_) => *bus,
            Master::Isa(isa) => isa.timing(bus.frequency),
        }
    }

    /// Carries the next transaction out.
    pub(super) fn transact(&mut self, bus: &mut Bus<'_>) {
        match self {
            Master::Ring(controller) => controller.transact(bus),
            Master::Isa(isa) => isa.transact(bus),
        }
    }
}
