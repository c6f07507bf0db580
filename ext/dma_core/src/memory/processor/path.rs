//! The way of a load and a store: the store buffer, what the CPU has not heard of, the cache, memory.

use super::cache::Cache;
use super::ordering::{Invalidations, Store, Stores};
use super::places::Line;
use super::{ProcessorOptions, LINE};

/// What the CPU's loads and stores go through.
#[derive(Debug)]
pub(super) struct Path {
    pub cache: Option<Cache>,
    order: Option<Order>,
}

#[derive(Debug)]
struct Order {
    stores: Stores,
    invalidations: Invalidations,
}

impl Path {
    pub(super) fn new(options: &ProcessorOptions) -> Path {
        let cache = options.lines.map(|lines| Cache::new(lines, options));
        let order =
            options.delay.map(|delay| Order { stores: Stores::new(delay), invalidations: Invalidations::new(delay) });
        Path { cache, order }
    }

    /// A line as the CPU sees it: what it stored itself, what it has not heard of yet, what it has cached, or memory.
    pub(super) fn load(&mut self, line: Line, cached: bool) -> [u8; LINE] {
        let keeps = self.cache.as_ref().is_some_and(|cache| cache.keeps(line));
        let stale = self.order.as_mut().filter(|_| !keeps).and_then(|order| order.invalidations.see(line));
        let mut bytes = match (stale, &mut self.cache) {
            (Some(bytes), _) => bytes,
            (None, Some(cache)) if cached => cache.read(line),
            (None, cache) => {
                cache.iter_mut().for_each(|cache| cache.stats.uncached += 1);
                line.load()
            }
        };
        if let Some(order) = &self.order {
            order.stores.forward(line, &mut bytes);
        }
        bytes
    }

    /// A store of the CPU.
    pub(super) fn store(&mut self, store: Store) {
        let Some(order) = &mut self.order else { return self.commit(&store) };
        // Who writes a line has to have it as it is now.
        order.invalidations.take(store.line);
        if let Some(oldest) = order.stores.put(store) {
            self.commit(&oldest);
        }
    }

    /// A store leaves the CPU.
    fn commit(&mut self, store: &Store) {
        match &mut self.cache {
            Some(cache) if store.cached => cache.write(store.line, &store.bytes, store.mask),
            cache => {
                cache.iter_mut().for_each(|cache| cache.stats.uncached += 1);
                store.line.store(&store.bytes, store.mask);
            }
        }
    }

    /// A device is going to read a line.
    pub(super) fn before_read(&mut self, line: Line) {
        if let Some(newest) = self.order.as_mut().and_then(|order| order.stores.take_newest(line)) {
            self.commit(&newest);
        }
        if let Some(cache) = &mut self.cache {
            cache.snoop(line);
        }
    }

    /// A device is going to write a line.
    pub(super) fn before_write(&mut self, line: Line, now: u64) {
        if let Some(order) = &mut self.order {
            order.invalidations.put(line, now);
        }
    }

    /// A device has written a line.
    pub(super) fn after_write(&mut self, line: Line, cached: bool) {
        if let Some(cache) = self.cache.as_mut().filter(|_| cached) {
            cache.overwritten(line);
        }
    }

    /// What has waited for long is over.
    pub(super) fn expire(&mut self, now: u64) {
        let Some(order) = &mut self.order else { return };
        order.invalidations.expire(now);
        while let Some(store) = self.order.as_mut().and_then(|order| order.stores.expired(now)) {
            self.commit(&store);
        }
    }

    /// All stores leave the CPU, the oldest first.
    pub(super) fn drain(&mut self) {
        while let Some(store) = self.order.as_mut().and_then(|order| order.stores.pop()) {
            self.commit(&store);
        }
    }

    /// The CPU takes note of all that devices wrote.
    pub(super) fn look(&mut self) {
        if let Some(order) = &mut self.order {
            order.invalidations.clear();
        }
    }

    pub(super) fn settle(&mut self) {
        self.drain();
        self.look();
    }
}
