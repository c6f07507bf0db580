//! `DMA::Sim`: a simulated machine.

mod options;

use std::path::PathBuf;
use std::sync::Arc;

use dma_core::device::{attach, detach, Device as CoreDevice};
use dma_core::engine::sim::{
    Arbitration, Clock, Device as SimDevice, DeviceOptions, Fault, InterruptCost, Kind, Machine, MachineOptions,
    Trigger,
};
use dma_core::memory::processor::{read_barrier, write_barrier, CacheStats, Operation};
use dma_core::memory::Region;
use magnus::{
    function, method, prelude::*, DataTypeFunctions, Error, RArray, RHash, RModule, Ruby, Symbol, TypedData, Value,
};

pub use self::options::coalesce_from;
use self::options::{describe, memory_changes, memory_from, mode_from, native_bus, native_interrupt_cost, timing};
use crate::buffer::{choice, with_memory, Buffer, Size};
use crate::device::Device;
use crate::error::{argument, misuse, OrRaise};
use crate::gvl;
use crate::iommu;
use crate::trace::Trace;

#[derive(TypedData)]
#[magnus(class = "DMA::Sim", free_immediately)]
pub struct Sim {
    machine: Arc<Machine>,
}

impl DataTypeFunctions for Sim {}

/// The latency timer that is usual on PCI, in cycles.
const LATENCY: u64 = 32;
/// Transactions before other threads get their turn, and interrupts theirs.
const STEPS: usize = 4096;

impl Sim {
    /// The machine, if it is of this process.
    fn machine(&self, ruby: &Ruby) -> Result<&Arc<Machine>, Error> {
        self.machine.check().or_raise(ruby)?;
        Ok(&self.machine)
    }

    /// The Ruby object of a machine.
    pub fn of(machine: Arc<Machine>) -> Sim {
        Sim { machine }
    }

    /// The machine, if whoever asks may let its time pass.
    fn manual(&self, ruby: &Ruby, what: &str) -> Result<&Arc<Machine>, Error> {
        self.machine.check().or_raise(ruby)?;
        match self.machine.options().clock {
            Clock::Manual => Ok(&self.machine),
            Clock::Free => {
                Err(misuse(ruby, format!("{what}: this machine runs by itself; make it with clock: :manual")))
            }
        }
    }
}

/// A machine; `bus` is what [`describe`] gives.
fn native_new(
    ruby: &Ruby,
    (clock, iommu, seed): (Value, bool, u64),
    bus: RHash,
    cpu_load: f64,
    (arbitration, latency): (Value, Option<u64>),
    (entry, exit, deferred): (u64, u64, u64),
    (memory_bandwidth, memory): (Option<u64>, RHash),
) -> Result<Sim, Error> {
    let clock = match choice(clock).as_str() {
        "free" => Clock::Free,
        "manual" => Clock::Manual,
        _ => return Err(argument(ruby, format!("clock: {clock:?} is none of :free, :manual"))),
    };
    let arbitration = match (choice(arbitration).as_str(), latency) {
        ("fixed", None) => Arbitration::Fixed,
        ("rotating", None) => Arbitration::Rotating,
        ("round_robin", latency) => Arbitration::RoundRobin { latency: latency.unwrap_or(LATENCY) },
        ("fixed" | "rotating", Some(_)) => {
            return Err(argument(ruby, "latency_timer: it is for arbitration: :round_robin"));
        }
        _ => {
            return Err(argument(
                ruby,
                format!("arbitration: {arbitration:?} is none of :fixed, :rotating, :round_robin"),
            ))
        }
    };
    let timing = timing(ruby, bus)?;
    let interrupt_cost = InterruptCost { entry, exit, deferred };
    let memory = memory_from(ruby, memory)?;
    let options =
        MachineOptions { clock, iommu, seed, timing, cpu_load, arbitration, memory_bandwidth, interrupt_cost, memory };
    Ok(Sim { machine: with_memory(ruby, || Machine::new(options))? })
}

