//! Reading and writing a buffer's bytes: values, Strings, copies, comparison.

use std::sync::Arc;

use dma_core::memory::Region;
use dma_core::{Errno, Error as Core};
use magnus::rb_sys::{protect, AsRawValue, FromRawValue};
use magnus::{function, method, prelude::*, Error, RClass, RString, Ruby, TryConvert, Value};

use super::{Buffer, Size};
use crate::error::{argument, OrRaise};
use crate::gvl;
use crate::value_type::ValueType;
use crate::view;

impl Buffer {
    /// `len`, or what there is from `offset` on.
    pub(super) fn length(&self, offset: usize, len: Option<Size>) -> usize {
        len.map_or(self.len.saturating_sub(offset), |Size(len)| len)
    }
}

fn get_value(ruby: &Ruby, this: &Buffer, kind: ValueType, Size(offset): Size) -> Result<Value, Error> {
    let mut bytes = [0u8; 8];
    let (region, at) = this.locate(offset, kind.size()).or_raise(ruby)?;
    // SAFETY: a value has at most eight bytes.
    unsafe { region.read(at, bytes.as_mut_ptr(), kind.size()) }.or_raise(ruby)?;
    Ok(kind.decode(ruby, bytes))
}

fn set_value(ruby: &Ruby, this: &Buffer, kind: ValueType, Size(offset): Size, value: Value) -> Result<usize, Error> {
    let bytes = kind.encode(ruby, value)?; // may run Ruby code, which may free the buffer
    let (region, at) = this.locate(offset, kind.size()).or_raise(ruby)?;
    // SAFETY: a value has at most eight bytes.
    unsafe { region.write(at, bytes.as_ptr(), kind.size()) }.or_raise(ruby)?;
    Ok(offset + kind.size())
}

fn native_size_of(kind: ValueType) -> usize {
    kind.size()
}

fn native_get_string(ruby: &Ruby, this: &Buffer, Size(offset): Size, len: Option<Size>) -> Result<Value, Error> {
    let len = this.length(offset, len);
    let (region, at) = this.locate(offset, len).or_raise(ruby)?;
    if region.processor().is_some() {
        let string = ruby.str_buf_new(0);
        append(string, &region, at, len)?;
        return Ok(string.as_value());
    }
    let address = region.address() + at;
    // SAFETY: the range was located; Ruby copies it. No Rust code may hold a slice of it, so Ruby's memcpy does.
    let string = protect(|| unsafe { rb_sys::rb_str_new(address as *const _, len as _) })?;
    // SAFETY: rb_str_new returns a String.
    Ok(unsafe { Value::from_raw(string) })
}

/// Appends `len` bytes of `region` to `out`.
pub fn append(out: RString, region: &Region, offset: usize, len: usize) -> Result<(), Error> {
    if region.processor().is_some() {
        let ruby = Ruby::get_with(out);
        // SAFETY: there is room for that many bytes.
        let read = |to: *mut u8| unsafe { region.read(offset, to, len) }.map_or(0, |()| len);
        return append_with(&ruby, out, len, false, read).map(drop);
    }
    let address = region.address() + offset;
    // SAFETY: the caller located the range; Ruby copies it, for the same reason.
    protect(|| unsafe { rb_sys::rb_str_cat(out.as_raw(), address as *const _, len as _) }).map(drop)
}

/// Makes room for `len` bytes behind those in use. A String that has it keeps its memory as it is: rb_str_modify_expand gives back what
/// is more than that, and rb_str_cat, left to itself, takes up to twice as much as is needed, in steps, each of which may be a copy.
pub fn reserve(out: RString, len: usize) -> Result<(), Error> {
    let raw = out.as_raw();
    protect(|| {
        // SAFETY: a String, which raises here if it is frozen, or locked by somebody else; from then on it is nobody else's.
        unsafe {
            rb_sys::rb_str_modify(raw);
            if (rb_sys::rb_str_capacity(raw) as usize).saturating_sub(rb_sys::RSTRING_LEN(raw) as usize) < len {
                rb_sys::rb_str_modify_expand(raw, len as _);
            }
        }
        raw
    })
    .map(drop)
}

/// Appends what `read` puts at an address where there is room for `len` bytes, and says how many there are; without the GVL, if
/// it is to be `released`, which other threads must not use to change the String.
pub fn append_with(
    ruby: &Ruby,
    out: RString,
    len: usize,
    released: bool,
    read: impl FnOnce(*mut u8) -> usize + Send,
) -> Result<usize, Error> {
    let raw = out.as_raw();
    reserve(out, len)?;
    let used = out.len();
    if released {
        // SAFETY: a String, which raises here if it is locked by somebody else.
        protect(|| unsafe { rb_sys::rb_str_locktmp(raw) })?;
    }
    // SAFETY: there is room for `len` bytes behind those in use, and nobody moves them: the GVL is held, or the String locked.
    let end = Target(unsafe { rb_sys::RSTRING_PTR(raw).cast_mut().cast::<u8>().add(used) });
    let call = move || read(end.address());
    let n = if released { gvl::without_if_possible(call) } else { call() };
    protect(|| {
        // SAFETY: if it is locked, it was so here, and `n` bytes were written.
        unsafe {
            if released {
                rb_sys::rb_str_unlocktmp(raw);
            }
            rb_sys::rb_str_set_len(raw, (used + n) as _);
        }
        raw
    })?;
    if released {
        ruby.thread_check_ints()?;
    }
    Ok(n)
}

