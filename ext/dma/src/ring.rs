//! `DMA::Ring`: a descriptor ring in memory, filled by hand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dma_core::channel::Ticket;
use dma_core::device::Kind;
use dma_core::engine::sim::Device as SimDevice;
use dma_core::engine::Mapping as CoreMapping;
use dma_core::memory::{Layout, Lock, Region, Span};
use dma_core::ring::{Memory, Ring as CoreRing, Slots};
use dma_core::transfer::{flags, Descriptor, Op, Status};
use dma_core::Error as Core;
use magnus::{function, method, prelude::*, DataTypeFunctions, Error, RArray, RModule, Ruby, Symbol, TypedData};

use crate::buffer::choice;
use crate::device::Device;
use crate::error::{argument, busy, OrRaise};

#[derive(TypedData)]
#[magnus(class = "DMA::Ring", free_immediately)]
pub struct Ring {
    ring: Mutex<CoreRing>,
    region: Arc<Region>,
    /// For the device that fetches from it: made when it is first submitted.
    mapping: Mutex<Option<Mapped>>,
    /// The last submission.
    ticket: Mutex<Option<Arc<Ticket>>>,
}

/// A device, and what it fetches the descriptors through.
type Mapped = (Weak<SimDevice>, Arc<dyn CoreMapping>);

impl DataTypeFunctions for Ring {}

impl Ring {
    fn ring(&self, ruby: &Ruby) -> Result<MutexGuard<'_, CoreRing>, Error> {
        self.region.pages().check().or_raise(ruby)?;
        Ok(self.ring.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device fetches the descriptors until `ticket` has ended.
    pub fn follow(&self, ticket: &Arc<Ticket>) {
        *self.ticket.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(ticket));
    }

    fn is_under_way(&self) -> bool {
        let ticket = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        ticket.as_ref().is_some_and(|ticket| ticket.outcome().is_none())
    }

    /// Links the descriptors that have not ended into a chain, for `device` to fetch.
    pub fn chain(&self, ruby: &Ruby, device: &Device) -> Result<Op, Error> {
        let core = device.open(ruby)?;
        let Kind::Sim(sim) = core.kind() else {
            let message = format!("{} fetches no descriptors by itself; submit the transfers one by one", core.name());
            return Err(Core::Unsupported(message)).or_raise(ruby);
        };
        if sim.is_isa() {
            let message =
                format!("{} has 8237s, which fetch no descriptors; submit the transfers one by one", core.name());
            return Err(Core::Unsupported(message)).or_raise(ruby);
        }
        let ring = self.ring(ruby)?;
        if self.is_under_way() {
            return Err(busy(ruby, "the ring was submitted, and the device has not done with it; wait for that first"));
        }
        let mut waiting = Vec::new();
        for step in 0..ring.pending() {
            let index = (ring.head() + step) % ring.size();
            let descriptor = ring.slot(index).or_raise(ruby)?;
            if descriptor.status == Status::Pending.code() {
                waiting.push((index, descriptor));
            }
        }
        let total = waiting.iter().map(|(_, descriptor)| u64::from(descriptor.length)).sum();
        if total == 0 {
            return Err(argument(ruby, "no descriptor of the ring is pending, or none that moves a byte"));
        }
        let mut mapping = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Arc::downgrade(sim);
        if mapping.as_ref().is_none_or(|(other, _)| !other.ptr_eq(&identity)) {
            let span = Span::new(&self.region, 0, self.region.len()).or_raise(ruby)?;
            *mapping = Some((identity, sim.map_ring(span).or_raise(ruby)?));
        }
        let base = mapping.as_ref().map_or(0, |(_, mapping)| mapping.segments()[0].0);
        let at = |index: u32| base + u64::from(index) * Descriptor::SIZE as u64;
        let nexts = waiting.iter().skip(1).map(|(index, _)| Some(*index)).chain([None]);
        for ((index, descriptor), next) in waiting.iter().zip(nexts) {
            let flags = descriptor.flags & !flags::CHAIN | if next.is_some() { flags::CHAIN } else { 0 };
            ring.slots().put(*index, &Descriptor { flags, next: next.map_or(0, at), ..*descriptor });
        }
        let ring_span = Span::new(&self.region, 0, self.region.len()).or_raise(ruby)?;
        Ok(Op::List { first: at(waiting[0].0), len: total, ring: ring_span })
    }
}

