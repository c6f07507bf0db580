//! What a machine and its devices are made like.

use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use super::arbiter::Arbitration;
use super::handler::InterruptCost;
use super::timing::Timing;
use crate::error::{Error, Result};
use crate::memory::processor::{Processor, ProcessorOptions, LINE};

/// Pages of simulated physical memory.
const PAGE: u64 = 4096;

/// Who lets time pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// A thread.
    Free,
    /// Whoever steps the machine.
    Manual,
}

/// What a machine is made like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineOptions {
    /// Who lets time pass.
    pub clock: Clock,
    /// Whether devices reach memory through an IOMMU, or by simulated physical addresses.
    pub iommu: bool,
    /// Decides where physical pages lie and when faults with a probability happen.
    pub seed: u64,
    /// What its bus is like.
    pub timing: Timing,
    /// The part of the time, from 0 to 1, for which the CPU wants the bus, as long as nothing keeps it waiting.
    pub cpu_load: f64,
    /// How channels take turns on a bus.
    pub arbitration: Arbitration,
    /// Bytes that memory serves in a second, all together; none: more than anybody asks for, or what is usual where devices have
    /// links of their own.
    pub memory_bandwidth: Option<u64>,
    /// What interrupts take of the CPU's time.
    pub interrupt_cost: InterruptCost,
    /// What is between the CPU, devices and memory.
    pub memory: MemoryOptions,
}

impl Default for MachineOptions {
    fn default() -> Self {
        MachineOptions {
            clock: Clock::Free,
            iommu: true,
            seed: 0,
            timing: Timing::IDEAL,
            cpu_load: 0.0,
            arbitration: Arbitration::Rotating,
            memory_bandwidth: None,
            interrupt_cost: InterruptCost::default(),
            memory: MemoryOptions::default(),
        }
    }
}

impl MachineOptions {
    pub(super) fn check(&self) -> Result<()> {
        self.timing.check()?;
        self.interrupt_cost.check()?;
        let refuse = |what: String| Err(Error::Argument(what));
        if !(0.0..=1.0).contains(&self.cpu_load) {
            return refuse(format!("cpu_load: {} is not in 0..1", self.cpu_load));
        }
        if self.arbitration == (Arbitration::RoundRobin { latency: 0 }) {
            return refuse("latency_timer: 0 cycles are none; give 1 or more".into());
        }
        if self.memory_bandwidth == Some(0) {
            return refuse("memory_bandwidth: 0 bytes a second never come; give 1 or more".into());
        }
        self.memory.check(self.iommu)
    }
}

/// What is between the CPU, devices and memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryOptions {
    /// The CPU's cache looks at what devices do. Otherwise software has to flush and invalidate it.
    pub coherent: bool,
    /// Bytes of that cache.
    pub cache_size: u64,
    /// What devices write goes into the cache; none: a coherent cache is not modelled at all, for nobody could tell.
    pub cache_injection: Option<bool>,
    /// Stores and loads of the CPU pass each other, as far as barriers let them.
    pub weak: bool,
    /// What was unmapped leaves the IOTLB later, with all else that was.
    pub lazy: bool,
    /// CPUs that handle interrupts.
    pub cpus: u32,
    /// Bytes of physical memory, where there is no IOMMU; none: as many as a device reaches.
    pub ram: Option<u64>,
    /// The part of these, from 0 to 1, that others occupy, a page here and there.
    pub fragmentation: f64,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        MemoryOptions {
            coherent: true,
            cache_size: 32 << 10,
            cache_injection: None,
            weak: false,
            lazy: false,
            cpus: 1,
            ram: None,
            fragmentation: 0.0,
        }
    }
}

/// Nanoseconds that a line of memory takes to come, as the usual figure is (Jeff Dean, Numbers everyone should know).
const MISS: u64 = 100;
/// Nanoseconds after which stores are visible without a barrier, and what devices wrote is seen.
const DELAY: u64 = 1000;

impl MemoryOptions {
    /// The CPU that programs can tell from none; where there is nothing to tell, there is none.
    pub(super) fn processor(&self, timing: &Timing, seed: u64, clock: &Arc<AtomicU64>) -> Option<Arc<Processor>> {
        let MemoryOptions { coherent, cache_size, cache_injection, weak, .. } = *self;
        let cached = !coherent || cache_injection.is_some();
        (cached || weak).then(|| {
            let options = ProcessorOptions {
                coherent,
                lines: cached.then_some(cache_size as usize / LINE),
                injection: cache_injection == Some(true),
                delay: weak.then(|| timing.cycle_at(DELAY).max(1)),
                miss: timing.cycle_at(MISS).max(1),
                seed,
            };
            Processor::new(options, Arc::clone(clock))
        })
    }

