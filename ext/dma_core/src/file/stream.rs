//! Reading ahead: chunks of a file in order, while the next ones are on their way.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{File, Regions};
use crate::channel::{Request, Shared, Ticket};
use crate::engine::file::OPERATION;
use crate::engine::Cache;
use crate::error::{Error, Result};
use crate::memory::{Region, Span};
use crate::sys;
use crate::transfer::Op;

/// How many bytes may have come and wait for those before them while as much as ever is under way.
const SPARE: usize = 8 << 20;
/// The part of the depth, as its divisor, that is begun at a time: one doorbell for several, but not for all, which a disk would
/// end together, and be idle until the next.
const BATCH: usize = 4;

/// A chunk that has been read: `len` bytes from `skip` on of `region` are the file's from `offset` on.
#[derive(Debug)]
pub struct Chunk {
    /// The memory.
    pub region: Arc<Region>,
    /// Where in the region the chunk starts.
    pub skip: usize,
    /// Its length in bytes.
    pub len: usize,
    /// Its offset in the file.
    pub offset: u64,
}

/// What [`Stream::advance`] or [`super::Many::advance`] found.
#[derive(Debug)]
pub enum Step {
    /// The next chunk.
    Chunk(Chunk),
    /// There is none before one of these has ended.
    Wait(Vec<Arc<Ticket>>),
    /// All was delivered.
    End,
}

/// Chunks of a file in order, `depth` of them under way.
///
/// The memory is the stream's own, so each chunk is read with the blocks around it: one aligned operation (or several, where the
/// chunk is larger than one), and no copy.
#[derive(Debug)]
pub struct Stream {
    file: Arc<File>,
    channel: Arc<Shared>,
    regions: Regions,
    next: u64,
    end: u64,
    /// The size of the file when last asked; zero where the file does not say.
    size: u64,
    chunk: usize,
    depth: usize,
    /// How many chunks that have come may wait.
    spare: usize,
    whole: bool,
    cache: Cache,
    pending: VecDeque<Pending>,
    /// What the next chunk would have raised, once the bytes before it are delivered.
    failed: Option<Error>,
}

#[derive(Debug)]
struct Pending {
    ticket: Arc<Ticket>,
    region: Arc<Region>,
    offset: u64,
    skip: usize,
    len: usize,
}

impl Stream {
    /// Reads `length` bytes from `offset` (to the end of the file where that comes first) in chunks of `chunk` bytes, up to
    /// `depth` of them ahead on `channel`; each in one operation if `whole`.
    ///
    /// # Errors
    /// What [`File::size`] and [`crate::memory::Pool::new`] raise; the regions are lost then.
    pub fn new(
        file: Arc<File>,
        channel: Arc<Shared>,
        mut regions: Regions,
        (offset, length): (u64, u64),
        chunk: usize,
        depth: usize,
        whole: bool,
    ) -> Result<Stream> {
        if chunk == 0 || depth == 0 || offset > i64::MAX as u64 {
            return Err(Error::Argument(format!(
                "cannot read chunks of {chunk} bytes, {depth} ahead, from offset {offset}"
            )));
        }
        let size = file.size()?;
        let end = offset.saturating_add(length).min(i64::MAX as u64);
        let granule = file.limits().granule;
        // A file that gives no size is read in chunks of at most one operation; no chunk is larger than all there is.
        let operation = if whole { sys::MAX_RW } else { OPERATION } as u64;
        let known = if size > 0 { size.min(end).saturating_sub(offset).max(1) } else { length.clamp(1, operation) };
        let chunk = chunk.min(known.next_multiple_of(granule).min(length.max(1)) as usize);
        let ahead = depth.min(known.div_ceil(chunk as u64) as usize);
        let aligned = offset % granule == 0 && chunk as u64 % granule == 0;
        let cover = chunk.next_multiple_of(granule as usize) + if aligned { 0 } else { granule as usize };
        // A chunk that is larger keeps a disk busy by itself; who wants one ahead gets no two.
        let spare = if depth > 1 && chunk <= SPARE / 2 { depth.min(SPARE / chunk) } else { 0 };
        // One more: the chunk that its user has.
        regions.reserve(ahead + if ahead > 1 { spare.min(ahead) + 1 } else { 0 }, cover)?;
        Ok(Stream {
            channel,
            regions,
            next: offset,
            end,
            size,
            chunk,
            depth,
            spare,
            whole,
            cache: file.handle().look(offset, known),
            file,
            pending: VecDeque::new(),
            failed: None,
        })
    }

