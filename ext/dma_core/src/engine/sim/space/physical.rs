//! Bus addresses without an IOMMU: those of simulated physical memory.

use std::collections::HashMap;

use fastrand::Rng;

use super::{pages, FIRST, FULL, MAPPED, OUT_OF_REACH, PAGE};

/// Page frames by their number, and the numbers by the host address of the page that has the frame.
#[derive(Debug)]
pub(super) struct Physical {
    random: Rng,
    frames: HashMap<u64, Frame>,
    numbers: HashMap<u64, u64>,
}

/// The host address of the page, and the bytes of it that are mapped.
#[derive(Debug)]
struct Frame {
    host: u64,
    uses: Vec<Use>,
}

/// The bytes of a page, from `low` to before `high`, that belong to mapping `id`.
#[derive(Debug)]
struct Use {
    id: u64,
    low: u64,
    high: u64,
}

impl Physical {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.numbers.is_empty()
    }

    pub(super) fn new(seed: u64) -> Physical {
        Physical { random: Rng::with_seed(seed), frames: HashMap::new(), numbers: HashMap::new() }
    }

    /// Whether all pages of `len` bytes at `host` have a frame below number `limit`.
    pub(super) fn reaches(&self, host: u64, len: u64, limit: u64) -> bool {
        pages(host, len).all(|page| self.numbers.get(&page).is_some_and(|number| *number < limit))
    }

    /// The pieces of a new mapping, unless one of its pages cannot have a frame below number `limit`.
    pub(super) fn map(&mut self, id: u64, host: u64, len: u64, limit: u64) -> Result<Vec<(u64, u64)>, &'static str> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for page in pages(host, len) {
            let number = match self.frame(page, limit) {
                Ok(number) => number,
                Err(reason) => {
                    self.unmap(id, host, len);
                    return Err(reason);
                }
            };
            let (low, high) = (host.saturating_sub(page), (host + len - page).min(PAGE));
            self.frames.entry(number).or_insert_with(|| Frame { host: page, uses: Vec::new() }).uses.push(Use {
                id,
                low,
                high,
            });
            let bus = number * PAGE + low;
            match pieces.last_mut() {
                Some((first, bytes)) if *first + *bytes == bus => *bytes += high - low,
                _ => pieces.push((bus, high - low)),
            }
        }
        Ok(pieces)
    }

    /// Gives the pages frames in a row, before they are mapped. If these have room within `boundary` frames, they do not pass a
    /// multiple of it, and otherwise begin at one.
    pub(super) fn reserve(&mut self, host: u64, len: u64, limit: u64, boundary: u64) -> Result<(), &'static str> {
        let pages: Vec<u64> = pages(host, len).collect();
        let count = pages.len() as u64;
        let fits = |first: u64| first % boundary == 0 || first % boundary + count <= boundary;
        if pages.iter().any(|page| self.numbers.contains_key(page)) {
            let first = self.numbers.get(&pages[0]).copied().filter(|first| fits(*first) && first + count <= limit);
            let is_row =
                |first| pages.iter().zip(first..).all(|(page, number)| self.numbers.get(page) == Some(&number));
            return first.filter(|first| is_row(*first)).map(drop).ok_or(MAPPED);
        }
        let last = limit.checked_sub(count).filter(|last| *last >= FIRST).ok_or(FULL)?;
        let start = self.random.u64(FIRST..=last);
        let is_free = |first: u64| (first..first + count).all(|number| !self.frames.contains_key(&number));
        let free = |first: &u64| fits(*first) && is_free(*first);
        let first = (start..=last).chain(FIRST..start).find(free).ok_or(FULL)?;
        self.numbers.extend(pages.into_iter().zip(first..));
        Ok(())
    }

    /// Takes mapping `id` off its pages, also off those of a mapping that was not finished.
    pub(super) fn unmap(&mut self, id: u64, host: u64, len: u64) {
        for page in pages(host, len) {
            let Some(number) = self.numbers.get(&page) else { continue };
            let Some(frame) = self.frames.get_mut(number) else { continue };
            frame.uses.retain(|used| used.id != id);
            if frame.uses.is_empty() {
                self.frames.remove(number);
                self.numbers.remove(&page);
            }
        }
    }

    /// The frame of a host page: the one it has, or one drawn from those that nobody has.
    fn frame(&mut self, page: u64, limit: u64) -> Result<u64, &'static str> {
        match self.numbers.get(&page) {
            Some(&number) if number < limit => return Ok(number),
            Some(_) => return Err(OUT_OF_REACH),
            None if limit <= FIRST => return Err(FULL),
            None => {}
        }
        let start = self.random.u64(FIRST..limit);
        let free = (start..limit).chain(FIRST..start).find(|number| !self.frames.contains_key(number)).ok_or(FULL)?;
        self.numbers.insert(page, free);
        Ok(free)
    }

    /// Where mappings overlap, the one that goes on furthest counts.
    pub(super) fn translate(&self, address: u64) -> Option<(u64, u64, u64)> {
        let (frame, offset) = (self.frames.get(&(address / PAGE))?, address % PAGE);
        let here = frame.uses.iter().filter(|used| (used.low..used.high).contains(&offset));
        here.map(|used| (frame.host + offset, used.high - offset, used.id)).max()
    }
}
