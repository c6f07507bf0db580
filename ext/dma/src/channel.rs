//! `DMA::Channel`: transfers in, completions out, for any number of threads and fibers.

mod stats;
mod waiter;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::IntoRawFd;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dma_core::channel::{Request, Shared, Ticket};
use dma_core::engine::sim::Device as SimDevice;
use dma_core::memory::{Region, Span};
use dma_core::transfer::{Direction, Op, Status};
use dma_core::Error as Core;
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Opaque};
use magnus::{
    error::ErrorType, gc, method, prelude::*, DataTypeFunctions, Error, RArray, RHash, RModule, RString, Ruby, Symbol,
    TryConvert, TypedData, Value,
};

pub use self::stats::totals;
use self::waiter::RubyWaiter;
use crate::buffer::Size;
use crate::device::Device;
use crate::error::{held, raise, OrRaise};
use crate::event::{duration, GRACE};
use crate::gvl;
use crate::line::Line;
use crate::lock;
use crate::operand::element;
use crate::ring::Ring;
use crate::sim::coalesce_from;
use crate::transfer::Transfer;

/// A transfer as the core knows it, and its Ruby object.
type Known = (Arc<Ticket>, Opaque<Value>);

#[derive(TypedData)]
#[magnus(class = "DMA::Channel", free_immediately, mark)]
pub struct Channel {
    line: Line,
    device: Opaque<Value>,
    /// Transfers of this object, until somebody has been told how they ended. No Ruby code runs under these locks, so that the GC
    /// can take them to mark.
    transfers: Mutex<BTreeMap<u64, Known>>,
    /// Those that ended and that nobody asked for yet, oldest first.
    ended: Mutex<VecDeque<Known>>,
    /// How many transfers of the channel had ended when the last of this object was told of.
    seen: AtomicU64,
}

impl DataTypeFunctions for Channel {
    fn mark(&self, marker: &gc::Marker) {
        marker.mark(self.device);
        self.line.mark(marker);
        lock(&self.transfers).values().for_each(|(_, transfer)| marker.mark(*transfer));
        lock(&self.ended).iter().for_each(|(_, transfer)| marker.mark(*transfer));
    }
}

impl Channel {
    /// The Ruby object of a device's channel.
    pub fn new(ruby: &Ruby, shared: Arc<Shared>, device: Obj<Device>) -> Result<Channel, Error> {
        Ok(Channel {
            line: Line::new(ruby, shared)?,
            device: device.as_value().into(),
            transfers: Mutex::default(),
            ended: Mutex::default(),
            seen: AtomicU64::new(0),
        })
    }

    /// Reaps completions, and tells of them.
    pub fn poll(&self, ruby: &Ruby) -> Result<(), Error> {
        self.line.shared.progress().or_raise(ruby)?;
        self.dispatch(ruby)
    }

    /// Calls back for the transfers that ended since the last time; the others are kept for who asks. An error of a callback comes
    /// out after all were called.
    fn dispatch(&self, ruby: &Ruby) -> Result<(), Error> {
        self.dispatch_and(ruby, &mut || {})
    }

    /// As [`Channel::dispatch`]; `leave` is called before each callback.
    fn dispatch_and(&self, ruby: &Ruby, leave: &mut dyn FnMut()) -> Result<(), Error> {
        let (mut next, mut result) = (0, Ok(()));
        let total = self.line.shared.told();
        if self.seen.swap(total, Relaxed) == total {
            return Ok(());
        }
        loop {
            // One at a time, on the stack, where the GC finds it.
            let (ticket, value) = {
                let mut transfers = lock(&self.transfers);
                let ended = transfers.range(next..).find(|(_, (ticket, _))| ticket.outcome().is_some());
                let Some(id) = ended.map(|(id, _)| *id) else { return result };
                next = id + 1;
                let Some(entry) = transfers.remove(&id) else { continue };
                entry
            };
            let value = value.get_inner_with(ruby);
            let transfer = <&Transfer>::try_convert(value)?;
            let mut called = false;
            while let Some(callback) = transfer.next_callback() {
                called = true;
                leave();
                let returned: Result<Value, Error> = callback.get_inner_with(ruby).funcall("call", (value,));
                if let Err(error) = returned {
                    if matches!(error.error_type(), ErrorType::Jump(_)) {
                        // A `throw`, or the end of this thread: no Ruby code may run in between. Whoever looks next goes on.
                        lock(&self.transfers).insert(ticket.id(), (ticket, value.into()));
                        self.seen.store(u64::MAX, Relaxed);
                        return Err(error);
                    }
                    result = result.and(Err(error));
                }
            }
            if !called && !transfer.is_known() {
                self.keep_ended(ticket, value);
            }
        }
    }

