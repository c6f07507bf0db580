//! `DMA::Transfer`: one transfer, under way or over.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_core::channel::Ticket;
use dma_core::memory::Region;
use dma_core::transfer::Status;
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Opaque};
use magnus::{
    gc, method, prelude::*, DataTypeFunctions, Error, RModule, RString, Ruby, Symbol, TryConvert, TypedData, Value,
};

use crate::buffer::append;
use crate::channel::Channel;

#[derive(TypedData)]
#[magnus(class = "DMA::Transfer", free_immediately, mark)]
pub struct Transfer {
    ticket: Arc<Ticket>,
    channel: Opaque<Value>,
    /// The ring that the device fetches from, or the list of what it moves: what is mapped stays so until the transfer has ended,
    /// though nobody else keeps it.
    uses: Option<Opaque<Value>>,
    /// Where the bytes go that will be a String.
    stage: Mutex<Option<Arc<Region>>>,
    /// Procs to call when it has ended. No Ruby code runs under the lock, so that the GC can take it to mark.
    callbacks: Mutex<Vec<Opaque<Value>>>,
    /// Somebody knows how it ended, or gave it up, and need not be told again.
    known: AtomicBool,
}

impl DataTypeFunctions for Transfer {
    fn mark(&self, marker: &gc::Marker) {
        marker.mark(self.channel);
        self.uses.iter().filter(|_| self.ticket.outcome().is_none()).for_each(|used| marker.mark(*used));
        self.callbacks().iter().for_each(|callback| marker.mark(*callback));
    }
}

impl Transfer {
    /// A transfer of `channel`, which keeps it until it has ended.
    pub fn new(
        ticket: Arc<Ticket>,
        channel: Obj<Channel>,
        uses: Option<Opaque<Value>>,
        stage: Option<Arc<Region>>,
    ) -> Transfer {
        Transfer {
            ticket,
            channel: channel.as_value().into(),
            uses,
            stage: Mutex::new(stage),
            callbacks: Mutex::new(Vec::new()),
            known: AtomicBool::new(false),
        }
    }

    /// What the core knows of it.
    pub fn ticket(&self) -> &Arc<Ticket> {
        &self.ticket
    }

    /// Nobody is to be told any more how it ended.
    pub fn know(&self) {
        self.known.store(true, Relaxed);
    }

    /// Whether somebody knows.
    pub fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    /// The next callback to call, in the order in which they were given.
    pub fn next_callback(&self) -> Option<Opaque<Value>> {
        let mut callbacks = self.callbacks();
        if callbacks.is_empty() {
            return None;
        }
        Some(callbacks.remove(0))
    }

    fn callbacks(&self) -> MutexGuard<'_, Vec<Opaque<Value>>> {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, ruby: &Ruby) -> Result<(), Error> {
        if self.ticket.outcome().is_none() {
            <&Channel>::try_convert(self.channel.get_inner_with(ruby))?.poll(ruby)?;
        }
        Ok(())
    }
}

fn is_done(ruby: &Ruby, this: &Transfer) -> Result<bool, Error> {
    this.poll(ruby)?;
    Ok(this.ticket.outcome().is_some())
}

fn status(ruby: &Ruby, this: &Transfer) -> Result<Symbol, Error> {
    this.poll(ruby)?;
    Ok(ruby.to_symbol(this.ticket.status().name()))
}

fn bytes(ruby: &Ruby, this: &Transfer) -> Result<usize, Error> {
    this.poll(ruby)?;
    Ok(this.ticket.outcome().map_or(0, |outcome| outcome.bytes))
}

/// What the status says, in words.
fn native_reason(this: &Transfer) -> String {
    this.ticket.status().to_string()
}

/// The device address that a list of several has not.
fn native_address(this: &Transfer) -> Option<u64> {
    this.ticket.address()
}

fn fault(ruby: &Ruby, this: &Transfer) -> Option<(u64, Symbol)> {
    match this.ticket.status() {
        Status::IommuFault { address, access } => Some((address, ruby.to_symbol(access.name()))),
        _ => None,
    }
}

fn errno(this: &Transfer) -> Option<i32> {
    match this.ticket.status() {
        Status::Os(errno) => Some(errno as i32),
        _ => None,
    }
}

/// Whether the callback was taken; false where the transfer has ended, and nobody will look for callbacks any more.
fn native_call_back(ruby: &Ruby, this: &Transfer, callback: Value) -> Result<bool, Error> {
    let channel = <&Channel>::try_convert(this.channel.get_inner_with(ruby))?;
    channel.look(ruby, &this.ticket)?;
    // No other thread runs between the two.
    let taken = channel.holds(&this.ticket);
    if taken {
        this.callbacks().push(callback.into());
    }
    Ok(taken)
}

/// Appends the bytes that were read to `out`, once; their memory is free for the next String.
fn native_append_to(this: &Transfer, out: RString) -> Result<(), Error> {
    let stage = this.stage.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (stage, this.ticket.outcome()) {
        (Some(stage), Some(outcome)) => append(out, &stage, 0, outcome.bytes),
        _ => Ok(()),
    }
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Transfer", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.define_method("id", method!(|this: &Transfer| this.ticket.id(), 0))?;
    class.define_method("size", method!(|this: &Transfer| this.ticket.len(), 0))?;
    class.define_method("channel", method!(|this: &Transfer| this.channel, 0))?;
    class.define_method("done?", method!(is_done, 0))?;
    class.define_method("status", method!(status, 0))?;
    class.define_method("bytes", method!(bytes, 0))?;
    class.define_method("fault", method!(fault, 0))?;
    class.define_method("errno", method!(errno, 0))?;
    class.define_private_method("native_reason", method!(native_reason, 0))?;
    class.define_private_method("native_address", method!(native_address, 0))?;
    class.define_private_method("native_call_back", method!(native_call_back, 1))?;
    class.define_private_method("native_append_to", method!(native_append_to, 1))?;
    Ok(())
}
