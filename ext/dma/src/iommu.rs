//! What a simulated machine's IOMMU did, for Ruby: faults, pages, interrupts and where they go.

use dma_core::engine::sim::{IommuFault, IommuStats, Machine, MachineStats};
use magnus::{Error, RArray, RHash, Ruby};

/// The faults of a machine, a Hash for each.
pub fn faults(ruby: &Ruby, machine: &Machine) -> Result<RArray, Error> {
    let faults = ruby.ary_new();
    for IommuFault { master: (device, channel), address, access, reason, cycle } in machine.iommu_faults() {
        let fault = ruby.hash_new();
        fault.aset(ruby.to_symbol("device"), device)?;
        fault.aset(ruby.to_symbol("channel"), channel)?;
        fault.aset(ruby.to_symbol("address"), address)?;
        fault.aset(ruby.to_symbol("access"), ruby.to_symbol(access.name()))?;
        fault.aset(ruby.to_symbol("reason"), ruby.to_symbol(reason.name()))?;
        fault.aset(ruby.to_symbol("cycle"), cycle)?;
        faults.push(fault)?;
    }
    Ok(faults)
}

/// Statistics of a device.
pub fn stats(ruby: &Ruby, stats: IommuStats) -> Result<RHash, Error> {
    let IommuStats { small, large, hits, misses, invalidations, flushes, queued } = stats;
    let hash = ruby.hash_new();
    hash.aset(ruby.to_symbol("pages_4k"), small)?;
    hash.aset(ruby.to_symbol("pages_2m"), large)?;
    hash.aset(ruby.to_symbol("iotlb_hits"), hits)?;
    hash.aset(ruby.to_symbol("iotlb_misses"), misses)?;
    hash.aset(ruby.to_symbol("invalidations"), invalidations)?;
    hash.aset(ruby.to_symbol("flushes"), flushes)?;
    hash.aset(ruby.to_symbol("queued"), queued)?;
    Ok(hash)
}

/// Statistics of a machine, into those that it has otherwise.
pub fn add_to(ruby: &Ruby, hash: RHash, stats: &MachineStats) -> Result<(), Error> {
    hash.aset(ruby.to_symbol("interrupts_by_cpu"), ruby.ary_from_iter(stats.interrupts_by_cpu.iter().copied()))?;
    hash.aset(ruby.to_symbol("spurious_interrupts"), stats.spurious_interrupts)?;
    hash.aset(ruby.to_symbol("blocked_interrupts"), stats.blocked_interrupts)?;
    hash.aset(ruby.to_symbol("fault_overflows"), stats.fault_overflows)
}
