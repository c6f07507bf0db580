//! `DMA::File#read_many`: ranges of a file in the order in which they come.

use std::sync::Arc;

use dma_core::file::{Extent, Many};
use magnus::typed_data::Obj;
use magnus::{method, prelude::*, Error, Integer, RArray, RClass, RModule, Ruby, Value};

use crate::error::{argument, OrRaise};
use crate::file::File;
use crate::gvl;
use crate::stream::{Active, Source, Stream};

fn native_many(ruby: &Ruby, this: Obj<File>, ranges: RArray, depth: usize) -> Result<Stream, Error> {
    // No Ruby code runs in between that could change the Array.
    let extents: Result<Vec<Extent>, Error> = (0..ranges.len()).map(|index| extent(ruby, ranges, index)).collect();
    let extents = extents?;
    let file = this.open(ruby)?;
    let crowd = this.crowd(ruby, &file)?;
    let (channel, regions) = (Arc::clone(&crowd.line.shared), this.regions());
    // Sorting a million ranges takes a while.
    let many = gvl::without(ruby, || Many::new(file, channel, regions, extents, depth))?.or_raise(ruby)?;
    Ok(Stream::new(Active::new(Source::AnyOrder(many), crowd), this))
}

fn extent(ruby: &Ruby, ranges: RArray, index: usize) -> Result<Extent, Error> {
    let range: Value = ranges.entry(index as isize)?;
    let pair = RArray::from_value(range).filter(|pair| pair.len() == 2);
    let numbers = pair.map(|pair| Ok::<_, Error>((number(pair.entry(0)?), number(pair.entry(1)?)))).transpose()?;
    match numbers {
        Some((Some(offset), Some(len))) if offset.checked_add(len).is_some_and(|end| end <= i64::MAX as u64) => {
            Ok(Extent { offset, len })
        }
        _ => Err(argument(
            ruby,
            format!("range {index} is {}: it should be [offset, length], Integers from 0 on, whose sum is at most 2**63 - 1", range.inspect()),
        )),
    }
}

fn number(value: Value) -> Option<u64> {
    Integer::from_value(value)?.to_u64().ok()
}

/// Defines the method.
pub fn init(dma: RModule) -> Result<(), Error> {
    let class: RClass = dma.const_get("File")?;
    class.define_private_method("native_many", method!(native_many, 2))
}
