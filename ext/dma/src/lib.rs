//! The Ruby binding: one file for each Ruby class, nothing that `dma_core` could do.

#![allow(missing_docs)] // magnus::init exports a function that has no place for them.

mod buffer;
mod error;
mod file;
mod gvl;
mod memory_view;
mod pool;
mod port;
mod stream;
mod value_type;
mod view;

// The functions of dma.h, here too: ffi inside Ruby finds them in this library, with the memory of every DMA::Buffer.
use dma as _;
use magnus::{Error, Ruby};

#[magnus::init]
fn init(ruby: &Ruby) -> Result<(), Error> {
    // SAFETY: everything native is immutable, behind a lock, or atomic; no object is shared between Ractors.
    unsafe { rb_sys::rb_ext_ractor_safe(true) };
    let dma = ruby.define_module("DMA")?;
    buffer::init(ruby, dma)?;
    pool::init(ruby, dma)?;
    file::init(ruby, dma)?;
    stream::init(ruby, dma)
}
