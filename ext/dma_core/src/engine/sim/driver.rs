//! The driver of a simulated device's channel: maps memory, writes descriptors into the ring, reads statuses out of it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::Arc;

use super::controller::Controller;
use super::device::Device;
use super::port::Port;
use super::registers::Bank;
use crate::engine::{Engine, Manner, Mapping, Queue, Rejected};
use crate::error::{Error, Result};
use crate::memory::{Huge, Layout, Lock, Region, Span};
use crate::ring::{Memory, Ring, Slots};
use crate::transfer::{flags, Access, Completion, Descriptor, Op, Path, Status};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Driver {
    port: Arc<Port>,
    ring: Ring,
    /// What each slot's chain goes on with, where memory is in pieces: so many descriptors for each slot.
    chains: Memory,
    chain: u32,
    chains_address: u64,
    /// What each slot is busy with.
    slots: Vec<Option<Slot>>,
    /// Those that were cancelled before the device fetched them: it will skip them, and their memory is free at once.
    skipped: Vec<Completion>,
    /// Keep ring and chains mapped.
    _mappings: [Arc<dyn Mapping>; 2],
    device: Arc<Device>,
}

#[derive(Debug)]
struct Slot {
    tag: u32,
    /// Dropped before the operation, and its memory with it, is let go of.
    mapping: Option<Arc<dyn Mapping>>,
    op: Op,
}

impl Driver {
    /// Makes a ring and gives it to the channel.
    pub(super) fn new(device: Arc<Device>, port: Arc<Port>) -> Result<Driver> {
        let options = device.options();
        let chain = if device.machine().options().iommu { 1 } else { options.max_segments as u32 };
        let (memory, ring_mapping) = descriptors(&device, options.ring_size)?;
        let (chains, chains_mapping) = descriptors(&device, options.ring_size * chain)?;
        let ring = Ring::new(memory)?;
        let base = ring_mapping.segments()[0].0;
        device.with_controller(port.index, |controller, bus| {
            controller.reset(bus);
            controller.bank = Bank { ring_base: base, ring_size: options.ring_size, ..Bank::default() };
        });
        port.interrupt.acknowledge();
        Ok(Driver {
            port,
            ring,
            chains,
            chain,
            chains_address: chains_mapping.segments()[0].0,
            slots: (0..options.ring_size).map(|_| None).collect(),
            skipped: Vec::new(),
            _mappings: [ring_mapping, chains_mapping],
            device,
        })
    }

    /// The descriptors of an operation on `slot`: the first, for the ring; the others are chained to it.
    fn describe(&self, slot: u32, op: &Op) -> Result<(Descriptor, Option<Arc<dyn Mapping>>)> {
        match op {
            Op::Read { offset, span } => self.pieces(slot, *offset, span, Access::Write),
            Op::Write { offset, span } => self.pieces(slot, *offset, span, Access::Read),
            Op::Copy { from, to, len } => {
                let flags = flags::TO_DEVICE | flags::FROM_DEVICE;
                let (source, destination, length) = (*from, *to, *len as u32);
                Ok((Descriptor { source, destination, length, flags, ..Descriptor::default() }, None))
            }
            Op::List { first, .. } => {
                Ok((Descriptor { next: *first, flags: flags::CHAIN, ..Descriptor::default() }, None))
            }
            Op::Flush { .. } => Err(Error::Unsupported("the device has no memory to flush".into())),
        }
    }

    fn pieces(
        &self,
        slot: u32,
        offset: u64,
        span: &Span,
        access: Access,
    ) -> Result<(Descriptor, Option<Arc<dyn Mapping>>)> {
        // The addresses of a mapping are what its device was told, whatever has become of them.
        let known = span.segments();
        let mapping = match &known {
            Some(_) => None,
            None => {
                let mapping = self.device.map(span.part(0, span.len()), access)?;
                mapping.attach(true)?;
                Some(mapping)
            }
        };
        let segments = known.as_deref().or(mapping.as_ref().map(|mapping| mapping.segments())).unwrap_or_default();
        let (mut offset, mut next) = (offset, slot * self.chain);
        let mut descriptors = segments.iter().map(|(bus, length)| {
            let (source, destination, flags) = match access {
                Access::Read => (*bus, offset, flags::TO_DEVICE),
                _ => (offset, *bus, flags::FROM_DEVICE),
            };
            offset += length;
            Descriptor { source, destination, length: *length as u32, flags, ..Descriptor::default() }
        });
        let mut first = descriptors.next().unwrap_or_default();
        let mut chained = descriptors.peekable();
        if chained.peek().is_some() {
            first.flags |= flags::CHAIN;
            first.next = self.chained_at(next);
        }
        while let Some(mut descriptor) = chained.next() {
            if chained.peek().is_some() {
                descriptor.flags |= flags::CHAIN;
                descriptor.next = self.chained_at(next + 1);
            }
            self.chains.put(next, &descriptor);
            next += 1;
        }
        drop(chained);
        Ok((first, mapping))
    }

