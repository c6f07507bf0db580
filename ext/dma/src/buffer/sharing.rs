//! Memory of a buffer in the hands of others: slices, views, MemoryViews; and memory of others as a buffer.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;

use dma_core::memory::{find, Pages, Region};
use dma_core::{sys, Error as Core};
use magnus::typed_data::Obj;
use magnus::value::InnerValue;
use magnus::value::Opaque;
use magnus::{function, method, prelude::*, Error, RClass, Ruby, Value};

use super::{Buffer, Owner, Size, Source};
use crate::error::OrRaise;
use crate::view;

/// A MemoryView that is out.
pub struct Export(Arc<Owner>);

impl Drop for Export {
    fn drop(&mut self) {
        self.0.exports.fetch_sub(1, Relaxed);
    }
}

impl Buffer {
    /// Whether [`Buffer::export`] gives anything.
    pub fn is_exportable(&self) -> bool {
        self.region_if_open().is_some_and(|region| region.check_shown(self.offset, self.len).is_ok())
    }

    /// Takes out a MemoryView: address and length, and what holds the memory until it is dropped.
    pub fn export(&self) -> Option<(usize, usize, Export)> {
        let region = self.region_if_open().filter(|region| region.check_shown(self.offset, self.len).is_ok())?;
        self.owner.exports.fetch_add(1, Relaxed);
        Some((region.address() + self.offset, self.len, Export(Arc::clone(&self.owner))))
    }
}

fn native_slice(ruby: &Ruby, this: Obj<Buffer>, Size(offset): Size, len: Option<Size>) -> Result<Buffer, Error> {
    let len = this.length(offset, len);
    let (_, at) = this.locate(offset, len).or_raise(ruby)?;
    Ok(Buffer {
        owner: Arc::clone(&this.owner),
        root: Some(native_root(this)),
        offset: at,
        len,
        freed: AtomicBool::new(false),
    })
}

/// The buffer that it was cut from, however often; itself, if it was not.
fn native_root(this: Obj<Buffer>) -> Opaque<Value> {
    this.root.unwrap_or_else(|| this.as_value().into())
}

fn native_view(ruby: &Ruby, this: Obj<Buffer>, Size(offset): Size, len: Option<Size>) -> Result<Value, Error> {
    let len = this.length(offset, len);
    let (region, at) = this.locate(offset, len).or_raise(ruby)?;
    region.check_shown(at, len).or_raise(ruby)?;
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

fn native_wrap(ruby: &Ruby, Size(address): Size, Size(size): Size, keeper: Value) -> Result<Buffer, Error> {
    // SAFETY: the keeper owns the memory, and the buffer keeps it; that the size is right is the caller's promise, as with every
    // pointer in Ruby.
    let pages = unsafe { Pages::foreign(address, size) }.or_raise(ruby)?;
    Ok(Buffer::new(Region::of(pages), 0, size, alignment_of(address), Source::Pointer(keeper.into())))
}

fn native_wrap_io_buffer(ruby: &Ruby, buffer: Value, size: Option<Size>) -> Result<Buffer, Error> {
    let (address, len) = view::lock(ruby, buffer)?;
    let wrapped = match size.map_or(len, |Size(size)| size) {
        size if size > len => Err(Core::Argument(format!("{size} bytes are more than the {len} of the IO::Buffer"))),
        // SAFETY: a locked IO::Buffer cannot free its memory, and the buffer keeps it from the GC.
        size => unsafe { Pages::foreign(address, size) },
    };
    if wrapped.is_err() {
        view::unlock(buffer);
    }
    let region = Region::of(wrapped.or_raise(ruby)?);
    let size = region.len();
    Ok(Buffer::new(region, 0, size, alignment_of(address), Source::IoBuffer(buffer.into())))
}

/// Refuses to lend the memory to somebody who uses it in place, where a simulated CPU has the bytes.
fn native_check_shown(ruby: &Ruby, this: &Buffer) -> Result<(), Error> {
    let (region, at) = this.locate(0, this.len).or_raise(ruby)?;
    region.check_shown(at, this.len).or_raise(ruby)
}

/// The buffer that an IO::Buffer is a view of, or part of one; nil where its memory is not ours.
fn native_of_view(view: Value) -> Result<Option<Buffer>, Error> {
    Ok(region_of(view)?.map(|(region, offset, len)| {
        let align = alignment_of(region.address() + offset);
        Buffer::over(region, offset, len, align)
    }))
}

/// Region, offset and length of the memory of a view, where that is ours.
pub fn region_of(view: Value) -> Result<Option<(Arc<Region>, usize, usize)>, Error> {
    let (address, len) = view::readable(view)?;
    let found = find(address as usize).filter(|(region, offset)| offset + len <= region.len());
    Ok(found.map(|(region, offset)| (region, offset, len)))
}

/// What an address is a multiple of, up to a page.
pub fn alignment_of(address: usize) -> usize {
    (1 << address.trailing_zeros()).min(sys::page_size())
}

/// Defines these methods.
pub fn init(class: RClass) -> Result<(), Error> {
    let singleton = class.singleton_class()?;
    singleton.define_private_method("native_wrap", function!(native_wrap, 3))?;
    singleton.define_private_method("native_of_view", function!(native_of_view, 1))?;
    singleton.define_private_method("native_wrap_io_buffer", function!(native_wrap_io_buffer, 2))?;
    class.define_private_method("native_slice", method!(native_slice, 2))?;
    class.define_private_method("native_root", method!(native_root, 0))?;
    class.define_private_method("native_view", method!(native_view, 2))?;
    class.define_private_method("native_check_shown", method!(native_check_shown, 0))?;
    Ok(())
}