    /// Whether nobody was told yet how the transfer ended.
    pub fn holds(&self, ticket: &Ticket) -> bool {
        lock(&self.transfers).contains_key(&ticket.id())
    }

    /// Calls back for what is known to have ended, and looks for more while this one has not.
    pub fn look(&self, ruby: &Ruby, ticket: &Ticket) -> Result<(), Error> {
        match ticket.outcome() {
            Some(_) => self.dispatch(ruby),
            None => self.poll(ruby),
        }
    }

    /// Refuses a handle that was closed, though others may have the device open, and the child of a fork.
    fn check(&self, ruby: &Ruby) -> Result<(), Error> {
        <&Device>::try_convert(self.device.get_inner_with(ruby))?.open(ruby).map(drop)
    }

    /// Failures are kept until somebody asks; of those that went well the oldest are forgotten.
    fn keep_ended(&self, ticket: Arc<Ticket>, transfer: Value) {
        let mut ended = lock(&self.ended);
        ended.push_back((ticket, transfer.into()));
        let most = self.line.shared.capacity();
        if ended.len() > most {
            let well = ended.iter().position(|(ticket, _)| !ticket.status().is_failure());
            well.and_then(|index| ended.remove(index));
        }
    }

    /// Hands a request to the core and makes the Ruby object for it.
    fn submit(
        this: Obj<Channel>,
        ruby: &Ruby,
        request: Request,
        kick: bool,
        uses: Option<Opaque<Value>>,
        stage: Option<Arc<Region>>,
    ) -> Result<Obj<Transfer>, Error> {
        this.check(ruby)?;
        let ticket = this.line.shared.submit(request, kick).or_raise(ruby)?;
        let transfer = ruby.obj_wrap(Transfer::new(Arc::clone(&ticket), this, uses, stage));
        lock(&this.transfers).insert(ticket.id(), (ticket, transfer.as_value().into()));
        Ok(transfer)
    }

    fn wait(&self, ruby: &Ruby, transfer: &Transfer, timeout: Option<Duration>) -> Result<(), Error> {
        let ticket = transfer.ticket();
        if ticket.outcome().is_none() {
            let tickets = slice::from_ref(ticket);
            match self.wait_seated(ruby, tickets, timeout) {
                Ok(()) if ticket.outcome().is_some() => {}
                Ok(()) => {
                    let obstacle = self.line.shared.obstacle();
                    self.line.give_up(tickets, Status::TimedOut);
                    // What ended for another reason meanwhile is told as that.
                    if matches!(ticket.status(), Status::Pending | Status::TimedOut) {
                        return Err(raise(ruby, &self.line.shared.timed_out(ticket, timeout, obstacle)));
                    }
                }
                Err(error) => {
                    let _held = held(&error);
                    self.line.give_up(tickets, Status::Aborted);
                    return Err(error);
                }
            }
        }
        self.dispatch(ruby)
    }

    fn wait_seated(&self, ruby: &Ruby, tickets: &[Arc<Ticket>], timeout: Option<Duration>) -> Result<(), Error> {
        self.line.shared.kick().or_raise(ruby)?;
        self.line.wait(ruby, tickets, timeout, |seat| RubyWaiter::new(ruby, self, seat))
    }
}

fn native_submit(
    ruby: &Ruby,
    this: Obj<Channel>,
    list: RArray,
    fence: bool,
    interrupt: bool,
    kick: bool,
    bounce: bool,
) -> Result<Obj<Transfer>, Error> {
    let device = <&Device>::try_convert(this.device.get_inner_with(ruby))?;
    let elements = (0..list.len()).map(|index| element(ruby, list.entry(index as isize)?, device));
    let elements = elements.collect::<Result<_, Error>>()?;
    let request = Request { fence, interrupt, bounce, ..Request::list(elements) };
    Channel::submit(this, ruby, request, kick, Some(list.as_value().into()), None)
}

