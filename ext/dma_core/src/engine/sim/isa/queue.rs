//! A channel's queue, and the ports of the device, as the rest of the library uses them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::{Arc, Weak};

use super::board::SIZE;
use super::cascade::{is_wide, page_size, CASCADE};
use super::driver::{Ended, Job, Line};
use crate::engine::sim::device::Device;
use crate::engine::sim::port::Port;
use crate::engine::sim::space::Row;
use crate::engine::{Engine, Limits, Manner, Queue, Registers, Rejected};
use crate::error::{Error, Result};
use crate::memory::{Huge, Layout, Lock, Region, Span};
use crate::transfer::{Access, Completion, Op, Path};

/// See the [module](self).
#[derive(Debug)]
pub(in crate::engine::sim) struct IsaQueue {
    device: Arc<Device>,
    port: Arc<Port>,
}

impl IsaQueue {
    /// Refuses the channel that there is for the cascade.
    pub(in crate::engine::sim) fn check(channel: u16) -> Result<()> {
        if channel != CASCADE {
            return Ok(());
        }
        Err(Error::Argument(
            "channel 4 passes the bus on to the controller of channels 0 to 3 (the cascade), and moves nothing itself; use 0 to 3 for \
             bytes, 5 to 7 for words of 16 bits"
                .into(),
        ))
    }

    /// A driver for the channel, with an area below 16 MiB to bounce through.
    pub(in crate::engine::sim) fn new(device: Arc<Device>, port: Arc<Port>) -> Result<IsaQueue> {
        let size = page_size(port.index);
        let layout = Layout { huge: Huge::Never, ..Layout::new(size as usize) };
        let region = Region::allocate(layout, Lock::Never)?;
        let mapping =
            device.map_row(Span::new(&region, 0, region.len())?, Access::Both, Row::within(size, true), true)?;
        let line = Line::new(Span::new(&region, 0, region.len())?, mapping);
        let index = usize::from(port.index);
        device.with_isa(|isa, _| isa.open(index, line));
        port.interrupt.acknowledge();
        Ok(IsaQueue { device, port })
    }

    /// What a channel takes: those of the second controller move whole words.
    pub(in crate::engine::sim) fn limits(channel: u16, limits: Limits) -> Limits {
        match is_wide(channel) {
            true => Limits { granule: 2, memory: 2, strict: true, ..limits },
            false => limits,
        }
    }

    fn channel(&self) -> usize {
        self.port.index.into()
    }
}

impl Queue for IsaQueue {
    fn push(&mut self, tag: u32, op: Op, manner: Manner) -> Result<(), Rejected> {
        let (span, access) = match &op {
            Op::Read { span, .. } => (span, Access::Write),
            Op::Write { span, .. } => (span, Access::Read),
            _ => {
                return Err(Rejected::Failed(
                    op,
                    Error::Unsupported("a card moves bytes to and from memory only".into()),
                ))
            }
        };
        // The addresses of a mapping are what its device was told, whatever has become of them; and it is its program's to sync.
        let (told, mapping) = match span.segments() {
            Some(segments) => (Some(segments), None),
            None => (None, self.device.map_direct(span, access)),
        };
        if let Some(Err(error)) = mapping.as_ref().map(|mapping| mapping.attach(true)) {
            return Err(Rejected::Failed(op, error));
        }
        let direct = told.or_else(|| mapping.as_ref().map(|mapping| mapping.segments().to_vec()));
        let (channel, job) = (self.channel(), Job::new(tag, op, manner, direct, mapping));
        self.device.with_isa(|isa, _| isa.push(channel, job));
        Ok(())
    }

    fn kick(&mut self) {
        self.device.machine().barrier();
        let channel = self.channel();
        self.device.with_isa(|isa, bus| isa.begin(channel, bus));
        self.device.machine().wake();
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        let channel = self.channel();
        let ended = self.device.with_isa(|isa, _| isa.take_ended(channel));
        self.device.machine().barrier();
        for Ended { job, status } in ended {
            let (tag, bytes) = (job.tag, job.done as usize);
            self.device.stats().count(Path::Direct, bytes);
            // Its memory is let go of before anybody is told that it is over.
            drop(job);
            out.push(Completion { tag, status, bytes, eof: false });
        }
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

    fn stop(&mut self) -> bool {
        let channel = self.channel();
        // Dropped without the machine's lock.
        let jobs = self.device.with_isa(|isa, _| isa.clear(channel));
        drop(jobs);
        true
    }

    fn cancel(&mut self, tag: u32) {
        let channel = self.channel();
        self.device.with_isa(|isa, bus| isa.cancel(channel, tag, bus));
        self.device.machine().wake();
    }
}

impl Drop for IsaQueue {
    fn drop(&mut self) {
        if self.device.machine().check().is_err() {
            return;
        }
        let channel = self.channel();
        let line = self.device.with_isa(|isa, _| isa.close(channel));
        drop(line);
        self.port.taken.store(false, SeqCst);
    }
}

/// The I/O ports of a device, as long as it is there.
#[derive(Debug)]
pub(in crate::engine::sim) struct Ports(pub Weak<Device>);

impl Ports {
    fn device(&self) -> Option<Arc<Device>> {
        self.0.upgrade().filter(|device| device.has_link())
    }
}

impl Registers for Ports {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, width: u8) -> u64 {
        // What is not there reads as all ones, as on a bus that nobody answers on.
        self.device()
            .map_or(u64::MAX >> (64 - 8 * u32::from(width)), |device| device.with_isa(|isa, _| isa.read(offset, width)))
    }

    fn write(&self, offset: u64, width: u8, value: u64) {
        let Some(device) = self.device() else { return };
        device.with_isa(|isa, _| isa.write(offset, width, value));
        device.machine().wake();
    }
}
