//! Where a channel has its descriptors from: its ring, several at once where it prefetches, and what is chained to them.

use std::sync::atomic::Ordering::Relaxed;

use super::super::work::{Phase, Work};
use super::{Bank, Bus, Controller};
use crate::engine::sim::trace::What;
use crate::transfer::{Descriptor, Status};

/// The longest chain: one that is longer runs in a circle.
const MAX_CHAIN: u32 = 1 << 16;

impl Controller {
    /// How many descriptors it fetches from its ring at once.
    pub(super) fn next_fetch(&self, burst: u64) -> u64 {
        let Bank { head, ring_size, .. } = self.bank;
        let tail = self.port.doorbell.tail() % ring_size;
        let there = if tail > head { tail - head } else { ring_size - head };
        let most = u64::from(there.min(self.port.common.options.prefetch));
        most.min(burst / Descriptor::SIZE as u64).max(1)
    }

    pub(super) fn next_descriptor(&self) -> u64 {
        self.bank.ring_base.wrapping_add(u64::from(self.bank.head) * Descriptor::SIZE as u64)
    }

    pub(super) fn has_descriptor(&self) -> bool {
        !self.halted && self.bank.ring_size > 0 && self.bank.head != self.port.doorbell.tail() % self.bank.ring_size
    }

    pub(super) fn fetch_first(&mut self, bus: &mut Bus<'_>) {
        let at = self.next_descriptor();
        self.note(bus, What::Fetch, at, bus.len);
        match self.fetch(at) {
            Ok(descriptor) => {
                let count = bus.len / Descriptor::SIZE as u64;
                for at in (1..count).map(|index| at.wrapping_add(index * Descriptor::SIZE as u64)) {
                    let Ok(behind) = self.fetch(at) else { break };
                    self.ahead.push_back(behind);
                }
                self.begin_slot(descriptor, bus);
            }
            Err(status) => {
                // Without its descriptors the channel can do nothing but say so.
                self.halted = true;
                self.fault(status, bus);
                self.bank.end(status, true);
                self.interrupt(false, bus);
            }
        }
    }

    pub(super) fn begin_slot(&mut self, descriptor: Descriptor, bus: &mut Bus<'_>) {
        let mut work = Work::new(Some(self.bank.head), self.next_descriptor(), descriptor);
        self.begin(&mut work, bus);
        self.bank.begin();
        self.work = Some(work);
    }

    pub(super) fn fetch_chained(&mut self, work: &mut Work, bus: &mut Bus<'_>) {
        work.at = work.descriptor.next;
        work.fetched += 1;
        self.note(bus, What::Fetch, work.at, Descriptor::SIZE as u64);
        let fetched = if work.fetched > MAX_CHAIN { Err(Status::DescriptorError) } else { self.fetch(work.at) };
        match fetched {
            Ok(descriptor) => {
                (work.descriptor, work.done, work.failure) = (descriptor, 0, None);
                self.begin(work, bus);
            }
            Err(status) => {
                self.fault(status, bus);
                work.chain_failure.get_or_insert(status);
                (work.descriptor.flags, work.phase) = (0, Phase::Finish);
                // There is no descriptor to write a status to but the first.
                work.at = work.first;
            }
        }
    }

    fn fetch(&self, at: u64) -> Result<Descriptor, Status> {
        let fetched = self.port.common.fetch(at);
        self.port.descriptors.fetch_add(u64::from(fetched.is_ok()), Relaxed);
        fetched
    }

    /// Whether `slot`, which lies before `tail`, was not fetched yet.
    pub(in crate::engine::sim) fn will_fetch(&self, slot: u32, tail: u32) -> bool {
        let size = self.bank.ring_size.max(1);
        let distance = |index: u32| (index + size - self.bank.head % size) % size;
        distance(slot) < distance(tail)
    }

    /// Fetches anew what it has fetched and not begun: somebody may have changed it.
    pub(in crate::engine::sim) fn refetch(&mut self) {
        self.ahead.clear();
    }
}
