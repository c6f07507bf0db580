//! What lets the CPU's stores and loads pass each other: a store buffer before the cache, and a queue of what devices wrote and the CPU
//! has not heard of (Paul E. McKenney, Memory Barriers: a Hardware View for Software Hackers, 2010, sections 3 and 4).
//!
//! Which of them are late is not left to chance: the line that was written last is seen at once, those before it are late. That is the
//! order in which a program goes wrong that says in one line that another is ready.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Line, LINE};

/// Lines that the store buffer has room for.
const STORES: usize = 16;
/// Lines that the CPU may still have to hear of.
const INVALIDATIONS: usize = 1024;

/// Stores to one line: the bytes that have their bit in `mask`.
#[derive(Debug)]
pub(super) struct Store {
    pub line: Line,
    /// Whether they go to the cache, and not past it.
    pub cached: bool,
    pub bytes: [u8; LINE],
    pub mask: u64,
    /// When the first was made.
    pub since: u64,
}

impl Store {
    fn merge(&mut self, newer: &Store) {
        newer.forward(&mut self.bytes);
        self.mask |= newer.mask;
    }

    fn forward(&self, bytes: &mut [u8; LINE]) {
        for (n, (to, from)) in bytes.iter_mut().zip(&self.bytes).enumerate() {
            *to = if self.mask >> n & 1 == 1 { *from } else { *to };
        }
    }
}

/// The store buffer: lines in the order in which they were first written.
#[derive(Debug)]
pub(super) struct Stores {
    delay: u64,
    waiting: VecDeque<Store>,
    newest: Option<Line>,
}

impl Stores {
    pub(super) fn new(delay: u64) -> Stores {
        Stores { delay, waiting: VecDeque::new(), newest: None }
    }

    /// Adds a store. The oldest line comes back where there is no room for it.
    pub(super) fn put(&mut self, store: Store) -> Option<Store> {
        self.newest = Some(store.line);
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.line == store.line) {
            waiting.merge(&store);
            return None;
        }
        self.waiting.push_back(store);
        if self.waiting.len() > STORES {
            self.pop()
        } else {
            None
        }
    }

    /// Puts what waits over the bytes of a line.
    pub(super) fn forward(&self, line: Line, bytes: &mut [u8; LINE]) {
        if let Some(store) = self.waiting.iter().find(|store| store.line == line) {
            store.forward(bytes);
        }
    }

    /// Takes a line, if it was written last.
    pub(super) fn take_newest(&mut self, line: Line) -> Option<Store> {
        self.newest.take_if(|newest| *newest == line)?;
        let index = self.waiting.iter().position(|store| store.line == line)?;
        self.waiting.remove(index)
    }

    /// Takes a line that has waited for long enough.
    pub(super) fn expired(&mut self, now: u64) -> Option<Store> {
        let first = self.waiting.front()?;
        (now.saturating_sub(first.since) >= self.delay).then(|| self.pop())?
    }

    /// Takes the oldest line.
    pub(super) fn pop(&mut self) -> Option<Store> {
        self.waiting.pop_front()
    }
}

/// The invalidate queue: what the CPU still sees of lines that devices wrote.
#[derive(Debug)]
pub(super) struct Invalidations {
    delay: u64,
    /// By the order in which they came.
    waiting: BTreeMap<u64, Stale>,
    numbers: HashMap<Line, u64>,
    last: u64,
    newest: Option<Line>,
}

#[derive(Debug)]
struct Stale {
    line: Line,
    bytes: [u8; LINE],
    since: u64,
}

impl Invalidations {
    pub(super) fn new(delay: u64) -> Invalidations {
        Invalidations { delay, waiting: BTreeMap::new(), numbers: HashMap::new(), last: 0, newest: None }
    }

    /// Notes that a device is going to write a line.
    pub(super) fn put(&mut self, line: Line, now: u64) {
        self.newest = Some(line);
        if self.numbers.contains_key(&line) {
            return;
        }
        if self.waiting.len() == INVALIDATIONS {
            self.pop();
        }
        self.last += 1;
        self.numbers.insert(line, self.last);
        self.waiting.insert(self.last, Stale { line, bytes: line.load(), since: now });
    }

    /// What the CPU still sees of a line, if it has not heard of it. It hears of the newest when it looks.
    pub(super) fn see(&mut self, line: Line) -> Option<[u8; LINE]> {
        if self.newest.take_if(|newest| *newest == line).is_some() {
            self.take(line);
        }
        let number = self.numbers.get(&line)?;
        self.waiting.get(number).map(|stale| stale.bytes)
    }

    /// The CPU has heard of a line.
    pub(super) fn take(&mut self, line: Line) {
        if let Some(number) = self.numbers.remove(&line) {
            self.waiting.remove(&number);
        }
    }

    /// It has heard of those that have waited for long enough.
    pub(super) fn expire(&mut self, now: u64) {
        while self.waiting.first_key_value().is_some_and(|(_, first)| now.saturating_sub(first.since) >= self.delay) {
            self.pop();
        }
    }

    /// It has heard of all.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.numbers.clear();
    }

    fn pop(&mut self) {
        if let Some((_, stale)) = self.waiting.pop_first() {
            self.numbers.remove(&stale.line);
        }
    }
}
