//! Reading ahead: chunks of a file in order, while the next ones are on their way.

use std::collections::VecDeque;
use std::sync::Arc;

use super::File;
use crate::channel::{Channel, Outcome, Request};
use crate::engine::file::OPERATION;
use crate::error::{Error, Result};
use crate::memory::{Huge, Layout, Lock, Pool, Region, Span};
use crate::sys;
use crate::transfer::Op;

/// A channel, and memory that was used on it before.
#[derive(Debug)]
pub struct Reader {
    /// The channel.
    pub channel: Channel,
    pool: Option<Pool>,
}

impl Reader {
    /// Reads through `channel`.
    pub fn new(channel: Channel) -> Reader {
        Reader { channel, pool: None }
    }

    /// Makes sure of `count` regions of `size` bytes. They are cut from one allocation, so that chunks smaller than a huge page
    /// lie in huge pages together: the disk takes a 1 MiB request from these in one piece.
    fn reserve(&mut self, count: usize, size: usize) -> Result<()> {
        if self.pool.as_ref().is_none_or(|pool| pool.size() < size || pool.count() < count) {
            self.pool = None;
            self.pool = Some(Pool::new(count, size, 1, Huge::Auto, Lock::Never)?);
        }
        Ok(())
    }

    /// A region of at least `size` bytes: from the pool, or of its own where the user has kept the pool's.
    fn region(&self, size: usize) -> Result<Arc<Region>> {
        if let Some(region) = self.pool.as_ref().map(Pool::checkout).transpose()?.flatten() {
            return Ok(region);
        }
        Region::allocate(Layout::new(size), Lock::Never)
    }

    /// A region to bring `size` bytes into before they are written.
    pub fn stage(&mut self, size: usize) -> Result<Arc<Region>> {
        self.reserve(1, size)?;
        self.region(size)
    }

    /// Gives large memory back between uses.
    pub fn trim(&mut self) {
        self.pool.take_if(|pool| pool.pages().len() > OPERATION);
    }
}

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

/// What [`Stream::advance`] found.
#[derive(Debug)]
pub enum Step {
    /// The next chunk.
    Chunk(Chunk),
    /// There is none before the channel's event is readable.
    Wait,
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
    reader: Reader,
    next: u64,
    end: u64,
    /// The size of the file when last asked; zero where the file does not say.
    size: u64,
    chunk: usize,
    depth: usize,
    whole: bool,
    pending: VecDeque<Pending>,
    /// What the next chunk would have raised, once the bytes before it are delivered.
    failed: Option<Error>,
}

#[derive(Debug)]
struct Pending {
    id: u64,
    region: Arc<Region>,
    offset: u64,
    skip: usize,
    len: usize,
    outcome: Option<Outcome>,
}

impl Stream {
    /// Reads `length` bytes from `offset` (to the end of the file where that comes first) in chunks of `chunk` bytes, up to
    /// `depth` of them ahead; each in one operation if `whole`.
    ///
    /// # Errors
    /// What [`File::size`] and [`Pool::new`] raise; the reader is lost then.
    pub fn new(
        file: Arc<File>,
        mut reader: Reader,
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
        // One more than is under way: the chunk that its user has.
        reader.reserve(ahead + usize::from(ahead > 1), cover)?;
        Ok(Stream {
            file,
            reader,
            next: offset,
            end,
            size,
            chunk,
            depth,
            whole,
            pending: VecDeque::new(),
            failed: None,
        })
    }

    /// The channel whose event tells when to go on.
    pub fn channel(&self) -> &Channel {
        &self.reader.channel
    }

    /// Goes on as far as that is possible without waiting.
    ///
    /// # Errors
    /// [`Error::Os`] with offset and length where reading failed; every byte before it has been delivered.
    pub fn advance(&mut self) -> Result<Step> {
        self.take_outcomes()?;
        self.read_ahead()?;
        self.take_outcomes()?;
        let Some(front) = self.pending.front() else { return self.failed.take().map_or(Ok(Step::End), Err) };
        if front.outcome.is_none() {
            return Ok(Step::Wait);
        }
        let Pending { region, offset, skip, len, outcome, .. } = self.pending.pop_front().expect("there is a front");
        let outcome = outcome.expect("checked above");
        let (bytes, error) = (outcome.bytes, outcome.errno());
        let got = bytes.saturating_sub(skip).min(len);
        if let Some(errno) = error.filter(|_| got < len) {
            let at = offset + got as u64;
            self.failed = Some(self.file.error(errno, &format!("read {} bytes at offset {at} of", len - got)));
        }
        if got < len {
            // The file ends here, or cannot be read further: what was read ahead is not wanted.
            self.end = 0;
            self.pending.clear();
        }
        if got == 0 {
            return self.failed.take().map_or(Ok(Step::End), Err);
        }
        // The next chunk's read starts before this one is used.
        self.read_ahead()?;
        self.take_outcomes()?;
        Ok(Step::Chunk(Chunk { region, skip, len: got, offset }))
    }

    /// Ends the stream and hands its channel back for the next use.
    pub fn into_reader(self) -> Reader {
        self.reader
    }

    fn take_outcomes(&mut self) -> Result<()> {
        for outcome in self.reader.channel.progress()? {
            if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == outcome.id) {
                pending.outcome = Some(outcome);
            }
        }
        Ok(())
    }

    fn read_ahead(&mut self) -> Result<()> {
        while self.pending.len() < self.depth && self.next < self.end {
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
            let region = self.reader.region(cover)?;
            let op = Op::Read { offset: self.next - skip as u64, span: Span::new(&region, 0, cover)? };
            let request = Request { whole: self.whole, ..Request::new(op) };
            let id = self.reader.channel.submit(request)?;
            self.pending.push_back(Pending { id, region, offset: self.next, skip, len, outcome: None });
            self.next += len as u64;
        }
        Ok(())
    }
}
