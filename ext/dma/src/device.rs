//! `DMA::Device`: a device as one handle of it, open until it is closed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dma_core::device::{Device as CoreDevice, Kind};
use dma_core::engine::sim::{Clock, Costs, Device as SimDevice};
use dma_core::engine::Bank;
use dma_core::file::{Choice, Direct};
use dma_core::transfer::{Direction, Status};
use magnus::typed_data::Obj;
use magnus::value::Opaque;
use magnus::{
    function, gc, method, prelude::*, DataTypeFunctions, Error, RArray, RHash, RModule, Ruby, TypedData, Value,
};

use crate::buffer::{choice, with_memory};
use crate::channel::{totals, Channel};
use crate::error::{argument, closed, OrRaise};
use crate::event::GRACE;
use crate::gvl;
use crate::iommu;
use crate::mapping::Mapped;
use crate::pci;
use crate::pio;
use crate::registers::Registers;
use crate::sim::Sim;

#[derive(TypedData)]
#[magnus(class = "DMA::Device", free_immediately, mark)]
pub struct Device {
    name: String,
    /// `None` once closed: then a file's descriptors are closed as well, unless a transfer is under way.
    core: Mutex<Option<Arc<CoreDevice>>>,
    sim: Option<Arc<SimDevice>>,
    /// The mappings that were made through this handle, and end with it.
    mappings: Mutex<Vec<Weak<Mutex<Option<Mapped>>>>>,
    /// The Ruby objects of its channels. No Ruby code runs under the lock, so that the GC can take it to mark.
    channels: Mutex<BTreeMap<u16, Opaque<Value>>>,
}

impl DataTypeFunctions for Device {
    fn mark(&self, marker: &gc::Marker) {
        self.channels().values().for_each(|channel| marker.mark(*channel));
    }
}

impl Device {
    /// A handle of `core`.
    pub fn new(core: Arc<CoreDevice>) -> Device {
        core.enter();
        let sim = match core.kind() {
            Kind::Sim(device) => Some(Arc::clone(device)),
            Kind::File(_) | Kind::Pci(_) => None,
        };
        let (mappings, channels) = (Mutex::default(), Mutex::default());
        Device { name: core.name().to_owned(), core: Mutex::new(Some(core)), sim, mappings, channels }
    }

    /// The simulated device, if it is one, also once closed.
    pub fn sim(&self) -> Option<&Arc<SimDevice>> {
        self.sim.as_ref()
    }

    /// Refuses the child of a fork.
    pub fn check_process(&self, ruby: &Ruby) -> Result<(), Error> {
        let core = self.core().clone();
        core.map_or(Ok(()), |core| core.check()).or_raise(ruby)
    }

    fn core(&self) -> MutexGuard<'_, Option<Arc<CoreDevice>>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channels(&self) -> MutexGuard<'_, BTreeMap<u16, Opaque<Value>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a mapping end when the handle is closed.
    pub fn holds(&self, mapped: &Arc<Mutex<Option<Mapped>>>) {
        let mut mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        if mappings.len() == mappings.capacity() {
            // Each time that there are twice as many as the GC left: a look at all of them costs little then.
            mappings.retain(|mapping| mapping.strong_count() > 0);
            let left = mappings.len();
            mappings.reserve(left.max(16));
        }
        mappings.push(Arc::downgrade(mapped));
    }

    /// Ends the mappings, after the device has become quiet.
    fn unmap_all(&self) {
        let mappings = std::mem::take(&mut *self.mappings.lock().unwrap_or_else(PoisonError::into_inner));
        for mapping in mappings.iter().filter_map(Weak::upgrade) {
            let taken = mapping.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(taken);
        }
    }

    /// The device while it is open and of this process.
    pub fn open(&self, ruby: &Ruby) -> Result<Arc<CoreDevice>, Error> {
        let core = self.core().clone();
        let core = core.ok_or_else(|| closed(ruby, format!("{} was closed", self.name)))?;
        core.check().or_raise(ruby)?;
        Ok(core)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(core) = self.core().take() {
            // The GC has no time to wait; what is under way keeps its memory until it is over. A PCI function takes its time to
            // become quiet: without a thread for that, it does so here.
            let is_pci = matches!(core.kind(), Kind::Pci(_));
            let leave = move || core.leave(Duration::ZERO);
            match is_pci {
                true => drop(std::thread::Builder::new().name("dma-close".into()).spawn(leave)),
                false => leave(),
            }
        }
    }
}

/// How `direct:` is said.
pub fn direct_from(ruby: &Ruby, direct: Value) -> Result<Direct, Error> {
    match choice(direct).as_str() {
        "true" => Ok(Direct::Always),
        "auto" => Ok(Direct::Auto),
        "false" => Ok(Direct::Never),
        _ => Err(argument(ruby, format!("direct: {direct:?} is none of true, :auto, false"))),
    }
}

