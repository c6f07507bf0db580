//! IO::Buffer, from both sides: views of our memory, and the memory of somebody else's.

use std::ffi::{c_int, c_void};
use std::ptr;

use magnus::rb_sys::{protect, AsRawValue, FromRawValue};
use magnus::{prelude::*, Error, RClass, Ruby, Value};
use rb_sys::VALUE;

use crate::error::{argument, busy};

// rb-sys makes the flags a Rust enum, of which two at once are no value: declared here with the C type.
extern "C" {
    fn rb_io_buffer_new(base: *mut c_void, size: usize, flags: c_int) -> VALUE;
    fn rb_io_buffer_free(buffer: VALUE) -> VALUE;
    fn rb_io_buffer_lock(buffer: VALUE) -> VALUE;
    fn rb_io_buffer_try_unlock(buffer: VALUE) -> c_int;
    fn rb_io_buffer_get_bytes_for_reading(buffer: VALUE, base: *mut *const c_void, size: *mut usize);
    fn rb_io_buffer_get_bytes_for_writing(buffer: VALUE, base: *mut *mut c_void, size: *mut usize);
}

const EXTERNAL: c_int = 1;

/// A root view of `size` bytes at `address`. It is never handed out: of it, `transfer` would move the address to an object that
/// knows no owner. Its slices keep it, and a hidden variable in it keeps `owner`, and with that the memory.
pub fn root(address: usize, size: usize, owner: Value) -> Result<Value, Error> {
    // SAFETY: the memory is the owner's, which the view keeps alive.
    let view = protect(|| unsafe { rb_io_buffer_new(address as *mut c_void, size, EXTERNAL) })?;
    // SAFETY: valid values; a name without @ cannot be reached from Ruby.
    protect(|| unsafe { rb_sys::rb_ivar_set(view, rb_sys::rb_intern(c"__dma_owner".as_ptr()), owner.as_raw()) })?;
    // SAFETY: rb_io_buffer_new returns a Ruby value.
    Ok(unsafe { Value::from_raw(view) })
}

/// Makes a root view and all its slices invalid.
pub fn invalidate(root: Value) -> Result<(), Error> {
    // SAFETY: a valid value; the call may raise, which `protect` catches.
    protect(|| unsafe { rb_io_buffer_free(root.as_raw()) }).map(drop)
}

/// Whether `value` is an IO::Buffer.
pub fn is_io_buffer(ruby: &Ruby, value: Value) -> Result<bool, Error> {
    let class: RClass = ruby.class_io().const_get("Buffer")?;
    Ok(value.is_kind_of(class))
}

/// Address and size of an IO::Buffer for reading. They hold until Ruby code runs again.
pub fn readable(buffer: Value) -> Result<(*const u8, usize), Error> {
    let (mut base, mut size) = (ptr::null(), 0);
    protect(|| {
        // SAFETY: both pointers are valid; the call may raise, which `protect` catches.
        unsafe { rb_io_buffer_get_bytes_for_reading(buffer.as_raw(), &mut base, &mut size) };
        rb_sys::Qnil as VALUE
    })?;
    Ok((base.cast(), size))
}

/// Locks an IO::Buffer, so that it can neither free nor move its memory, and gives address and size.
pub fn lock(ruby: &Ruby, buffer: Value) -> Result<(usize, usize), Error> {
    // SAFETY: a valid value; the call may raise, which `protect` catches.
    if let Err(error) = protect(|| unsafe { rb_io_buffer_lock(buffer.as_raw()) }) {
        return Err(busy(ruby, format!("this IO::Buffer is in use ({error}); free the buffer that wraps it first")));
    }
    let (mut base, mut size) = (ptr::null_mut(), 0);
    let located = protect(|| {
        // SAFETY: both pointers are valid; the call may raise, which `protect` catches.
        unsafe { rb_io_buffer_get_bytes_for_writing(buffer.as_raw(), &mut base, &mut size) };
        rb_sys::Qnil as VALUE
    });
    if let Err(error) = located {
        unlock(buffer);
        return Err(argument(ruby, format!("this IO::Buffer cannot be written, as transfers would: {error}")));
    }
    Ok((base as usize, size))
}

/// Undoes [`lock`].
pub fn unlock(buffer: Value) {
    // SAFETY: a valid IO::Buffer; the call does not raise, and tells only whether the lock was there.
    unsafe { rb_io_buffer_try_unlock(buffer.as_raw()) };
}
