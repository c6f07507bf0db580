//! Bus addresses behind an IOMMU: each device has a domain of its own, in which each mapping has a run.
//!
//! The leaves of a domain's page tables are pages of 4 KiB, and of 2 MiB where bus and memory address are the same modulo 2 MiB and
//! the run goes on for as long. Which they are follows from the run, so that nothing more is kept of it. What a device uses goes
//! through an [IOTLB](super::iotlb) (Intel, "Virtualization Technology for Directed I/O", 3.0, 6.2.4: entries outlive their page until
//! software invalidates them).

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use super::iotlb::Iotlb;
use super::{Reason, BUS_BITS, FIRST, MESSAGES, PAGE};
use crate::memory::{Pages, Span};
use crate::transfer::Access;

/// Bytes of a large page.
const LARGE: u64 = 2 << 20;
/// Unmaps that are waited for before all are invalidated at once (Linux, drivers/iommu/dma-iommu.c, `IOVA_DEFAULT_FQ_SIZE`).
const QUEUE: usize = 256;

/// See the [module](self). A mapping goes by the bus address of its first byte, which no other has as long as it may be used.
#[derive(Debug)]
pub(super) struct Iommu {
    /// Also those whose addresses are not to be given out yet, or never.
    mappings: BTreeMap<u64, Mapping>,
    live: usize,
    /// The pages behind the last mapping made, which are free: the search for the next one begins there.
    gap: Range<u64>,
    tlb: Iotlb,
    stats: IommuStats,
    queue: Option<Queue>,
    forgotten: Vec<Forgotten>,
}

#[derive(Debug)]
struct Mapping {
    run: Run,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    /// The tables have it. In a box, for these are moved about much.
    Mapped(Box<Span>),
    /// It was unmapped, and is kept so that a device that has it in its IOTLB finds nothing else there.
    Waits { _memory: Arc<Pages> },
    /// Nothing ever is there.
    None,
}

/// Bus addresses from `bus` on.
#[derive(Debug, Clone, Copy)]
struct Run {
    bus: u64,
    host: u64,
    len: u64,
    access: Access,
}

/// What was unmapped and stays in the IOTLB for now.
#[derive(Debug)]
struct Queue {
    /// The time in cycles, and for how many the first waits.
    clock: Arc<AtomicU64>,
    delay: u64,
    due: u64,
    waiting: Vec<u64>,
}

/// Memory that a mapping reached which is gone for good.
#[derive(Debug)]
pub(in crate::engine::sim) struct Forgotten {
    pub id: u64,
    _memory: Memory,
}

/// What an IOMMU has, and did, for one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IommuStats {
    /// Pages of 4 KiB that are mapped.
    pub small: u64,
    /// Pages of 2 MiB that are mapped.
    pub large: u64,
    /// Look-ups that found their page in the IOTLB.
    pub hits: u64,
    /// Those that did not.
    pub misses: u64,
    /// Unmaps that took their pages out of the IOTLB by themselves.
    pub invalidations: u64,
    /// How often all was taken out of it.
    pub flushes: u64,
    /// Unmaps that wait for that.
    pub queued: u64,
}

impl Run {
    fn end(&self) -> u64 {
        self.bus + self.len
    }

    fn contains(&self, address: u64) -> bool {
        (self.bus..self.end()).contains(&address)
    }

    /// The bus addresses of its large pages.
    fn large(&self) -> (u64, u64) {
        let (start, end) = (self.bus / PAGE * PAGE, self.end().next_multiple_of(PAGE));
        let (first, last) = (start.next_multiple_of(LARGE), end / LARGE * LARGE);
        match (self.bus ^ self.host) % LARGE {
            0 if first < last => (first, last),
            _ => (start, start),
        }
    }

    /// How many pages of each size it has.
    fn pages(&self) -> (u64, u64) {
        let (first, last) = self.large();
        let all = (self.end().next_multiple_of(PAGE) - self.bus / PAGE * PAGE) / PAGE;
        (all - (last - first) / PAGE, (last - first) / LARGE)
    }
}

