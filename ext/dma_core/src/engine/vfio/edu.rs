//! The driver of QEMU's educational device (docs/specs/edu.rst): one transfer at a time between memory and its buffer of 4 KiB.
//!
//! It reports no error, and cannot give up what it has begun: 100 ms later that is over by itself.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::bar::Bar;
use super::claim::Claim;
use super::interrupts::Vector;
use super::space::Pinned;
use super::{Function, Interrupt};
use crate::engine::{Bank, Engine, Limits, Manner, Mapping, Queue, Registers, Rejected, Stats};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::{Access, Completion, Op, Path, Status};

/// Vendor and device.
pub(super) const ID: (u16, u16) = (0x1234, 0x11e8);
/// Bits of a bus address that the device keeps; it drops the others.
pub(super) const ADDRESS_BITS: u32 = 28;
/// Transfers that the channel holds.
pub(super) const DEPTH: u32 = 8;

/// Bytes of its buffer, and where it is among its own addresses.
const SIZE: u64 = 4096;
const BUFFER: u64 = 0x4_0000;

/// Registers of BAR 0.
mod register {
    pub const INTERRUPT_STATUS: u64 = 0x24;
    pub const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
    pub const SOURCE: u64 = 0x80;
    pub const DESTINATION: u64 = 0x88;
    pub const COUNT: u64 = 0x90;
    pub const COMMAND: u64 = 0x98;
}

/// Bits of the command.
const RUN: u32 = 1;
const FROM_DEVICE: u32 = 2;
const INTERRUPT: u32 = 4;

/// How long after its begin a transfer is over for certain.
const OVER: Duration = Duration::from_secs(2);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Edu {
    function: Arc<Function>,
    registers: Arc<Bar>,
    stats: Arc<Stats>,
    taken: Arc<AtomicBool>,
}

impl Edu {
    pub(super) fn new(function: Arc<Function>) -> Result<Edu> {
        let registers = function.bar(0)?;
        if registers.size() <= register::COMMAND {
            return Err(Error::Unsupported("the device's registers are not those of edu".into()));
        }
        Ok(Edu { function, registers, stats: Arc::default(), taken: Arc::default() })
    }
}

