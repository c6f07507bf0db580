//! MemoryView: other extensions (Fiddle, Arrow, ...) read a buffer in place (doc/memory_view.md of Ruby).

use magnus::rb_sys::{AsRawValue, FromRawValue};
use magnus::{Error, RClass, Ruby, TryConvert, Value};
use rb_sys::{rb_memory_view_entry_t, rb_memory_view_t, VALUE};

use crate::buffer::{Buffer, Export};
use crate::error::exception;

struct Entry(rb_memory_view_entry_t);
// SAFETY: three function pointers, never changed.
unsafe impl Sync for Entry {}

static ENTRY: Entry = Entry(rb_memory_view_entry_t {
    get_func: Some(get),
    release_func: Some(release),
    available_p_func: Some(available),
});

/// Registers `class` as an exporter.
pub fn register(ruby: &Ruby, class: RClass) -> Result<(), Error> {
    // SAFETY: a class and an entry that lives for ever.
    if unsafe { rb_sys::rb_memory_view_register(class.as_raw(), &ENTRY.0) } {
        return Ok(());
    }
    Err(exception(ruby.exception_runtime_error(), "DMA::Buffer exports a MemoryView already"))
}

fn buffer<'a>(object: VALUE) -> Option<&'a Buffer> {
    // SAFETY: Ruby passes the object it was asked to view, and keeps it alive during the call.
    <&Buffer>::try_convert(unsafe { Value::from_raw(object) }).ok()
}

unsafe extern "C" fn get(object: VALUE, view: *mut rb_memory_view_t, _flags: i32) -> bool {
    let Some((address, len, export)) = buffer(object).and_then(Buffer::export) else { return false };
    // Ruby's initialiser leaves fields as they were.
    // SAFETY: `view` is a struct of the caller's to be filled; the address holds until the export is dropped.
    unsafe {
        view.write_bytes(0, 1);
        if !rb_sys::rb_memory_view_init_as_byte_array(view, object, address as *mut _, len as _, false) {
            return false;
        }
        (*view).private_data = Box::into_raw(Box::new(export)).cast();
    }
    true
}

/// At the end of the process Ruby frees objects in any order: the buffer may be gone, so this does not look at it.
unsafe extern "C" fn release(_object: VALUE, view: *mut rb_memory_view_t) -> bool {
    // SAFETY: the view was filled by `get`, and is released once.
    drop(unsafe { Box::from_raw((*view).private_data.cast::<Export>()) });
    true
}

unsafe extern "C" fn available(object: VALUE) -> bool {
    buffer(object).is_some_and(Buffer::is_exportable)
}
