//! What a device with 8237s has beside what others have, and has not.

use std::ops::Range;
use std::sync::Arc;

use super::board::{Costs, CHANNELS};
use super::cascade::CASCADE;
use super::driver::Isa;
use crate::engine::sim::controller::Bus;
use crate::engine::sim::device::Device;
use crate::engine::sim::options::DeviceOptions;
use crate::engine::sim::space::Row;
use crate::engine::{Limits, Mapping};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::Access;

/// Bits of an address: a page's and a controller's.
const ADDRESS_BITS: u32 = 24;
/// Where no mapping is to cross that has room between.
const PAGE: u64 = 1 << 16;

impl DeviceOptions {
    /// A device with 8237s, which have eight channels and 24 address bits; `ring_size` is for the driver's own queue. Its memory is
    /// the cards', whose registers for addresses in it have 32 bits.
    pub fn isa() -> DeviceOptions {
        let (channels, address_bits) = (CHANNELS as u16, ADDRESS_BITS);
        DeviceOptions { channels, address_bits, isa: true, ..DeviceOptions::default() }
    }

    /// What is as the controllers have it.
    fn fixed(&self) -> [(&'static str, u64); 5] {
        let DeviceOptions { channels, alignment, address_bits, max_segments, prefetch, .. } = *self;
        [
            ("channels", channels.into()),
            ("alignment", alignment),
            ("address_bits", address_bits.into()),
            ("max_segments", max_segments as u64),
            ("prefetch", prefetch.into()),
        ]
    }

    pub(in crate::engine::sim) fn check_isa(&self) -> Result<()> {
        let memory = self.memory;
        let mut fixed = self.fixed().into_iter().zip(DeviceOptions::isa().fixed());
        if let Some(((name, asked), (_, theirs))) = fixed.find(|(asked, theirs)| asked != theirs) {
            return Err(Error::Argument(format!(
                "{name}: {asked} is not what 8237 controllers have, which is {theirs}: they have {CHANNELS} channels, one of them their \
                 cascade, and {ADDRESS_BITS} address bits, and the driver splits what is in pieces; leave {name}: out"
            )));
        }
        if self.max_length != u64::MAX {
            let what = "max_length: 8237 controllers move up to 64 KiB at once, or as many words; leave it out";
            return Err(Error::Argument(what.into()));
        }
        if memory == 0 || memory > 1 << 32 {
            return Err(Error::Argument(format!(
                "memory: {memory} bytes are not in 1..2**32, which the cards have registers for"
            )));
        }
        self.check_ring()
    }
}

impl Device {
    /// Whether 8237s move its bytes.
    pub fn is_isa(&self) -> bool {
        self.options().isa
    }

    /// The channels that take even addresses and lengths only.
    pub fn word_channels(&self) -> Range<u16> {
        if self.is_isa() {
            CASCADE + 1..CHANNELS as u16
        } else {
            0..0
        }
    }

    /// What transfers cost beside cycles of the bus, where 8237s move the bytes.
    pub fn costs(&self) -> Option<Costs> {
        self.is_isa().then(|| self.with_isa(|isa, _| isa.costs()))
    }

    /// The driver brings transfers into pieces that fit.
    pub(in crate::engine::sim) fn isa_limits(&self) -> Limits {
        let DeviceOptions { memory, max_segments, .. } = self.options();
        Limits { size: memory, ordered: true, flushes: false, max_segments, ..Limits::ANY }
    }

    /// Maps memory in one piece that does not leave a page, where it fits into one.
    pub(in crate::engine::sim) fn map_isa(
        &self,
        span: Span,
        access: Access,
        is_pinned: bool,
    ) -> Result<Arc<dyn Mapping>> {
        self.map_row(span, access, Row::within(PAGE, false), is_pinned)
    }

    /// What the controllers reach all of already, because it is mapped.
    pub(super) fn map_direct(&self, span: &Span, access: Access) -> Option<Arc<dyn Mapping>> {
        self.map_again(span, access, ADDRESS_BITS)
    }

    pub(in crate::engine::sim) fn with_isa<T>(&self, work: impl FnOnce(&mut Isa, &mut Bus<'_>) -> T) -> T {
        let (mut work, mut result) = (Some(work), None);
        self.machine().with_isa(self.number(), |isa, bus| result = work.take().map(|work| work(isa, bus)));
        result.expect("a device has its controllers as long as it lives")
    }
}
