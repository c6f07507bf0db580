//! Programmed I/O on a simulated device.

use std::sync::Arc;

use dma_core::engine::sim::Device as SimDevice;
use dma_core::{Errno, Error as Core};
use magnus::{method, prelude::*, Error, RClass, RString, Ruby};

use crate::device::Device;
use crate::error::OrRaise;
use crate::gvl;

fn simulated(ruby: &Ruby, this: &Device) -> Result<Arc<SimDevice>, Error> {
    this.open(ruby)?;
    let missing = || {
        Core::Unsupported(
            "programmed I/O is of simulated devices; a PCI function is reached through its registers".into(),
        )
    };
    this.sim().cloned().ok_or_else(missing).or_raise(ruby)
}

fn native_pio_write(ruby: &Ruby, this: &Device, bytes: RString, at: u64, width: usize) -> Result<usize, Error> {
    let device = simulated(ruby, this)?;
    let mut copy = Vec::new();
    let reserved = copy.try_reserve_exact(bytes.len());
    reserved.map_err(|_| Core::os(Errno::ENOMEM, "cannot hold the bytes that are written")).or_raise(ruby)?;
    // SAFETY: copied before Ruby code runs again.
    copy.extend_from_slice(unsafe { bytes.as_slice() });
    gvl::without(ruby, move || device.pio_write(at, &copy, width))?.or_raise(ruby)?;
    Ok(bytes.len())
}

fn native_pio_read(ruby: &Ruby, this: &Device, size: usize, at: u64, width: usize) -> Result<RString, Error> {
    let device = simulated(ruby, this)?;
    let bytes = gvl::without(ruby, || device.pio_read(at, size, width))?.or_raise(ruby)?;
    Ok(ruby.str_from_slice(&bytes))
}

/// Defines these methods.
pub fn init(class: RClass) -> Result<(), Error> {
    class.define_private_method("native_pio_write", method!(native_pio_write, 3))?;
    class.define_private_method("native_pio_read", method!(native_pio_read, 3))
}
