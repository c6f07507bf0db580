//! `DMA::Trace`: what happened on the bus of a simulated machine.

use dma_core::engine::sim::{Changes, Record, Timing, Wave, Waves, What};
use dma_core::transfer::Status;
use magnus::{
    method, prelude::*, DataTypeFunctions, Error, IntoValue, RArray, RModule, RString, Ruby, Symbol, TypedData,
};

use crate::buffer::with_memory;
use crate::error::OrRaise;

#[derive(TypedData)]
#[magnus(class = "DMA::Trace", free_immediately, size)]
pub struct Trace {
    record: Record,
    timing: Timing,
}

impl DataTypeFunctions for Trace {
    fn size(&self) -> usize {
        self.record.size()
    }
}

impl Trace {
    /// What was written down of a machine with this bus.
    pub fn new(record: Record, timing: Timing) -> Trace {
        Trace { record, timing }
    }

    /// Its signals from a cycle to another.
    fn waves(&self, ruby: &Ruby, from: u64, to: u64) -> Result<Waves, Error> {
        with_memory(ruby, || Waves::new(&self.record, &self.timing, from..to))
    }
}

/// The fields of each event, in the order of `Event`.
fn native_events(ruby: &Ruby, this: &Trace) -> Result<RArray, Error> {
    let array = ruby.ary_new();
    for event in &this.record.events {
        let row = ruby.ary_new_capa(10);
        row.push(event.cycle)?;
        row.push(event.device)?;
        row.push(event.channel)?;
        row.push(ruby.to_symbol(event.what.name()))?;
        row.push(event.address)?;
        row.push(event.len)?;
        row.push(status_of(ruby, event.what))?;
        row.push(event.asked)?;
        row.push(event.begin)?;
        row.push(event.waits)?;
        array.push(row)?;
    }
    Ok(array)
}

fn status_of(ruby: &Ruby, what: What) -> Option<Symbol> {
    match what {
        What::Status(status) => Some(ruby.to_symbol(Status::name(status))),
        _ => None,
    }
}

/// The fields of each tenure, in the order of `Tenure`.
fn native_tenures(ruby: &Ruby, this: &Trace) -> Result<RArray, Error> {
    let cycles = this.record.cycles();
    this.record.check(&cycles).or_raise(ruby)?;
    let array = ruby.ary_new();
    for tenure in this.record.tenures(cycles.start, cycles.end) {
        let (device, channel) = tenure.master.unzip();
        array.push((device, channel, tenure.begin, tenure.end))?;
    }
    Ok(array)
}

/// From which cycle to which.
fn native_cycles(this: &Trace) -> (u64, u64) {
    let cycles = this.record.cycles();
    (cycles.start, cycles.end)
}

/// Scope, name, kind and changes of each signal, from a cycle to another.
fn native_waves(ruby: &Ruby, this: &Trace, from: u64, to: u64) -> Result<RArray, Error> {
    let array = ruby.ary_new();
    for Wave { scope, name, changes } in this.waves(ruby, from, to)?.list {
        let (kind, changes) = match changes {
            Changes::Level(changes) => ("level", rows(ruby, changes)?),
            Changes::Text(changes) => ("text", rows(ruby, changes)?),
            Changes::Mark(changes) => ("mark", rows(ruby, changes)?),
        };
        array.push((scope, name, ruby.to_symbol(kind), changes))?;
    }
    Ok(array)
}

fn rows<T: IntoValue>(ruby: &Ruby, changes: Vec<T>) -> Result<RArray, Error> {
    let array = ruby.ary_new_capa(changes.len());
    changes.into_iter().try_for_each(|change| array.push(change))?;
    Ok(array)
}

fn to_s(this: &Trace) -> String {
    this.record.events.iter().map(|event| format!("{event}\n")).collect()
}

fn native_vcd(ruby: &Ruby, this: &Trace, from: u64, to: u64) -> Result<RString, Error> {
    let dump = this.waves(ruby, from, to)?.to_vcd(&this.timing);
    Ok(ruby.enc_str_new(dump, ruby.usascii_encoding()))
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Trace", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.define_method("size", method!(|this: &Trace| this.record.events.len(), 0))?;
    class.define_method("to_s", method!(to_s, 0))?;
    class.define_private_method("native_vcd", method!(native_vcd, 2))?;
    class.define_private_method("native_events", method!(native_events, 0))?;
    class.define_private_method("native_tenures", method!(native_tenures, 0))?;
    class.define_private_method("native_cycles", method!(native_cycles, 0))?;
    class.define_private_method("native_frequency", method!(|this: &Trace| this.timing.frequency, 0))?;
    class.define_private_method("native_waves", method!(native_waves, 2))?;
    Ok(())
}
