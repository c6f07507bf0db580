//! Memory, which all masters share, and how much of it there is in a second.
//!
//! It serves one after the other, in the order in which they are granted their bus. A transaction whose bytes memory is slower with
//! than the bus is stretched: by wait states on a shared bus, by credits that do not come back on a link.

use super::timing::Timing;

/// Bytes a second of a channel of DDR4-3200, eight bytes wide (JEDEC JESD79-4): what machines with links have unless they are told.
pub(super) const DDR4: u64 = 25_600_000_000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Memory {
    /// Bytes of `frequency` cycles; none: it is faster than everybody.
    bandwidth: Option<u64>,
    frequency: u64,
    /// When it has served all that it was asked for.
    pub free: u64,
}

impl Memory {
    pub(super) fn new(bandwidth: Option<u64>, timing: &Timing) -> Memory {
        let bandwidth = bandwidth.or(timing.links.then_some(DDR4));
        Memory { bandwidth, frequency: timing.frequency, free: 0 }
    }

    /// Cycles of the bus for `len` bytes.
    pub(super) fn cycles(&self, len: u64) -> u64 {
        let Some(bandwidth) = self.bandwidth else { return 0 };
        let cycles = (u128::from(len) * u128::from(self.frequency)).div_ceil(u128::from(bandwidth));
        u64::try_from(cycles).unwrap_or(u64::MAX)
    }
}