    fn check(&self, iommu: bool) -> Result<()> {
        let refuse = |what: String| Err(Error::Argument(what));
        let MemoryOptions { coherent, cache_size, cache_injection, cpus, ram, fragmentation, lazy, .. } = *self;
        if !coherent && cache_injection.is_some() {
            return refuse(
                "cache_injection: is a coherent cache's, for devices do not reach any other; leave it or coherent: false out"
                    .into(),
            );
        }
        if cache_size % 64 != 0 || !(64..=1 << 30).contains(&cache_size) {
            return refuse(format!("cache_size: {cache_size} bytes are no whole lines of 64 in 64..2**30"));
        }
        if !(1..=1024).contains(&cpus) {
            return refuse(format!("cpus: {cpus} is not in 1..1024"));
        }
        if lazy && !iommu {
            return refuse("invalidation: :lazy is an IOMMU's; leave iommu: false out".into());
        }
        if iommu && (ram.is_some() || fragmentation != 0.0) {
            return refuse("ram: and fragmentation: are for a machine without an IOMMU; give iommu: false".into());
        }
        if let Some(ram) = ram.filter(|ram| ram % PAGE != 0 || !(1 << 20..=1 << 48).contains(ram)) {
            return refuse(format!("ram: {ram} bytes are no whole pages of {PAGE} in 2**20..2**48"));
        }
        if !(0.0..=1.0).contains(&fragmentation) {
            return refuse(format!("fragmentation: {fragmentation} is not in 0..1"));
        }
        Ok(())
    }
}

/// What a device is made like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Bytes of its own memory. Pages that nobody writes take no memory of the host.
    pub memory: u64,
    /// Channels, independent of each other.
    pub channels: u16,
    /// Slots of each channel's descriptor ring; one stays free.
    pub ring_size: u32,
    /// What addresses and lengths must be a multiple of.
    pub alignment: u64,
    /// Bits of an address: what lies above is not reached.
    pub address_bits: u32,
    /// The most bytes of one descriptor; longer transfers are split, longer copies refused.
    pub max_length: u64,
    /// Elements of a scatter-gather list, and pieces of physical memory that one descriptor chain reaches.
    pub max_segments: usize,
    /// Descriptors of its ring that a channel fetches at once.
    pub prefetch: u32,
    /// It drops the low bits of addresses that are not aligned, and tells nobody.
    pub truncates: bool,
    /// Two 8237 move its bytes, see [`DeviceOptions::isa`].
    pub isa: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        DeviceOptions {
            memory: 64 << 20,
            channels: 4,
            ring_size: 256,
            alignment: 1,
            address_bits: 48,
            max_length: u64::MAX,
            max_segments: 64,
            prefetch: 1,
            truncates: false,
            isa: false,
        }
    }
}

impl DeviceOptions {
    pub(super) fn check(&self) -> Result<()> {
        if self.isa {
            return self.check_isa();
        }
        let refuse = |what: String| Err(Error::Argument(what));
        let DeviceOptions {
            memory,
            channels,
            alignment,
            address_bits,
            max_length,
            max_segments,
            prefetch,
            truncates,
            ..
        } = *self;
        if !(16..=48).contains(&address_bits) {
            return refuse(format!("address_bits: {address_bits} is not in 16..48"));
        }
        if memory == 0 || memory > 1 << address_bits {
            return refuse(format!("memory: {memory} bytes are not in 1..2**{address_bits}, which address_bits: {address_bits} reach; say how many with memory:"));
        }
        if !(1..=256).contains(&channels) {
            return refuse(format!("channels: {channels} is not in 1..256"));
        }
        if !alignment.is_power_of_two() || alignment > PAGE {
            return Err(Error::Alignment(format!("alignment: {alignment} is no power of two in 1..{PAGE}")));
        }
        if truncates && alignment == 1 {
            return refuse(
                "misaligned: :truncate drops bits of addresses below the alignment:, which is 1; give a larger one"
                    .into(),
            );
        }
        if memory % alignment != 0 {
            return Err(Error::Alignment(format!(
                "memory: {memory} bytes are no multiple of the alignment, {alignment}"
            )));
        }
        if max_length == 0 || max_length != u64::MAX && max_length % alignment != 0 {
            return refuse(format!(
                "max_length: {max_length} is not 1 or more, in multiples of the alignment, {alignment}"
            ));
        }
        if !(1..=4096).contains(&max_segments) {
            return refuse(format!("max_segments: {max_segments} is not in 1..4096"));
        }
        if !(1..=64).contains(&prefetch) {
            return refuse(format!("prefetch: {prefetch} is not in 1..64"));
        }
        self.check_ring()
    }

    pub(super) fn check_ring(&self) -> Result<()> {
        match self.ring_size {
            2..=0x1_0000 => Ok(()),
            size => Err(Error::Argument(format!("ring_size: {size} is not in 2..65536, of which one slot stays free"))),
        }
    }
}