/// An address that another thread may write to.
struct Target(*mut u8);

impl Target {
    fn address(&self) -> *mut u8 {
        self.0
    }
}

// SAFETY: whoever made it sees to it that nobody else uses what is there.
unsafe impl Send for Target {}

fn native_set_string(
    ruby: &Ruby,
    this: &Buffer,
    source: RString,
    Size(offset): Size,
    len: Option<Size>,
    Size(from): Size,
) -> Result<usize, Error> {
    // SAFETY: no Ruby code runs while the slice is used.
    let bytes = unsafe { source.as_slice() };
    copy_in(ruby, this, offset, (bytes.as_ptr(), bytes.len()), len, from)
}

fn native_copy(
    ruby: &Ruby,
    this: &Buffer,
    source: Value,
    Size(offset): Size,
    len: Option<Size>,
    Size(from): Size,
) -> Result<usize, Error> {
    let (address, size, _kept) = bytes_of(ruby, source)?;
    copy_in(ruby, this, offset, (address, size), len, from)
}

/// Copies `len` bytes, or the rest, from `from` on of `source` to `offset` of `this`.
fn copy_in(
    ruby: &Ruby,
    this: &Buffer,
    offset: usize,
    (source, size): (*const u8, usize),
    len: Option<Size>,
    from: usize,
) -> Result<usize, Error> {
    let len = len.map_or(size.saturating_sub(from), |Size(len)| len);
    if from.checked_add(len).is_none_or(|end| end > size) {
        return Err(argument(ruby, format!("{len} bytes at offset {from} are outside a source of {size} bytes")));
    }
    let (region, at) = this.locate(offset, len).or_raise(ruby)?;
    // SAFETY: `from + len` lies inside the source.
    unsafe { region.write(at, source.add(from), len) }.or_raise(ruby)?;
    Ok(len)
}

/// What holds bytes that are read in place.
enum Kept {
    Region { _region: Arc<Region> },
    Copy { _bytes: Vec<u8> },
    Ruby,
}

/// Address and size of a DMA::Buffer or IO::Buffer, with what to hold meanwhile.
fn bytes_of(ruby: &Ruby, source: Value) -> Result<(*const u8, usize, Kept), Error> {
    if let Ok(buffer) = <&Buffer>::try_convert(source) {
        let (region, at) = buffer.locate(0, buffer.len).or_raise(ruby)?;
        if region.processor().is_some() {
            let mut bytes = Vec::<u8>::new();
            if bytes.try_reserve_exact(buffer.len).is_err() {
                let context =
                    format!("no memory to copy {} bytes that the CPU has in its cache; copy less at once", buffer.len);
                return Err(Core::os(Errno::ENOMEM, context)).or_raise(ruby);
            }
            // SAFETY: there is room for as many bytes.
            unsafe { region.read(at, bytes.as_mut_ptr(), buffer.len) }.or_raise(ruby)?;
            return Ok((bytes.as_ptr(), buffer.len, Kept::Copy { _bytes: bytes }));
        }
        return Ok(((region.address() + at) as *const u8, buffer.len, Kept::Region { _region: region }));
    }
    if view::is_io_buffer(ruby, source)? {
        let (address, size) = view::readable(source)?;
        return Ok((address, size, Kept::Ruby));
    }
    // SAFETY: the name is used before Ruby code runs again.
    let class = unsafe { source.classname() };
    Err(Error::new(ruby.exception_type_error(), format!("{class} is neither DMA::Buffer nor IO::Buffer")))
}

fn native_clear(ruby: &Ruby, this: &Buffer, byte: Value, Size(offset): Size, len: Option<Size>) -> Result<(), Error> {
    let [byte, ..] = ValueType::BYTE.encode(ruby, byte)?;
    let len = this.length(offset, len);
    let (region, at) = this.locate(offset, len).or_raise(ruby)?;
    region.fill(at, len, byte).or_raise(ruby)
}

fn native_compare(ruby: &Ruby, this: &Buffer, other: Value) -> Result<i32, Error> {
    let (address, size, _kept) = bytes_of(ruby, other)?;
    let (region, at) = this.locate(0, this.len).or_raise(ruby)?;
    if this.len != size {
        return Ok(this.len.cmp(&size) as i32);
    }
    // SAFETY: the other has `size` bytes.
    let order = unsafe { region.compare(at, address, size) }.or_raise(ruby)?;
    Ok(order as i32)
}

/// Defines these methods.
pub fn init(class: RClass) -> Result<(), Error> {
    class.singleton_class()?.define_private_method("native_size_of", function!(native_size_of, 1))?;
    class.define_method("get_value", method!(get_value, 2))?;
    class.define_method("set_value", method!(set_value, 3))?;
    class.define_private_method("native_get_string", method!(native_get_string, 2))?;
    class.define_private_method("native_set_string", method!(native_set_string, 4))?;
    class.define_private_method("native_copy", method!(native_copy, 4))?;
    class.define_private_method("native_clear", method!(native_clear, 3))?;
    class.define_private_method("native_compare", method!(native_compare, 1))?;
    Ok(())
}
