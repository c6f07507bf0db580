//! `DMA::Buffer`: a region, or a part of one, as Ruby holds it. Here its life; [`bytes`] reads and writes it, [`sharing`] lends
//! and borrows memory.

mod bytes;
mod sharing;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_core::channel::progress_all;
use dma_core::memory::{check_range, Huge, Layout, Lock, Region, Residency};
use dma_core::{sys, Errno, Error as Core};
use magnus::rb_sys::protect;
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Opaque};
use magnus::{
    function, gc, method, prelude::*, DataTypeFunctions, Error, Integer, RArray, RModule, Ruby, Symbol, TryConvert,
    TypedData, Value,
};
use rb_sys::VALUE;

pub use self::bytes::{append, append_with, reserve};
pub use self::sharing::{alignment_of, region_of, Export};
use crate::error::{argument, busy, OrRaise};
use crate::{gvl, memory_view, view};

/// A buffer: bytes of its owner's region. Slices have the same owner and know the buffer they were cut from.
#[derive(TypedData)]
#[magnus(class = "DMA::Buffer", free_immediately, mark, size)]
pub struct Buffer {
    owner: Arc<Owner>,
    root: Option<Opaque<Value>>,
    offset: usize,
    len: usize,
    freed: AtomicBool,
}

/// What a buffer and its slices share.
struct Owner {
    state: Mutex<State>,
    source: Source,
    /// Alignment that was asked for.
    align: usize,
    /// MemoryViews that are out.
    exports: AtomicUsize,
    retained: AtomicBool,
    /// Bytes the GC was told of.
    accounted: AtomicUsize,
}

/// No Ruby code runs under its lock, so that the GC can take it to mark.
struct State {
    region: Option<Arc<Region>>,
    closed: Option<&'static str>,
    /// The root of all views, once there was one.
    view: Option<Opaque<Value>>,
}

/// Whose memory it is.
#[derive(Clone, Copy)]
enum Source {
    Own,
    /// Memory of this object, which must not free it: nothing could stop it.
    Pointer(Opaque<Value>),
    /// Memory of this IO::Buffer, which is locked until the buffer is freed, and so cannot free it.
    IoBuffer(Opaque<Value>),
}

/// An offset or a length: an Integer of 0 or more.
#[derive(Clone, Copy)]
pub struct Size(pub usize);

impl TryConvert for Size {
    fn try_convert(value: Value) -> Result<Self, Error> {
        let ruby = Ruby::get_with(value);
        let size = Integer::try_convert(value)?.to_usize();
        size.map(Size).map_err(|_| argument(&ruby, format!("{value} is not in 0..2**64 - 1, as sizes and offsets are")))
    }
}

impl Buffer {
    /// A buffer over `len` bytes of `region` from `offset`.
    pub fn over(region: Arc<Region>, offset: usize, len: usize, align: usize) -> Buffer {
        Buffer::new(region, offset, len, align, Source::Own)
    }

    fn new(region: Arc<Region>, offset: usize, len: usize, align: usize, source: Source) -> Buffer {
        // The views of an IO::Buffer's memory are its own slices.
        let view = if let Source::IoBuffer(buffer) = source { Some(buffer) } else { None };
        let owner = Owner {
            state: Mutex::new(State { region: Some(region), closed: None, view }),
            source,
            align,
            exports: AtomicUsize::new(0),
            retained: AtomicBool::new(false),
            accounted: AtomicUsize::new(0),
        };
        Buffer { owner: Arc::new(owner), root: None, offset, len, freed: AtomicBool::new(false) }
    }

    /// The region while the buffer is open.
    pub fn region(&self) -> Result<Arc<Region>, Core> {
        let state = self.owner.state();
        let why = if self.freed.load(Relaxed) { Some("this slice was freed") } else { state.closed };
        match (why, &state.region) {
            (None, Some(region)) => Ok(Arc::clone(region)),
            (why, _) => Err(Core::Closed(why.unwrap_or("this buffer was freed").into())),
        }
    }

    /// The region, where the buffer is open and of this process.
    pub fn region_if_open(&self) -> Option<Arc<Region>> {
        self.region().ok().filter(|region| region.pages().check().is_ok())
    }