/// Adds a device; at `path` where one is given.
fn native_device(
    ruby: &Ruby,
    this: &Sim,
    (memory, channels, ring_size, alignment, address_bits, max_segments, prefetch): (
        u64,
        u16,
        u32,
        u64,
        u32,
        usize,
        u32,
    ),
    (isa, truncates, max_length): (bool, bool, Option<u64>),
    modes: RArray,
    policies: RArray,
    path: Option<PathBuf>,
) -> Result<Device, Error> {
    let max_length = max_length.unwrap_or(u64::MAX);
    let options = DeviceOptions {
        memory,
        channels,
        ring_size,
        alignment,
        address_bits,
        max_length,
        max_segments,
        prefetch,
        truncates,
        isa,
    };
    let modes = modes.into_iter().map(|mode| mode_from(ruby, mode)).collect::<Result<Vec<_>, _>>()?;
    let policies = policies.into_iter().map(|policy| coalesce_from(ruby, policy)).collect::<Result<Vec<_>, _>>()?;
    let sim = with_memory(ruby, || SimDevice::new(&this.machine, options))?;
    modes.into_iter().zip(0..channels).try_for_each(|(mode, channel)| sim.set_mode(channel, mode)).or_raise(ruby)?;
    policies
        .into_iter()
        .zip(0..channels)
        .try_for_each(|(policy, channel)| sim.coalesce(channel, policy))
        .or_raise(ruby)?;
    let name = path.as_ref().map_or_else(|| format!("sim device {}", sim.number()), |path| path.display().to_string());
    let core = CoreDevice::of_sim(&sim, &name);
    if let Some(path) = path {
        attach(&path, Arc::clone(&core));
    }
    Ok(Device::new(core))
}

fn stats(ruby: &Ruby, this: &Sim) -> Result<RHash, Error> {
    let stats = this.machine(ruby)?.stats();
    let hash = ruby.hash_new();
    hash.aset(ruby.to_symbol("cycles"), stats.cycles)?;
    hash.aset(ruby.to_symbol("dma_cycles"), stats.dma_cycles)?;
    hash.aset(ruby.to_symbol("cpu_load"), stats.cpu_load)?;
    hash.aset(ruby.to_symbol("cpu_accesses"), stats.cpu.accesses)?;
    hash.aset(ruby.to_symbol("cpu_cycles"), stats.cpu.cycles)?;
    hash.aset(ruby.to_symbol("cpu_stall_cycles"), stats.cpu.stalls)?;
    hash.aset(ruby.to_symbol("interrupts"), stats.interrupts)?;
    hash.aset(ruby.to_symbol("interrupt_cycles"), stats.interrupt_cycles)?;
    hash.aset(ruby.to_symbol("cpu_operations"), stats.operations)?;
    hash.aset(ruby.to_symbol("cache"), cache_stats(ruby, this)?)?;
    iommu::add_to(ruby, hash, &stats)?;
    let masters = ruby.ary_new();
    for ((device, channel), stats) in stats.masters {
        let master = ruby.hash_new();
        master.aset(ruby.to_symbol("device"), device)?;
        master.aset(ruby.to_symbol("channel"), channel)?;
        master.aset(ruby.to_symbol("grants"), stats.grants)?;
        master.aset(ruby.to_symbol("cycles"), stats.cycles)?;
        master.aset(ruby.to_symbol("wait_cycles"), stats.waited)?;
        master.aset(ruby.to_symbol("longest_wait"), stats.longest)?;
        masters.push(master)?;
    }
    hash.aset(ruby.to_symbol("masters"), masters)?;
    Ok(hash)
}