    fn chained_at(&self, index: u32) -> u64 {
        self.chains_address + u64::from(index) * Descriptor::SIZE as u64
    }
}

/// Memory for `count` descriptors, mapped for the device in one piece.
fn descriptors(device: &Device, count: u32) -> Result<(Memory, Arc<dyn Mapping>)> {
    let layout = Layout { huge: Huge::Never, ..Layout::new(count as usize * Descriptor::SIZE) };
    let region = Region::allocate(layout, Lock::Never)?;
    let mapping = device.map_ring(Span::new(&region, 0, region.len())?)?;
    Ok((Memory::new(&region, 0, count)?, mapping))
}

impl Queue for Driver {
    fn push(&mut self, tag: u32, op: Op, manner: Manner) -> Result<(), Rejected> {
        if self.ring.room() == 0 {
            return Err(Rejected::Full(op));
        }
        let slot = self.ring.tail();
        let (mut descriptor, mapping) = match self.describe(slot, &op) {
            Ok(described) => described,
            // What is under way holds the addresses that this one needs.
            Err(_) if self.ring.pending() > 0 => return Err(Rejected::Full(op)),
            Err(error) => return Err(Rejected::Failed(op, error)),
        };
        for (wanted, flag) in [(manner.interrupt, flags::INTERRUPT), (manner.linked, flags::LINK)] {
            descriptor.flags |= if wanted { flag } else { 0 };
        }
        match self.ring.add(descriptor) {
            Ok(slot) => {
                self.slots[slot as usize] = Some(Slot { tag, op, mapping });
                Ok(())
            }
            Err(error) => Err(Rejected::Failed(op, error)),
        }
    }

    fn kick(&mut self) {
        if self.port.doorbell.tail() != self.ring.tail() {
            self.device.machine().barrier();
            self.port.rings.fetch_add(1, Relaxed);
            self.port.doorbell.ring(self.ring.tail());
            self.device.machine().wake();
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.skipped);
        while let Some((index, descriptor)) = self.ring.pop() {
            let status = Status::from_code(descriptor.status);
            // The record is taken whatever became of the transfer, so that none is left for the slot's next one.
            let record = if status.is_failure() { self.port.take_record(index) } else { None };
            let Some(slot) = self.slots[index as usize].take() else { continue };
            let (status, bytes) = match record {
                Some(record) => (record.status, record.bytes as usize),
                None if status.is_failure() => (status, 0),
                None => (status, slot.op.len() as usize),
            };
            drop(slot.mapping);
            self.device.stats().count(Path::Direct, bytes);
            out.push(Completion { tag: slot.tag, status, bytes, eof: false });
        }
        // Who hears of these completions sees their data.
        self.device.machine().barrier();
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.port.interrupt.as_fd()
    }

    fn acknowledge(&mut self) {
        self.port.interrupt.acknowledge();
    }

    fn interrupts(&self) -> Option<u64> {
        Some(self.port.delivered.load(Acquire))
    }

    fn is_owed(&self) -> bool {
        self.port.late.load(Relaxed)
            && self.device.with_controller(self.port.index, |controller, bus| controller.owes(bus))
    }

    fn stop(&mut self) -> bool {
        self.device.with_controller(self.port.index, Controller::reset);
        true
    }

    fn cancel(&mut self, tag: u32) {
        let Some(slot) = self.slots.iter().position(|slot| slot.as_ref().is_some_and(|slot| slot.tag == tag)) else {
            return;
        };
        // Either the device finds the flag when it fetches the descriptor, or it has it in hand already.
        self.ring.cancel(slot as u32);
        let (index, tail) = (slot as u32, self.ring.tail());
        let skips = self.device.with_controller(self.port.index, |controller, bus| {
            controller.abort(Some(index), bus);
            controller.will_fetch(index, tail)
        });
        if skips {
            self.slots[slot] = None;
            self.skipped.push(Completion::aborted(tag));
        }
        self.device.machine().wake();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.device.machine().check().is_err() {
            return;
        }
        self.stop();
        self.port.taken.store(false, SeqCst);
    }
}
