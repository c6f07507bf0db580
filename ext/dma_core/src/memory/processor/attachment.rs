//! What makes memory go through a processor, for as long as a mapping lasts.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Processor;
use crate::error::{Error, Result};
use crate::memory::{find, Region, Span};
use crate::sys;
use crate::transfer::Access;

/// The bytes of a span, which a device does `access` to: what programs do to their region goes through the processor until this is
/// dropped.
#[derive(Debug)]
pub struct Attachment {
    processor: Arc<Processor>,
    /// See [`regions`].
    regions: Vec<Arc<Region>>,
    /// Address and length of the memory that goes through the processor, and of the span.
    place: (usize, usize),
    area: (usize, usize),
    access: Access,
    uncached: bool,
    generation: u32,
}

impl Attachment {
    /// Of memory that is cached the device gets the range at once, see [`Attachment::sync`]. `coherent` memory is not cached, where the
    /// cache would not follow the device: both see what the other wrote.
    ///
    /// # Errors
    /// [`Error::Busy`] where the memory goes through another processor, or overlaps memory that goes through this one.
    pub fn new(processor: &Arc<Processor>, span: &Span, access: Access, coherent: bool) -> Result<Attachment> {
        let area = (span.address() as usize, span.len());
        let regions = regions(span);
        for (index, region) in regions.iter().enumerate() {
            if let Err(error) = region.attached().add(processor) {
                regions[..index].iter().for_each(|region| region.attached().remove());
                return Err(error);
            }
        }
        let (place, uncached) = (place(&regions), coherent && !processor.options.coherent);
        if let Err(error) = processor.attach(place, area, uncached) {
            regions.iter().for_each(|region| region.attached().remove());
            return Err(error);
        }
        let (processor, generation) = (Arc::clone(processor), sys::fork_generation());
        let attachment = Attachment { processor, regions, place, area, access, uncached, generation };
        attachment.sync(0, area.1, true);
        Ok(attachment)
    }

    /// Refuses what [`Attachment::new`] would refuse at this moment.
    ///
    /// # Errors
    /// [`Error::Busy`], as there.
    pub fn check(processor: &Arc<Processor>, span: &Span) -> Result<()> {
        let regions = regions(span);
        regions.iter().try_for_each(|region| region.attached().check(processor))?;
        processor.check(place(&regions))
    }

    /// Hands `len` bytes from `offset` over to the device, or takes them over from it: see [`Processor::sync`]. The caller checked the
    /// range.
    pub fn sync(&self, offset: usize, len: usize, for_device: bool) {
        match self.uncached {
            true => self.processor.barrier(),
            false => self.processor.sync(self.area.0 + offset, len, self.access, for_device),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // In the child of a fork, a thread that is not there may hold the lock.
        if self.generation != sys::fork_generation() {
            return;
        }
        self.sync(0, self.area.1, false);
        self.processor.detach(self.place, self.area, self.uncached);
        self.regions.iter().for_each(|region| region.attached().remove());
    }
}

/// The region of a span and, where that is a pointer into memory of ours, the one that this belongs to: it comes last.
fn regions(span: &Span) -> Vec<Arc<Region>> {
    let owner = find(span.address() as usize).map(|(owner, _)| owner);
    let other = owner.filter(|owner| !Arc::ptr_eq(owner, span.region()));
    [Some(Arc::clone(span.region())), other].into_iter().flatten().collect()
}

/// The memory that goes through the processor with them.
fn place(regions: &[Arc<Region>]) -> (usize, usize) {
    let whole = &regions[regions.len() - 1];
    (whole.address(), whole.capacity())
}

fn elsewhere() -> Error {
    Error::Busy(
        "this memory is in the cache of another simulated machine, for which it is mapped, and no cache would follow the other; unmap \
         it there first, or use another buffer"
            .into(),
    )
}

/// Of a region: the processor that it goes through, and for how many mappings.
#[derive(Debug, Default)]
pub(in crate::memory) struct Attached {
    any: AtomicBool,
    by: Mutex<Option<(Arc<Processor>, usize)>>,
}

impl Attached {
    /// The processor, if there is one: one look at a flag where there is none.
    pub(in crate::memory) fn get(&self) -> Option<Arc<Processor>> {
        if !self.any.load(Relaxed) {
            return None;
        }
        self.by().as_ref().map(|(processor, _)| Arc::clone(processor))
    }

    fn check(&self, processor: &Arc<Processor>) -> Result<()> {
        match self.get() {
            Some(other) if !Arc::ptr_eq(&other, processor) => Err(elsewhere()),
            _ => Ok(()),
        }
    }

    fn add(&self, processor: &Arc<Processor>) -> Result<()> {
        let mut by = self.by();
        match &mut *by {
            Some((other, _)) if !Arc::ptr_eq(other, processor) => return Err(elsewhere()),
            Some((_, count)) => *count += 1,
            None => *by = Some((Arc::clone(processor), 1)),
        }
        self.any.store(true, Relaxed);
        Ok(())
    }

    fn remove(&self) {
        let mut by = self.by();
        let Some((_, count)) = &mut *by else { return };
        *count -= 1;
        if *count == 0 {
            self.any.store(false, Relaxed);
            *by = None;
        }
    }

    fn by(&self) -> MutexGuard<'_, Option<(Arc<Processor>, usize)>> {
        // Nothing that panics runs under the lock.
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