/// What the CPU's cache did; nil where there is no model of it.
fn cache_stats(ruby: &Ruby, this: &Sim) -> Result<Option<RHash>, Error> {
    let Some(stats) = this.machine.processor().and_then(|processor| processor.stats()) else { return Ok(None) };
    let CacheStats { hits, misses, dma_misses, miss_cycles, evictions, write_backs, uncached } = stats;
    let hash = ruby.hash_new();
    hash.aset(ruby.to_symbol("hits"), hits)?;
    hash.aset(ruby.to_symbol("misses"), misses)?;
    hash.aset(ruby.to_symbol("dma_misses"), dma_misses)?;
    hash.aset(ruby.to_symbol("miss_cycles"), miss_cycles)?;
    hash.aset(ruby.to_symbol("evictions"), evictions)?;
    hash.aset(ruby.to_symbol("write_backs"), write_backs)?;
    hash.aset(ruby.to_symbol("uncached"), uncached)?;
    Ok(Some(hash))
}

/// Where a range of a buffer is.
fn range(ruby: &Ruby, buffer: &Buffer, Size(offset): Size, Size(len): Size) -> Result<(Arc<Region>, usize), Error> {
    let (region, at) = buffer.locate(offset, len).or_raise(ruby)?;
    let address = region.address() + at;
    Ok((region, address))
}

/// Has the cache do something to all lines of a range.
fn native_cache(ruby: &Ruby, this: &Sim, operation: Symbol, buffer: &Buffer, at: Size, len: Size) -> Result<(), Error> {
    let (_region, address) = range(ruby, buffer, at, len)?;
    let operation = match choice(operation.as_value()).as_str() {
        "flush" => Operation::Flush,
        "invalidate" => Operation::Invalidate,
        "write_back" => Operation::WriteBack,
        _ => Operation::Clean,
    };
    if let Some(processor) = this.machine(ruby)?.processor() {
        processor.operate(operation, address, len.0);
    }
    Ok(())
}

/// Address, validity and dirtiness of each line of a range.
fn native_lines(ruby: &Ruby, this: &Sim, buffer: &Buffer, at: Size, len: Size) -> Result<RArray, Error> {
    let (_region, address) = range(ruby, buffer, at, len)?;
    let lines = this.machine(ruby)?.lines(address, len.0);
    Ok(ruby.ary_from_iter(lines))
}

fn time(ruby: &Ruby, this: &Sim) -> Result<f64, Error> {
    let machine = this.machine(ruby)?;
    Ok(machine.cycles() as f64 / machine.options().timing.frequency as f64)
}

fn native_step(ruby: &Ruby, this: &Sim, cycles: u64) -> Result<(), Error> {
    let machine = this.manual(ruby, "step")?;
    run(ruby, machine, Some(machine.cycles().saturating_add(cycles)))
}

fn run_until_idle(ruby: &Ruby, this: &Sim) -> Result<u64, Error> {
    let machine = this.manual(ruby, "run_until_idle")?;
    let before = machine.cycles();
    run(ruby, machine, None)?;
    Ok(machine.cycles() - before)
}

fn run(ruby: &Ruby, machine: &Machine, until: Option<u64>) -> Result<(), Error> {
    while gvl::without(ruby, || (0..STEPS).all(|_| machine.transact(until)))? {}
    Ok(())
}

/// Injects a fault; one of descriptor number, address and probability says where.
fn native_inject(
    ruby: &Ruby,
    this: &Sim,
    kind: Value,
    (descriptor, address, probability): (Option<u64>, Option<u64>, Option<f64>),
    device: Option<u32>,
    channel: Option<u16>,
    count: Option<u64>,
) -> Result<(), Error> {
    this.machine.check().or_raise(ruby)?;
    let Some(kind) = Kind::from_name(&choice(kind)) else {
        return Err(argument(ruby, format!("{kind:?} is no fault; there are :{}", Kind::names().join(", :"))));
    };
    let trigger = match (descriptor, address, probability) {
        (Some(number), None, None) => Trigger::Descriptor(number),
        (None, Some(address), None) => Trigger::Address(address),
        (None, None, Some(probability)) => Trigger::Probability(probability),
        _ => return Err(argument(ruby, "give one of descriptor:, address: and probability:")),
    };
    let fault = Fault { kind, trigger, device, channel, count };
    this.machine.check_fault(&fault).or_raise(ruby)?;
    this.machine.inject(fault);
    Ok(())
}

