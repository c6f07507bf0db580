//! What an engine takes, asked before anything of a request is begun.

use super::Request;
use crate::engine::Limits;
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::Op;

/// Refuses a request that the engine cannot take, with the limit.
pub(super) fn check(request: &Request, limits: &Limits, merges: bool) -> Result<()> {
    let count = request.elements.len();
    if count > limits.max_segments {
        return Err(Error::Argument(format!(
            "a scatter-gather list of {count} elements: the device takes {} (max_segments); submit it in parts",
            limits.max_segments
        )));
    }
    if request.whole && merges {
        return Err(Error::Unsupported(format!(
            "one operation, whatever its length and alignment (whole): the device takes multiples of {} bytes only; submit it as a \
             request that may be split",
            limits.granule
        )));
    }
    for op in &request.elements {
        if let Some(span) = op.span() {
            span.region().check_settled()?;
        }
        match op {
            Op::Read { offset, span } | Op::Write { offset, span } => {
                limits.check_range(*offset, span.len() as u64)?;
                if limits.strict && !request.whole {
                    granule(*offset, span.len() as u64, limits.granule)?;
                    if !request.bounce {
                        memory(span, limits.memory)?;
                    }
                }
            }
            Op::Copy { .. } | Op::List { .. } if !limits.copies => {
                let way_out =
                    "this device moves bytes between memory and itself only; read into a buffer and write from it";
                return Err(Error::Unsupported(way_out.into()));
            }
            Op::Copy { from, to, len } => {
                for offset in [from, to] {
                    limits.check_range(*offset, *len)?;
                    granule(*offset, *len, limits.granule)?;
                }
                if *len > limits.max_copy {
                    let most = limits.max_copy;
                    return Err(Error::Argument(format!("{len} bytes are more than the {most} of one copy")));
                }
            }
            Op::Flush { .. } if !limits.flushes => {
                return Err(Error::Unsupported(
                    "this device's memory is not durable: there is nothing to flush".into(),
                ));
            }
            Op::List { .. } | Op::Flush { .. } => {}
        }
    }
    Ok(())
}

/// Whole blocks of the device only.
fn granule(offset: u64, len: u64, granule: u64) -> Result<()> {
    if offset % granule == 0 && len % granule == 0 {
        return Ok(());
    }
    Err(Error::Alignment(format!(
        "{len} bytes at device address {offset:#x}: the device takes multiples of {granule} bytes at multiples of {granule}"
    )))
}

fn memory(span: &Span, multiple: usize) -> Result<()> {
    let at = span.address();
    if at as usize % multiple == 0 {
        return Ok(());
    }
    Err(Error::Alignment(format!(
        "memory at {at:p}: the device takes memory at multiples of {multiple} bytes; align the buffer, or use write_dma and \
         read_dma, which copy where they must"
    )))
}