/// Submits the pending descriptors of a ring, which the device fetches from it.
fn native_submit_ring(ruby: &Ruby, this: Obj<Channel>, ring: Obj<Ring>, fence: bool) -> Result<Obj<Transfer>, Error> {
    let device = <&Device>::try_convert(this.device.get_inner_with(ruby))?;
    let op = ring.chain(ruby, device)?;
    let request = Request { fence, ..Request::new(op) };
    let transfer = Channel::submit(this, ruby, request, true, Some(ring.as_value().into()), None)?;
    ring.follow(transfer.ticket());
    Ok(transfer)
}

fn native_write_string(ruby: &Ruby, this: Obj<Channel>, string: RString, offset: u64) -> Result<Obj<Transfer>, Error> {
    let len = string.len();
    let region = this.line.stage(len).or_raise(ruby)?;
    // SAFETY: no Ruby code runs while the slice is used, which has `len` bytes.
    unsafe { region.write(0, string.as_slice().as_ptr(), len) }.or_raise(ruby)?;
    let op = Direction::ToDevice.op(offset, Span::new(&region, 0, len).or_raise(ruby)?);
    Channel::submit(this, ruby, Request::new(op), true, None, None)
}

fn native_read_string(ruby: &Ruby, this: Obj<Channel>, Size(len): Size, offset: u64) -> Result<Obj<Transfer>, Error> {
    let device = <&Device>::try_convert(this.device.get_inner_with(ruby))?.open(ruby)?;
    // Before memory is looked for, which may be more than there is.
    device.engine().limits().check_range(offset, len as u64).or_raise(ruby)?;
    let region = this.line.stage(len).or_raise(ruby)?;
    let op = Direction::FromDevice.op(offset, Span::new(&region, 0, len).or_raise(ruby)?);
    Channel::submit(this, ruby, Request::new(op), true, None, Some(region))
}

fn native_flush(ruby: &Ruby, this: Obj<Channel>) -> Result<Obj<Transfer>, Error> {
    let request = Request { fence: true, ..Request::new(Op::Flush { data_only: true }) };
    Channel::submit(this, ruby, request, true, None, None)
}

fn native_wait(ruby: &Ruby, this: &Channel, transfer: &Transfer, timeout: Option<f64>) -> Result<(), Error> {
    this.wait(ruby, transfer, timeout.map(duration))
}

fn native_cancel(ruby: &Ruby, this: &Channel, transfer: &Transfer) -> Result<(), Error> {
    <&Device>::try_convert(this.device.get_inner_with(ruby))?.check_process(ruby)?;
    this.line.shared.cancel(transfer.ticket(), Status::Aborted);
    this.dispatch(ruby)
}

/// Somebody knows how the transfer ended, and need not be told again.
fn native_forget(this: &Channel, transfer: &Transfer) {
    transfer.know();
    let mut ended = lock(&this.ended);
    if let Some(index) = ended.iter().position(|(other, _)| other.id() == transfer.ticket().id()) {
        ended.remove(index);
    }
}

fn native_kick(ruby: &Ruby, this: &Channel) -> Result<(), Error> {
    this.check(ruby)?;
    this.line.shared.kick().or_raise(ruby)
}

/// The oldest transfer that has not ended.
fn native_oldest(this: &Channel) -> Option<Opaque<Value>> {
    lock(&this.transfers).values().find(|(ticket, _)| ticket.outcome().is_none()).map(|(_, transfer)| *transfer)
}

/// All of them, oldest first.
fn native_pending(ruby: &Ruby, this: &Channel) -> RArray {
    let pending = |(ticket, transfer): &(Arc<Ticket>, Opaque<Value>)| ticket.outcome().is_none().then_some(*transfer);
    let pending: Vec<_> = lock(&this.transfers).values().filter_map(pending).collect();
    ruby.ary_from_iter(pending)
}

/// The oldest transfer that ended and that nobody asked for yet.
fn native_next_ended(this: &Channel) -> Option<Opaque<Value>> {
    lock(&this.ended).pop_front().map(|(_, transfer)| transfer)
}

fn native_reset(ruby: &Ruby, this: &Channel) -> Result<bool, Error> {
    this.check(ruby)?;
    let shared = &this.line.shared;
    let idle = gvl::without(ruby, || shared.reset(GRACE))?.or_raise(ruby)?;
    this.dispatch(ruby)?;
    Ok(idle)
}

/// A new descriptor of the channel's event, which the caller owns.
fn native_descriptor(ruby: &Ruby, this: &Channel) -> Result<i32, Error> {
    let descriptor = this.line.shared.event().try_clone_to_owned().map_err(|error| {
        raise(ruby, &Core::os(dma_core::error::errno(&error), "cannot duplicate the channel's event"))
    })?;
    Ok(descriptor.into_raw_fd())
}

