//! A file's bytes to another file: by the file system where it does that, else through memory, reading and writing at the same time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{File, Regions};
use crate::channel::{Channel, Outcome, Request};
use crate::engine::file::{Choice, Direct, OPERATION};
use crate::engine::Cache;
use crate::error::{Error, Result};
use crate::memory::{Region, Span};
use crate::sys;
use crate::transfer::Op;

/// Operations in flight on either side.
const DEPTH: u32 = 8;
/// Pieces of one operation that are read or written: enough for both sides.
const PIECES: usize = 2 * DEPTH as usize;
/// What a server copies before somebody looks for interrupts.
const REMOTE: usize = 16 << 20;

/// Types of what is copied, and of directories, which open(2) refuses.
const COPIED: [u32; 3] = [libc::S_IFREG, libc::S_IFBLK, libc::S_IFDIR];

/// What [`Copy::advance`] found.
#[derive(Debug)]
pub enum Progress {
    /// There is more to do.
    Again,
    /// There is nothing to do before the event is readable.
    Wait,
    /// All was copied: so many bytes.
    Done(u64),
}

/// Who moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nobody: both files have the same.
    Shared,
    /// The server of both files.
    Remote,
    /// We do.
    Memory,
}

/// A copy under way.
///
/// Bytes of the destination get their room before they are written, so that no write makes the file longer and a lack of room shows
/// at once. In the end, however it ends, it is as long as what was copied.
#[derive(Debug)]
pub struct Copy {
    source: Arc<File>,
    destination: Arc<File>,
    reader: Channel,
    writer: Channel,
    regions: Regions,
    event: OwnedFd,
    way: Way,
    cache: Cache,
    /// What is read is whole blocks of both.
    block: u64,
    /// The size of the source when last asked; zero where it does not say.
    size: u64,
    /// Up to here everything is copied, on its way or a hole.
    next: u64,
    /// There are bytes from `next` to here.
    data: u64,
    /// Where the source has turned out to end.
    end: u64,
    has_holes: bool,
    allocates: bool,
    reading: Vec<Piece>,
    writing: Vec<Piece>,
    /// The first place that could not be copied.
    failed: Option<(u64, Error)>,
}

#[derive(Debug)]
struct Piece {
    id: u64,
    at: u64,
    len: usize,
    region: Arc<Region>,
}

impl Copy {
    /// Opens both files, makes the destination with the permissions of the source where there is none, cuts it, and has them share
    /// their bytes where the file system can.
    ///
    /// # Errors
    /// [`Error::Argument`] where both are the same file; [`Error::Unsupported`] for what is neither file nor block device; what
    /// [`File::open`] refuses. Nothing was cut then.
    pub fn new(source: &Path, destination: &Path, direct: Direct) -> Result<Copy> {
        let (source, perm) = open(source, libc::O_RDONLY, 0, direct)?;
        let (destination, _) = open(destination, libc::O_WRONLY | libc::O_CREAT, perm & 0o777, direct)?;
        check_apart(&source, &destination)?;
        let size = source.size()?;
        let (from, to) = (source.handle(), destination.handle());
        let mut way = Way::Memory;
        if to.is_regular() {
            destination.truncate(0)?;
            if from.is_regular() && size > 0 && sys::reflink(from.descriptor(), to.descriptor()).is_ok() {
                way = Way::Shared;
            } else if from.is_regular() && sys::copies_remotely(from.descriptor(), to.descriptor()) {
                way = Way::Remote;
            }
        } else if size > destination.size()? {
            let what = format!("copy the {size} bytes of {} to", source.path().display());
            return Err(destination.error(Errno::ENOSPC, &what));
        }
        Copy::begin(source, destination, size, way)
    }

    fn begin(source: Arc<File>, destination: Arc<File>, size: u64, way: Way) -> Result<Copy> {
        let (reader, mut regions) = (source.channel(DEPTH)?, Regions::default());
        if way == Way::Memory {
            regions.reserve(PIECES, OPERATION)?;
        }
        let writer = destination.channel(DEPTH)?;
        let event = sys::either(reader.event(), writer.event())
            .map_err(|errno| Error::os(errno, "cannot make an event to wait for"))?;
        Ok(Copy {
            block: source.limits().granule.max(destination.limits().granule),
            cache: source.handle().look(0, size),
            has_holes: source.handle().is_regular() && destination.handle().is_regular(),
            allocates: destination.handle().is_regular(),
            source,
            destination,
            reader,
            writer,
            regions,
            event,
            way,
            size,
            next: 0,
            data: 0,
            end: u64::MAX,
            reading: Vec::new(),
            writing: Vec::new(),
            failed: None,
        })
    }