    /// The region and the offset in it of `len` bytes from `offset` of this buffer.
    pub fn locate(&self, offset: usize, len: usize) -> Result<(Arc<Region>, usize), Core> {
        let region = self.region()?;
        region.pages().check()?;
        check_range(offset, len, self.len)?;
        Ok((region, self.offset + offset))
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the memory is somebody else's, who may free it once Ruby lets go of the buffer.
    pub fn is_foreign(&self) -> bool {
        !matches!(self.owner.source, Source::Own)
    }

    /// Tells the GC of the bytes. Telling alone never starts a GC; an allocation of its own kind does.
    pub fn account(&self, ruby: &Ruby, bytes: usize) -> Result<(), Error> {
        self.owner.accounted.fetch_add(bytes, Relaxed);
        account(ruby, bytes)
    }

    /// Ends the use of the memory with the block that it was passed to, unless it was retained in it.
    pub fn release(&self, ruby: &Ruby) -> Result<(), Error> {
        if self.owner.retained.load(Relaxed) {
            return Ok(());
        }
        self.close(ruby, "this buffer was valid inside its block only; copy what is wanted, or retain the buffer")
    }

    /// Ends the use of the memory: views become invalid, methods raise with `why`. Addresses that a view or a MemoryView may
    /// still reach, from a system call of another thread for one, stay mapped until the GC has seen the last of them.
    fn close(&self, ruby: &Ruby, why: &'static str) -> Result<(), Error> {
        let (closed, view) = {
            let state = self.owner.state();
            (state.closed, state.view)
        };
        if closed.is_some() {
            return Ok(());
        }
        match (self.owner.source, view) {
            (Source::IoBuffer(buffer), _) => view::unlock(buffer.get_inner_with(ruby)),
            (_, Some(view)) => view::invalidate(view.get_inner_with(ruby))?,
            (_, None) => {}
        }
        let exported = self.owner.exports.load(Relaxed) > 0;
        let kept = {
            let mut state = self.owner.state();
            state.closed = Some(why);
            state.region.iter().for_each(|region| region.unlist());
            if view.is_none() && !exported {
                state.region = None;
            }
            state.region.as_ref().is_some_and(|region| exported || !region.discard())
        };
        if !kept {
            self.owner.unaccount();
        } else if self.owner.accounted.load(Relaxed) == 0 {
            self.account(ruby, self.len)?;
        }
        Ok(())
    }
}

impl Owner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unaccount(&self) {
        let bytes = self.accounted.swap(0, Relaxed);
        if bytes > 0 {
            // SAFETY: buffers are closed by methods and dropped by the GC, with the GVL; Ruby's own xfree does the same.
            unsafe { rb_sys::rb_gc_adjust_memory_usage(-(bytes as i64) as _) };
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.unaccount();
    }
}

impl DataTypeFunctions for Buffer {
    fn mark(&self, marker: &gc::Marker) {
        if let Some(root) = self.root {
            marker.mark(root);
        }
        if let Source::Pointer(keeper) | Source::IoBuffer(keeper) = self.owner.source {
            marker.mark(keeper);
        }
        if let Some(view) = self.owner.state().view {
            marker.mark(view);
        }
    }

