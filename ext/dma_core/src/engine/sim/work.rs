//! A transfer that a channel has in hand.

use super::faults::Kind;
use super::port::Common;
use crate::transfer::{flags, Descriptor, Status};

const WITHIN: u32 = flags::TO_DEVICE | flags::FROM_DEVICE;

/// A transfer under way: a descriptor of the ring with what is chained to it, or what the registers say.
#[derive(Debug)]
pub(super) struct Work {
    /// The slot of the ring; `None`: the registers.
    pub slot: Option<u32>,
    pub phase: Phase,
    /// Bus address of the descriptor in hand, and of the first of its chain.
    pub at: u64,
    pub first: u64,
    pub first_flags: u32,
    /// The first one is there for its chain only.
    pub is_list: bool,
    /// Descriptors of the chain up to the one in hand.
    pub fetched: u32,
    pub descriptor: Descriptor,
    /// Bytes of it that were moved, and of the chain without a gap.
    pub done: u64,
    pub total: u64,
    /// How the descriptor in hand fails, and how the chain did.
    pub failure: Option<Status>,
    pub chain_failure: Option<Status>,
    /// What goes wrong when the next byte is moved.
    pub fault: Option<Kind>,
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Fetch,
    Move,
    Finish,
    Hung,
}

impl Work {
    pub(super) fn new(slot: Option<u32>, at: u64, descriptor: Descriptor) -> Work {
        Work {
            slot,
            phase: Phase::Move,
            at,
            first: at,
            first_flags: descriptor.flags,
            is_list: descriptor.length == 0 && descriptor.flags & flags::CHAIN != 0,
            fetched: 1,
            descriptor,
            done: 0,
            total: 0,
            failure: None,
            chain_failure: None,
            fault: None,
            quiet: false,
        }
    }

    pub(super) fn left(&self) -> u64 {
        u64::from(self.descriptor.length) - self.done
    }

    /// How many bytes the next transaction moves, of up to `burst`. Where a copy within the device writes over what it has yet to
    /// read, it is all of them at once.
    pub(super) fn next_burst(&self, burst: u64) -> u64 {
        let Descriptor { source, destination, length, .. } = self.descriptor;
        let overtakes = source < destination && destination - source < u64::from(length);
        if self.is_within() && overtakes {
            return self.left();
        }
        self.left().min(burst)
    }

    /// The next bytes that it moves, where they come from and where they go.
    pub(super) fn ranges(&self, len: u64) -> [(u64, u64); 2] {
        let Descriptor { source, destination, .. } = self.descriptor;
        [(source + self.done, len), (destination + self.done, len)]
    }

    pub(super) fn is_within(&self) -> bool {
        self.descriptor.flags & WITHIN == WITHIN
    }
}

/// What the device makes of a descriptor's addresses: one that truncates them has no wires for the low bits.
pub(super) fn truncate(common: &Common, descriptor: &mut Descriptor) {
    if common.options.truncates {
        let mask = !(common.options.alignment - 1);
        descriptor.source &= mask;
        descriptor.destination &= mask;
    }
}

/// Refuses a descriptor that the device cannot carry out.
pub(super) fn check(common: &Common, descriptor: &Descriptor) -> Result<(), Status> {
    let Descriptor { source, destination, length, flags: control, .. } = *descriptor;
    let (length, options) = (u64::from(length), &common.options);
    let limit = 1u128 << options.address_bits;
    let reach = |address: u64| u128::from(address) + u128::from(length) <= limit && address % options.alignment == 0;
    let inside = |address: u64| reach(address) && address.checked_add(length).is_some_and(|end| end <= options.memory);
    if length == 0 || (length % options.alignment != 0 && !options.truncates) {
        return Err(Status::BadLength);
    }
    let (source, destination) = match control & WITHIN {
        flags::TO_DEVICE => (reach(source), inside(destination)),
        flags::FROM_DEVICE => (inside(source), reach(destination)),
        WITHIN => (inside(source), inside(destination)),
        _ => return Err(Status::DescriptorError),
    };
    if !source {
        return Err(Status::BadSource);
    }
    if !destination {
        return Err(Status::BadDestination);
    }
    Ok(())
}