    /// Readable when it is time to go on.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Goes on as far as that is possible without waiting.
    ///
    /// # Errors
    /// [`Error::Os`] with path and offset, once all before it was copied.
    pub fn advance(&mut self) -> Result<Progress> {
        match self.way {
            Way::Shared => Ok(Progress::Done(self.destination.size()?)),
            Way::Remote => self.copy_remotely(),
            Way::Memory => self.copy(),
        }
    }

    /// Gives up what is under way, and waits up to `timeout` for it; true when the memory is in use no more.
    pub fn quiesce(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let read = self.reader.quiesce(timeout);
        read & self.writer.quiesce(deadline.saturating_duration_since(Instant::now()))
    }

    /// Cuts the destination to what is safe in it, after the copy was given up; not while it still has a write of ours, behind
    /// which truncating would wait as long as that does.
    pub fn cut(&mut self) -> Result<()> {
        for outcome in self.writer.progress()? {
            self.written(outcome);
        }
        if !self.writer.is_idle() {
            return Ok(());
        }
        self.cut_to(self.safe())
    }

    /// Up to here everything was copied.
    fn safe(&self) -> u64 {
        let open = self.reading.iter().chain(&self.writing).map(|piece| piece.at).min();
        let failed = self.failed.as_ref().map(|(at, _)| *at);
        self.next.min(self.end).min(open.unwrap_or(u64::MAX)).min(failed.unwrap_or(u64::MAX))
    }

