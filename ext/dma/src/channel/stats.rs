//! What a channel did, for Ruby.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use dma_core::channel::Shared;
use dma_core::engine::sim::Device as SimDevice;
use dma_core::transfer::Status;
use magnus::{Error, RHash, Ruby};

/// The statistics of one channel.
pub fn totals(ruby: &Ruby, shared: &Shared, sim: Option<&Arc<SimDevice>>) -> Result<RHash, Error> {
    let counters = shared.counters();
    let (hash, statuses) = (ruby.hash_new(), ruby.hash_new());
    let (mut ended, complete) = (0, Status::Complete.code() as usize);
    for (code, count) in counters.ended.iter().enumerate().skip(complete) {
        let count = count.load(Relaxed);
        ended += count;
        let name = if code + 1 == counters.ended.len() { "os_error" } else { Status::from_code(code as u32).name() };
        if count > 0 {
            statuses.aset(ruby.to_symbol(name), count)?;
        }
    }
    let completed = counters.ended[complete].load(Relaxed);
    let submitted = counters.submitted.load(Relaxed);
    let set = |name: &str, value: u64| hash.aset(ruby.to_symbol(name), value);
    set("submitted", submitted)?;
    set("completed", completed)?;
    set("failed", ended - completed)?;
    set("outstanding", submitted - ended)?;
    set("bytes", counters.bytes.load(Relaxed))?;
    set("lost_interrupts", counters.lost_interrupts.load(Relaxed))?;
    if let Some(sim) = sim {
        let (descriptors, bytes, interrupts) = sim.totals(shared.index());
        set("descriptors", descriptors)?;
        set("bytes_on_bus", bytes)?;
        set("interrupts", interrupts)?;
    }
    hash.aset(ruby.to_symbol("statuses"), statuses)?;
    Ok(hash)
}
