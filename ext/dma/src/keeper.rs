//! Owners of memory that is not ours: none is collected while an engine uses its memory, whoever else has let go of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dma_core::memory::Region;
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Lazy, Opaque};
use magnus::{gc, prelude::*, DataTypeFunctions, Error, RModule, Ruby, TypedData, Value};

static KEEPER: Lazy<Obj<Keeper>> = Lazy::new(|ruby| {
    let keeper = ruby.obj_wrap(Keeper::default());
    ruby.gc_register_mark_object(keeper);
    keeper
});

#[derive(Default, TypedData)]
#[magnus(class = "DMA::Keeper", free_immediately, mark)]
struct Keeper {
    /// Memory and its owner. No Ruby code runs under the lock, so that the GC can take it to mark.
    held: Mutex<Vec<(Weak<Region>, Opaque<Value>)>>,
}

impl DataTypeFunctions for Keeper {
    /// The time to look whether the memory is still used.
    fn mark(&self, marker: &gc::Marker) {
        self.held().retain(|(region, owner)| {
            let used = region.upgrade().is_some_and(|region| region.in_flight() > 0);
            if used {
                marker.mark(*owner);
            }
            used
        });
    }
}

impl Keeper {
    fn held(&self) -> MutexGuard<'_, Vec<(Weak<Region>, Opaque<Value>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps `owner` until nothing uses `region` any more, which must be in flight already.
pub fn keep(ruby: &Ruby, region: &Arc<Region>, owner: Value) {
    let keeper = KEEPER.get_inner_with(ruby);
    let mut held = keeper.held();
    // Transfer after transfer of the same memory is kept once.
    if held.last().is_none_or(|(last, _)| last.as_ptr() != Arc::as_ptr(region)) {
        held.push((Arc::downgrade(region), owner.into()));
    }
}

/// Defines the class, which is nobody's business.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Keeper", ruby.class_object())?;
    class.undef_default_alloc_func();
    Lazy::force(&KEEPER, ruby);
    let _: Value = dma.funcall("private_constant", ("Keeper",))?;
    Ok(())
}
