//! A simulated device: memory, channels with a descriptor ring each or behind two 8237, registers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use super::controller::{Bus, Controller};
use super::cpu::Mode;
use super::driver::Driver;
use super::handler::InterruptCost;
use super::interrupt::Interrupt;
use super::isa::{Isa, IsaQueue, Ports};
use super::machine::Machine;
use super::moderation::Coalesce;
use super::options::{Clock, DeviceOptions};
use super::port::{Common, Port};
use super::registers::Window;
use super::requester::Requester;
use super::space::IommuStats;
use crate::engine::{Bank, Engine, Limits, ManualClock, Mapping, Queue, Registers, Stats, Terms};
use crate::error::{Error, Result};
use crate::memory::processor::Attachment;
use crate::memory::{Huge, Layout, Lock, Region, Span};
use crate::sync::{lock, Mutex};
use crate::transfer::{Access, Op, Status};

/// Pages of simulated physical memory.
const PAGE: u64 = 4096;

/// A device of a [`Machine`].
#[derive(Debug)]
pub struct Device {
    machine: Arc<Machine>,
    common: Arc<Common>,
    ports: Vec<Arc<Port>>,
    stats: Arc<Stats>,
    this: Weak<Device>,
}

impl Device {
    /// Adds a device to `machine`.
    ///
    /// # Errors
    /// [`Error::Argument`] and [`Error::Alignment`] for options outside their range, [`Error::Os`] where there is no memory.
    pub fn new(machine: &Arc<Machine>, options: DeviceOptions) -> Result<Arc<Device>> {
        options.check()?;
        machine.check()?;
        let layout = Layout { huge: Huge::Auto, ..Layout::new(options.memory as usize) };
        let memory = Region::allocate(layout, Lock::Never)?;
        let common = Arc::new(Common {
            number: machine.number(),
            options,
            memory,
            addresses: if options.isa { machine.physical() } else { machine.addresses() },
            link: AtomicBool::new(true),
            iommu_faults: AtomicU64::new(0),
            faults: Mutex::new(VecDeque::new()),
        });
        let mut ports = Vec::new();
        for index in 0..options.channels {
            let interrupt =
                Interrupt::new().map_err(|errno| Error::os(errno, "cannot make an interrupt of the device"))?;
            let port = Port::new(Arc::clone(&common), index, interrupt);
            port.late.store(machine.options().interrupt_cost != InterruptCost::default(), Relaxed);
            ports.push(Arc::new(port));
        }
        let stats: Arc<Stats> = Arc::default();
        if options.isa {
            let isa = Isa::new(Arc::clone(&common), ports.clone(), Arc::clone(&stats));
            machine.add(vec![Requester::Isa(Box::new(isa))]);
        } else {
            machine.add(ports.iter().map(|port| Requester::Ring(Controller::new(Arc::clone(port)))).collect());
        }
        let machine = Arc::clone(machine);
        Ok(Arc::new_cyclic(|this| Device { machine, common, ports, stats, this: this.clone() }))
    }