    fn cut_to(&self, size: u64) -> Result<()> {
        if self.destination.handle().is_regular() && self.destination.size()? != size {
            self.destination.truncate(size)?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<Progress> {
        let safe = self.safe();
        let cut = self.cut_to(safe);
        match &self.failed {
            Some((_, error)) => Err(error.clone()),
            None => cut.map(|()| Progress::Done(safe)),
        }
    }

    fn copy_remotely(&mut self) -> Result<Progress> {
        let (from, to) = (self.source.handle().descriptor(), self.destination.handle().descriptor());
        match sys::copy_range(from, to, self.next, REMOTE) {
            Ok(0) => self.finish(),
            Ok(bytes) => {
                self.next += bytes as u64;
                Ok(Progress::Again)
            }
            // Not after all, or not these two: a server of an older version, say.
            Err(Errno::EXDEV | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
                self.way = Way::Memory;
                self.regions.reserve(PIECES, OPERATION)?;
                Ok(Progress::Again)
            }
            Err(errno) => {
                let what = format!("copy from offset {} of {} to", self.next, self.source.path().display());
                self.fail(self.next, self.destination.error(errno, &what));
                self.finish()
            }
        }
    }

    fn copy(&mut self) -> Result<Progress> {
        self.read_ahead()?;
        let read = self.reader.progress()?;
        let mut quiet = read.is_empty();
        read.into_iter().try_for_each(|outcome| self.read(outcome))?;
        let written = self.writer.progress()?;
        quiet &= written.is_empty();
        written.into_iter().for_each(|outcome| self.written(outcome));
        match self.reading.is_empty() && self.writing.is_empty() {
            // A disk that is faster than this thread would never let it go.
            _ if !quiet => Ok(Progress::Again),
            true => self.finish(),
            false => Ok(Progress::Wait),
        }
    }

    fn read_ahead(&mut self) -> Result<()> {
        while self.reading.len() + self.writing.len() < PIECES && self.find_data()? {
            let (at, len) = (self.next, (self.data - self.next).min(OPERATION as u64) as usize);
            let cover = len.next_multiple_of(self.source.limits().granule as usize);
            let region = self.regions.region(OPERATION)?;
            let op = Op::Read { offset: at, span: Span::new(&region, 0, cover)? };
            let id = self.reader.submit(Request { cache: self.cache, ..Request::new(op) })?;
            self.reading.push(Piece { id, at, len, region });
            self.next += len as u64;
        }
        Ok(())
    }

    /// Moves `next` to bytes that were not read yet. False where there are none, or none is certain before a read has ended.
    fn find_data(&mut self) -> Result<bool> {
        while self.next >= self.data && self.end == u64::MAX && self.failed.is_none() {
            if self.next >= self.size {
                if !self.reading.is_empty() {
                    return Ok(false);
                }
                // It may have grown, and one that gives no size is read until nothing comes.
                let known = self.size > 0;
                self.size = self.source.size()?;
                if self.size == 0 && !known {
                    self.data = self.next + OPERATION as u64;
                } else if self.next >= self.size {
                    return Ok(false);
                }
                continue;
            }
            let from = self.source.handle().descriptor();
            match if self.has_holes { sys::next_data(from, self.next) } else { Err(Errno::EINVAL) } {
                Ok(Some((start, end))) => {
                    self.size = self.size.max(end);
                    self.next = self.next.max(start - start % self.block);
                    self.data = end.next_multiple_of(self.block).min(self.size);
                }
                Ok(None) => {
                    // A hole up to the end, wherever that is now.
                    self.size = self.source.size()?;
                    self.next = self.next.max(self.size);
                }
                Err(_) => {
                    self.has_holes = false;
                    self.data = self.size;
                }
            }
            self.allocate();
        }
        Ok(self.failed.is_none() && self.next < self.data.min(self.end))
    }

    /// Gives the bytes that are written next their room.
    fn allocate(&mut self) {
        if !self.allocates || self.next >= self.data {
            return;
        }
        match self.destination.allocate(self.next, self.data - self.next) {
            Ok(()) => {}
            Err(error @ Error::Os { errno: Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG, .. }) => {
                self.fail(self.next, error);
            }
            Err(_) => self.allocates = false,
        }
    }

    fn read(&mut self, outcome: Outcome) -> Result<()> {
        let Some(Piece { at, len, region, .. }) = take(&mut self.reading, outcome.id) else { return Ok(()) };
        let got = outcome.bytes.min(len);
        let stop = at + got as u64;
        if let Some(errno) = outcome.errno().filter(|_| got < len) {
            let what = format!("read {} bytes at offset {stop} of", len - got);
            self.fail(stop, self.source.error(errno, &what));
        } else if got < len {
            // It ends here. Where nothing came, it may even end in the hole before.
            let size = if got == 0 && self.size > 0 { self.source.size()? } else { stop };
            self.end = self.end.min(stop.min(size));
        }
        let wanted = self.end.min(self.failed.as_ref().map_or(u64::MAX, |(at, _)| *at));
        if got == 0 || at >= wanted {
            return Ok(());
        }
        let op = Op::Write { offset: at, span: Span::new(&region, 0, got)? };
        let id = self.writer.submit(Request::new(op))?;
        self.writing.push(Piece { id, at, len: got, region });
        Ok(())
    }

    fn written(&mut self, outcome: Outcome) {
        let Some(Piece { at, len, .. }) = take(&mut self.writing, outcome.id) else { return };
        if let Some(errno) = outcome.errno() {
            let stop = at + outcome.bytes as u64;
            let what = format!("write {} bytes at offset {stop} of", len - outcome.bytes);
            self.fail(stop, self.destination.error(errno, &what));
        }
    }

    fn fail(&mut self, at: u64, error: Error) {
        if self.failed.as_ref().is_none_or(|(first, _)| at < *first) {
            self.failed = Some((at, error));
        }
    }
}

fn take(pieces: &mut Vec<Piece>, id: u64) -> Option<Piece> {
    let index = pieces.iter().position(|piece| piece.id == id)?;
    Some(pieces.swap_remove(index))
}

/// Opens one side; also its permissions.
fn open(path: &Path, flags: i32, perm: u32, direct: Direct) -> Result<(Arc<File>, u32)> {
    // Some devices notice that they are opened, and FIFOs have two ends.
    if sys::mode(path).is_ok_and(|mode| !COPIED.contains(&(mode & libc::S_IFMT))) {
        let path = path.display();
        return Err(Error::Unsupported(format!(
            "{path} is neither a regular file nor a block device; read and write it by itself"
        )));
    }
    let file = File::open(path, flags, perm, direct, Choice::Auto)?;
    let stat = sys::stat(file.handle().descriptor()).map_err(|errno| file.error(errno, "look at"))?;
    Ok((Arc::new(file), stat.mode))
}

/// Refuses to copy a file over itself.
fn check_apart(source: &File, destination: &File) -> Result<()> {
    let stat = |file: &File| sys::stat(file.handle().descriptor()).map_err(|errno| file.error(errno, "look at"));
    let (from, to) = (stat(source)?, stat(destination)?);
    let both_devices = [&from, &to].iter().all(|stat| stat.mode & libc::S_IFMT == libc::S_IFBLK);
    if from.id != to.id && !(both_devices && from.device == to.device) {
        return Ok(());
    }
    let (from, to) = (source.path().display(), destination.path().display());
    Err(Error::Argument(format!("{from} and {to} are the same file; copy to another path")))
}

#[cfg(test)]
mod tests;
