//! `DMA::Mapping`: memory as a device sees it.

use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_core::engine::{Mapping as CoreMapping, Terms};
use dma_core::memory::{check_range, find, BusAddresses, PageLock, Region, Residency, Span};
use dma_core::transfer::Access;
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Opaque};
use magnus::{
    gc, method, prelude::*, DataTypeFunctions, Error, RArray, RModule, Ruby, Symbol, TryConvert, TypedData, Value,
};

use crate::buffer::{choice, Buffer, Size};
use crate::device::Device;
use crate::error::{argument, misuse, OrRaise};
use crate::{gvl, keeper};

#[derive(TypedData)]
#[magnus(class = "DMA::Mapping", free_immediately, mark)]
pub struct Mapping {
    /// `None` once it was taken away, or the device was closed.
    mapped: Arc<Mutex<Option<Mapped>>>,
    device: Opaque<Value>,
    buffer: Opaque<Value>,
    offset: usize,
    len: usize,
    access: Access,
    /// Coherent memory needs no sync.
    kind: Opaque<Symbol>,
    handle: u64,
    /// The memory could not be mapped.
    failed: bool,
}

/// What a mapping holds.
pub struct Mapped {
    mapping: Arc<dyn CoreMapping>,
    addresses: BusAddresses,
    _lock: Option<PageLock>,
    /// Kept until its lock is gone, and no longer, for a buffer that is freed then gives its memory back.
    region: Arc<Region>,
}

/// A region, an offset in it, a length, and the bus addresses of these bytes.
type Memory = (Arc<Region>, usize, usize, BusAddresses);

impl DataTypeFunctions for Mapping {
    fn mark(&self, marker: &gc::Marker) {
        marker.mark(self.device);
        marker.mark(self.buffer);
    }
}

impl Mapping {
    /// The memory, for a transfer of a device that does this to it, and where it is on the bus.
    pub fn memory(&self, ruby: &Ruby, access: Access, device: &Device) -> Result<Memory, Error> {
        let (region, addresses) = self.with(ruby, |mapped| (Arc::clone(&mapped.region), mapped.addresses.clone()))?;
        let own = <&Device>::try_convert(self.device.get_inner_with(ruby))?;
        let (own, other) = (own.open(ruby)?, device.open(ruby)?);
        if !Arc::ptr_eq(&own, &other) {
            let (own, other) = (own.name(), other.name());
            return Err(misuse(
                ruby,
                format!("this mapping is of {own}, whose bus addresses are its own; map the memory for {other}, or give the buffer"),
            ));
        }
        if !self.access.allows(access) {
            let (may, wants) = (self.access.name(), access.name());
            return Err(misuse(
                ruby,
                format!("this mapping lets the device {may} the memory, and the transfer would {wants} it; map it for that direction, or for both"),
            ));
        }
        Ok((region, self.offset, self.len, addresses))
    }

    /// Who owns the memory, where it is not ours.
    pub fn owner(&self, ruby: &Ruby) -> Result<Option<Value>, Error> {
        let buffer = self.buffer.get_inner_with(ruby);
        Ok(<&Buffer>::try_convert(buffer)?.is_foreign().then_some(buffer))
    }

    fn with<T>(&self, ruby: &Ruby, work: impl FnOnce(&Mapped) -> T) -> Result<T, Error> {
        <&Device>::try_convert(self.device.get_inner_with(ruby))?.check_process(ruby)?;
        match &*self.mapped() {
            Some(mapped) => Ok(work(mapped)),
            None if self.failed => Err(misuse(
                ruby,
                "this memory could not be mapped (DMA::Mapping#error says why): it has no bus address",
            )),
            None => {
                Err(misuse(ruby, "this mapping was taken away (unmap), or its device closed; map the memory again"))
            }
        }
    }

