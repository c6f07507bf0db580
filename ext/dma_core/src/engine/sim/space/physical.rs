//! Bus addresses without an IOMMU: those of simulated physical memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;
use std::ops::Range;

use fastrand::Rng;

use super::ram::Ram;
use super::{pages, Placed, Row, Slot, Want, EVERYWHERE, FIRST, FULL, MAPPED, MESSAGES, OUT_OF_REACH, OWN, PAGE};

/// Why there is no place for memory.
type Refusal = Cow<'static, str>;

/// Page frames by their number, and the numbers by the host address of the page that has the frame.
#[derive(Debug)]
pub(super) struct Physical {
    random: Rng,
    frames: HashMap<u64, Frame>,
    numbers: HashMap<u64, u64>,
    /// Memory of a fixed size; none: as much as devices reach, and nothing where no mapping is.
    ram: Option<Box<Ram>>,
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
    /// The page stays where it is.
    is_pinned: bool,
    /// The frame that they are bounced through.
    slot: Option<u64>,
}

impl Physical {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.numbers.is_empty()
    }

    pub(super) fn new(seed: u64, ram: Option<Ram>) -> Physical {
        let ram = ram.map(Box::new);
        Physical { random: Rng::with_seed(seed), frames: HashMap::new(), numbers: HashMap::new(), ram }
    }

    /// Memory of a fixed size, if it has one.
    pub(super) fn ram(&self) -> Option<&Ram> {
        self.ram.as_deref()
    }

    /// Whether all pages of `len` bytes at `host` have a frame below number `limit`.
    pub(super) fn reaches(&self, host: u64, len: u64, limit: u64) -> bool {
        pages(host, len).all(|page| self.numbers.get(&page).is_some_and(|number| *number < limit))
    }

    /// Where a new mapping is, unless one of its pages cannot have a frame below number `limit`, and is not bounced.
    pub(super) fn map(&mut self, id: u64, host: u64, len: u64, limit: u64, want: &Want) -> Result<Placed, Refusal> {
        let placed = want.row.map_or(Ok(()), |row| self.reserve(host, len, limit, row));
        let placed = placed.and_then(|()| self.place(id, host, len, limit, want));
        if placed.is_err() {
            self.release(id, host, len, false);
        }
        placed
    }

    fn place(&mut self, id: u64, host: u64, len: u64, limit: u64, want: &Want) -> Result<Placed, Refusal> {
        let mut placed = Placed { id, ..Placed::default() };
        let bounces = want.bounces && self.ram.is_some();
        for page in pages(host, len) {
            let reach = if bounces { EVERYWHERE } else { limit };
            let Some(number) = self.frame(page, reach)? else { return Err(self.full(host, len, page)) };
            let (low, high) = (host.saturating_sub(page), (host + len - page).min(PAGE));
            let frame = self.frames.entry(number).or_insert_with(|| Frame { host: page, uses: Vec::new() });
            frame.uses.push(Use { id, low, high, is_pinned: want.is_pinned, slot: None });
            let mut address = number * PAGE + low;
            if number >= limit {
                let slot = self.slot(limit, placed.slots.len())?;
                self.frames.get_mut(&number).and_then(|frame| frame.uses.last_mut()).into_iter().for_each(|used| {
                    used.slot = Some(slot);
                });
                address = slot * PAGE + low;
                placed.slots.push(Slot { skip: page + low - host, address, len: high - low });
            }
            match placed.pieces.last_mut() {
                Some((first, bytes)) if *first + *bytes == address => *bytes += high - low,
                _ => placed.pieces.push((address, high - low)),
            }
        }
        Ok(placed)
    }

    /// A frame in reach to bounce a page through, of a mapping that has so many already.
    fn slot(&mut self, limit: u64, has: usize) -> Result<u64, Refusal> {
        let Some(ram) = &mut self.ram else { return Err(OUT_OF_REACH.into()) };
        ram.slot(limit).ok_or_else(|| {
            let ((all, _), free) = (ram.slots(limit), has as u64 * PAGE);
            format!(
                "its pages lie past what it reaches, and of the {all} bytes of bounce buffers for them, at the beginning of ram:, only {free} \
                 are free; let transfers end, take mappings away, map less at once, or use a device with more address bits"
            )
            .into()
        })
    }

    /// Gives the pages frames in a row, before they are mapped. If these have room within the row's boundary, they do not pass a
    /// multiple of it, and otherwise begin at one.
    fn reserve(&mut self, host: u64, len: u64, limit: u64, row: Row) -> Result<(), Refusal> {
        let pages: Vec<u64> = pages(host, len).collect();
        let (count, boundary) = (pages.len() as u64, row.boundary);
        let fits = |first: u64| first % boundary == 0 || first % boundary + count <= boundary;
        if pages.iter().any(|page| self.numbers.contains_key(page)) {
            let first = self.numbers.get(&pages[0]).copied().filter(|first| fits(*first) && first + count <= limit);
            let is_row =
                |first| pages.iter().zip(first..).all(|(page, number)| self.numbers.get(page) == Some(&number));
            return first.filter(|first| is_row(*first)).map(drop).ok_or(MAPPED.into());
        }
        let area = match &self.ram {
            Some(ram) if row.is_low => FIRST..limit.min(ram.frames()),
            _ => self.area(limit),
        };
        let firsts = area.start..(area.end + 1).saturating_sub(count);
        if firsts.is_empty() {
            return Err(self.no_row(count, area, row));
        }
        // Descriptors come lowest, so that they leave as much in a row as there is.
        let is_low = row.is_low && self.ram.is_some();
        let start = if is_low { firsts.start } else { self.random.u64(firsts.clone()) };
        let first = self.row(start..firsts.end, count, fits).or_else(|| self.row(firsts.start..start, count, fits));
        let first = first.ok_or_else(|| self.no_row(count, area, row))?;
        for (page, number) in pages.into_iter().zip(first..) {
            self.take(page, number);
        }
        Ok(())
    }

    /// The first of `count` free frames in a row, which is in `firsts` and fits.
    fn row(&self, firsts: Range<u64>, count: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
        let mut first = firsts.start;
        while first < firsts.end {
            match (first..first + count).rev().find(|number| !self.is_free(*number)) {
                Some(taken) => first = taken + 1,
                None if fits(first) => return Some(first),
                None => first += 1,
            }
        }
        None
    }

    /// Why there is no row of `count` frames in an area.
    fn no_row(&self, count: u64, area: Range<u64>, row: Row) -> Refusal {
        if self.ram.is_none() {
            return FULL.into();
        }
        let (mut longest, mut run) = (0, 0);
        for number in area {
            run = if self.is_free(number) { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        let way_out = match row {
            Row::ASKED => "leave contiguous: out, and the device gathers them from where they are (scatter-gather), or map less at once",
            Row { is_low: true, .. } => "give the machine more ram:, or the device a smaller ring_size: or max_segments:",
            _ => "take mappings away, or map less at once",
        };
        let bytes = longest * PAGE;
        format!(
            "in one piece they need {count} free pages of physical memory in a row, and the largest run in reach has {longest} pages \
             ({bytes} bytes); {way_out}"
        )
        .into()
    }

    /// Takes mapping `id` off its pages.
    pub(super) fn unmap(&mut self, id: u64, host: u64, len: u64) {
        self.release(id, host, len, true);
    }

    /// Takes mapping `id` off its pages, also off those of a mapping that was not finished and leaves nothing. The last page first: its
    /// frames are given out again the other way round.
    fn release(&mut self, id: u64, host: u64, len: u64, leaves: bool) {
        for page in pages(host, len).rev() {
            let Some(&number) = self.numbers.get(&page) else { continue };
            if let Some(frame) = self.frames.get_mut(&number) {
                let ram = &mut self.ram;
                frame.uses.retain(|used| {
                    let is_gone = used.id == id;
                    if let Some(ram) = ram.as_mut().filter(|_| is_gone) {
                        if leaves {
                            used.leave(ram, number, page);
                        }
                        used.slot.into_iter().for_each(|slot| ram.give_back(slot));
                    }
                    !is_gone
                });
                if !frame.uses.is_empty() {
                    continue;
                }
            }
            self.frames.remove(&number);
            self.numbers.remove(&page);
            if let Some(ram) = &mut self.ram {
                ram.give_back(number);
            }
        }
    }

    /// Moves up to `most` pages that only mappings use which do not pin them to other frames, as the seed says; how many. Those that
    /// they leave keep what was there, and are free.
    pub(super) fn migrate(&mut self, most: usize) -> usize {
        let is_movable = |frame: &Frame| frame.uses.iter().all(|used| !used.is_pinned);
        let movable = self.frames.iter().filter(|(_, frame)| is_movable(frame)).map(|(number, _)| *number);
        let mut numbers: Vec<u64> = movable.collect();
        numbers.sort_unstable();
        self.random.shuffle(&mut numbers);
        numbers.truncate(most);
        let moved = numbers.iter().filter(|number| self.migrate_page(**number)).copied().collect::<Vec<u64>>();
        // None of them moves to where another was.
        for number in &moved {
            self.frames.remove(number);
            self.ram.iter_mut().for_each(|ram| ram.give_back(*number));
        }
        moved.len()
    }

    /// Moves a page to another frame, if there is one. The one that it had is not free yet.
    fn migrate_page(&mut self, number: u64) -> bool {
        let Some(new) = self.draw(self.area(EVERYWHERE)) else { return false };
        let Some(frame) = self.frames.get_mut(&number) else { return false };
        let Frame { host, uses } = frame;
        let (host, uses) = (*host, mem::take(uses));
        if let Some(ram) = &self.ram {
            uses.iter().for_each(|used| used.leave(ram, number, host));
        }
        self.frames.insert(new, Frame { host, uses });
        self.take(host, new);
        true
    }

    /// The frames for a device that reaches those below `limit`.
    fn area(&self, limit: u64) -> Range<u64> {
        self.ram.as_ref().map_or(FIRST..limit, |ram| ram.area(limit))
    }

    fn is_free(&self, number: u64) -> bool {
        let is_taken = self.frames.contains_key(&number) || MESSAGES.contains(&(number * PAGE));
        !is_taken && self.ram.as_ref().is_none_or(|ram| ram.is_spare(number))
    }

    /// The frame of a host page: the one it has, or one drawn from those that nobody has; the one that was freed last, where there is
    /// one. None where none is free.
    fn frame(&mut self, page: u64, limit: u64) -> Result<Option<u64>, Refusal> {
        match self.numbers.get(&page) {
            Some(&number) if number < limit => return Ok(Some(number)),
            Some(_) => return Err(OUT_OF_REACH.into()),
            None => {}
        }
        let area = self.area(limit);
        let freed = self.ram.as_ref().and_then(|ram| ram.last_freed(&area));
        let number = freed.or_else(|| self.draw(area));
        if let Some(number) = number {
            self.take(page, number);
        }
        Ok(number)
    }

    /// A free frame of an area, as the seed says.
    fn draw(&mut self, area: Range<u64>) -> Option<u64> {
        if area.is_empty() {
            return None;
        }
        let start = self.random.u64(area.clone());
        (start..area.end).chain(area.start..start).find(|number| self.is_free(*number))
    }

    fn take(&mut self, page: u64, number: u64) {
        self.numbers.insert(page, number);
        if let Some(ram) = &mut self.ram {
            ram.take(number);
        }
    }

    /// Why a mapping ends before `page`: what came first of it has taken the last frame.
    fn full(&self, host: u64, len: u64, page: u64) -> Refusal {
        if self.ram.is_none() {
            return FULL.into();
        }
        let (all, left) = (pages(host, len).count(), pages(page, host + len - page).count());
        format!(
            "no page of physical memory in reach is free for the last {left} of its {all} pages; let transfers end, take mappings away, \
             map less at once, or give the machine more ram:"
        )
        .into()
    }

    /// The host address of a bus address, how many bytes go on there, and whose they are. Where mappings overlap, the one that goes on
    /// furthest counts; where there is none, memory of a fixed size is the machine's own.
    pub(super) fn translate(&self, address: u64) -> Option<(u64, u64, u64)> {
        let (number, offset) = (address / PAGE, address % PAGE);
        let frame = self.frames.get(&number);
        let uses = || frame.into_iter().flat_map(|frame| &frame.uses);
        let here = uses().filter(|used| (used.low..used.high).contains(&offset));
        let mapped = here.map(|used| (frame.map_or(0, |frame| frame.host) + offset, used.high - offset, used.id)).max();
        mapped.or_else(|| {
            let ram = self.ram.as_ref().filter(|ram| number < ram.frames() && !MESSAGES.contains(&address))?;
            let end = uses().map(|used| used.low).filter(|low| *low > offset).min().unwrap_or(PAGE);
            Some((ram.at(address) as u64, end - offset, OWN))
        })
    }
}

impl Use {
    /// Leaves what a page has in its frame.
    fn leave(&self, ram: &Ram, number: u64, host: u64) {
        // SAFETY: the mapping keeps its memory until it is off all its pages.
        unsafe { ram.keep(number * PAGE + self.low, host + self.low, self.high - self.low) };
    }
}

#[cfg(test)]
mod tests;
