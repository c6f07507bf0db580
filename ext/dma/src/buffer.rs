//! `DMA::Buffer`: a region, or a part of one, as Ruby holds it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_core::memory::{Huge, Layout, Lock, Pages, Region, Residency};
use dma_core::{sys, Error as Core};
use magnus::rb_sys::{protect, AsRawValue};
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Opaque};
use magnus::{
    function, gc, method, prelude::*, DataTypeFunctions, Error, Integer, RArray, RModule, RString, Ruby, Symbol,
    TryConvert, TypedData, Value,
};
use rb_sys::VALUE;

use crate::error::{argument, busy, OrRaise};
use crate::value_type::ValueType;
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
    /// Alignment that was asked for.
    align: usize,
    /// MemoryViews that are out.
    exports: AtomicUsize,
    retained: AtomicBool,
    /// Bytes the GC was told of.
    accounted: AtomicUsize,
    /// The object whose memory this is, where it is not ours.
    keeper: Option<Opaque<Value>>,
}

/// No Ruby code runs under its lock, so that the GC can take it to mark.
struct State {
    region: Option<Arc<Region>>,
    closed: Option<&'static str>,
    view: Option<Opaque<Value>>,
}

/// An offset or a length: an Integer of 0 or more.
pub struct Size(pub usize);

impl TryConvert for Size {
    fn try_convert(value: Value) -> Result<Self, Error> {
        let ruby = Ruby::get_with(value);
        let size = Integer::try_convert(value)?.to_usize();
        size.map(Size).map_err(|_| argument(&ruby, format!("{value} is no offset or length: these are 0..2**64 - 1")))
    }
}

impl Buffer {
    /// A buffer over `len` bytes of `region` from `offset`.
    pub fn over(region: Arc<Region>, offset: usize, len: usize, align: usize) -> Buffer {
        Buffer::new(region, offset, len, align, None)
    }

    fn new(region: Arc<Region>, offset: usize, len: usize, align: usize, keeper: Option<Opaque<Value>>) -> Buffer {
        let state = State { region: Some(region), closed: None, view: None };
        let owner = Owner {
            state: Mutex::new(state),
            align,
            exports: AtomicUsize::new(0),
            retained: AtomicBool::new(false),
            accounted: AtomicUsize::new(0),
            keeper,
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
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok((region, self.offset + offset)),
            _ => Err(Core::Argument(format!(
                "{len} bytes at offset {offset} are outside a buffer of {} bytes",
                self.len
            ))),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the memory is somebody else's, who may free it once Ruby lets go of the buffer.
    pub fn is_foreign(&self) -> bool {
        self.owner.keeper.is_some()
    }

    /// Takes out a MemoryView: address and length.
    pub fn export(&self) -> Option<(usize, usize)> {
        let region = self.region_if_open()?;
        self.owner.exports.fetch_add(1, Relaxed);
        Some((region.address() + self.offset, self.len))
    }

    /// Takes a MemoryView back.
    pub fn release_export(&self) -> bool {
        self.owner.exports.fetch_sub(1, Relaxed) > 0
    }

    /// Tells the GC of the bytes. Telling alone never starts a GC; an allocation of its own kind does.
    pub fn account(&self, ruby: &Ruby, bytes: usize) -> Result<(), Error> {
        self.owner.accounted.fetch_add(bytes, Relaxed);
        account(ruby, bytes)
    }

    /// Ends the use of the memory: views become invalid, methods raise with `why`. Memory that a view or a MemoryView may still
    /// reach goes back only when the GC has seen the last of them.
    fn close(&self, ruby: &Ruby, why: &'static str) -> Result<(), Error> {
        let (view, kept) = {
            let mut state = self.owner.state();
            if state.closed.is_some() {
                return Ok(());
            }
            state.closed = Some(why);
            let kept = state.view.is_some() || self.owner.exports.load(Relaxed) > 0;
            (
                state.view,
                kept.then_some(())
                    .or_else(|| {
                        state.region = None;
                        None
                    })
                    .is_some(),
            )
        };
        if let Some(view) = view {
            view::invalidate(view.get_inner_with(ruby))?;
        }
        let accounted = self.owner.accounted.load(Relaxed);
        if !kept && accounted > 0 {
            self.owner.accounted.store(0, Relaxed);
            ruby.gc_adjust_memory_usage(-(accounted as isize));
        } else if kept && accounted == 0 {
            self.account(ruby, self.len)?;
        }
        Ok(())
    }
}

impl Owner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let accounted = self.accounted.load(Relaxed);
        if accounted > 0 {
            // SAFETY: buffers are dropped by the GC or by a method, with the GVL; Ruby's own xfree does the same.
            unsafe { rb_sys::rb_gc_adjust_memory_usage(-(accounted as i64) as _) };
        }
    }
}