    /// The machine it is part of.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    pub(super) fn common(&self) -> &Arc<Common> {
        &self.common
    }

    /// What it was made like.
    pub fn options(&self) -> DeviceOptions {
        self.common.options
    }

    /// Its number in the machine.
    pub fn number(&self) -> u32 {
        self.common.number
    }

    /// Whether it is reached.
    pub fn has_link(&self) -> bool {
        self.common.link.load(Relaxed)
    }

    /// Aborts everything under way on all channels, and brings the link up again. Rings are kept: their descriptors go on.
    pub fn reset(&self) {
        self.common.link.store(true, Relaxed);
        match self.is_isa() {
            true => self.with_isa(Isa::reset),
            false => self.with_controllers(Controller::abort_current),
        }
        self.machine.wake();
    }

    /// How a channel takes the bus from the CPU, from the next transaction on.
    ///
    /// # Errors
    /// [`Error::Argument`] for a mode that an 8237 has not.
    pub fn set_mode(&self, channel: u16, mode: Mode) -> Result<()> {
        if self.is_isa() {
            return self.with_isa(|isa, _| isa.set_mode(channel, mode));
        }
        self.with_controller(channel, |controller, _| controller.mode = mode);
        Ok(())
    }

    /// When a channel interrupts, from now on.
    ///
    /// # Errors
    /// [`Error::Argument`] for what cannot be, and for an 8237.
    pub fn coalesce(&self, channel: u16, coalesce: Coalesce) -> Result<()> {
        coalesce.check()?;
        if self.is_isa() {
            let reason = "coalesce: a card interrupts when its 8237 has moved what it was programmed for, and holds nothing back; leave \
                          coalesce: out";
            return if coalesce == Coalesce::NONE { Ok(()) } else { Err(Error::Argument(reason.into())) };
        }
        self.with_controller(channel, |controller, bus| controller.coalesce(coalesce, bus));
        self.machine.wake();
        Ok(())
    }

    /// Faults of the IOMMU: how many, and the last ones.
    pub fn iommu_faults(&self) -> (u64, Vec<Status>) {
        let last = lock(&self.common.faults).iter().copied().collect();
        (self.common.iommu_faults.load(Relaxed), last)
    }

    /// What the IOMMU has and did for it, if there is one.
    pub fn iommu_stats(&self) -> Option<IommuStats> {
        self.common.addresses.iommu_stats()
    }

    /// The CPU that handles a channel's interrupts.
    pub fn affinity(&self, channel: u16) -> u32 {
        match self.is_isa() {
            true => 0,
            false => self.with_controller(channel, |controller, bus| bus.remapping.cpu(controller.signal.entry)),
        }
    }

    /// Has another CPU handle a channel's interrupts. Those that wait already are handled where they wait.
    ///
    /// # Errors
    /// [`Error::Argument`] for a CPU that there is not, and for an 8237, whose card interrupts the first one.
    pub fn set_affinity(&self, channel: u16, cpu: u32) -> Result<()> {
        if self.is_isa() {
            let reason = "affinity: the interrupts of a card go to CPU 0, by a line; those of another controller's channels are messages";
            return if cpu == 0 { Ok(()) } else { Err(Error::Argument(reason.into())) };
        }
        let (is_there, cpus) = self.with_controller(channel, |controller, bus| {
            (bus.remapping.set_cpu(controller.signal.entry, cpu), bus.remapping.cpus())
        });
        match is_there {
            true => Ok(()),
            false => Err(Error::Argument(format!(
                "affinity: CPU {cpu} is not in 0..{}, the machine's; make it with cpus: {}",
                cpus - 1,
                u64::from(cpu) + 1
            ))),
        }
    }

    /// How many mappings of host memory there are.
    pub fn mappings(&self) -> usize {
        self.common.addresses.mappings()
    }

    /// Descriptors fetched, bytes moved and interrupts sent by a channel.
    pub fn totals(&self, channel: u16) -> (u64, u64, u64) {
        let port = &self.ports[usize::from(channel)];
        (port.descriptors.load(Relaxed), port.bytes.load(Relaxed), port.interrupts.load(Relaxed))
    }

    pub(super) fn with_controllers(&self, work: impl FnMut(&mut Controller, &mut Bus<'_>)) {
        self.machine.with_controllers(self.number(), None, work);
    }

    pub(super) fn with_controller<T>(&self, channel: u16, work: impl FnOnce(&mut Controller, &mut Bus<'_>) -> T) -> T {
        let (mut work, mut result) = (Some(work), None);
        self.machine.with_controllers(self.number(), Some(channel), |controller, bus| {
            result = work.take().map(|work| work(controller, bus));
        });
        result.expect("a device has its channels as long as it lives")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.machine.remove(self.number());
    }
}

impl Engine for Device {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn limits(&self) -> Limits {
        if self.is_isa() {
            return self.isa_limits();
        }
        let DeviceOptions { memory, alignment, max_length, max_segments, truncates, .. } = self.common.options;
        // Who drops low bits does not say so.
        let alignment = if truncates { 1 } else { alignment };
        // Physical pages do not lie together: a chain reaches as many as it has descriptors, the first of them in part.
        let (max_len, boundary) = match (self.machine.options().iommu, max_segments) {
            (true, _) => (u64::from(u32::MAX) / PAGE * PAGE, 0),
            (false, 1) => (PAGE, PAGE as usize),
            (false, pages) => ((pages as u64 - 1) * PAGE, 0),
        };
        Limits {
            granule: alignment,
            memory: alignment as usize,
            strict: alignment > 1,
            max_len: max_len.min(max_length),
            max_long: 0,
            boundary,
            max_segments,
            size: memory,
            ordered: true,
            serial: false,
            copies: true,
            max_copy: max_length.min(u64::from(u32::MAX)),
            flushes: false,
        }
    }

    fn channel_limits(&self, index: u16) -> Limits {
        let limits = self.limits();
        if self.is_isa() {
            IsaQueue::limits(index, limits)
        } else {
            limits
        }
    }

    fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    fn queue(&self, index: u16, _depth: u32) -> Result<Box<dyn Queue>> {
        self.machine.check()?;
        if self.is_isa() {
            IsaQueue::check(index)?;
        }
        let Some(port) = self.ports.get(usize::from(index)) else {
            let channels = self.ports.len();
            return Err(Error::Argument(format!("channel {index}: the device has {channels}, from 0 on")));
        };
        if port.taken.swap(true, SeqCst) {
            return Err(Error::Busy(format!(
                "channel {index} has a driver, or an aborted transfer that has not ended; try again later"
            )));
        }
        let device = self.this.upgrade().expect("called on a living device");
        let queue: Result<Box<dyn Queue>> = match self.is_isa() {
            true => IsaQueue::new(device, Arc::clone(port)).map(|queue| Box::new(queue) as _),
            false => Driver::new(device, Arc::clone(port)).map(|driver| Box::new(driver) as _),
        };
        if queue.is_err() {
            port.taken.store(false, SeqCst);
        }
        queue
    }

    fn map(&self, span: Span, access: Access) -> Result<Arc<dyn Mapping>> {
        self.map_on(span, access, Terms { coherent: false, ..Terms::default() })
    }

    fn map_with(&self, span: Span, access: Access, terms: Terms) -> Result<Arc<dyn Mapping>> {
        self.map_on(span, access, terms)
    }

    fn prepare(&self, op: &Op) -> Result<()> {
        match (self.machine.processor(), op) {
            (Some(processor), Op::Read { span, .. } | Op::Write { span, .. }) => Attachment::check(processor, span),
            _ => Ok(()),
        }
    }

    fn registers(&self, bank: Bank) -> Result<Arc<dyn Registers>> {
        match bank {
            Bank::Bar(0) if self.is_isa() => Ok(Arc::new(Ports(self.this.clone()))),
            Bank::Bar(0) => Ok(Arc::new(Window(self.this.clone()))),
            _ => Err(Error::Argument("a simulated device has one bank of registers, number 0".into())),
        }
    }

    fn reset(&self) -> Result<()> {
        Device::reset(self);
        Ok(())
    }

    fn obstacle(&self, index: u16) -> Option<String> {
        self.machine.starvation(self.number(), index)
    }

    fn clock(&self) -> Option<Arc<dyn ManualClock>> {
        match self.machine.options().clock {
            Clock::Free => None,
            Clock::Manual => Some(Arc::<Machine>::clone(&self.machine)),
        }
    }
}
