//! Many extents of a file at once, in the order in which they come.

mod plan;

use std::collections::VecDeque;
use std::sync::Arc;

use nix::errno::Errno;

use super::stream::{Chunk, Step};
use super::{File, Regions};
use crate::channel::{Request, Shared, Ticket};
use crate::engine::file::OPERATION;
use crate::engine::Cache;
use crate::error::Result;
use crate::memory::{Region, Span};
use crate::transfer::Op;

pub use plan::Extent;
use plan::{Cover, Plan};

/// The part of the depth, as its divisor, that is begun at a time: a doorbell costs more than a small read, but a disk is idle
/// until it rings, and ends together what it got together.
const BATCH: usize = 6;

/// Extents of a file, `depth` reads of them under way, each delivered once it is there.
///
/// Neighbours are read together, and are parts of one region: no copy.
#[derive(Debug)]
pub struct Many {
    file: Arc<File>,
    channel: Arc<Shared>,
    regions: Regions,
    plan: Plan,
    /// The first extent that no read was begun for.
    next: usize,
    /// Extents that a failed read was for together with others: each of them is read on its own.
    again: Vec<usize>,
    depth: usize,
    cache: Cache,
    reading: Vec<Reading>,
    ready: VecDeque<Ready>,
    /// Bytes of what is under way or ready.
    held: usize,
    failed: Failed,
}

#[derive(Debug)]
struct Reading {
    ticket: Arc<Ticket>,
    cover: Cover,
    region: Arc<Region>,
}

/// A read that brought `bytes` bytes, and extents that are to be delivered from it.
#[derive(Debug)]
struct Ready {
    cover: Cover,
    region: Arc<Region>,
    bytes: usize,
    is_shared: bool,
}

/// What could not be read.
#[derive(Debug, Default)]
struct Failed {
    first: Option<(Extent, Errno)>,
    count: usize,
}

impl Many {
    /// Reads `extents`, which end at the largest offset of a file at most, on `channel`. They end where the file ends at this
    /// moment, if it says so.
    ///
    /// # Errors
    /// What [`File::size`] and [`crate::memory::Pool::new`] raise; the regions are lost then.
    pub fn new(
        file: Arc<File>,
        channel: Arc<Shared>,
        mut regions: Regions,
        mut extents: Vec<Extent>,
        depth: usize,
    ) -> Result<Many> {
        let size = file.size()?;
        if size > 0 {
            extents.iter_mut().for_each(|extent| extent.len = extent.len.min(size.saturating_sub(extent.offset)));
        }
        // The driver of a character device gets each request as it is.
        let plan = Plan::new(extents, file.limits().granule, !file.handle().is_character());
        let (mut count, mut largest, mut index) = (0, 1, 0);
        let (mut first, mut end) = (u64::MAX, 0);
        while let Some(cover) = plan.from(index) {
            index = cover.extents.end;
            (first, end) = (first.min(cover.start), end.max(cover.start + cover.len as u64));
            count += 1;
            if cover.len <= OPERATION {
                largest = largest.max(cover.len);
            }
        }
        if count > 0 {
            // As many as are under way may have come, and the user has one.
            regions.reserve((2 * depth + 1).min(count), largest)?;
        }
        Ok(Many {
            cache: file.handle().look(first, end.saturating_sub(first)),
            file,
            channel,
            regions,
            plan,
            next: 0,
            again: Vec::new(),
            depth,
            reading: Vec::new(),
            ready: VecDeque::new(),
            held: 0,
            failed: Failed::default(),
        })
    }

    /// What is under way, and given up with this.
    pub fn pending(&self) -> Vec<Arc<Ticket>> {
        self.reading.iter().map(|reading| Arc::clone(&reading.ticket)).collect()
    }

    /// Goes on as far as that is possible without waiting. As long as there is something to deliver the engine is not troubled for
    /// a few reads.
    ///
    /// # Errors
    /// [`crate::Error::Os`] with offset and length of the first extent that could not be read, once all others were delivered.
    pub fn advance(&mut self) -> Result<Step> {
        loop {
            let waited = self.ready.is_empty();
            if waited {
                // What has come makes room for others, which are under way before the user has the first.
                self.take();
            }
            if waited || self.depth - self.reading.len() >= self.batch() {
                self.refill()?;
                self.channel.kick()?;
                self.take();
            }
            if let Some(chunk) = self.deliver() {
                return Ok(Step::Chunk(chunk));
            }
            if !self.reading.is_empty() {
                return Ok(Step::Wait(self.pending()));
            } else if self.again.is_empty() && self.plan.from(self.next).is_none() {
                return self.failed.raise(&self.file).map(|()| Step::End);
            }
        }
    }

