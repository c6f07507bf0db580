//! What a machine has that a fault can strike: a fault elsewhere would wait for ever.

use super::core::Core;
use super::faults::{Fault, Trigger};
use super::options::DeviceOptions;
use super::requester::Requester;
use crate::error::{Error, Result};

impl Core {
    /// Refuses a fault on a device, a channel or at an address that there is not.
    pub(super) fn check_place(&self, fault: &Fault) -> Result<()> {
        let Fault { device, channel, trigger, .. } = *fault;
        let all = || self.seats.iter().map(|seat| &seat.controller);
        let chosen = || all().filter(|requester| device.is_none_or(|device| requester.master().0 == device));
        let refuse = |what: String| Err(Error::Argument(format!("{what}; {}", self.inventory())));
        if let Some(device) = device.filter(|_| chosen().next().is_none()) {
            return refuse(format!("device: {device} is no device of this machine"));
        }
        if let Some(channel) =
            channel.filter(|channel| !chosen().any(|requester| requester.channels().contains(channel)))
        {
            return refuse(format!("channel: {channel} is no channel of {}", described(device)));
        }
        let reach = chosen().map(Requester::reach).max();
        match (trigger, reach) {
            (Trigger::Address(address), Some(reach)) if address >= reach => Err(Error::Argument(format!(
                "address: {address:#x} is past what {} reaches, which is below {reach:#x}",
                described(device)
            ))),
            _ => Ok(()),
        }
    }

    /// Its devices and their channels, in words.
    fn inventory(&self) -> String {
        let mut devices: Vec<(u32, Vec<u16>)> = Vec::new();
        for requester in self.seats.iter().map(|seat| &seat.controller) {
            let number = requester.master().0;
            match devices.last_mut().filter(|(last, _)| *last == number) {
                Some((_, channels)) => channels.extend(requester.channels()),
                None => devices.push((number, requester.channels())),
            }
        }
        let names = devices.iter().map(|(number, channels)| format!("device {number} with {}", ranges(channels)));
        match names.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "it has no device yet; add it first".into(),
            names => format!("there is {names}"),
        }
    }
}

impl DeviceOptions {
    /// The end of what it reaches, of the bus or of its own memory.
    pub(super) fn reach(&self) -> u64 {
        self.memory.max(1 << self.address_bits)
    }
}

fn described(device: Option<u32>) -> String {
    device.map_or("any device of this machine".into(), |device| format!("device {device}"))
}

/// Channels in rising order, in words.
fn ranges(channels: &[u16]) -> String {
    let ranges = channels.chunk_by(|one, next| one + 1 == *next).map(|chunk| match chunk {
        [only] => only.to_string(),
        _ => format!("{} to {}", chunk[0], chunk[chunk.len() - 1]),
    });
    let word = if channels.len() == 1 { "channel" } else { "channels" };
    format!("{word} {}", ranges.collect::<Vec<_>>().join(" and "))
}