impl Iommu {
    /// With `lazy`, the clock in cycles and a delay, what is unmapped is invalidated later.
    pub(super) fn new(lazy: Option<(Arc<AtomicU64>, u64)>) -> Iommu {
        let (bus, len) = (MESSAGES.start, MESSAGES.end - MESSAGES.start);
        // A write to these is an interrupt: nobody's memory is there.
        let messages = Mapping { run: Run { bus, host: 0, len, access: Access::Both }, memory: Memory::None };
        Iommu {
            mappings: BTreeMap::from([(bus, messages)]),
            live: 0,
            gap: FIRST..FIRST,
            tlb: Iotlb::default(),
            stats: IommuStats::default(),
            queue: lazy.map(|(clock, delay)| Queue { clock, delay, due: 0, waiting: Vec::new() }),
            forgotten: Vec::new(),
        }
    }

    /// The bus address of a new mapping, unless there is no room for it below page `limit`.
    pub(super) fn map(&mut self, span: Span, access: Access, limit: u64) -> Option<u64> {
        self.expire();
        let (host, len) = (span.address() as u64, span.len() as u64);
        let offset = host % PAGE;
        let pages = (offset + len).div_ceil(PAGE) + 1;
        let page = self.place(host, pages, limit).or_else(|| {
            self.queue.as_ref().filter(|queue| !queue.waiting.is_empty())?;
            self.flush();
            self.place(host, pages, limit)
        })?;
        self.gap.start = page + pages;
        let run = Run { bus: page * PAGE + offset, host, len, access };
        let (small, large) = run.pages();
        self.stats.small += small;
        self.stats.large += large;
        self.live += 1;
        self.mappings.insert(run.bus, Mapping { run, memory: Memory::Mapped(Box::new(span)) });
        Some(run.bus)
    }

    /// A page from which on `pages` are free, for memory at `host`: one with which there are large pages, if there is one.
    fn place(&mut self, host: u64, pages: u64, limit: u64) -> Option<u64> {
        let each = LARGE / PAGE;
        let alike = if pages > each { self.search(pages, limit, (each, host / PAGE % each)) } else { None };
        alike.or_else(|| self.search(pages, limit, (1, 0)))
    }

    /// The first page behind the last mapping, or of all, from which on `pages` are free and below `limit`, and that is `rest` modulo
    /// `every`.
    fn search(&mut self, pages: u64, limit: u64, alike: (u64, u64)) -> Option<u64> {
        let page = next_alike(self.gap.start, alike);
        if page + pages <= self.gap.end.min(limit) {
            return Some(page);
        }
        let page = self.fit(self.gap.start, pages, limit, alike).or_else(|| self.fit(FIRST, pages, limit, alike))?;
        let behind = self.mappings.range(page * PAGE..).next();
        self.gap.end = behind.map_or(1 << (BUS_BITS - PAGE.ilog2()), |(bus, _)| bus / PAGE);
        Some(page)
    }

    fn fit(&self, from: u64, pages: u64, limit: u64, alike: (u64, u64)) -> Option<u64> {
        let behind = |mapping: &Mapping| mapping.run.end().div_ceil(PAGE) + 1;
        let before = self.mappings.range(..from * PAGE).next_back();
        let mut page = next_alike(from.max(before.map_or(FIRST, |(_, mapping)| behind(mapping))), alike);
        for (bus, mapping) in self.mappings.range(from * PAGE..) {
            if page + pages > limit || page + pages <= bus / PAGE {
                break;
            }
            page = next_alike(page.max(behind(mapping)), alike);
        }
        (page + pages <= limit).then_some(page)
    }

    /// Takes a mapping away and gives its memory back.
    pub(super) fn unmap(&mut self, id: u64) -> Option<Span> {
        self.expire();
        let mapping = self.mappings.get_mut(&id)?;
        let Memory::Mapped(span) = mem::replace(&mut mapping.memory, Memory::None) else { return None };
        let run = mapping.run;
        let (small, large) = run.pages();
        self.stats.small -= small;
        self.stats.large -= large;
        self.live -= 1;
        let memory = span.region().pages();
        // What somebody else owns may become anything once its mapping is gone.
        match self.queue.as_mut().filter(|_| memory.is_ours()) {
            Some(queue) => {
                mapping.memory = Memory::Waits { _memory: Arc::clone(memory) };
                if queue.waiting.is_empty() {
                    queue.due = queue.clock.load(Relaxed).saturating_add(queue.delay);
                }
                queue.waiting.push(id);
                if queue.waiting.len() == QUEUE {
                    self.flush();
                }
            }
            None => {
                self.tlb.invalidate(run.bus, run.end());
                self.stats.invalidations += 1;
                self.mappings.remove(&id);
            }
        }
        Some(*span)
    }

