//! Who asks for the bus: a channel of a device with descriptor rings, or the two 8237 of a device that has these.

use std::sync::Arc;

use super::access::Addresses;
use super::controller::{Bus, Controller};
use super::cpu::Mode;
use super::faults::Faults;
use super::handler::Handled;
use super::isa::Isa;
use super::remapping::Remapping;
use super::timing::Timing;
use super::trace::Master;

/// See the [module](self).
#[allow(clippy::large_enum_variant)] // nearly all of them are the large one
#[derive(Debug)]
pub(super) enum Requester {
    Ring(Controller),
    Isa(Box<Isa>),
}

impl Requester {
    /// The numbers of device and channel.
    pub(super) fn master(&self) -> Master {
        match self {
            Requester::Ring(controller) => controller.master(),
            Requester::Isa(isa) => isa.master(),
        }
    }

    /// The numbers of its device and, if it is one channel, of that.
    pub(super) fn place(&self) -> (u32, Option<u16>) {
        let (device, channel) = self.master();
        (device, matches!(self, Requester::Ring(_)).then_some(channel))
    }

    /// Whether it is of this device, and of this channel if there is one for each.
    pub(super) fn is_of(&self, device: u32, channel: Option<u16>) -> bool {
        let (number, index) = self.master();
        let is_channel = match self {
            Requester::Ring(_) => channel.is_none_or(|channel| channel == index),
            Requester::Isa(_) => true,
        };
        number == device && is_channel
    }

    /// The channels that it moves bytes by.
    pub(super) fn channels(&self) -> Vec<u16> {
        match self {
            Requester::Ring(controller) => vec![controller.master().1],
            Requester::Isa(_) => Isa::channels(),
        }
    }

    /// The end of what addresses it moves bytes at, of the bus or its own.
    pub(super) fn reach(&self) -> u64 {
        match self {
            Requester::Ring(controller) => controller.port.common.options.reach(),
            Requester::Isa(isa) => isa.options().reach(),
        }
    }

    /// How many bytes the next transaction moves, of up to `burst`; `None` where there is nothing to do.
    pub(super) fn next_len(&self, burst: u64) -> Option<u64> {
        match self {
            Requester::Ring(controller) => controller.next_len(burst),
            Requester::Isa(isa) => isa.next_len(),
        }
    }

    /// See [`Controller::stops_within`].
    pub(super) fn stops_within(&self, len: u64, faults: &Faults) -> bool {
        matches!(self, Requester::Ring(controller) if controller.stops_within(len, faults))
    }

    /// Whether that is a fetch from its ring.
    pub(super) fn fetches(&self) -> bool {
        matches!(self, Requester::Ring(controller) if controller.fetches())
    }

    /// The bus address of what it moves.
    pub(super) fn next_address(&self) -> u64 {
        match self {
            Requester::Ring(controller) => controller.next_address(),
            // They reach nothing that has more than 24 bits.
            Requester::Isa(_) => 0,
        }
    }

    /// Whether that is the next part of a block that it is moving.
    pub(super) fn goes_on(&self) -> bool {
        match self {
            Requester::Ring(controller) => controller.goes_on(),
            Requester::Isa(isa) => isa.goes_on(),
        }
    }

    /// How it shares the bus with the CPU.
    pub(super) fn mode(&self) -> Mode {
        match self {
            Requester::Ring(controller) => controller.mode,
            Requester::Isa(isa) => isa.mode(),
        }
    }

    /// What its transactions cost, if that is not what the bus is like for others.
    pub(super) fn timing(&self, bus: &Timing) -> Option<Timing> {
        match self {
            Requester::Ring(_) => None,
            Requester::Isa(isa) => Some(isa.timing(bus)),
        }
    }

    /// Loads and stores of the CPU for it so far.
    pub(super) fn operations(&self) -> u64 {
        match self {
            Requester::Ring(controller) => controller.port.operations(),
            Requester::Isa(isa) => isa.operations(),
        }
    }

    /// When it has to be called by, because of what it holds back.
    pub(super) fn due(&self) -> Option<u64> {
        match self {
            Requester::Ring(controller) => controller.due(),
            Requester::Isa(_) => None,
        }
    }

    /// Gives it an entry for its interrupts, if they are messages.
    pub(super) fn enter(&mut self, remapping: &mut Remapping) {
        if let Requester::Ring(controller) = self {
            controller.signal.entry = remapping.enter(controller.master());
        }
    }

    /// The bus addresses of its device.
    pub(super) fn addresses(&self) -> Option<Arc<Addresses>> {
        match self {
            Requester::Ring(controller) => Some(Arc::clone(&controller.port.common.addresses)),
            Requester::Isa(_) => None,
        }
    }

    /// It is called at that time.
    pub(super) fn tell(&mut self, bus: &mut Bus<'_>) {
        if let Requester::Ring(controller) = self {
            controller.tell(bus);
        }
    }

    /// The CPU looks for what it completed.
    pub(super) fn handled(&mut self, handled: Handled, bus: &mut Bus<'_>) {
        match self {
            Requester::Ring(controller) => controller.handled(handled, bus),
            Requester::Isa(isa) => isa.handled(handled, bus),
        }
    }

    /// Bytes of each transfer of a run that is carried out in parts, where somebody looks into it; `None`: it is not.
    pub(super) fn piece(&self) -> Option<u64> {
        match self {
            Requester::Ring(_) => None,
            Requester::Isa(isa) => isa.piece(),
        }
    }

    /// It was granted the bus for its next transaction.
    pub(super) fn begin(&mut self) {
        if let Requester::Isa(isa) = self {
            isa.begin_run();
        }
    }

    /// Carries the next transaction out.
    pub(super) fn transact(&mut self, bus: &mut Bus<'_>) {
        match self {
            Requester::Ring(controller) => controller.transact(bus),
            Requester::Isa(isa) => isa.transact(bus),
        }
    }
}
