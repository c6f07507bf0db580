//! Where software and a channel of a simulated device meet: doorbell, interrupt, fault records, counters.

use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, Release},
};
use std::sync::Arc;

use super::access::Addresses;
use super::interrupt::Interrupt;
use super::DeviceOptions;
use crate::memory::Region;
use crate::ring::Doorbell;
use crate::sync::{lock, Mutex};
use crate::transfer::{Descriptor, Status};

/// What the CPU does for a descriptor: it writes words of eight bytes, and reads the status.
const DESCRIPTOR: u64 = Descriptor::SIZE as u64 / 8 + 1;
/// What it does for an interrupt: it pushes five words and pops them (Intel SDM volume 3, 6.14.2), its handler saves and restores
/// fifteen registers (System V ABI for AMD64, 3.2.1).
pub(super) const INTERRUPT: u64 = 2 * (5 + 15);

/// The most fault records of the IOMMU that a device keeps, newest last.
const FAULTS: usize = 64;

/// What the channels of a device have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub number: u32,
    pub options: DeviceOptions,
    pub memory: Arc<Region>,
    pub addresses: Arc<Addresses>,
    /// The device is reached.
    pub link: AtomicBool,
    pub iommu_faults: AtomicU64,
    pub faults: Mutex<VecDeque<Status>>,
}

impl Common {
    /// Keeps a fault of the IOMMU for the statistics.
    pub(super) fn record(&self, status: Status) {
        if let Status::IommuFault { .. } = status {
            self.iommu_faults.fetch_add(1, Relaxed);
            let mut faults = lock(&self.faults);
            if faults.len() == FAULTS {
                faults.pop_front();
            }
            faults.push_back(status);
        }
    }
}

/// Why the transfer in a slot of the ring failed, and how far it got: the status field of a descriptor has no room for that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub slot: u32,
    pub bytes: u64,
    pub status: Status,
}

/// One channel, as both sides see it.
#[derive(Debug)]
pub(super) struct Port {
    pub common: Arc<Common>,
    pub index: u16,
    pub doorbell: Doorbell,
    /// How often a driver rang it.
    pub rings: AtomicU64,
    pub interrupt: Interrupt,
    /// A driver has the channel.
    pub taken: AtomicBool,
    records: Mutex<VecDeque<Record>>,
    pub descriptors: AtomicU64,
    pub bytes: AtomicU64,
    /// Messages that were sent, and those that a handler has looked after.
    pub interrupts: AtomicU64,
    pub delivered: AtomicU64,
    /// Completions are told of later than they can be seen.
    pub late: AtomicBool,
}

impl Port {
    pub(super) fn new(common: Arc<Common>, index: u16, interrupt: Interrupt) -> Port {
        Port {
            common,
            index,
            doorbell: Doorbell::new(),
            rings: AtomicU64::new(0),
            interrupt,
            taken: AtomicBool::new(false),
            records: Mutex::new(VecDeque::new()),
            descriptors: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            late: AtomicBool::new(false),
        }
    }

    /// Loads and stores of the CPU for the channel so far.
    pub(super) fn operations(&self) -> u64 {
        let (descriptors, interrupts) = (self.descriptors.load(Relaxed), self.delivered.load(Relaxed));
        descriptors * DESCRIPTOR + self.rings.load(Relaxed) + interrupts * INTERRUPT
    }

    /// The CPU handles the channel's interrupt.
    pub(super) fn raise(&self) {
        // Who sees the number sees the statuses too.
        self.delivered.fetch_add(1, Release);
        self.interrupt.raise();
    }

    /// Says why the transfer in a slot failed, before its status can be seen.
    pub(super) fn report(&self, record: Record) {
        lock(&self.records).push_back(record);
    }

    /// Takes the record about `slot`, if there is one.
    pub(super) fn take_record(&self, slot: u32) -> Option<Record> {
        let mut records = lock(&self.records);
        let index = records.iter().position(|record| record.slot == slot)?;
        records.remove(index)
    }

    pub(super) fn forget_records(&self) {
        lock(&self.records).clear();
    }
}