    /// How many mappings there are.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Empties the IOTLB; what waits for that is gone.
    pub(super) fn flush(&mut self) {
        self.tlb.flush();
        self.stats.flushes += 1;
        let Some(queue) = &mut self.queue else { return };
        for id in queue.waiting.drain(..) {
            let gone = self.mappings.remove(&id);
            self.forgotten.extend(gone.map(|mapping| Forgotten { id, _memory: mapping.memory }));
        }
    }

    /// Empties the IOTLB if it is time to.
    fn expire(&mut self) {
        let is_due = |queue: &Queue| !queue.waiting.is_empty() && queue.clock.load(Relaxed) >= queue.due;
        if self.queue.as_ref().is_some_and(is_due) {
            self.flush();
        }
    }

    /// What was forgotten since somebody last asked: a burst through it may go on yet.
    pub(super) fn forgotten(&mut self) -> Vec<Forgotten> {
        mem::take(&mut self.forgotten)
    }

    /// The memory at `address`, how many of up to `len` bytes lie together there, and whose mapping it is.
    pub(super) fn translate(&mut self, address: u64, len: u64, access: Access) -> Option<(u64, u64, u64)> {
        self.expire();
        let (run, is_live) = self.look_up(address)?;
        if !run.access.allows(access) {
            return None;
        }
        let (first, last) = run.large();
        let size = |address| if (first..last).contains(&address) { LARGE } else { PAGE };
        let behind = |address| (address | (size(address) - 1)) + 1;
        let (mut end, until) = (behind(address), run.end().min(address.saturating_add(len)));
        while end < until {
            let is_there = match is_live {
                true => self.tlb.find_or_insert(end, size(end), run.bus),
                false => self.tlb.find(end).is_some(),
            };
            if !is_there && !is_live {
                break;
            }
            self.stats.hits += u64::from(is_there);
            self.stats.misses += u64::from(!is_there);
            end = behind(end);
        }
        Some((run.host + (address - run.bus), end.min(run.end()) - address, run.bus))
    }

    /// The run that an address is in, by the IOTLB, or by the tables and in the IOTLB from now on; whether the tables have it.
    fn look_up(&mut self, address: u64) -> Option<(Run, bool)> {
        if let Some(id) = self.tlb.find(address) {
            self.stats.hits += 1;
            let Mapping { run, memory } = self.mappings.get(&id)?;
            return run.contains(address).then_some((*run, matches!(memory, Memory::Mapped(_))));
        }
        self.stats.misses += 1;
        let run = self.walk(address)?;
        let (first, last) = run.large();
        let size = if (first..last).contains(&address) { LARGE } else { PAGE };
        self.tlb.find_or_insert(address, size, run.bus);
        Some((run, true))
    }

    /// What the tables have at an address.
    fn walk(&self, address: u64) -> Option<Run> {
        let (_, Mapping { run, memory }) = self.mappings.range(..=address).next_back()?;
        (matches!(memory, Memory::Mapped(_)) && run.contains(address)).then_some(*run)
    }

    /// Whether `len` bytes at `address` are mapped together for this.
    pub(super) fn lie_together(&self, address: u64, len: u64, access: Access) -> bool {
        self.walk(address).is_some_and(|run| run.access.allows(access) && run.end() - address >= len)
    }

    /// Why an access is not let through.
    pub(super) fn reason(&self, address: u64, access: Access) -> Reason {
        let is_message = MESSAGES.contains(&address);
        let cached = || Some(self.mappings.get(&self.tlb.find(address)?)?.run).filter(|run| run.contains(address));
        let run = self.walk(address).or_else(cached);
        let is_denied = is_message || run.is_some_and(|run| !run.access.allows(access));
        match access {
            Access::Write if is_message => Reason::InterruptBlocked,
            Access::Write if is_denied => Reason::NoWrite,
            _ if is_denied => Reason::NoRead,
            _ if address >> BUS_BITS != 0 => Reason::OutOfRange,
            _ => Reason::NotMapped,
        }
    }

    /// What it has and did.
    pub(super) fn stats(&mut self) -> IommuStats {
        self.expire();
        IommuStats { queued: self.queue.as_ref().map_or(0, |queue| queue.waiting.len() as u64), ..self.stats }
    }

    /// Whether nothing is mapped, or waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.mappings.len() == 1
    }
}

/// The first page, `page` or behind it, that is `rest` modulo `every`.
fn next_alike(page: u64, (every, rest): (u64, u64)) -> u64 {
    page + (rest + every - page % every) % every
}

#[cfg(test)]
mod tests;
