//! `DMA::File`: an open file. All who transfer through it share one channel.

mod ahead;
mod crowd;
mod fibers;
mod strings;

use std::os::fd::{AsFd, IntoRawFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use dma_core::channel::{Outcome, Request};
use dma_core::engine::{Cache, Stats};
use dma_core::file::{File as CoreFile, Regions, Stream as CoreStream};
use dma_core::memory::Span;
use dma_core::transfer::{Direction, Op};
use dma_core::{Errno, Error as Core};
use magnus::typed_data::Obj;
use magnus::{function, gc, method, prelude::*, DataTypeFunctions, Error, RHash, RModule, Ruby, TypedData, Value};

use self::ahead::Ahead;
pub use self::crowd::Crowd;
use crate::buffer::{with_memory, Buffer};
use crate::device::{choice_from, direct_from};
use crate::error::{closed, raise, OrRaise};
use crate::gvl;
use crate::keeper::keep;
use crate::lock;
use crate::stream::{Active, Source, Stream};
use crate::vectored::{check_apart, parts};

/// Memory kept for the next who read ahead: as many as do so at once in most programs.
const IDLE: usize = 16;

#[derive(TypedData)]
#[magnus(class = "DMA::File", free_immediately, mark, size)]
pub struct File {
    /// `None` once closed. Transfers under way keep the file open until they are over.
    file: Mutex<Option<Arc<CoreFile>>>,
    /// Made for the first transfer.
    crowd: Mutex<Option<Arc<Crowd>>>,
    /// Memory that nobody reads ahead into now.
    idle: Mutex<Vec<Regions>>,
    /// Of who reads at the position.
    ahead: Ahead,
    path: PathBuf,
    depth: u32,
    engine: &'static str,
    stats: Arc<Stats>,
}

impl DataTypeFunctions for File {
    fn mark(&self, marker: &gc::Marker) {
        lock(&self.crowd).iter().for_each(|crowd| crowd.mark(marker));
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

impl File {
    /// The open file, if it is this process's.
    pub fn open(&self, ruby: &Ruby) -> Result<Arc<CoreFile>, Error> {
        // Making the error runs Ruby code, and other threads with it: not under the lock.
        let file = lock(&self.file).clone();
        let file = file.ok_or_else(|| closed(ruby, format!("{} was closed", self.path.display())))?;
        file.handle().check().or_raise(ruby)?;
        Ok(file)
    }

    /// The open file, if it is this process's and may be read: without an error for whoever has another way to find that out.
    pub fn readable(&self) -> Option<Arc<CoreFile>> {
        let file = lock(&self.file);
        file.as_ref().filter(|file| file.handle().is_readable() && file.handle().check().is_ok()).map(Arc::clone)
    }

    /// Whether it was closed, or is the parent process's: nothing was read ahead for this one.
    fn is_over(&self) -> bool {
        lock(&self.file).as_ref().is_none_or(|file| file.handle().check().is_err())
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.file).is_none()
    }

    /// The channel that all transfers share.
    pub fn crowd(&self, ruby: &Ruby, file: &CoreFile) -> Result<Arc<Crowd>, Error> {
        file.handle().check().or_raise(ruby)?;
        if let Some(crowd) = &*lock(&self.crowd) {
            return Ok(Arc::clone(crowd));
        }
        let made = Arc::new(Crowd::new(ruby, file, self.depth)?);
        // Another thread may have made one meanwhile.
        Ok(Arc::clone(lock(&self.crowd).get_or_insert(made)))
    }

    /// Carries out a request on the channel that all share. See [`Crowd::carry_out`].
    fn carry_out(&self, ruby: &Ruby, file: &CoreFile, request: Request, left: impl FnOnce()) -> Result<Outcome, Error> {
        let outcome = self.crowd(ruby, file)?.carry_out(ruby, request, left);
        self.tidy();
        outcome
    }

    /// Of a closed file the channel goes with the last who uses it: until then the GC has to find here what that one waits with.
    fn tidy(&self) {
        let mut crowd = lock(&self.crowd);
        let unused = self.is_closed() && crowd.as_ref().is_some_and(|crowd| Arc::strong_count(crowd) == 1);
        let gone = if unused { crowd.take() } else { None };
        drop(crowd);
        drop(gone);
    }

    /// Memory to read ahead into.
    pub fn regions(&self) -> Regions {
        lock(&self.idle).pop().unwrap_or_default()
    }

    /// Takes it back, for the next use.
    pub fn give_back(&self, mut regions: Regions) {
        regions.trim();
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE && !self.is_closed() {
            idle.push(regions);
        }
        drop(idle);
        self.tidy();
    }

    /// Moves bytes between the starts of buffers and the file, one behind the other there; how many were moved. With `slack`, what
    /// lies behind the buffer's end takes the rest of the last block: for memory that was allocated for this read.
    fn transfer(
        &self,
        ruby: &Ruby,
        direction: Direction,
        parts: &[(Obj<Buffer>, usize)],
        slack: bool,
        offset: u64,
    ) -> Result<usize, Error> {
        let file = self.open(ruby)?;
        let block = if slack { file.limits().granule as usize } else { 1 };
        let (mut elements, mut regions, mut cover) = (Vec::with_capacity(parts.len()), Vec::new(), 0);
        for (buffer, len) in parts {
            let (region, start) = buffer.locate(0, *len).or_raise(ruby)?;
            let size = len.next_multiple_of(block).min(region.capacity() - start);
            let span = Span::new(&region, start, size).or_raise(ruby)?;
            elements.push(direction.op(offset.saturating_add(cover as u64), span));
            cover += size;
            if buffer.is_foreign() {
                regions.push((region, buffer.as_value()));
            }
        }
        if direction == Direction::FromDevice && parts.len() > 1 {
            let spans = elements.iter().filter_map(Op::span);
            check_apart(ruby, spans.map(|span| (span.address() as usize, span.len())).collect())?;
        }
        let cache = match direction {
            Direction::FromDevice => file.handle().look(offset, cover as u64),
            Direction::ToDevice => Cache::Past,
        };
        let request = Request { cache, ..Request::list(elements) };
        let outcome = self.carry_out(ruby, &file, request, || {
            // Its owner would free it under the engine.
            regions.iter().for_each(|(region, owner)| keep(ruby, region, *owner));
        })?;
        check(ruby, &file, direction, offset, (outcome.bytes, cover), outcome.errno())?;
        Ok(outcome.bytes.min(parts.iter().map(|(_, len)| len).sum()))
    }

    /// A stream of `range` of the file.
    fn active(&self, ruby: &Ruby, range: (u64, u64), chunk: usize, depth: usize, whole: bool) -> Result<Active, Error> {
        let file = self.open(ruby)?;
        let crowd = self.crowd(ruby, &file)?;
        let (channel, regions) = (Arc::clone(&crowd.line.shared), self.regions());
        let stream = CoreStream::new(file, channel, regions, range, chunk, depth, whole).or_raise(ruby)?;
        Ok(Active::new(Source::InOrder(stream), crowd))
    }
}

/// Raises what stopped a transfer, with what was done.
fn check(
    ruby: &Ruby,
    file: &CoreFile,
    direction: Direction,
    offset: u64,
    (done, len): (usize, usize),
    error: Option<Errno>,
) -> Result<(), Error> {
    let Some(errno) = error else { return Ok(()) };
    let (at, left) = (offset + done as u64, len - done);
    let (verb, state) = match direction {
        Direction::FromDevice => ("read", "were read"),
        Direction::ToDevice => ("write", "are safe"),
    };
    let what = format!("{verb} {left} bytes at offset {at} ({done} of {len} bytes {state}) of");
    Err(raise(ruby, &file.error(errno, &what)))
}

fn native_open(
    ruby: &Ruby,
    path: PathBuf,
    flags: i32,
    perm: u32,
    (direct, engine): (Value, Value),
    depth: u32,
) -> Result<File, Error> {
    let (direct, engine) = (direct_from(ruby, direct)?, choice_from(ruby, engine)?);
    let file = with_memory(ruby, || CoreFile::open(&path, flags, perm, direct, engine))?;
    let (engine, stats) = (file.engine().name(), file.stats());
    let (file, crowd, idle) = (Mutex::new(Some(Arc::new(file))), Mutex::default(), Mutex::default());
    Ok(File { file, crowd, idle, ahead: Ahead::default(), path, depth, engine, stats })
}

fn close(this: &File) {
    drop(lock(&this.file).take());
    this.ahead.drop(this);
    drop(std::mem::take(&mut *lock(&this.idle)));
    this.tidy();
}

fn size(ruby: &Ruby, this: &File) -> Result<u64, Error> {
    this.open(ruby)?.size().or_raise(ruby)
}

fn native_truncate(ruby: &Ruby, this: &File, size: u64) -> Result<(), Error> {
    let file = this.open(ruby)?;
    gvl::without(ruby, || file.truncate(size))?.or_raise(ruby)
}

fn native_allocate(ruby: &Ruby, this: &File, offset: u64, len: u64) -> Result<(), Error> {
    let file = this.open(ruby)?;
    gvl::without(ruby, || file.allocate(offset, len))?.or_raise(ruby)
}

fn native_read_into(ruby: &Ruby, this: &File, memory: Value, len: usize, offset: u64) -> Result<usize, Error> {
    this.transfer(ruby, Direction::FromDevice, &parts(ruby, memory, len)?, false, offset)
}

fn native_load(ruby: &Ruby, this: &File, buffer: Obj<Buffer>, offset: u64) -> Result<usize, Error> {
    this.transfer(ruby, Direction::FromDevice, &[(buffer, buffer.len())], true, offset)
}

fn native_write_from(ruby: &Ruby, this: &File, memory: Value, len: usize, offset: u64) -> Result<usize, Error> {
    this.transfer(ruby, Direction::ToDevice, &parts(ruby, memory, len)?, false, offset)
}

fn native_stream(
    ruby: &Ruby,
    this: Obj<File>,
    chunk: usize,
    offset: u64,
    len: Option<u64>,
    depth: usize,
) -> Result<Stream, Error> {
    let active = this.active(ruby, (offset, len.unwrap_or(u64::MAX)), chunk, depth, false)?;
    Ok(Stream::new(active, this))
}

fn native_sync(ruby: &Ruby, this: &File, data_only: bool) -> Result<(), Error> {
    let file = this.open(ruby)?;
    let request = Request::new(Op::Flush { data_only });
    match this.carry_out(ruby, &file, request, || {})?.errno() {
        None => Ok(()),
        Some(errno) => Err(raise(ruby, &file.error(errno, "make durable what was written to"))),
    }
}

fn is_direct(ruby: &Ruby, this: &File) -> Result<bool, Error> {
    Ok(this.open(ruby)?.handle().is_direct())
}

fn alignment(ruby: &Ruby, this: &File) -> Result<u64, Error> {
    Ok(this.open(ruby)?.limits().granule)
}

fn memory_alignment(ruby: &Ruby, this: &File) -> Result<usize, Error> {
    Ok(this.open(ruby)?.limits().memory)
}

fn stats(ruby: &Ruby, this: &File) -> Result<RHash, Error> {
    let stats = &this.stats;
    let (direct, buffered) = (stats.direct_requests.load(Relaxed), stats.buffered_requests.load(Relaxed));
    let hash = ruby.hash_new();
    hash.aset(ruby.to_symbol("engine"), ruby.to_symbol(this.engine))?;
    hash.aset(ruby.to_symbol("requests"), direct + buffered)?;
    hash.aset(ruby.to_symbol("direct_requests"), direct)?;
    hash.aset(ruby.to_symbol("direct_bytes"), stats.direct_bytes.load(Relaxed))?;
    hash.aset(ruby.to_symbol("buffered_requests"), buffered)?;
    hash.aset(ruby.to_symbol("buffered_bytes"), stats.buffered_bytes.load(Relaxed))?;
    hash.aset(ruby.to_symbol("bounced_bytes"), stats.bounced_bytes.load(Relaxed))?;
    hash.aset(ruby.to_symbol("fallbacks"), stats.fallbacks.load(Relaxed))?;
    hash.aset(ruby.to_symbol("cached_requests"), stats.cached_requests.load(Relaxed))?;
    hash.aset(ruby.to_symbol("fixed_requests"), stats.fixed_requests.load(Relaxed))?;
    hash.aset(ruby.to_symbol("registration_error"), stats.registration_error.get().map(String::as_str))?;
    hash.aset(ruby.to_symbol("ring_error"), stats.ring_error.get().map(String::as_str))?;
    Ok(hash)
}

/// A new descriptor of the file through the page cache, which the caller owns. It shares its position with others of its kind.
fn native_descriptor(ruby: &Ruby, this: &File) -> Result<i32, Error> {
    let file = this.open(ruby)?;
    let descriptor = file.handle().descriptor().as_fd().try_clone_to_owned();
    let descriptor = descriptor.map_err(|error| {
        let errno = dma_core::error::errno(&error);
        raise(ruby, &Core::os(errno, "cannot duplicate a descriptor"))
    })?;
    Ok(descriptor.into_raw_fd())
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("File", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.singleton_class()?.define_private_method("native_open", function!(native_open, 5))?;
    class.define_method("size", method!(size, 0))?;
    class.define_method("direct?", method!(is_direct, 0))?;
    class.define_method("alignment", method!(alignment, 0))?;
    class.define_method("memory_alignment", method!(memory_alignment, 0))?;
    class.define_method("stats", method!(stats, 0))?;
    class.define_method("closed?", method!(File::is_over, 0))?;
    class.define_private_method("native_check", method!(|ruby: &Ruby, this: &File| this.open(ruby).map(drop), 0))?;
    class.define_private_method("native_close", method!(close, 0))?;
    class.define_private_method("native_truncate", method!(native_truncate, 1))?;
    class.define_private_method("native_allocate", method!(native_allocate, 2))?;
    class.define_private_method("native_read_into", method!(native_read_into, 3))?;
    class.define_private_method("native_load", method!(native_load, 2))?;
    class.define_private_method("native_write_from", method!(native_write_from, 3))?;
    class.define_private_method("native_read_string", method!(strings::native_read_string, 4))?;
    class.define_private_method("native_read_on", method!(strings::native_read_on, 4))?;
    class.define_private_method("native_take", method!(strings::native_take, 2))?;
    class.define_private_method("native_pread", method!(strings::native_pread, 3))?;
    class.define_private_method("native_ahead", method!(|this: &File| this.ahead.until(), 0))?;
    class.define_private_method("native_forget", method!(|this: &File| this.ahead.drop(this), 0))?;
    class.define_private_method("native_write_string", method!(strings::native_write_string, 3))?;
    class.define_private_method("native_empty", method!(strings::native_empty, 1))?;
    class.define_private_method("native_depth", method!(|this: &File| this.depth, 0))?;
    class.define_private_method("native_stream", method!(native_stream, 4))?;
    class.define_private_method("native_sync", method!(native_sync, 1))?;
    class.define_private_method("native_descriptor", method!(native_descriptor, 0))?;
    Ok(())
}