impl Engine for Edu {
    fn name(&self) -> &'static str {
        "vfio"
    }

    fn limits(&self) -> Limits {
        Limits { max_len: SIZE, size: SIZE, ordered: true, flushes: false, ..Limits::ANY }
    }

    fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    fn queue(&self, index: u16, _depth: u32) -> Result<Box<dyn Queue>> {
        let claim = Claim::new(&self.taken, index)?;
        let queue = EduQueue {
            function: Arc::clone(&self.function),
            registers: Arc::clone(&self.registers),
            stats: Arc::clone(&self.stats),
            vector: self.function.interrupt(Interrupt::Vector(0))?,
            waiting: VecDeque::new(),
            current: None,
            ended: Vec::new(),
            _claim: claim,
        };
        // What somebody else began goes nowhere as long as the device is no bus master.
        self.function.stop_mastering();
        queue.await_end()?;
        queue.acknowledge_device();
        self.function.start_mastering();
        Ok(Box::new(queue))
    }

    fn map(&self, span: Span, access: Access) -> Result<Arc<dyn Mapping>> {
        self.function.map(span, access)
    }

    fn prepare(&self, op: &Op) -> Result<()> {
        self.function.prepare(op)
    }

    fn registers(&self, bank: Bank) -> Result<Arc<dyn Registers>> {
        self.function.registers(bank)
    }

    fn pins(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct EduQueue {
    function: Arc<Function>,
    registers: Arc<Bar>,
    stats: Arc<Stats>,
    vector: Arc<Vector>,
    waiting: VecDeque<Transfer>,
    current: Option<Transfer>,
    ended: Vec<Completion>,
    _claim: Claim,
}

#[derive(Debug)]
struct Transfer {
    tag: u32,
    /// What goes into the registers of these names.
    source: u64,
    destination: u64,
    command: u32,
    cancelled: bool,
    // Unmapped, where it is mapped for this transfer only, before the memory is let go of.
    _pinned: Arc<Pinned>,
    op: Op,
}

impl EduQueue {
    fn is_running(&self) -> bool {
        self.registers.read32(register::COMMAND) & RUN != 0
    }

    /// Waits until the device does nothing.
    fn await_end(&self) -> Result<()> {
        let deadline = Instant::now() + OVER;
        while self.is_running() {
            if Instant::now() > deadline {
                return Err(Error::Busy("the device does not end the transfer it has in hand".into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The device takes its interrupt back, and may interrupt again.
    fn acknowledge_device(&self) {
        let status = self.registers.read32(register::INTERRUPT_STATUS);
        self.registers.write32(register::INTERRUPT_ACKNOWLEDGE, status);
        self.vector.unmask();
    }

    /// Source, destination and direction of an operation, and what keeps its memory mapped.
    fn describe(&self, op: &Op) -> Result<(u64, u64, u32, Arc<Pinned>)> {
        match op {
            Op::Read { offset, span } => {
                let pinned = self.function.reach(span, Access::Write)?;
                Ok((BUFFER + offset, pinned.address_of(span.address()), FROM_DEVICE, pinned))
            }
            Op::Write { offset, span } => {
                let pinned = self.function.reach(span, Access::Read)?;
                Ok((pinned.address_of(span.address()), BUFFER + offset, 0, pinned))
            }
            _ => Err(Error::Unsupported("the device reads and writes memory only".into())),
        }
    }

    fn begin_next(&mut self) {
        if self.current.is_some() {
            return;
        }
        let Some(transfer) = self.waiting.pop_front() else { return };
        self.registers.write(register::SOURCE, 8, transfer.source);
        self.registers.write(register::DESTINATION, 8, transfer.destination);
        self.registers.write(register::COUNT, 8, transfer.op.len());
        self.registers.write(register::COMMAND, 8, u64::from(transfer.command));
        self.current = Some(transfer);
    }

    /// How the transfer in hand ended, if it did. Of a device that is no bus master no byte moved, though it says that it is done.
    fn end_of_current(&self) -> Option<Status> {
        let current = self.current.as_ref()?;
        if self.is_running() {
            return None;
        }
        match self.function.is_bus_master() {
            true => Some(Status::Complete),
            false => current.cancelled.then_some(Status::Aborted),
        }
    }
}

impl Queue for EduQueue {
    fn push(&mut self, tag: u32, op: Op, manner: Manner) -> Result<(), Rejected> {
        self.function.look();
        if self.function.is_leaving() {
            self.ended.push(Completion { tag, status: Status::LinkDown, bytes: 0, eof: false });
            return Ok(());
        }
        let (source, destination, direction, pinned) = match self.describe(&op) {
            Ok(described) => described,
            Err(error) => return Err(Rejected::Failed(op, error)),
        };
        let command = RUN | direction | if manner.interrupt { INTERRUPT } else { 0 };
        self.waiting.push_back(Transfer { tag, source, destination, command, cancelled: false, _pinned: pinned, op });
        Ok(())
    }

    fn kick(&mut self) {
        self.begin_next();
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.ended);
        let Some(status) = self.end_of_current() else { return };
        let Some(transfer) = self.current.take() else { return };
        self.acknowledge_device();
        let bytes = if status == Status::Complete { transfer.op.len() as usize } else { 0 };
        self.stats.count(Path::Direct, bytes);
        let tag = transfer.tag;
        drop(transfer);
        out.push(Completion { tag, status, bytes, eof: false });
        self.begin_next();
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.vector.event()
    }

    fn acknowledge(&mut self) {
        self.vector.take();
    }

    /// Whatever it says, a device that is no bus master reaches no memory.
    fn stop(&mut self) -> bool {
        self.waiting.clear();
        if self.current.is_some() {
            self.function.stop_mastering();
            self.current = None;
        }
        true
    }

    fn cancel(&mut self, tag: u32) {
        if let Some(current) = self.current.as_mut().filter(|current| current.tag == tag) {
            current.cancelled = true;
        } else if let Some(index) = self.waiting.iter().position(|transfer| transfer.tag == tag) {
            self.waiting.remove(index);
            self.ended.push(Completion::aborted(tag));
        }
    }
}

impl Drop for EduQueue {
    fn drop(&mut self) {
        if self.function.check().is_ok() {
            self.stop();
        }
    }
}