fn native_clear_faults(ruby: &Ruby, this: &Sim) -> Result<(), Error> {
    this.machine(ruby)?.clear_faults();
    Ok(())
}

fn native_start_trace(ruby: &Ruby, this: &Sim) -> Result<(), Error> {
    this.machine(ruby)?.start_trace().or_raise(ruby)
}

fn native_take_trace(ruby: &Ruby, this: &Sim) -> Result<Trace, Error> {
    let machine = this.machine(ruby)?;
    Ok(Trace::new(machine.take_trace(), machine.options().timing))
}

/// Moves pages that are not pinned; all of them, where nothing is said.
fn native_migrate(ruby: &Ruby, this: &Sim, most: Option<usize>) -> Result<usize, Error> {
    Ok(this.machine(ruby)?.migrate(most.unwrap_or(usize::MAX)))
}

fn faults(ruby: &Ruby, this: &Sim) -> Result<RArray, Error> {
    iommu::faults(ruby, this.machine(ruby)?)
}

fn native_flush_iotlb(ruby: &Ruby, this: &Sim) -> Result<(), Error> {
    this.machine(ruby)?.flush_iotlb();
    Ok(())
}

/// The preset that its bus is, if it is one.
fn bus_name(ruby: &Ruby, this: &Sim) -> Option<Symbol> {
    this.machine.options().timing.name().map(|name| ruby.to_symbol(name))
}

fn clock(ruby: &Ruby, this: &Sim) -> Symbol {
    ruby.to_symbol(if this.machine.options().clock == Clock::Free { "free" } else { "manual" })
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Sim", ruby.class_object())?;
    class.undef_default_alloc_func();
    let singleton = class.singleton_class()?;
    singleton.define_private_method("native_new", function!(native_new, 6))?;
    singleton.define_private_method("native_bus", function!(native_bus, 1))?;
    singleton.define_private_method("native_interrupt_cost", function!(native_interrupt_cost, 1))?;
    singleton.define_private_method("native_detach", function!(|path: PathBuf| detach(&path), 1))?;
    class.define_method("clock", method!(clock, 0))?;
    class.define_method("iommu?", method!(|this: &Sim| this.machine.options().iommu, 0))?;
    class.define_method("seed", method!(|this: &Sim| this.machine.options().seed, 0))?;
    class
        .define_method("cycles", method!(|ruby: &Ruby, this: &Sim| Ok::<_, Error>(this.machine(ruby)?.cycles()), 0))?;
    class.define_method("time", method!(time, 0))?;
    class.define_method("stats", method!(stats, 0))?;
    class.define_method("faults", method!(faults, 0))?;
    class.define_private_method("native_flush_iotlb", method!(native_flush_iotlb, 0))?;
    class.define_method("bus", method!(|ruby: &Ruby, this: &Sim| describe(ruby, this.machine.options().timing), 0))?;
    class.define_private_method("native_bus_name", method!(bus_name, 0))?;
    class.define_private_method(
        "native_memory",
        method!(|ruby: &Ruby, this: &Sim| memory_changes(ruby, this.machine.options().memory), 0),
    )?;
    class.define_method("run_until_idle", method!(run_until_idle, 0))?;
    class.define_private_method("native_device", method!(native_device, 5))?;
    class.define_private_method("native_step", method!(native_step, 1))?;
    class.define_private_method("native_inject", method!(native_inject, 5))?;
    class.define_private_method("native_clear_faults", method!(native_clear_faults, 0))?;
    class.define_private_method("native_migrate", method!(native_migrate, 1))?;
    class.define_private_method("native_start_trace", method!(native_start_trace, 0))?;
    class.define_private_method("native_cache", method!(native_cache, 4))?;
    class.define_private_method("native_lines", method!(native_lines, 3))?;
    let barriers = dma.singleton_class()?;
    barriers.define_private_method("native_write_barrier", function!(write_barrier, 0))?;
    barriers.define_private_method("native_read_barrier", function!(read_barrier, 0))?;
    class.define_private_method("native_take_trace", method!(native_take_trace, 0))?;
    Ok(())
}