/// How `engine:` is said.
pub fn choice_from(ruby: &Ruby, engine: Value) -> Result<Choice, Error> {
    let named = Choice::named(&choice(engine));
    named.ok_or_else(|| argument(ruby, format!("engine: {engine:?} is none of :auto, :uring, :threads")))
}

#[allow(clippy::needless_pass_by_value)] // magnus converts to a PathBuf
fn native_open(ruby: &Ruby, path: PathBuf, direct: Value, engine: Value) -> Result<Device, Error> {
    let (direct, engine) = (direct_from(ruby, direct)?, choice_from(ruby, engine)?);
    let core = with_memory(ruby, || CoreDevice::open(&path, direct, engine))?;
    core.check().or_raise(ruby)?;
    Ok(Device::new(core))
}

fn native_close(ruby: &Ruby, this: &Device) -> Result<(), Error> {
    let taken = this.core().take();
    if let Some(core) = taken {
        gvl::without_if_possible(move || core.leave(GRACE));
        this.unmap_all();
        ruby.thread_check_ints()?;
    }
    Ok(())
}

/// A channel, always as the same object.
fn native_channel(ruby: &Ruby, this: Obj<Device>, index: u64) -> Result<Opaque<Value>, Error> {
    let core = this.open(ruby)?;
    let Ok(index) = u16::try_from(index) else {
        let (name, count) = (core.name(), core.channel_count());
        return Err(argument(ruby, format!("channel {index}: {name} has {count}, numbered from 0 on")));
    };
    let known = this.channels().get(&index).copied();
    if let Some(channel) = known {
        return Ok(channel);
    }
    let shared = with_memory(ruby, || core.channel(index))?;
    if let Err(closed) = this.open(ruby) {
        // Closed meanwhile: it must not keep the device.
        shared.close(GRACE);
        return Err(closed);
    }
    let fresh = ruby.obj_wrap(Channel::new(ruby, shared, this)?).as_value();
    // Another thread may have asked for it meanwhile.
    let kept = *this.channels().entry(index).or_insert_with(|| fresh.into());
    Ok(kept)
}

/// The channels that were asked for.
fn native_channels(ruby: &Ruby, this: &Device) -> RArray {
    let channels: Vec<_> = this.channels().values().copied().collect();
    ruby.ary_from_iter(channels)
}

fn native_reset(ruby: &Ruby, this: &Device) -> Result<bool, Error> {
    let core = this.open(ruby)?;
    gvl::without(ruby, || core.reset(GRACE))?.or_raise(ruby)
}

fn sim(this: &Device) -> Option<Sim> {
    this.sim().map(|device| Sim::of(Arc::clone(device.machine())))
}

/// The registers of a BAR, or of the configuration space where there is none.
fn registers(ruby: &Ruby, this: Obj<Device>, bar: Option<u8>) -> Result<Registers, Error> {
    let bank = bar.map_or(Bank::Config, Bank::Bar);
    let core = this.open(ruby)?;
    let registers = core.engine().registers(bank).or_raise(ruby)?;
    Ok(Registers::new(bank, registers.size(), core.engine().clock(), this))
}

fn capabilities(ruby: &Ruby, this: &Device) -> Result<RHash, Error> {
    let core = this.open(ruby)?;
    let limits = core.engine().limits();
    let hash = ruby.hash_new();
    let symbol = |name: &str| ruby.to_symbol(name);
    let missing = match core.kind() {
        Kind::File(handle) => handle.missing().map(|(direction, _)| direction),
        Kind::Sim(_) | Kind::Pci(_) => None,
    };
    let mut operations = Vec::new();
    let moves = core.channel_count() > 0;
    operations.extend((moves && missing != Some(Direction::FromDevice)).then_some("read"));
    operations.extend((moves && missing != Some(Direction::ToDevice)).then_some("write"));
    operations.extend(limits.copies.then_some("copy"));
    operations.extend(limits.flushes.then_some("flush"));
    hash.aset(symbol("engine"), symbol(core.engine().name()))?;
    let operations: RArray = ruby.ary_from_iter(operations.into_iter().map(symbol));
    hash.aset(symbol("operations"), operations)?;
    let coherent = match core.kind() {
        Kind::Sim(device) => Some(device.machine().options().memory.coherent),
        Kind::File(_) => Some(true),
        // Other platforms have both kinds.
        Kind::Pci(_) => cfg!(any(target_arch = "x86", target_arch = "x86_64")).then_some(true),
    };
    hash.aset(symbol("coherent"), coherent)?;
    hash.aset(symbol("channels"), core.channel_count())?;
    hash.aset(symbol("capacity"), core.depth())?;
    hash.aset(symbol("alignment"), limits.granule)?;
    hash.aset(symbol("memory_alignment"), limits.memory)?;
    hash.aset(symbol("strict"), limits.strict)?;
    hash.aset(symbol("max_length"), limits.max_len)?;
    hash.aset(symbol("max_segments"), (limits.max_segments < usize::MAX).then_some(limits.max_segments))?;
    match core.kind() {
        Kind::Sim(device) => {
            let (options, machine) = (device.options(), device.machine().options());
            let clock = if machine.clock == Clock::Free { "free" } else { "manual" };
            hash.aset(symbol("size"), options.memory)?;
            hash.aset(symbol("ring_size"), options.ring_size)?;
            hash.aset(symbol("address_bits"), options.address_bits)?;
            hash.aset(symbol("iommu"), machine.iommu && !device.is_isa())?;
            hash.aset(symbol("word_channels"), ruby.ary_from_iter(device.word_channels()))?;
            hash.aset(symbol("clock"), symbol(clock))?;
        }
        Kind::File(handle) => {
            let size = handle.size().map_err(|errno| core_error(errno, &core)).or_raise(ruby)?;
            hash.aset(symbol("size"), (!handle.is_character()).then_some(size))?;
            hash.aset(symbol("direct"), handle.is_direct())?;
            hash.aset(symbol("character"), handle.is_character())?;
        }
        Kind::Pci(driven) => pci::capabilities(ruby, driven, limits.size, hash)?,
    }
    Ok(hash)
}

