//! A write-back cache: stores take their line in, and memory gets it when it leaves.

use std::collections::{HashMap, HashSet};

use fastrand::Rng;

use super::{Line, Operation, ProcessorOptions, LINE};

/// What a cache did so far. Each line of an access counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Accesses to lines that it had.
    pub hits: u64,
    /// Those that it had to bring in.
    pub misses: u64,
    /// Of these, lines that a device had written since they were here.
    pub dma_misses: u64,
    /// Cycles that the misses took.
    pub miss_cycles: u64,
    /// Lines that had to make room.
    pub evictions: u64,
    /// Dirty lines that were written to memory.
    pub write_backs: u64,
    /// Accesses to memory that is not cached.
    pub uncached: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Cache {
    slots: Vec<Slot>,
    index: HashMap<Line, usize>,
    /// Lines that are not here, and that a device wrote since they were.
    written: HashSet<Line>,
    capacity: usize,
    coherent: bool,
    injection: bool,
    miss: u64,
    random: Rng,
    pub stats: CacheStats,
}

#[derive(Debug)]
struct Slot {
    line: Line,
    dirty: bool,
    /// Where the cache is coherent nobody could tell these from those in memory, which count there: others, as files, use them too.
    bytes: [u8; LINE],
}

impl Cache {
    pub(super) fn new(capacity: usize, options: &ProcessorOptions) -> Cache {
        Cache {
            slots: Vec::new(),
            index: HashMap::new(),
            written: HashSet::new(),
            capacity: capacity.max(1),
            coherent: options.coherent,
            injection: options.injection,
            miss: options.miss,
            random: Rng::with_seed(options.seed),
            stats: CacheStats::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.index.is_empty() && self.written.is_empty()
    }

    /// Whether the CPU sees what it has of the line, whatever devices do.
    pub(super) fn keeps(&self, line: Line) -> bool {
        !self.coherent && self.index.contains_key(&line)
    }

    /// Whether it has the line, and whether that is dirty.
    pub(super) fn state(&self, line: Line) -> Option<bool> {
        self.index.get(&line).map(|slot| self.slots[*slot].dirty)
    }

    pub(super) fn read(&mut self, line: Line) -> [u8; LINE] {
        let slot = self.access(line);
        if self.coherent {
            return line.load();
        }
        self.slots[slot].bytes
    }

    /// Stores those bytes that have their bit in `mask`.
    pub(super) fn write(&mut self, line: Line, bytes: &[u8; LINE], mask: u64) {
        let slot = self.access(line);
        let slot = &mut self.slots[slot];
        slot.dirty = true;
        if self.coherent {
            return line.store(bytes, mask);
        }
        for (n, (to, from)) in slot.bytes.iter_mut().zip(bytes).enumerate() {
            *to = if mask >> n & 1 == 1 { *from } else { *to };
        }
    }

    /// A device reads a line.
    pub(super) fn snoop(&mut self, line: Line) {
        if let Some(slot) = self.index.get(&line).copied().filter(|_| self.coherent) {
            self.write_back(slot);
        }
    }

    /// A device has written a line. Where the cache does not look it keeps what it has.
    pub(super) fn overwritten(&mut self, line: Line) {
        if self.coherent && self.injection {
            let slot = self.find_or_bring(line);
            self.slots[slot].dirty = true;
            return;
        }
        if self.coherent {
            self.operate(Operation::Flush, line);
        }
        self.written.insert(line);
    }

    pub(super) fn operate(&mut self, operation: Operation, line: Line) {
        let Some(slot) = self.index.get(&line).copied() else { return };
        match operation {
            Operation::Flush => {
                self.write_back(slot);
                self.remove(slot);
            }
            Operation::Invalidate if self.coherent => self.operate(Operation::Flush, line),
            Operation::Invalidate => self.remove(slot),
            Operation::WriteBack => self.write_back(slot),
            Operation::Clean => {
                let Slot { dirty, bytes, .. } = &mut self.slots[slot];
                *dirty &= self.coherent || bytes[..line.len] != line.load()[..line.len];
                self.write_back(slot);
            }
        }
    }

    /// Writes dirty lines of memory that is not looked after any more back, and forgets all of it.
    pub(super) fn leave(&mut self, (address, len): (usize, usize)) {
        let is_of = |line: &Line| (address..address + len).contains(&line.address);
        for slot in (0..self.slots.len()).rev() {
            if is_of(&self.slots[slot].line) {
                self.write_back(slot);
                self.remove(slot);
            }
        }
        self.written.retain(|line| !is_of(line));
    }

    /// The slot of a line that the CPU uses.
    fn access(&mut self, line: Line) -> usize {
        if let Some(slot) = self.index.get(&line) {
            self.stats.hits += 1;
            return *slot;
        }
        self.stats.misses += 1;
        self.stats.miss_cycles = self.stats.miss_cycles.saturating_add(self.miss);
        self.stats.dma_misses += u64::from(self.written.remove(&line));
        self.find_or_bring(line)
    }

    fn find_or_bring(&mut self, line: Line) -> usize {
        if let Some(slot) = self.index.get(&line) {
            return *slot;
        }
        if self.slots.len() == self.capacity {
            let slot = self.random.usize(..self.capacity);
            self.stats.evictions += 1;
            self.write_back(slot);
            self.remove(slot);
        }
        self.slots.push(Slot { line, dirty: false, bytes: line.load() });
        self.index.insert(line, self.slots.len() - 1);
        self.slots.len() - 1
    }

    fn write_back(&mut self, slot: usize) {
        let Slot { line, dirty, bytes } = &mut self.slots[slot];
        if !std::mem::take(dirty) {
            return;
        }
        self.stats.write_backs += 1;
        if !self.coherent {
            line.store(bytes, u64::MAX);
        }
    }

    fn remove(&mut self, slot: usize) {
        let Slot { line, .. } = self.slots.swap_remove(slot);
        self.index.remove(&line);
        if let Some(moved) = self.slots.get(slot) {
            self.index.insert(moved.line, slot);
        }
    }
}