fn native_new(ruby: &Ruby, size: u32) -> Result<Ring, Error> {
    let bytes = (size as usize).max(1) * Descriptor::SIZE;
    let region = Region::allocate(Layout::new(bytes), Lock::Auto).or_raise(ruby)?;
    let ring = Memory::new(&region, 0, size).and_then(CoreRing::new).or_raise(ruby)?;
    Ok(Ring { ring: Mutex::new(ring), region, mapping: Mutex::default(), ticket: Mutex::default() })
}

fn native_add(ruby: &Ruby, this: &Ring, source: u64, destination: u64, length: u32, flags: u32) -> Result<u32, Error> {
    let descriptor = Descriptor { source, destination, length, flags, ..Descriptor::default() };
    this.ring(ruby)?.add(descriptor).or_raise(ruby)
}

/// A descriptor as `[source, destination, length, flags, next, status, index]`.
fn list(ruby: &Ruby, index: u32, descriptor: &Descriptor) -> Result<RArray, Error> {
    let Descriptor { source, destination, length, flags, next, status } = *descriptor;
    let array = ruby.ary_new_capa(7);
    array.push(source)?;
    array.push(destination)?;
    array.push(length)?;
    array.push(flags)?;
    array.push(next)?;
    array.push(ruby.to_symbol(Status::from_code(status).name()))?;
    array.push(index)?;
    Ok(array)
}

fn native_pop(ruby: &Ruby, this: &Ring) -> Result<Option<RArray>, Error> {
    let popped = this.ring(ruby)?.pop();
    popped.map(|(index, descriptor)| list(ruby, index, &descriptor)).transpose()
}

fn native_slot(ruby: &Ruby, this: &Ring, index: u32) -> Result<RArray, Error> {
    let descriptor = this.ring(ruby)?.slot(index).or_raise(ruby)?;
    list(ruby, index, &descriptor)
}

fn native_complete(ruby: &Ruby, this: &Ring, index: u32, status: Symbol) -> Result<(), Error> {
    let name = choice(status.as_value());
    let Some(status) = Status::from_name(&name) else {
        return Err(argument(ruby, format!("{name} is no status of a descriptor")));
    };
    this.ring(ruby)?.complete(index, status).or_raise(ruby)
}

fn address(ruby: &Ruby, this: &Ring) -> Result<usize, Error> {
    this.region.pages().check().or_raise(ruby)?;
    Ok(this.region.address())
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Ring", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.singleton_class()?.define_private_method("native_new", function!(native_new, 1))?;
    class.define_method("size", method!(|ruby: &Ruby, this: &Ring| Ok::<_, Error>(this.ring(ruby)?.size()), 0))?;
    class.define_method(
        "capacity",
        method!(|ruby: &Ruby, this: &Ring| Ok::<_, Error>(this.ring(ruby)?.capacity()), 0),
    )?;
    class
        .define_method("pending", method!(|ruby: &Ruby, this: &Ring| Ok::<_, Error>(this.ring(ruby)?.pending()), 0))?;
    class.define_method("head", method!(|ruby: &Ruby, this: &Ring| Ok::<_, Error>(this.ring(ruby)?.head()), 0))?;
    class.define_method("tail", method!(|ruby: &Ruby, this: &Ring| Ok::<_, Error>(this.ring(ruby)?.tail()), 0))?;
    class.define_method("address", method!(address, 0))?;
    class.define_private_method("native_add", method!(native_add, 4))?;
    class.define_private_method("native_pop", method!(native_pop, 0))?;
    class.define_private_method("native_slot", method!(native_slot, 1))?;
    class.define_private_method("native_complete", method!(native_complete, 2))?;
    Ok(())
}
