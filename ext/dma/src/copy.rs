//! `DMA.copy`: a file's bytes to another file.

use std::path::PathBuf;

use dma_core::file::{Copy, Progress};
use magnus::{function, prelude::*, Error, RModule, Ruby, Value};

use crate::buffer::with_memory;
use crate::device::direct_from;
use crate::error::{held, OrRaise};
use crate::event::{Event, BRIEF, GRACE};
use crate::gvl;

#[allow(clippy::needless_pass_by_value)] // magnus converts to PathBufs
fn native_copy(ruby: &Ruby, source: PathBuf, destination: PathBuf, direct: Value) -> Result<u64, Error> {
    let direct = direct_from(ruby, direct)?;
    let mut copy = with_memory(ruby, || Copy::new(&source, &destination, direct))?;
    let result = run(ruby, &mut copy);
    if let Err(error) = &result {
        let _held = held(error);
        give_up(&mut copy);
    }
    result
}

/// Goes on with the copy, and waits, until all is copied. File systems take their time to say where data is and to make room for
/// it, so that other threads run meanwhile.
fn run(ruby: &Ruby, copy: &mut Copy) -> Result<u64, Error> {
    let event = Event::new(ruby, copy.event())?;
    loop {
        match gvl::without(ruby, || copy.advance())?.or_raise(ruby)? {
            Progress::Done(bytes) => return Ok(bytes),
            Progress::Again => {}
            Progress::Wait => {
                event.wait(ruby, None)?;
            }
        }
    }
}

/// Lets go of the memory, and leaves in the destination what is safe. What the disk does not let go of is left to a thread that
/// waits.
fn give_up(copy: &mut Copy) {
    if !copy.quiesce(BRIEF) {
        gvl::without_if_possible(|| copy.quiesce(GRACE));
    }
    // The error that is raised already says more than why it cannot be cut.
    let _ = gvl::without_if_possible(|| copy.cut());
}

/// Defines the function.
pub fn init(dma: RModule) -> Result<(), Error> {
    dma.singleton_class()?.define_private_method("native_copy", function!(native_copy, 3))
}