fn stats(ruby: &Ruby, this: &Channel) -> Result<RHash, Error> {
    let device = <&Device>::try_convert(this.device.get_inner_with(ruby))?;
    totals(ruby, &this.line.shared, device.sim())
}

fn native_coalesce(ruby: &Ruby, this: &Channel, policy: Value) -> Result<(), Error> {
    this.check(ruby)?;
    let device = <&Device>::try_convert(this.device.get_inner_with(ruby))?;
    let Some(sim) = device.sim() else {
        let what = "only the channels of a simulated device hold interrupts back here; of others their driver decides";
        return Err(raise(ruby, &Core::Unsupported(what.into())));
    };
    sim.coalesce(this.line.shared.index(), coalesce_from(ruby, policy)?).or_raise(ruby)
}

/// The simulated device that a channel is of: only there does the machine have CPUs of its own.
fn simulated<'a>(ruby: &Ruby, this: &Channel, device: &'a Device) -> Result<&'a Arc<SimDevice>, Error> {
    this.check(ruby)?;
    device.sim().ok_or_else(|| {
        let what = "only channels of a simulated device are given to a CPU here; of others the kernel decides \
                    (/proc/irq/N/smp_affinity)";
        raise(ruby, &Core::Unsupported(what.into()))
    })
}

fn affinity(ruby: &Ruby, this: &Channel) -> Result<u32, Error> {
    let device = <&Device>::try_convert(this.device.get_inner_with(ruby))?;
    Ok(simulated(ruby, this, device)?.affinity(this.line.shared.index()))
}

fn native_set_affinity(ruby: &Ruby, this: &Channel, cpu: u32) -> Result<(), Error> {
    let device = <&Device>::try_convert(this.device.get_inner_with(ruby))?;
    simulated(ruby, this, device)?.set_affinity(this.line.shared.index(), cpu).or_raise(ruby)
}

fn room(ruby: &Ruby, this: &Channel) -> Result<usize, Error> {
    this.poll(ruby)?;
    this.line.shared.room().or_raise(ruby)
}

fn state(ruby: &Ruby, this: &Channel) -> Symbol {
    ruby.to_symbol(match this.line.shared.room() {
        Err(_) => "closed",
        Ok(room) if room == this.line.shared.capacity() => "idle",
        Ok(_) => "active",
    })
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Channel", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.define_method("index", method!(|this: &Channel| this.line.shared.index(), 0))?;
    class.define_method("device", method!(|this: &Channel| this.device, 0))?;
    class.define_method("capacity", method!(|this: &Channel| this.line.shared.capacity(), 0))?;
    class.define_method("room", method!(room, 0))?;
    class.define_method("state", method!(state, 0))?;
    class.define_method("stats", method!(stats, 0))?;
    class.define_method("poll", method!(|ruby: &Ruby, this: &Channel| this.poll(ruby), 0))?;
    class.define_private_method("native_check", method!(|ruby: &Ruby, this: &Channel| this.check(ruby), 0))?;
    class.define_private_method("native_submit", method!(native_submit, 5))?;
    class.define_private_method("native_submit_ring", method!(native_submit_ring, 2))?;
    class.define_private_method("native_write_string", method!(native_write_string, 2))?;
    class.define_private_method("native_read_string", method!(native_read_string, 2))?;
    class.define_private_method("native_flush", method!(native_flush, 0))?;
    class.define_private_method("native_wait", method!(native_wait, 2))?;
    class.define_private_method("native_cancel", method!(native_cancel, 1))?;
    class.define_private_method("native_forget", method!(native_forget, 1))?;
    class.define_private_method("native_kick", method!(native_kick, 0))?;
    class.define_private_method("native_oldest", method!(native_oldest, 0))?;
    class.define_private_method("native_pending", method!(native_pending, 0))?;
    class.define_private_method("native_next_ended", method!(native_next_ended, 0))?;
    class.define_method("affinity", method!(affinity, 0))?;
    class.define_private_method("native_set_affinity", method!(native_set_affinity, 1))?;
    class.define_private_method("native_coalesce", method!(native_coalesce, 1))?;
    class.define_private_method("native_reset", method!(native_reset, 0))?;
    class.define_private_method("native_descriptor", method!(native_descriptor, 0))?;
    Ok(())
}
