//! Interrupt messages on their way to CPUs: each channel has an entry in a table, which says where its messages go.
//!
//! A message is a write of four bytes to [`MESSAGES`]. A device makes it for its channels; it can as well be made by a transfer, and says
//! whatever the transfer's bytes and address say then. With an IOMMU the address names an entry of the table, and the entry says of
//! which device it is: what others write is blocked (Intel, "Virtualization Technology for Directed I/O", 3.0, 5.1.2: remappable format,
//! 5.1.4: source-id). Without one the address names the CPU, the data the vector, and whoever writes it is believed (Intel SDM,
//! volume 3, 10.11).

use super::space::MESSAGES;
use super::trace::Master;

/// Bit of an address: it names an entry of the table. Without it a message has the format of machines without an IOMMU.
const REMAPPABLE: u64 = 1 << 4;

/// What a message is about where no channel has its vector.
pub(super) const NOBODY: Master = (u32::MAX, 0);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Remapping {
    is_on: bool,
    cpus: u32,
    entries: Vec<Option<Entry>>,
    /// Messages that were let through, and told of no completion.
    pub spurious: u64,
    /// Writes that would have been messages.
    pub blocked: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    master: Master,
    cpu: u32,
}

impl Remapping {
    pub(super) fn new(is_on: bool, cpus: u32) -> Remapping {
        Remapping { is_on, cpus, entries: Vec::new(), spurious: 0, blocked: 0 }
    }

    /// Takes a channel in, whose messages go to the first CPU: the number of its entry.
    pub(super) fn enter(&mut self, master: Master) -> usize {
        let free = self.entries.iter().position(Option::is_none).unwrap_or(self.entries.len());
        self.entries.resize(self.entries.len().max(free + 1), None);
        self.entries[free] = Some(Entry { master, cpu: 0 });
        free
    }

    /// Takes the channels of a device away.
    pub(super) fn leave(&mut self, device: u32) {
        for entry in &mut self.entries {
            *entry = entry.filter(|entry| entry.master.0 != device);
        }
    }

    /// The CPU that an entry's messages go to.
    pub(super) fn cpu(&self, number: usize) -> u32 {
        self.entries.get(number).copied().flatten().map_or(0, |entry| entry.cpu)
    }

    /// Sends an entry's messages to another CPU from now on; whether there is such a CPU.
    pub(super) fn set_cpu(&mut self, number: usize, cpu: u32) -> bool {
        let is_there = cpu < self.cpus;
        if let Some(Some(entry)) = self.entries.get_mut(number).filter(|_| is_there) {
            entry.cpu = cpu;
        }
        is_there
    }

    /// How many CPUs there are.
    pub(super) fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Which CPU is told of which channel, if the device may write `data` to `address` as a message; nobody, if no CPU hears it.
    pub(super) fn receive(&mut self, device: u32, address: u64, data: u32) -> Option<Option<(u32, Master)>> {
        let at = address - MESSAGES.start;
        let entry = |number: usize| self.entries.get(number).copied().flatten();
        if self.is_on {
            // The entry has sixteen bits, the last of which is apart.
            let number = (at >> 5 & 0x7fff | (at >> 2 & 1) << 15) as usize;
            let entry = entry(number).filter(|entry| at & REMAPPABLE != 0 && entry.master.0 == device)?;
            self.spurious += 1;
            return Some(Some((entry.cpu, entry.master)));
        }
        let cpu = (at >> 12) as u32;
        if cpu >= self.cpus {
            return Some(None);
        }
        let master = entry(data as usize).map_or(NOBODY, |entry| entry.master);
        self.spurious += 1;
        Some(Some((cpu, master)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u64) -> u64 {
        MESSAGES.start | (number & 0x7fff) << 5 | (number >> 15) << 2 | REMAPPABLE
    }

    #[test]
    fn a_device_tells_of_its_own_channels_only() {
        let mut table = Remapping::new(true, 2);
        assert_eq!([(0, 0), (0, 1), (1, 0)].map(|master| table.enter(master)), [0, 1, 2]);
        assert!(table.set_cpu(2, 1));
        assert_eq!(table.receive(1, address(2), 77), Some(Some((1, (1, 0)))));
        assert_eq!(table.receive(0, address(1), 0), Some(Some((0, (0, 1)))), "the source is the device");
        assert_eq!((table.receive(0, address(2), 0), table.receive(1, address(0), 0)), (None, None));
        assert_eq!((table.receive(0, address(3), 0), table.receive(0, address(0x8000), 0)), (None, None));
        assert_eq!(table.receive(0, address(0) & !REMAPPABLE, 0), None, "of another format");
        assert_eq!(table.spurious, 2);
    }

    #[test]
    fn without_remapping_whoever_writes_is_believed() {
        let mut table = Remapping::new(false, 2);
        table.enter((0, 0));
        assert_eq!(table.receive(7, MESSAGES.start | 1 << 12, 0), Some(Some((1, (0, 0)))));
        assert_eq!(table.receive(7, MESSAGES.start, 99), Some(Some((0, NOBODY))));
        assert_eq!(table.receive(7, MESSAGES.start | 2 << 12, 0), Some(None), "there is no third CPU");
        assert_eq!(table.spurious, 2);
    }

    #[test]
    fn entries_of_devices_that_are_gone_are_for_others() {
        let mut table = Remapping::new(true, 1);
        (0..3).for_each(|device| _ = table.enter((device, 0)));
        table.leave(1);
        assert_eq!(table.receive(1, address(1), 0), None);
        assert_eq!((table.enter((3, 0)), table.enter((3, 1))), (1, 3));
        assert_eq!((table.set_cpu(1, 1), table.cpu(1), table.cpus()), (false, 0, 1));
    }
}
