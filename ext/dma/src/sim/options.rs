//! The options of machines and devices, from Ruby and back.

use dma_core::engine::sim::{Coalesce, InterruptCost, MemoryOptions, Mode, Timing};
use magnus::{prelude::*, Error, IntoValue, RArray, RHash, Ruby, Value};

use crate::buffer::choice;
use crate::error::argument;

/// A bus by name: what [`Timing`] consists of.
pub(super) fn native_bus(ruby: &Ruby, name: Value) -> Result<RHash, Error> {
    match Timing::from_name(&choice(name)) {
        Some(timing) => describe(ruby, timing),
        None => Err(argument(ruby, format!("bus: {name:?} is none of :{}", Timing::names().join(", :")))),
    }
}

/// What a bus consists of, by name.
pub(super) fn describe(ruby: &Ruby, timing: Timing) -> Result<RHash, Error> {
    let Timing { width, frequency, beat, setup, payload, overhead, dual, read, links } = timing;
    let hash = ruby.hash_new();
    let payload = (payload < u64::MAX).then_some(payload);
    hash.aset(ruby.to_symbol("width"), width)?;
    hash.aset(ruby.to_symbol("frequency"), frequency)?;
    hash.aset(ruby.to_symbol("beat"), beat)?;
    hash.aset(ruby.to_symbol("setup"), setup)?;
    hash.aset(ruby.to_symbol("payload"), payload)?;
    hash.aset(ruby.to_symbol("overhead"), overhead)?;
    hash.aset(ruby.to_symbol("dual"), dual)?;
    hash.aset(ruby.to_symbol("read"), read)?;
    hash.aset(ruby.to_symbol("links"), links)?;
    Ok(hash)
}

/// What is between the CPU, devices and memory.
pub(super) fn memory_from(ruby: &Ruby, memory: RHash) -> Result<MemoryOptions, Error> {
    let one_of = |name: &str, default: &str, other: &str| {
        let value: Value = memory.fetch(ruby.to_symbol(name))?;
        match choice(value) {
            word if word == default => Ok(false),
            word if word == other => Ok(true),
            _ => Err(argument(ruby, format!("{name}: {value:?} is none of :{default}, :{other}"))),
        }
    };
    Ok(MemoryOptions {
        coherent: memory.fetch(ruby.to_symbol("coherent"))?,
        cache_size: memory.fetch(ruby.to_symbol("cache_size"))?,
        cache_injection: memory.fetch(ruby.to_symbol("cache_injection"))?,
        weak: one_of("ordering", "strong", "weak")?,
        lazy: one_of("invalidation", "strict", "lazy")?,
        cpus: memory.fetch(ruby.to_symbol("cpus"))?,
        ram: memory.fetch(ruby.to_symbol("ram"))?,
        fragmentation: memory.fetch(ruby.to_symbol("fragmentation"))?,
    })
}

/// What of it is not as it is where nothing else is said, by name.
pub(super) fn memory_changes(ruby: &Ruby, memory: MemoryOptions) -> Result<RHash, Error> {
    let usual = MemoryOptions::default();
    let MemoryOptions { coherent, cache_size, cache_injection, weak, lazy, cpus, ram, fragmentation } = memory;
    let hash = ruby.hash_new();
    let set = |name: &str, is_usual: bool, value: Value| {
        if is_usual {
            return Ok(());
        }
        hash.aset(ruby.to_symbol(name), value)
    };
    set("coherent", coherent == usual.coherent, coherent.into_value_with(ruby))?;
    set("cache_size", cache_size == usual.cache_size, cache_size.into_value_with(ruby))?;
    set("cache_injection", cache_injection == usual.cache_injection, cache_injection.into_value_with(ruby))?;
    set("ordering", weak == usual.weak, ruby.to_symbol("weak").as_value())?;
    set("invalidation", lazy == usual.lazy, ruby.to_symbol("lazy").as_value())?;
    set("cpus", cpus == usual.cpus, cpus.into_value_with(ruby))?;
    set("ram", ram == usual.ram, ram.into_value_with(ruby))?;
    set("fragmentation", fragmentation == usual.fragmentation, fragmentation.into_value_with(ruby))?;
    Ok(hash)
}

/// What an interrupt costs, by name.
pub(super) fn native_interrupt_cost(ruby: &Ruby, name: Value) -> Result<RHash, Error> {
    let Some(cost) = InterruptCost::from_name(&choice(name)) else {
        let names = InterruptCost::names().join(", :");
        return Err(argument(ruby, format!("interrupt_cost: {name:?} is none of :{names}")));
    };
    let hash = ruby.hash_new();
    hash.aset(ruby.to_symbol("entry"), cost.entry)?;
    hash.aset(ruby.to_symbol("exit"), cost.exit)?;
    hash.aset(ruby.to_symbol("deferred"), cost.deferred)?;
    Ok(hash)
}

/// The bus that [`describe`] gives.
pub(super) fn timing(ruby: &Ruby, bus: RHash) -> Result<Timing, Error> {
    let payload: Option<u64> = bus.fetch(ruby.to_symbol("payload"))?;
    Ok(Timing {
        width: bus.fetch(ruby.to_symbol("width"))?,
        frequency: bus.fetch(ruby.to_symbol("frequency"))?,
        beat: bus.fetch(ruby.to_symbol("beat"))?,
        setup: bus.fetch(ruby.to_symbol("setup"))?,
        payload: payload.unwrap_or(u64::MAX),
        overhead: bus.fetch(ruby.to_symbol("overhead"))?,
        dual: bus.fetch(ruby.to_symbol("dual"))?,
        read: bus.fetch(ruby.to_symbol("read"))?,
        links: bus.fetch(ruby.to_symbol("links"))?,
    })
}

/// A mode by name.
pub(super) fn mode_from(ruby: &Ruby, mode: Value) -> Result<Mode, Error> {
    let named = Mode::from_name(&choice(mode));
    named.ok_or_else(|| argument(ruby, format!("mode: {mode:?} is none of :{}", Mode::names().join(", :"))))
}

/// A preset's name, or an Array of completions and nanoseconds.
pub fn coalesce_from(ruby: &Ruby, policy: Value) -> Result<Coalesce, Error> {
    if let Some(array) = RArray::from_value(policy) {
        let (count, time) = (array.entry::<Option<u64>>(0)?, array.entry::<Option<u64>>(1)?);
        return Ok(Coalesce::fixed(count, time));
    }
    let named = Coalesce::from_name(&choice(policy));
    named.ok_or_else(|| argument(ruby, format!("coalesce: {policy:?} is none of :{}", Coalesce::names().join(", :"))))
}
