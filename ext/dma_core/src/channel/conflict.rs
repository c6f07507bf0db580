//! Whether two elements may be carried out at the same time.

use std::mem::discriminant;
use std::ops::Range;

use crate::engine::Limits;
use crate::memory::Span;
use crate::transfer::Op;

/// What an element reads and writes on the device, in whole blocks, and in memory.
struct Use {
    device_read: Range<u64>,
    device_write: Range<u64>,
    memory_read: Range<u64>,
    memory_write: Range<u64>,
}

fn uses(op: &Op, granule: u64) -> Use {
    let none = || 0..0;
    let blocks = |offset: u64, len: u64| offset - offset % granule..(offset + len).next_multiple_of(granule);
    let bytes = |span: &Span| span.address() as u64..span.address() as u64 + span.len() as u64;
    let (device_read, device_write, memory_read, memory_write) = match op {
        Op::Read { offset, span } => (blocks(*offset, op.len()), none(), none(), bytes(span)),
        Op::Write { offset, span } => (none(), blocks(*offset, op.len()), bytes(span), none()),
        Op::Copy { from, to, len } => (blocks(*from, *len), blocks(*to, *len), none(), none()),
        // What a list moves is the engine's to find out, and a flush is about all that was written.
        Op::List { .. } => (0..u64::MAX, 0..u64::MAX, 0..u64::MAX, 0..u64::MAX),
        Op::Flush { .. } => (0..u64::MAX, none(), none(), none()),
    };
    Use { device_read, device_write, memory_read, memory_write }
}

/// Whether they must not.
pub(super) fn conflict(a: &Op, b: &Op, limits: &Limits) -> bool {
    if limits.serial && discriminant(a) == discriminant(b) {
        return true;
    }
    let overlap = |x: &Range<u64>, y: &Range<u64>| x.start < y.end && y.start < x.end;
    let (a, b) = (uses(a, limits.granule), uses(b, limits.granule));
    let device = overlap(&a.device_write, &b.device_write)
        || overlap(&a.device_write, &b.device_read)
        || overlap(&a.device_read, &b.device_write);
    let memory = overlap(&a.memory_write, &b.memory_write)
        || overlap(&a.memory_write, &b.memory_read)
        || overlap(&a.memory_read, &b.memory_write);
    device || memory
}