    fn size(&self) -> usize {
        let owns = self.root.is_none() && !self.is_foreign() && self.owner.state().closed.is_none();
        size_of::<Self>() + size_of::<Owner>() + if owns { self.len } else { 0 }
    }
}

/// Tells the GC of memory outside its heap, and lets it act on it.
pub fn account(ruby: &Ruby, bytes: usize) -> Result<(), Error> {
    ruby.gc_adjust_memory_usage(bytes as isize);
    protect(|| {
        // SAFETY: allocated and freed; only an allocation makes the GC look at its counters.
        unsafe { rb_sys::ruby_xfree(rb_sys::ruby_xmalloc(64)) };
        rb_sys::Qnil as VALUE
    })
    .map(drop)
}

/// Runs an allocation without the GVL, and once more after a GC where memory, the lock limit, descriptors or threads were short.
pub fn with_memory<T: Send>(ruby: &Ruby, allocate: impl Fn() -> Result<T, Core> + Send + Sync) -> Result<T, Error> {
    let first = gvl::without(ruby, &allocate)?;
    let short = match &first {
        Err(Core::LockLimit { needed, limit, .. }) => needed <= limit,
        Err(Core::Os { errno, .. }) => {
            matches!(errno, Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN)
        }
        _ => false,
    };
    let result = if short {
        ruby.gc_start();
        gvl::without(ruby, &allocate)?
    } else {
        first
    };
    result.or_raise(ruby)
}

/// `true`, `:auto` or `false`.
pub fn lock_from(ruby: &Ruby, value: Value) -> Result<Lock, Error> {
    match choice(value).as_str() {
        "true" => Ok(Lock::Now),
        "auto" => Ok(Lock::Auto),
        "false" => Ok(Lock::Never),
        _ => Err(argument(ruby, format!("lock: {value:?} is none of true, :auto, false"))),
    }
}

/// `:auto`, `:require` or `:never`.
pub fn huge_from(ruby: &Ruby, value: Value) -> Result<Huge, Error> {
    match choice(value).as_str() {
        "auto" => Ok(Huge::Auto),
        "require" => Ok(Huge::Require),
        "never" => Ok(Huge::Never),
        _ => Err(argument(ruby, format!("huge: {value:?} is none of :auto, :require, :never"))),
    }
}

/// The word that an option is given by: a symbol's name, `true` or `false`.
pub fn choice(value: Value) -> String {
    match Symbol::from_value(value) {
        Some(symbol) => symbol.name().map(|name| name.into_owned()).unwrap_or_default(),
        None => value.inspect(),
    }
}

fn native_new(ruby: &Ruby, Size(size): Size, Size(align): Size, lock: Value, huge: Value) -> Result<Buffer, Error> {
    let (lock, huge) = (lock_from(ruby, lock)?, huge_from(ruby, huge)?);
    let layout = Layout { size, align, huge };
    let region = with_memory(ruby, || Region::allocate(layout, lock))?;
    let bytes = region.pages().len();
    let buffer = Buffer::over(region, 0, size, align.max(sys::page_size()));
    buffer.account(ruby, bytes)?;
    Ok(buffer)
}

fn address(ruby: &Ruby, this: &Buffer) -> Result<usize, Error> {
    let (region, offset) = this.locate(0, 0).or_raise(ruby)?;
    Ok(region.address() + offset)
}

fn alignment(this: &Buffer) -> usize {
    match this.offset {
        0 => this.owner.align,
        offset => this.owner.align.min(1 << offset.trailing_zeros()),
    }
}

fn free(ruby: &Ruby, this: Obj<Buffer>) -> Result<Obj<Buffer>, Error> {
    if this.root.is_some() {
        this.freed.store(true, Relaxed);
        return Ok(this);
    }
    // What the parent of a fork had in flight is none of the child's.
    if let Some(region) = this.region_if_open() {
        if region.in_flight() > 0 {
            // It may be over, and nobody has looked.
            progress_all();
        }
        region.check_idle().or_raise(ruby)?;
        if this.owner.exports.load(Relaxed) > 0 {
            return Err(busy(ruby, "a MemoryView of this buffer is in use; release it first"));
        }
    }
    this.close(ruby, "this buffer was freed")?;
    Ok(this)
}

fn is_freed(this: &Buffer) -> bool {
    this.region_if_open().is_none()
}

fn native_release(ruby: &Ruby, this: &Buffer) -> Result<(), Error> {
    this.release(ruby)
}

fn retain(ruby: &Ruby, this: Obj<Buffer>) -> Result<Obj<Buffer>, Error> {
    this.locate(0, 0).or_raise(ruby)?;
    if !this.owner.retained.swap(true, Relaxed) && this.owner.accounted.load(Relaxed) == 0 && !this.is_foreign() {
        this.account(ruby, this.len)?;
    }
    Ok(this)
}

fn residency(ruby: &Ruby, this: &Buffer) -> Result<Symbol, Error> {
    let (region, offset) = this.locate(0, this.len).or_raise(ruby)?;
    let start = region.address() + offset;
    Ok(ruby.to_symbol(match region.pages().residency(start, this.len.max(1)) {
        Residency::Pageable => "pageable",
        Residency::Locked => "locked",
        Residency::Pinned => "pinned",
    }))
}

fn huge_bytes(ruby: &Ruby, this: &Buffer) -> Result<usize, Error> {
    let (region, offset) = this.locate(0, this.len).or_raise(ruby)?;
    Ok(region.pages().huge_bytes(region.offset() + offset, this.len))
}

fn segments(ruby: &Ruby, this: &Buffer) -> Result<RArray, Error> {
    let (region, offset) = this.locate(0, this.len).or_raise(ruby)?;
    let (start, len) = (region.offset() + offset, this.len);
    let segments = gvl::without(ruby, || region.pages().segments(start, len))?.or_raise(ruby)?;
    ruby.ary_try_from_iter(
        segments.into_iter().map(|(address, len)| Ok::<_, Error>(ruby.ary_from_vec(vec![address, len]))),
    )
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Buffer", ruby.class_object())?;
    class.undef_default_alloc_func();
    dma.const_set("PAGE_SIZE", sys::page_size())?;
    let singleton = class.singleton_class()?;
    singleton.define_private_method("native_new", function!(native_new, 4))?;
    class.define_method("size", method!(|this: &Buffer| this.len, 0))?;
    class.define_method("address", method!(address, 0))?;
    class.define_method("alignment", method!(alignment, 0))?;
    class.define_method("free", method!(free, 0))?;
    class.define_method("freed?", method!(is_freed, 0))?;
    class.define_method("retain", method!(retain, 0))?;
    class.define_method("residency", method!(residency, 0))?;
    class.define_method("huge_bytes", method!(huge_bytes, 0))?;
    class.define_method("segments", method!(segments, 0))?;
    class.define_private_method("native_release", method!(native_release, 0))?;
    bytes::init(class)?;
    sharing::init(class)?;
    memory_view::register(ruby, class)
}
