//! Memory of one transfer: a buffer, or several that are used one behind the other.

use magnus::typed_data::Obj;
use magnus::{Error, RArray, Ruby, TryConvert, Value};

use crate::buffer::Buffer;
use crate::error::argument;

/// The first `len` bytes of a buffer, or of the buffers in an Array, which nobody else may change. It must keep them until the
/// transfer is over.
pub fn parts(ruby: &Ruby, memory: Value, len: usize) -> Result<Vec<(Obj<Buffer>, usize)>, Error> {
    let Some(list) = RArray::from_value(memory) else { return Ok(vec![(TryConvert::try_convert(memory)?, len)]) };
    let (mut parts, mut left) = (Vec::with_capacity(list.len()), len);
    for index in 0..list.len() {
        let buffer: Obj<Buffer> = list.entry(index as isize)?;
        let part = left.min(buffer.len());
        left -= part;
        parts.push((buffer, part));
    }
    if left > 0 {
        let all = len - left;
        return Err(argument(ruby, format!("length: {len} bytes are more than the {all} of the buffers")));
    }
    Ok(parts)
}

/// Refuses to read into the same bytes twice: which of them would stay is not certain. `spans` are addresses and lengths.
pub fn check_apart(ruby: &Ruby, mut spans: Vec<(usize, usize)>) -> Result<(), Error> {
    spans.retain(|(_, len)| *len > 0);
    spans.sort_unstable();
    let Some(pair) = spans.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) else { return Ok(()) };
    let ((first, len), (second, other)) = (pair[0], pair[1]);
    Err(argument(
        ruby,
        format!(
            "buffers overlap: {len} bytes at {first:#x} and {other} bytes at {second:#x}; read into memory that is apart"
        ),
    ))
}