fn core_error(errno: dma_core::Errno, core: &CoreDevice) -> dma_core::Error {
    dma_core::Error::os(errno, format!("cannot find the size of {}", core.name()))
}

/// What only the device knows: the statistics that are not of a channel.
fn native_stats(ruby: &Ruby, this: &Device) -> Result<RHash, Error> {
    let core = this.open(ruby)?;
    let hash = ruby.hash_new();
    let bounced = core.engine().stats().bounced_bytes.load(Relaxed);
    hash.aset(ruby.to_symbol("bounced_bytes"), bounced)?;
    let channels = ruby.ary_new();
    for shared in core.open_channels() {
        channels.push(totals(ruby, &shared, this.sim())?)?;
    }
    hash.aset(ruby.to_symbol("channels"), channels)?;
    if let Kind::Pci(driven) = core.kind() {
        hash.aset(ruby.to_symbol("mappings"), driven.function.mappings())?;
    }
    if let Some(device) = this.sim() {
        let (count, last) = device.iommu_faults();
        let faults = ruby.ary_new();
        for status in last {
            if let Status::IommuFault { address, access } = status {
                let fault = ruby.hash_new();
                fault.aset(ruby.to_symbol("address"), address)?;
                fault.aset(ruby.to_symbol("access"), ruby.to_symbol(access.name()))?;
                faults.push(fault)?;
            }
        }
        hash.aset(ruby.to_symbol("iommu_faults"), count)?;
        hash.aset(ruby.to_symbol("faults"), faults)?;
        hash.aset(ruby.to_symbol("mappings"), device.mappings())?;
        if let Some(stats) = device.iommu_stats() {
            hash.aset(ruby.to_symbol("iommu"), iommu::stats(ruby, stats)?)?;
        }
        hash.aset(ruby.to_symbol("cycles"), device.machine().cycles())?;
        if let Some(Costs { port_reads, port_writes, programmings, terminal_counts }) = device.costs() {
            hash.aset(ruby.to_symbol("port_reads"), port_reads)?;
            hash.aset(ruby.to_symbol("port_writes"), port_writes)?;
            hash.aset(ruby.to_symbol("programmings"), programmings)?;
            hash.aset(ruby.to_symbol("terminal_counts"), terminal_counts)?;
        }
    }
    Ok(hash)
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Device", ruby.class_object())?;
    class.undef_default_alloc_func();
    let singleton = class.singleton_class()?;
    singleton.define_private_method("native_open", function!(native_open, 3))?;
    singleton.define_private_method("native_open_pci", function!(pci::native_open_pci, 5))?;
    singleton.define_private_method("native_pci?", function!(pci::native_is_pci, 1))?;
    singleton.define_private_method("native_list", function!(pci::native_list, 0))?;
    class.define_private_method("native_bus_master", method!(pci::native_bus_master, 0))?;
    class.define_private_method("native_set_bus_master", method!(pci::native_set_bus_master, 1))?;
    class.define_private_method("native_wait_interrupt", method!(pci::native_wait_interrupt, 2))?;
    class.define_method("name", method!(|this: &Device| this.name.clone(), 0))?;
    class.define_method("closed?", method!(|ruby: &Ruby, this: &Device| this.open(ruby).is_err(), 0))?;
    class.define_private_method("native_sim", method!(sim, 0))?;
    class.define_method("capabilities", method!(capabilities, 0))?;
    class.define_private_method("native_registers", method!(registers, 1))?;
    class.define_private_method("native_check", method!(|ruby: &Ruby, this: &Device| this.open(ruby).map(drop), 0))?;
    class.define_private_method("native_close", method!(native_close, 0))?;
    class.define_private_method("native_channel", method!(native_channel, 1))?;
    class.define_private_method("native_channels", method!(native_channels, 0))?;
    class.define_private_method("native_reset", method!(native_reset, 0))?;
    class.define_private_method("native_stats", method!(native_stats, 0))?;
    pio::init(class)
}