impl DataTypeFunctions for Buffer {
    fn mark(&self, marker: &gc::Marker) {
        if let Some(root) = self.root {
            marker.mark(root);
        }
        if let Some(keeper) = self.owner.keeper {
            marker.mark(keeper);
        }
        if let Some(view) = self.owner.state().view {
            marker.mark(view);
        }
    }

    fn size(&self) -> usize {
        let memory = if self.root.is_none() && self.owner.state().region.is_some() { self.len } else { 0 };
        size_of::<Self>() + size_of::<Owner>() + memory
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

/// Runs an allocation without the GVL, and once more after a GC where memory or the lock limit was short.
pub fn with_memory<T: Send>(ruby: &Ruby, allocate: impl Fn() -> Result<T, Core> + Send + Sync) -> Result<T, Error> {
    let first = gvl::without(ruby, &allocate)?;
    let short = match &first {
        Err(Core::LockLimit { needed, limit, .. }) => needed <= limit,
        Err(Core::Os { errno, .. }) => *errno as i32 == 12, // ENOMEM
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

fn native_wrap(ruby: &Ruby, Size(address): Size, Size(size): Size, keeper: Value) -> Result<Buffer, Error> {
    // SAFETY: the keeper owns the memory, and the buffer keeps it; that the size is right is the caller's promise, as with every
    // pointer in Ruby.
    let pages = unsafe { Pages::foreign(address, size) }.or_raise(ruby)?;
    let align = (1 << address.trailing_zeros()).min(sys::page_size());
    Ok(Buffer::new(Region::of(pages), 0, size, align, Some(keeper.into())))
}

fn native_wrap_io_buffer(ruby: &Ruby, buffer: Value) -> Result<Buffer, Error> {
    let (address, size) = view::writable(buffer)?;
    native_wrap(ruby, Size(address as usize), Size(size), buffer)
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
    let Ok(region) = this.region() else { return Ok(this) };
    region.check_idle().or_raise(ruby)?;
    if this.owner.exports.load(Relaxed) > 0 {
        return Err(busy(ruby, "a MemoryView of this buffer is in use; release it first"));
    }
    drop(region);
    this.close(ruby, "this buffer was freed")?;
    Ok(this)
}

fn is_freed(this: &Buffer) -> bool {
    this.region().is_err()
}

fn native_release(ruby: &Ruby, this: &Buffer) -> Result<(), Error> {
    if this.owner.retained.load(Relaxed) {
        return Ok(());
    }
    this.close(ruby, "this buffer was valid inside its block only; copy what is wanted, or retain the buffer")
}

fn retain(ruby: &Ruby, this: Obj<Buffer>) -> Result<Obj<Buffer>, Error> {
    this.region().or_raise(ruby)?;
    if !this.owner.retained.swap(true, Relaxed) && this.owner.accounted.load(Relaxed) == 0 && !this.is_foreign() {
        this.account(ruby, this.len)?;
    }
    Ok(this)
}

fn residency(ruby: &Ruby, this: &Buffer) -> Result<Symbol, Error> {
    let (region, _) = this.locate(0, 0).or_raise(ruby)?;
    Ok(ruby.to_symbol(match region.pages().residency() {
        Residency::Pageable => "pageable",
        Residency::Locked => "locked",
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

fn get_value(ruby: &Ruby, this: &Buffer, kind: ValueType, Size(offset): Size) -> Result<Value, Error> {
    let mut bytes = [0u8; 8];
    let (region, at) = this.locate(offset, kind.size()).or_raise(ruby)?;
    // SAFETY: a value has at most eight bytes.
    unsafe { region.read(at, bytes.as_mut_ptr(), kind.size()) }.or_raise(ruby)?;
    Ok(kind.decode(ruby, bytes))
}

fn set_value(ruby: &Ruby, this: &Buffer, kind: ValueType, Size(offset): Size, value: Value) -> Result<usize, Error> {
    let bytes = kind.encode(ruby, value)?;
    let (region, at) = this.locate(offset, kind.size()).or_raise(ruby)?;
    // SAFETY: a value has at most eight bytes.
    unsafe { region.write(at, bytes.as_ptr(), kind.size()) }.or_raise(ruby)?;
    Ok(offset + kind.size())
}

fn native_size_of(kind: ValueType) -> usize {
    kind.size()
}

fn native_get_string(ruby: &Ruby, this: &Buffer, Size(offset): Size, Size(len): Size) -> Result<Value, Error> {
    let (region, at) = this.locate(offset, len).or_raise(ruby)?;
    string(&region, at, len)
}

/// A new binary String of `len` bytes of `region`.
fn string(region: &Region, offset: usize, len: usize) -> Result<Value, Error> {
    let address = region.address() + offset;
    // SAFETY: the caller located the range; Ruby copies it. No Rust code may hold a slice of it, so Ruby's memcpy does.
    let string = protect(|| unsafe { rb_sys::rb_str_new(address as *const _, len as _) })?;
    // SAFETY: rb_str_new returns a String.
    Ok(unsafe { magnus::rb_sys::FromRawValue::from_raw(string) })
}

/// Appends `len` bytes of `region` to `out`.
pub fn append(out: RString, region: &Region, offset: usize, len: usize) -> Result<(), Error> {
    let address = region.address() + offset;
    // SAFETY: as above.
    protect(|| unsafe { rb_sys::rb_str_cat(out.as_raw(), address as *const _, len as _) }).map(drop)
}

fn native_set_string(
    ruby: &Ruby,
    this: &Buffer,
    source: RString,
    Size(offset): Size,
    Size(len): Size,
    Size(from): Size,
) -> Result<usize, Error> {
    // SAFETY: no Ruby code runs while the slice is used.
    let bytes = unsafe { source.as_slice() };
    copy_in(ruby, this, offset, bytes.as_ptr(), bytes.len(), len, from)
}

fn native_copy(
    ruby: &Ruby,
    this: &Buffer,
    source: Value,
    Size(offset): Size,
    Size(len): Size,
    Size(from): Size,
) -> Result<usize, Error> {
    let (address, size, _kept) = bytes_of(ruby, source)?;
    copy_in(ruby, this, offset, address, size, len, from)
}

fn copy_in(
    ruby: &Ruby,
    this: &Buffer,
    offset: usize,
    source: *const u8,
    size: usize,
    len: usize,
    from: usize,
) -> Result<usize, Error> {
    if from.checked_add(len).is_none_or(|end| end > size) {
        return Err(argument(ruby, format!("{len} bytes at offset {from} are outside a source of {size} bytes")));
    }
    let (region, at) = this.locate(offset, len).or_raise(ruby)?;
    // SAFETY: `from + len` lies inside the source.
    unsafe { region.write(at, source.add(from), len) }.or_raise(ruby)?;
    Ok(len)
}

/// Address and size of a DMA::Buffer or IO::Buffer, with the region to hold meanwhile.
fn bytes_of(ruby: &Ruby, source: Value) -> Result<(*const u8, usize, Option<Arc<Region>>), Error> {
    if let Ok(buffer) = <&Buffer>::try_convert(source) {
        let (region, at) = buffer.locate(0, buffer.len).or_raise(ruby)?;
        return Ok(((region.address() + at) as *const u8, buffer.len, Some(region)));
    }
    if view::is_io_buffer(ruby, source)? {
        let (address, size) = view::readable(source)?;
        return Ok((address, size, None));
    }
    // SAFETY: the class is only named.
    let class = unsafe { source.classname() };
    Err(Error::new(ruby.exception_type_error(), format!("{class} is neither DMA::Buffer nor IO::Buffer")))
}

fn native_clear(ruby: &Ruby, this: &Buffer, byte: u8, Size(offset): Size, Size(len): Size) -> Result<(), Error> {
    let (region, at) = this.locate(offset, len).or_raise(ruby)?;
    region.fill(at, len, byte).or_raise(ruby)
}

fn native_compare(ruby: &Ruby, this: &Buffer, other: Value) -> Result<i32, Error> {
    let (address, size, _kept) = bytes_of(ruby, other)?;
    if this.len != size {
        return Ok(this.len.cmp(&size) as i32);
    }
    let (region, at) = this.locate(0, size).or_raise(ruby)?;
    // SAFETY: the other has `size` bytes.
    let order = unsafe { region.compare(at, address, size) }.or_raise(ruby)?;
    Ok(order as i32)
}

fn native_slice(ruby: &Ruby, this: Obj<Buffer>, Size(offset): Size, Size(len): Size) -> Result<Buffer, Error> {
    let (_, at) = this.locate(offset, len).or_raise(ruby)?;
    let root = this.root.unwrap_or_else(|| this.as_value().into());
    Ok(Buffer { owner: Arc::clone(&this.owner), root: Some(root), offset: at, len, freed: AtomicBool::new(false) })
}

fn native_view(ruby: &Ruby, this: Obj<Buffer>, Size(offset): Size, Size(len): Size) -> Result<Value, Error> {
    let (region, at) = this.locate(offset, len).or_raise(ruby)?;
    let cached = this.owner.state().view;
    let root = match cached {
        Some(view) => view.get_inner_with(ruby),
        None => {
            let owner = this.root.map_or_else(|| this.as_value(), |root| root.get_inner_with(ruby));
            let view = view::root(region.address(), region.len(), owner)?;
            this.owner.state().view = Some(view.into());
            view
        }
    };
    root.funcall("slice", (at, len))
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Buffer", ruby.class_object())?;
    class.undef_default_alloc_func();
    dma.const_set("PAGE_SIZE", sys::page_size())?;
    let singleton = class.singleton_class()?;
    singleton.define_private_method("native_new", function!(native_new, 4))?;
    singleton.define_private_method("native_wrap", function!(native_wrap, 3))?;
    singleton.define_private_method("native_wrap_io_buffer", function!(native_wrap_io_buffer, 1))?;
    singleton.define_private_method("native_size_of", function!(native_size_of, 1))?;
    class.define_method("size", method!(|this: &Buffer| this.len, 0))?;
    class.define_method("address", method!(address, 0))?;
    class.define_method("alignment", method!(alignment, 0))?;
    class.define_method("free", method!(free, 0))?;
    class.define_method("freed?", method!(is_freed, 0))?;
    class.define_method("retain", method!(retain, 0))?;
    class.define_method("residency", method!(residency, 0))?;
    class.define_method("huge_bytes", method!(huge_bytes, 0))?;
    class.define_method("segments", method!(segments, 0))?;
    class.define_method("get_value", method!(get_value, 2))?;
    class.define_method("set_value", method!(set_value, 3))?;
    class.define_private_method("native_get_string", method!(native_get_string, 2))?;
    class.define_private_method("native_set_string", method!(native_set_string, 4))?;
    class.define_private_method("native_copy", method!(native_copy, 4))?;
    class.define_private_method("native_clear", method!(native_clear, 3))?;
    class.define_private_method("native_compare", method!(native_compare, 1))?;
    class.define_private_method("native_slice", method!(native_slice, 2))?;
    class.define_private_method("native_view", method!(native_view, 2))?;
    class.define_private_method("native_release", method!(native_release, 0))?;
    memory_view::register(ruby, class)
}
