//! `DMA::File`: an open file; each thread or fiber that transfers gets a port of its own.

use std::os::fd::{AsFd, IntoRawFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_core::channel::Request;
use dma_core::engine::Stats;
use dma_core::file::{File as CoreFile, Stream as CoreStream, OPERATION};
use dma_core::memory::Span;
use dma_core::transfer::{Direction, Op};
use dma_core::{sys, Errno, Error as Core};
use magnus::typed_data::Obj;
use magnus::{
    function, gc, method, prelude::*, DataTypeFunctions, Error, RHash, RModule, RString, Ruby, TypedData, Value,
};

use crate::buffer::{with_memory, Buffer};
use crate::device::direct_from;
use crate::error::{argument, closed, raise, OrRaise};
use crate::gvl;
use crate::keeper::keep;
use crate::port::Port;
use crate::stream::{Active, Stream};

/// Ports kept for the next use: as many as transfer at once in most programs.
const IDLE_PORTS: usize = 16;
/// Bytes of a String that are copied to aligned memory at a time.
const STAGE: usize = 4 << 20;

#[derive(TypedData)]
#[magnus(class = "DMA::File", free_immediately, mark, size)]
pub struct File {
    /// `None` once closed. Transfers under way keep the file open until they are over.
    file: Mutex<Option<Arc<CoreFile>>>,
    /// Ports that nobody uses now. No Ruby code runs under the lock, so that the GC can take it to mark.
    idle: Mutex<Vec<Port>>,
    path: PathBuf,
    depth: u32,
    stats: Arc<Stats>,
}

impl DataTypeFunctions for File {
    fn mark(&self, marker: &gc::Marker) {
        lock(&self.idle).iter().for_each(|port| marker.mark(port.io()));
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

impl File {
    fn open(&self, ruby: &Ruby) -> Result<Arc<CoreFile>, Error> {
        lock(&self.file).clone().ok_or_else(|| closed(ruby, format!("{} was closed", self.path.display())))
    }

    fn port(&self, ruby: &Ruby, file: &CoreFile) -> Result<Port, Error> {
        file.handle().check().or_raise(ruby)?;
        if let Some(port) = lock(&self.idle).pop() {
            return Ok(port);
        }
        let channel = file.channel(self.depth).or_raise(ruby)?;
        Port::new(ruby, channel)
    }

    /// Takes a port back, for the next use if it was `good` and is in order. True when none of the memory it used is in use any more.
    pub fn give_back(&self, mut port: Port, good: bool) -> bool {
        let settled = port.settle();
        if settled && good && port.reader.channel.is_usable() && lock(&self.file).is_some() {
            port.reader.trim();
            let mut idle = lock(&self.idle);
            if idle.len() < IDLE_PORTS {
                idle.push(port);
            }
        }
        settled
    }

    /// Moves `len` bytes between the start of a buffer and the file; how many were moved. With `slack`, what lies behind the
    /// buffer's end takes the rest of the last block: for memory that was allocated for this read.
    fn transfer(
        &self,
        ruby: &Ruby,
        direction: Direction,
        buffer: Obj<Buffer>,
        (len, slack): (usize, bool),
        offset: u64,
    ) -> Result<usize, Error> {
        let file = self.open(ruby)?;
        let (region, start) = buffer.locate(0, len).or_raise(ruby)?;
        let block = if slack { file.limits().granule as usize } else { 1 };
        let cover = len.next_multiple_of(block).min(region.capacity() - start);
        let span = Span::new(&region, start, cover).or_raise(ruby)?;
        let mut port = self.port(ruby, &file)?;
        let submitted = port.reader.channel.submit(Request::new(direction.op(offset, span))).or_raise(ruby);
        let result = submitted.and_then(|id| port.complete(ruby, id));
        if !self.give_back(port, result.is_ok()) && buffer.is_foreign() {
            // Its owner would free it under the engine.
            keep(ruby, &region, buffer.as_value());
        }
        let outcome = result?;
        check(ruby, &file, direction, offset, (outcome.bytes, cover), outcome.errno())?;
        Ok(outcome.bytes.min(len))
    }

    /// A stream of `range` of the file, through a port of its own.
    fn active(&self, ruby: &Ruby, range: (u64, u64), chunk: usize, depth: usize, whole: bool) -> Result<Active, Error> {
        let file = self.open(ruby)?;
        let port = self.port(ruby, &file)?;
        let start = |reader| CoreStream::new(Arc::clone(&file), reader, range, chunk, depth, whole);
        Active::new(port, start).or_raise(ruby)
    }
}

/// Raises what stopped a transfer, with what is safe.
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
    let verb = if direction == Direction::FromDevice { "read" } else { "write" };
    let what = format!("{verb} {left} bytes at offset {at} ({done} of {len} bytes are safe) of");
    Err(raise(ruby, &file.error(errno, &what)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn native_open(ruby: &Ruby, path: PathBuf, flags: i32, perm: u32, direct: Value, depth: u32) -> Result<File, Error> {
    let direct = direct_from(ruby, direct)?;
    let file = with_memory(ruby, || CoreFile::open(&path, flags, perm, direct))?;
    let stats = file.stats();
    Ok(File { file: Mutex::new(Some(Arc::new(file))), idle: Mutex::new(Vec::new()), path, depth, stats })
}

fn close(this: &File) {
    // Ports of a fork's parent are dropped like others: they know.
    drop(lock(&this.file).take());
    let ports = std::mem::take(&mut *lock(&this.idle));
    drop(ports);
}

fn size(ruby: &Ruby, this: &File) -> Result<u64, Error> {
    this.open(ruby)?.size().or_raise(ruby)
}

fn native_truncate(ruby: &Ruby, this: &File, size: u64) -> Result<(), Error> {
    let file = this.open(ruby)?;
    gvl::without(ruby, || file.truncate(size))?.or_raise(ruby)
}

fn native_read_into(ruby: &Ruby, this: &File, buffer: Obj<Buffer>, len: usize, offset: u64) -> Result<usize, Error> {
    this.transfer(ruby, Direction::FromDevice, buffer, (len, false), offset)
}

fn native_load(ruby: &Ruby, this: &File, buffer: Obj<Buffer>, offset: u64) -> Result<usize, Error> {
    this.transfer(ruby, Direction::FromDevice, buffer, (buffer.len(), true), offset)
}

fn native_write_from(ruby: &Ruby, this: &File, buffer: Obj<Buffer>, len: usize, offset: u64) -> Result<usize, Error> {
    this.transfer(ruby, Direction::ToDevice, buffer, (len, false), offset)
}

/// Appends up to `len` bytes from `offset` of the file to `out`; in one request to the kernel, if `whole`.
fn native_read_string(
    ruby: &Ruby,
    this: &File,
    out: RString,
    offset: u64,
    len: u64,
    whole: bool,
) -> Result<usize, Error> {
    if len == 0 {
        return Ok(0);
    }
    let len = if whole { len.min(sys::MAX_RW as u64 / 2) } else { len };
    let chunk = if whole { len as usize } else { OPERATION };
    let mut active = this.active(ruby, (offset, len), chunk, this.depth as usize, whole)?;
    let result = active.append_to(ruby, out);
    this.give_back(active.into_port(), result.is_ok());
    result
}

/// Writes a String, through aligned memory, at most [`STAGE`] bytes of it at a time; or what one request to the kernel takes.
fn native_write_string(ruby: &Ruby, this: &File, string: RString, offset: u64, whole: bool) -> Result<usize, Error> {
    let file = this.open(ruby)?;
    let granule = file.limits().granule;
    let total = string.len();
    let mut port = this.port(ruby, &file)?;
    let mut done = 0;
    let result = loop {
        let at = offset.saturating_add(done as u64);
        let skip = (at % granule) as usize;
        let len = (total - done).min(if whole { total } else { STAGE - skip });
        if len == 0 {
            break Ok(());
        }
        let moved = stage(ruby, &mut port, string, done, (skip, len)).and_then(|span| {
            let request = Request { whole, ..Request::new(Op::Write { offset: at, span }) };
            let id = port.reader.channel.submit(request).or_raise(ruby)?;
            let outcome = port.complete(ruby, id)?;
            done += outcome.bytes;
            check(ruby, &file, Direction::ToDevice, offset, (done, total), outcome.errno())
        });
        if moved.is_err() || whole {
            break moved;
        }
    };
    this.give_back(port, result.is_ok());
    result.map(|()| done)
}

/// Copies `len` bytes of the String from `from` on to memory that is as far from a boundary as the file offset is: `skip` bytes.
fn stage(
    ruby: &Ruby,
    port: &mut Port,
    string: RString,
    from: usize,
    (skip, len): (usize, usize),
) -> Result<Span, Error> {
    let region = port.reader.stage(skip + len).or_raise(ruby)?;
    // SAFETY: no Ruby code runs while the slice is used.
    let bytes = unsafe { string.as_slice() };
    let bytes = bytes.get(from..from + len).ok_or_else(|| argument(ruby, "the String changed while it was written"))?;
    // SAFETY: the slice has `len` bytes.
    unsafe { region.write(skip, bytes.as_ptr(), len) }.or_raise(ruby)?;
    Span::new(&region, skip, len).or_raise(ruby)
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
    let mut port = this.port(ruby, &file)?;
    let submitted = port.reader.channel.submit(Request::new(Op::Flush { data_only })).or_raise(ruby);
    let result = submitted.and_then(|id| port.complete(ruby, id));
    this.give_back(port, result.is_ok());
    match result?.errno() {
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
    hash.aset(ruby.to_symbol("engine"), ruby.to_symbol("threads"))?;
    hash.aset(ruby.to_symbol("requests"), direct + buffered)?;
    hash.aset(ruby.to_symbol("direct_requests"), direct)?;
    hash.aset(ruby.to_symbol("direct_bytes"), stats.direct_bytes.load(Relaxed))?;
    hash.aset(ruby.to_symbol("buffered_requests"), buffered)?;
    hash.aset(ruby.to_symbol("buffered_bytes"), stats.buffered_bytes.load(Relaxed))?;
    hash.aset(ruby.to_symbol("bounced_bytes"), stats.bounced_bytes.load(Relaxed))?;
    hash.aset(ruby.to_symbol("fallbacks"), stats.fallbacks.load(Relaxed))?;
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
    class.define_method("closed?", method!(|this: &File| lock(&this.file).is_none(), 0))?;
    class.define_private_method("native_close", method!(close, 0))?;
    class.define_private_method("native_truncate", method!(native_truncate, 1))?;
    class.define_private_method("native_read_into", method!(native_read_into, 3))?;
    class.define_private_method("native_load", method!(native_load, 2))?;
    class.define_private_method("native_write_from", method!(native_write_from, 3))?;
    class.define_private_method("native_read_string", method!(native_read_string, 4))?;
    class.define_private_method("native_write_string", method!(native_write_string, 3))?;
    class.define_private_method("native_depth", method!(|this: &File| this.depth, 0))?;
    class.define_private_method("native_stream", method!(native_stream, 4))?;
    class.define_private_method("native_sync", method!(native_sync, 1))?;
    class.define_private_method("native_descriptor", method!(native_descriptor, 0))?;
    Ok(())
}