    fn mapped(&self) -> MutexGuard<'_, Option<Mapped>> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maps a buffer for a device; in one piece, and pinned, if it is to be.
fn native_map(
    ruby: &Ruby,
    device: Obj<Device>,
    buffer: Obj<Buffer>,
    kind: Symbol,
    direction: Value,
    (contiguous, pinned): (bool, bool),
) -> Result<Mapping, Error> {
    let access = access_from(ruby, direction)?;
    let core = device.open(ruby)?;
    let len = buffer.len();
    let (region, offset) = buffer.locate(0, len).or_raise(ruby)?;
    // A pointer may lead into a buffer of ours, whose lock must outlast the mapping's.
    let owner = find(region.address() + offset).map_or_else(|| Arc::clone(&region), |(owner, _)| owner);
    let (span, address) = (Span::new(&region, offset, len).or_raise(ruby)?, region.address() + offset);
    let lock = match owner.residency() {
        _ if core.engine().pins() || !pinned => None,
        Residency::Locked | Residency::Pinned => None,
        // Without the GVL, for all pages are brought in.
        // SAFETY: the span keeps our own memory mapped; the owner of other memory is kept, and must not free it. Memory that is
        // ours is unlocked by nobody else, for it was not locked.
        Residency::Pageable => Some(gvl::without(ruby, || unsafe { PageLock::new(address, len) })?.or_raise(ruby)?),
    };
    // Pinning brings all pages in as well.
    let coherent = choice(kind.as_value()) == "coherent";
    let terms = Terms { coherent, contiguous, pinned };
    let map = || {
        let mapping = core.engine().map_with(span, access, terms)?;
        mapping.attach(coherent).map(|()| mapping)
    };
    let mapping = gvl::without(ruby, map)?.or_raise(ruby)?;
    if buffer.is_foreign() {
        keeper::keep(ruby, &region, buffer.as_value());
    }
    let addresses = BusAddresses::new(mapping.segments());
    let mapped = Arc::new(Mutex::new(Some(Mapped { mapping, addresses, _lock: lock, region })));
    device.holds(&mapped);
    let (device, buffer, handle) = (device.as_value().into(), buffer.as_value().into(), next_handle());
    Ok(Mapping { mapped, device, buffer, offset, len, access, kind: kind.into(), handle, failed: false })
}

/// What stands for a mapping that could not be made.
fn native_map_failed(
    ruby: &Ruby,
    device: Obj<Device>,
    buffer: Obj<Buffer>,
    kind: Symbol,
    direction: Value,
) -> Result<Mapping, Error> {
    let (access, len) = (access_from(ruby, direction)?, buffer.len());
    let (_, offset) = buffer.locate(0, len).or_raise(ruby)?;
    let (device, buffer, handle) = (device.as_value().into(), buffer.as_value().into(), next_handle());
    let mapped = Arc::default();
    Ok(Mapping { mapped, device, buffer, offset, len, access, kind: kind.into(), handle, failed: true })
}

fn next_handle() -> u64 {
    static HANDLES: AtomicU64 = AtomicU64::new(1);
    HANDLES.fetch_add(1, Ordering::Relaxed)
}

fn access_from(ruby: &Ruby, direction: Value) -> Result<Access, Error> {
    match choice(direction).as_str() {
        "to_device" => Ok(Access::Read),
        "from_device" => Ok(Access::Write),
        "bidirectional" => Ok(Access::Both),
        _ => {
            let message = format!("direction: {direction:?} is none of :to_device, :from_device, :bidirectional");
            Err(argument(ruby, message))
        }
    }
}

fn address(ruby: &Ruby, this: &Mapping) -> Result<u64, Error> {
    this.with(ruby, |mapped| mapped.mapping.segments()[0].0)
}

fn segments(ruby: &Ruby, this: &Mapping) -> Result<RArray, Error> {
    let segments = this.with(ruby, |mapped| mapped.mapping.segments().to_vec())?;
    Ok(ruby.ary_from_iter(segments))
}

fn direction(ruby: &Ruby, this: &Mapping) -> Symbol {
    ruby.to_symbol(match this.access {
        Access::Read => "to_device",
        Access::Write => "from_device",
        Access::Both => "bidirectional",
    })
}

/// Orders what the CPU did to a range before what the device does, or the other way round. The caches of a PC are coherent, and a
/// barrier is all there is to do; those of a simulated machine may be others, and its memory may be bounced.
fn native_sync(
    ruby: &Ruby,
    this: &Mapping,
    Size(offset): Size,
    len: Option<Size>,
    for_device: bool,
) -> Result<(), Error> {
    let len = len.map_or(this.len.saturating_sub(offset), |Size(len)| len);
    let sync = |mapped: &Mapped| {
        check_range(offset, len, this.len)?;
        fence(Ordering::SeqCst);
        mapped.mapping.sync(offset, len, for_device);
        Ok(())
    };
    this.with(ruby, sync)?.or_raise(ruby)
}

fn unmap(this: Obj<Mapping>) -> Obj<Mapping> {
    let taken = this.mapped().take();
    // Unlocked and given back without the lock that the GC may want.
    drop(taken);
    this
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Mapping", ruby.class_object())?;
    class.undef_default_alloc_func();
    let device = dma.define_class("Device", ruby.class_object())?;
    device.define_private_method("native_map", method!(native_map, 4))?;
    device.define_private_method("native_map_failed", method!(native_map_failed, 3))?;
    class.define_method("handle", method!(|this: &Mapping| this.handle, 0))?;
    class.define_method("device", method!(|this: &Mapping| this.device, 0))?;
    class.define_method("buffer", method!(|this: &Mapping| this.buffer, 0))?;
    class.define_method("type", method!(|this: &Mapping| this.kind, 0))?;
    class.define_method("size", method!(|this: &Mapping| this.len, 0))?;
    class.define_method("address", method!(address, 0))?;
    class.define_method("segments", method!(segments, 0))?;
    class.define_method("direction", method!(direction, 0))?;
    class.define_method("unmap", method!(unmap, 0))?;
    class.define_method("unmapped?", method!(|this: &Mapping| this.mapped().is_none(), 0))?;
    class.define_private_method("native_sync", method!(native_sync, 3))?;
    Ok(())
}
