//! What a transfer is from and to, as Ruby says it: memory, or an address of the device.

use std::sync::Arc;

use dma_core::memory::{BusAddresses, Region, Span};
use dma_core::transfer::{Access, Direction, Op};
use magnus::{prelude::*, Error, Integer, RArray, Ruby, TryConvert, Value};

use crate::buffer::{region_of, Buffer, Size};
use crate::device::Device;
use crate::error::{argument, exception, OrRaise};
use crate::keeper;
use crate::mapping::Mapping;
use crate::view;

/// One side of a transfer.
enum Operand {
    Device(u64),
    Memory { region: Arc<Region>, offset: usize, len: usize, owner: Option<Value>, mapped: Option<BusAddresses> },
}

fn operand(ruby: &Ruby, value: Value, access: Access, device: &Device) -> Result<Operand, Error> {
    if let Some(integer) = Integer::from_value(value) {
        let address = integer.to_u64();
        return address
            .map(Operand::Device)
            .map_err(|_| argument(ruby, format!("{integer} is no device address: these are in 0..2**64 - 1")));
    }
    if let Ok(buffer) = <&Buffer>::try_convert(value) {
        let len = buffer.len();
        let (region, offset) = buffer.locate(0, len).or_raise(ruby)?;
        let owner = buffer.is_foreign().then_some(value);
        return Ok(Operand::Memory { region, offset, len, owner, mapped: None });
    }
    if let Ok(mapping) = <&Mapping>::try_convert(value) {
        let (region, offset, len, addresses) = mapping.memory(ruby, access, device)?;
        return Ok(Operand::Memory { region, offset, len, owner: mapping.owner(ruby)?, mapped: Some(addresses) });
    }
    if view::is_io_buffer(ruby, value)? {
        return match region_of(value)? {
            Some((region, offset, len)) => Ok(Operand::Memory { region, offset, len, owner: None, mapped: None }),
            None => Err(argument(ruby, "the memory of this IO::Buffer is not ours; wrap it (DMA::Buffer.wrap)")),
        };
    }
    // SAFETY: the name is used before Ruby code runs again.
    let class = unsafe { value.classname() };
    let message =
        format!("{class} is neither memory (DMA::Buffer, DMA::Mapping, IO::Buffer) nor a device address (Integer)");
    Err(exception(ruby.exception_type_error(), message))
}

/// An element `[source, destination, length]` for a device; a length of nil is that of the memory.
pub fn element(ruby: &Ruby, list: RArray, device: &Device) -> Result<Op, Error> {
    let (source, destination, length): (Value, Value, Option<Size>) = (list.entry(0)?, list.entry(1)?, list.entry(2)?);
    let length = length.map(|Size(length)| length);
    let (from, to) = (operand(ruby, source, Access::Read, device)?, operand(ruby, destination, Access::Write, device)?);
    let (direction, address, (region, offset, len, owner, mapped)) = match (from, to) {
        (Operand::Device(from), Operand::Device(to)) => {
            let Some(len) = length else {
                return Err(argument(ruby, "length: is needed to copy from one device address to another"));
            };
            return Ok(Op::Copy { from, to, len: len as u64 });
        }
        (Operand::Memory { region, offset, len, owner, mapped }, Operand::Device(address)) => {
            (Direction::ToDevice, address, (region, offset, len, owner, mapped))
        }
        (Operand::Device(address), Operand::Memory { region, offset, len, owner, mapped }) => {
            (Direction::FromDevice, address, (region, offset, len, owner, mapped))
        }
        (Operand::Memory { .. }, Operand::Memory { .. }) => {
            let message = "both source and destination are memory, and a device moves bytes to or from itself; \
                           DMA::Buffer#copy copies between buffers";
            return Err(argument(ruby, message));
        }
    };
    let length = length.unwrap_or(len);
    if length > len {
        return Err(argument(ruby, format!("length: {length} bytes are more than the {len} of the memory")));
    }
    let span = Span::new(&region, offset, length).or_raise(ruby)?;
    let span = match mapped {
        Some(addresses) => span.at(&addresses, 0),
        None => span,
    };
    if let Some(owner) = owner {
        keeper::keep(ruby, &region, owner);
    }
    Ok(direction.op(address, span))
}