    /// What is under way, and given up with the stream.
    pub fn pending(&self) -> Vec<Arc<Ticket>> {
        self.pending.iter().map(|pending| Arc::clone(&pending.ticket)).collect()
    }

    /// Goes on as far as that is possible without waiting.
    ///
    /// # Errors
    /// [`Error::Os`] with offset and length where reading failed; every byte before it has been delivered.
    pub fn advance(&mut self) -> Result<Step> {
        self.read_ahead()?;
        let Some(front) = self.pending.pop_front() else { return self.failed.take().map_or(Ok(Step::End), Err) };
        let Some(outcome) = front.ticket.outcome() else {
            let ticket = Arc::clone(&front.ticket);
            self.pending.push_front(front);
            return Ok(Step::Wait(vec![ticket]));
        };
        let Pending { region, offset, skip, len, .. } = front;
        let (bytes, error) = (outcome.bytes, outcome.errno());
        let got = bytes.saturating_sub(skip).min(len);
        if let Some(errno) = error.filter(|_| got < len) {
            let at = offset + got as u64;
            self.failed = Some(self.file.error(errno, &format!("read {} bytes at offset {at} of", len - got)));
        }
        if got < len {
            // The file ends here, or cannot be read further: what was read ahead is not wanted.
            self.end = 0;
            self.give_up();
        }
        if got == 0 {
            return self.failed.take().map_or(Ok(Step::End), Err);
        }
        // The next chunk's read starts before this one is used.
        self.read_ahead()?;
        Ok(Step::Chunk(Chunk { region, skip, len: got, offset }))
    }

    /// The offset that nothing behind was begun to be read from.
    pub fn until(&self) -> u64 {
        self.next
    }

    /// Takes out the memory, for the next who reads ahead.
    pub fn into_regions(mut self) -> Regions {
        std::mem::take(&mut self.regions)
    }

    fn give_up(&mut self) {
        self.channel.abandon(&self.pending());
        self.pending.clear();
    }

    /// Begins as many reads as may be under way, several at a time, and looks how far they are.
    fn read_ahead(&mut self) -> Result<()> {
        let coming = self.pending.iter().filter(|pending| pending.ticket.outcome().is_none()).count();
        let most = self.depth + self.spare;
        let free = (self.depth - coming).min(most - self.pending.len());
        let batch = self.depth.div_ceil(BATCH);
        if coming > 0 && free < batch {
            return self.channel.kick();
        }
        for begun in 1..=free {
            if self.next >= self.end {
                break;
            }
            if self.next >= self.size {
                if !self.pending.is_empty() {
                    break;
                }
                // A file may have grown meanwhile, and one that gives no size is read until nothing comes.
                self.size = self.file.size()?;
                if self.size > 0 && self.next >= self.size {
                    self.end = 0;
                    break;
                }
            }
            let granule = self.file.limits().granule;
            let skip = (self.next % granule) as usize;
            let len = self.chunk.min((self.end - self.next).try_into().unwrap_or(usize::MAX));
            let cover = (skip + len).next_multiple_of(granule as usize);
            let region = self.regions.region(cover)?;
            let op = Op::Read { offset: self.next - skip as u64, span: Span::new(&region, 0, cover)? };
            let request = Request { whole: self.whole, cache: self.cache, ..Request::new(op) };
            let ticket = self.channel.submit(request, false)?;
            self.pending.push_back(Pending { ticket, region, offset: self.next, skip, len });
            self.next += len as u64;
            if begun % batch == 0 {
                self.channel.kick()?;
            }
        }
        self.channel.kick()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.give_up();
    }
}
