//! Faults on demand: what goes wrong, where, and how often.

use fastrand::Rng;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bus does not bring or take the bytes.
    BusError,
    /// The bytes come marked as spoiled.
    Poison,
    /// The IOMMU lets the access not through, though it is mapped.
    IommuFault,
    /// The transfer is carried out, and its interrupt does not come.
    LostInterrupt,
    /// The descriptor is fetched and never ends, until it is aborted or the channel reset.
    Hang,
    /// The device is not reached any more, until it is reset.
    LinkDown,
}

/// Kinds and their names in Ruby.
const NAMES: [(Kind, &str); 6] = [
    (Kind::BusError, "bus_error"),
    (Kind::Poison, "poison"),
    (Kind::IommuFault, "iommu_fault"),
    (Kind::LostInterrupt, "lost_interrupt"),
    (Kind::Hang, "hang"),
    (Kind::LinkDown, "link_down"),
];

impl Kind {
    /// The kind with this name in Ruby.
    pub fn from_name(name: &str) -> Option<Kind> {
        NAMES.iter().find(|(_, other)| *other == name).map(|(kind, _)| *kind)
    }

    /// Every name.
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(_, name)| *name).collect()
    }
}

/// Where it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trigger {
    /// At the descriptor with this number, counted from 0 in the order of their fetching since the fault was injected.
    Descriptor(u64),
    /// Where bytes at this bus or device address are moved.
    Address(u64),
    /// At any descriptor, with this probability.
    Probability(f64),
}

/// A fault to inject.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// Where.
    pub trigger: Trigger,
    /// On this device only.
    pub device: Option<u32>,
    /// On this channel only.
    pub channel: Option<u16>,
    /// How often at the most; `None`: for ever.
    pub count: Option<u64>,
}

/// The faults of a machine.
#[derive(Debug)]
pub(super) struct Faults {
    rules: Vec<(Fault, u64)>,
    random: Rng,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Faults {
        Faults { rules: Vec::new(), random: Rng::with_seed(seed) }
    }

    pub(super) fn add(&mut self, fault: Fault) {
        if fault.count != Some(0) {
            self.rules.push((fault, 0));
        }
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What goes wrong with the descriptor that a channel is fetching.
    pub(super) fn at_descriptor(&mut self, device: u32, channel: u16) -> Option<Kind> {
        if self.rules.is_empty() {
            return None;
        }
        let (random, mut hit) = (&mut self.random, None);
        // Every fault counts it, also where another comes first.
        for (index, (fault, seen)) in self.rules.iter_mut().enumerate() {
            if !fault.is_at(device, channel) {
                continue;
            }
            *seen += 1;
            let is_hit = match fault.trigger {
                Trigger::Descriptor(number) => *seen > number,
                Trigger::Probability(probability) => random.f64() < probability,
                Trigger::Address(_) => false,
            };
            if is_hit {
                hit.get_or_insert(index);
            }
        }
        hit.map(|index| self.hit(index))
    }

    /// What goes wrong in one of the ranges of addresses, and at which address.
    pub(super) fn at_addresses(&mut self, device: u32, channel: u16, ranges: &[(u64, u64)]) -> Option<(Kind, u64)> {
        let (index, address) = self.find(device, channel, ranges)?;
        Some((self.hit(index), address))
    }

    /// Whether something will go wrong there.
    pub(super) fn is_within(&self, device: u32, channel: u16, ranges: &[(u64, u64)]) -> bool {
        self.find(device, channel, ranges).is_some()
    }

    fn find(&self, device: u32, channel: u16, ranges: &[(u64, u64)]) -> Option<(usize, u64)> {
        self.rules.iter().enumerate().find_map(|(index, (fault, _))| match fault.trigger {
            Trigger::Address(at) if fault.is_at(device, channel) => {
                ranges.iter().any(|(start, len)| at >= *start && at - start < *len).then_some((index, at))
            }
            _ => None,
        })
    }

    fn hit(&mut self, index: usize) -> Kind {
        let fault = &mut self.rules[index].0;
        let kind = fault.kind;
        if let Some(count) = &mut fault.count {
            *count -= 1;
            if *count == 0 {
                self.rules.remove(index);
            }
        }
        kind
    }
}

impl Fault {
    fn is_at(&self, device: u32, channel: u16) -> bool {
        self.device.is_none_or(|only| only == device) && self.channel.is_none_or(|only| only == channel)
    }
}
