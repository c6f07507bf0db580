//! `DMA::Registers`: a device's registers.

use std::sync::Arc;

use dma_core::engine::{Bank, Engine, ManualClock, Registers as CoreRegisters};
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Opaque};
use magnus::{gc, method, prelude::*, DataTypeFunctions, Error, Integer, RModule, Ruby, TryConvert, TypedData, Value};

use crate::buffer::Size;
use crate::device::Device;
use crate::error::{argument, exception, raise, OrRaise};

#[derive(TypedData)]
#[magnus(class = "DMA::Registers", free_immediately, mark)]
pub struct Registers {
    bank: Bank,
    size: u64,
    clock: Option<Arc<dyn ManualClock>>,
    device: Opaque<Value>,
}

impl DataTypeFunctions for Registers {
    fn mark(&self, marker: &gc::Marker) {
        marker.mark(self.device);
    }
}

impl Registers {
    /// `size` bytes of registers of a device, and its clock where it runs only when it is told to.
    pub fn new(bank: Bank, size: u64, clock: Option<Arc<dyn ManualClock>>, device: Obj<Device>) -> Registers {
        Registers { bank, size, clock, device: device.as_value().into() }
    }

    /// The device's engine, whose registers are held for one access only: kept, they would keep a device that was closed.
    fn open(&self, ruby: &Ruby) -> Result<Arc<dyn Engine>, Error> {
        let core = <&Device>::try_convert(self.device.get_inner_with(ruby))?.open(ruby)?;
        Ok(Arc::clone(core.engine()))
    }

    fn check(&self, ruby: &Ruby, offset: usize, width: u8) -> Result<(Arc<dyn CoreRegisters>, u64), Error> {
        let registers = self.open(ruby)?.registers(self.bank).or_raise(ruby)?;
        let (offset, bytes, size) = (offset as u64, u64::from(width), self.size);
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(argument(
                ruby,
                format!("{bytes} bytes at {offset:#x} are outside the {size:#x} bytes of registers"),
            ));
        }
        if offset % bytes != 0 {
            let message =
                format!("a register of {bytes} bytes begins at a multiple of {bytes}, and {offset:#x} is none");
            return Err(raise(ruby, &dma_core::Error::Alignment(message)));
        }
        Ok((registers, offset))
    }
}

fn native_read(ruby: &Ruby, this: &Registers, Size(offset): Size, width: u8) -> Result<u64, Error> {
    let (registers, offset) = this.check(ruby, offset, width)?;
    Ok(registers.read(offset, width))
}

fn native_write(ruby: &Ruby, this: &Registers, Size(offset): Size, width: u8, value: Integer) -> Result<(), Error> {
    let (registers, offset) = this.check(ruby, offset, width)?;
    let bits = 8 * u32::from(width);
    let fits = value.to_u64().ok().filter(|value| bits == 64 || *value < 1 << bits);
    let Some(value) = fits else {
        let message = format!("{value} does not fit a register of {bits} bits");
        return Err(exception(ruby.exception_range_error(), message));
    };
    registers.write(offset, width, value);
    Ok(())
}

/// Nanoseconds of a manual clock; nil where time passes by itself.
fn native_now(ruby: &Ruby, this: &Registers) -> Result<Option<u64>, Error> {
    this.open(ruby)?;
    Ok(this.clock.as_ref().map(|clock| clock.now()))
}

/// Lets a machine with a manual clock take a step before `until`; false where it has none to take.
fn native_step(ruby: &Ruby, this: &Registers, until: Option<u64>) -> Result<bool, Error> {
    this.open(ruby)?;
    Ok(this.clock.as_ref().is_some_and(|clock| clock.step_until(until)))
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Registers", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.define_method("size", method!(|this: &Registers| this.size, 0))?;
    class.define_private_method("native_read", method!(native_read, 2))?;
    class.define_private_method("native_write", method!(native_write, 3))?;
    class.define_private_method("native_now", method!(native_now, 0))?;
    class.define_private_method("native_step", method!(native_step, 1))?;
    Ok(())
}
