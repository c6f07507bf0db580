//! The Ruby binding: one file for each Ruby class, nothing that `dma_core` could do.

#![allow(missing_docs)] // magnus::init exports a function that has no place for them.

mod buffer;
mod channel;
mod copy;
mod device;
mod error;
mod event;
mod file;
mod gvl;
mod iommu;
mod keeper;
mod line;
mod many;
mod mapping;
mod memory_view;
mod operand;
mod pci;
mod pio;
mod pool;
mod registers;
mod ring;
mod sim;
mod stream;
mod trace;
mod transfer;
mod value_type;
mod vectored;
mod view;

// The functions of dma.h, here too: ffi inside Ruby finds them in this library, with the memory of every DMA::Buffer.
use dma as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use magnus::{Error, Ruby, TypedData};

/// Locks what no code that panics is run under.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[magnus::init]
fn init(ruby: &Ruby) -> Result<(), Error> {
    // SAFETY: everything native is immutable, behind a lock, or atomic; no object is shared between Ractors.
    unsafe { rb_sys::rb_ext_ractor_safe(true) };
    let dma = ruby.define_module("DMA")?;
    error::init(ruby);
    keeper::init(ruby, dma)?;
    buffer::init(ruby, dma)?;
    pool::init(ruby, dma)?;
    file::init(ruby, dma)?;
    stream::init(ruby, dma)?;
    many::init(dma)?;
    copy::init(dma)?;
    device::init(ruby, dma)?;
    channel::init(ruby, dma)?;
    transfer::init(ruby, dma)?;
    mapping::init(ruby, dma)?;
    registers::init(ruby, dma)?;
    ring::init(ruby, dma)?;
    sim::init(ruby, dma)?;
    trace::init(ruby, dma)?;
    // magnus looks a class up when it first wraps a value of it, and ends the process where the thread has been interrupted by then.
    let classes = [
        buffer::Buffer::class,
        channel::Channel::class,
        device::Device::class,
        file::File::class,
        mapping::Mapping::class,
        pool::Pool::class,
        registers::Registers::class,
        ring::Ring::class,
        sim::Sim::class,
        stream::Stream::class,
        trace::Trace::class,
        transfer::Transfer::class,
    ];
    for class in classes {
        class(ruby);
    }
    Ok(())
}