    /// Takes out the memory, for the next who reads ahead.
    pub fn into_regions(mut self) -> Regions {
        std::mem::take(&mut self.regions)
    }

    fn batch(&self) -> usize {
        self.depth.div_ceil(BATCH)
    }

    /// Begins as many reads as may be under way.
    fn refill(&mut self) -> Result<()> {
        let mut begun = 0;
        while self.reading.len() < self.depth && self.ready.len() <= self.depth {
            let cover = match self.again.last() {
                Some(&index) => self.plan.alone(index),
                None => self.plan.from(self.next),
            };
            let Some(cover) = cover else { return Ok(()) };
            // Of large reads a few are enough: the channel makes several operations of each.
            if self.held > 0 && self.held + cover.len > 2 * self.depth * OPERATION {
                return Ok(());
            }
            if self.again.pop().is_none() {
                self.next = cover.extents.end;
            }
            self.begin(cover)?;
            begun += 1;
            if begun % self.batch() == 0 {
                self.channel.kick()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, cover: Cover) -> Result<()> {
        let region = self.regions.region(cover.len)?;
        self.held += cover.len;
        if cover.len == 0 {
            self.found(cover, region, 0);
            return Ok(());
        }
        let op = Op::Read { offset: cover.start, span: Span::new(&region, 0, cover.len)? };
        let ticket = self.channel.submit(Request { cache: self.cache, ..Request::new(op) }, false)?;
        self.reading.push(Reading { ticket, cover, region });
        Ok(())
    }

    fn found(&mut self, cover: Cover, region: Arc<Region>, bytes: usize) {
        let is_shared = cover.extents.len() > 1;
        self.ready.push_back(Ready { cover, region, bytes, is_shared });
    }

    /// Looks which reads have ended.
    fn take(&mut self) {
        let mut index = 0;
        while let Some(reading) = self.reading.get(index) {
            let Some(outcome) = reading.ticket.outcome() else {
                index += 1;
                continue;
            };
            let Reading { cover, region, .. } = self.reading.swap_remove(index);
            match outcome.errno() {
                None => self.found(cover, region, outcome.bytes),
                Some(errno) => self.fail(&cover, region, outcome.bytes, errno),
            }
        }
    }

    /// Keeps what came of a read before it failed. What lies behind may still be readable by itself.
    fn fail(&mut self, cover: &Cover, region: Arc<Region>, bytes: usize, errno: Errno) {
        let safe = cover.start + bytes as u64;
        let complete = cover.extents.clone().take_while(|&index| {
            let Extent { offset, len } = self.plan.extent(index);
            offset + len <= safe
        });
        let first = cover.extents.start + complete.count();
        if cover.extents.len() == 1 && first < cover.extents.end {
            self.failed.add(self.plan.extent(first), errno);
        } else {
            self.again.extend((first..cover.extents.end).rev());
        }
        if cover.extents.start < first {
            let extents = cover.extents.start..first;
            self.found(Cover { extents, ..*cover }, region, bytes);
        } else {
            self.held -= cover.len;
        }
    }

    /// The next extent of those that are ready.
    fn deliver(&mut self) -> Option<Chunk> {
        let Ready { cover, region, bytes, is_shared } = self.ready.front_mut()?;
        let Extent { offset, len } = self.plan.extent(cover.extents.next()?);
        let skip = ((offset - cover.start) as usize).min(cover.len);
        let len = bytes.saturating_sub(skip).min(len as usize);
        // Each is a region by itself to its user, who ends one while the next is still to come.
        let (region, skip) = match is_shared {
            true => (Region::part(region, skip, len), 0),
            false => (Arc::clone(region), skip),
        };
        if cover.extents.is_empty() {
            self.held -= cover.len;
            self.ready.pop_front();
        }
        Some(Chunk { region, skip, len, offset })
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        self.channel.abandon(&self.pending());
    }
}

impl Failed {
    fn add(&mut self, extent: Extent, errno: Errno) {
        self.count += 1;
        if self.first.is_none_or(|(first, _)| extent < first) {
            self.first = Some((extent, errno));
        }
    }

    /// Once: who asks again learns that there is no more.
    fn raise(&mut self, file: &File) -> Result<()> {
        let Some((Extent { offset, len }, errno)) = self.first.take() else { return Ok(()) };
        let others = match self.count - 1 {
            0 => String::new(),
            1 => " (and 1 more range)".into(),
            count => format!(" (and {count} more ranges)"),
        };
        Err(file.error(errno, &format!("read {len} bytes at offset {offset}{others} of")))
    }
}
