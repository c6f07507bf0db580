//! An NVMe controller: reset, admin commands, and what it says of itself (NVM Express Base Specification 2.0).

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::super::bar::Bar;
use super::super::interrupts::Vector;
use super::super::{Function, Interrupt};
use super::identify::{Identity, Namespace};
use super::rings::{Command, DmaMemory, Ended, Rings, DOORBELLS};
use crate::engine::Registers;
use crate::error::{Error, Result};
use crate::sys;
use crate::transfer::Status;

/// Controller properties in BAR 0 (section 3.1.3).
mod property {
    pub const CAPABILITIES: u64 = 0x00;
    pub const CONFIGURATION: u64 = 0x14;
    pub const STATUS: u64 = 0x1c;
    pub const ADMIN_SIZES: u64 = 0x24;
    pub const ADMIN_SUBMISSION: u64 = 0x28;
    pub const ADMIN_COMPLETION: u64 = 0x30;
}

/// CC: entries of 64 and of 16 bytes, pages of 4 KiB, the NVM command set, enabled.
const ENABLED: u32 = 4 << 20 | 6 << 16 | 1;
/// CC.SHN: a normal shutdown.
const SHUT_DOWN: u32 = 1 << 14;
/// CSTS: ready, failed, and the shutdown's state when it is over.
const READY: u32 = 1;
const FATAL: u32 = 2;
const SHUTDOWN_STATE: u32 = 3 << 2;
const SHUTDOWN_OVER: u32 = 2 << 2;
/// What a register says of a device that is not there.
const GONE: u32 = u32::MAX;

/// Opcodes of admin commands (section 5).
pub(super) mod opcode {
    pub const DELETE_SUBMISSION_QUEUE: u32 = 0x00;
    pub const CREATE_SUBMISSION_QUEUE: u32 = 0x01;
    pub const DELETE_COMPLETION_QUEUE: u32 = 0x04;
    pub const CREATE_COMPLETION_QUEUE: u32 = 0x05;
    pub const IDENTIFY: u32 = 0x06;
    pub const ABORT: u32 = 0x08;
    pub const SET_FEATURES: u32 = 0x09;
}
/// The feature that says how many I/O queues there are.
const NUMBER_OF_QUEUES: u32 = 0x07;

/// How operations end that a controller has no answer to any more: an internal error.
pub(super) const FAILED: Status = Status::DeviceError { code: 0x006 };

const ADMIN_ENTRIES: u16 = 32;
/// How long an admin command may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a shutdown may take when the device is closed.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// A controller that is enabled, until it is dropped.
#[derive(Debug)]
pub(super) struct Controller {
    pub function: Arc<Function>,
    pub registers: Arc<Bar>,
    vector: Arc<Vector>,
    admin: Mutex<Admin>,
    /// How often it was reset. What was created before that is not there any more.
    epoch: AtomicU32,
    /// How often that was because it had failed.
    failures: AtomicU32,
    /// Why it is of no use any more.
    failure: Mutex<Option<Status>>,
    ready_within: Duration,
    /// Entries of a queue, at most.
    pub max_entries: u32,
    /// Bytes from one doorbell to the next.
    pub stride: u64,
}

#[derive(Debug)]
struct Admin {
    rings: Rings,
    next: u16,
    /// Commands that have not ended, those that nobody waits for among them.
    in_flight: u16,
}

impl Controller {
    /// Resets the controller and enables it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for one that cannot do with pages of 4 KiB; [`Error::Os`] (EIO) for one that does not come up.
    pub(super) fn new(function: Arc<Function>) -> Result<Controller> {
        let registers = function.bar(0)?;
        let capabilities = registers.read(property::CAPABILITIES, 8);
        if capabilities >> 48 & 0xf != 0 || sys::page_size() != 4096 {
            return Err(Error::Unsupported("the controller or this computer has no pages of 4 KiB".into()));
        }
        let stride = 4 << (capabilities >> 32 & 0xf);
        if registers.size() < DOORBELLS + 2 * stride * u64::from(super::QUEUES + 1) {
            return Err(Error::Unsupported("BAR 0 is too small for the doorbells of an NVMe controller".into()));
        }
        let admin = Rings::new(&function, &registers, 0, ADMIN_ENTRIES, stride)?;
        let controller = Controller {
            vector: function.interrupt(Interrupt::Vector(0))?,
            function,
            registers,
            admin: Mutex::new(Admin { rings: admin, next: 0, in_flight: 0 }),
            epoch: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            failure: Mutex::new(None),
            // In units of 500 ms; a controller that says 0 means that it has not thought of it.
            ready_within: Duration::from_millis(500) * (capabilities >> 24 & 0xff).max(2) as u32,
            max_entries: (capabilities & 0xffff) as u32 + 1,
            stride,
        };
        controller.start(&mut controller.admin())?;
        Ok(controller)
    }

    fn status(&self) -> u32 {
        self.registers.read32(property::STATUS)
    }

    /// What it says by itself of its health.
    pub(super) fn illness(&self) -> Option<Status> {
        match self.status() {
            GONE => Some(Status::LinkDown),
            status if status & FATAL != 0 => Some(FAILED),
            _ => None,
        }
    }

    /// Why nothing can be done with it before it is reset.
    pub(super) fn failure(&self) -> Option<Status> {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it was reset.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(SeqCst)
    }

    /// How often it failed and was reset for it.
    pub(super) fn failures(&self) -> u32 {
        self.failures.load(SeqCst)
    }

    fn await_status(&self, mask: u32, wanted: u32, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status();
            if status != GONE && status & mask == wanted {
                return true;
            }
            if status == GONE || Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// From now on it reaches no memory: disabled, or, where it does not answer, reset; or else cut off from the bus, and false.
    fn halt(&self) -> bool {
        let configuration = self.registers.read32(property::CONFIGURATION);
        self.registers.write32(property::CONFIGURATION, configuration & !1);
        let halted = self.await_status(READY, 0, self.ready_within) || self.function.reset().is_ok();
        if !halted {
            self.function.stop_mastering();
        }
        halted
    }

    fn start(&self, admin: &mut Admin) -> Result<()> {
        if !self.halt() {
            let message = "the NVMe controller cannot be stopped; it is cut off from the bus until it is reset or power comes anew";
            return Err(Error::os(Errno::EIO, message));
        }
        self.function.start_mastering();
        admin.rings.restart();
        admin.in_flight = 0;
        let size = u32::from(ADMIN_ENTRIES) - 1;
        self.registers.write32(property::ADMIN_SIZES, size << 16 | size);
        self.registers.write(property::ADMIN_SUBMISSION, 8, admin.rings.submission.address(0));
        self.registers.write(property::ADMIN_COMPLETION, 8, admin.rings.completion.address(0));
        self.registers.write32(property::CONFIGURATION, ENABLED);
        if self.await_status(READY | FATAL, READY, self.ready_within) {
            return Ok(());
        }
        let (status, waited) = (self.status(), self.ready_within.as_millis());
        self.halt();
        let message = format!("the NVMe controller does not come up within {waited} ms (CSTS {status:#x})");
        Err(Error::os(Errno::EIO, message))
    }

    /// Stops everything and begins anew: every I/O queue is gone, and whoever had one makes it again. Where `since` is not the
    /// number of resets any more, somebody else was first, and nothing is done.
    ///
    /// # Errors
    /// [`Error::Os`] where it does not come up; it is stopped all the same.
    pub(super) fn reset(&self, since: u32, queues: u16) -> Result<()> {
        let mut admin = self.admin();
        if self.epoch() != since {
            return Ok(());
        }
        let illness = self.illness();
        if illness.is_some() {
            self.failures.fetch_add(1, SeqCst);
        }
        let started = self.start(&mut admin).and_then(|()| self.ask_for_queues(&mut admin, queues));
        let failure = started.as_ref().err().map(|_| illness.unwrap_or(FAILED));
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        self.epoch.fetch_add(1, SeqCst);
        drop(admin);
        self.function.wake();
        started.map(drop)
    }

    /// Asks for I/O queue pairs, and returns how many it gives.
    pub(super) fn queues(&self, wanted: u16) -> Result<u16> {
        self.ask_for_queues(&mut self.admin(), wanted)
    }

    fn ask_for_queues(&self, admin: &mut Admin, wanted: u16) -> Result<u16> {
        let mut command = Command::default();
        let count = u32::from(wanted - 1);
        (command[0], command[10], command[11]) = (opcode::SET_FEATURES, NUMBER_OF_QUEUES, count << 16 | count);
        let given = self.command_with(admin, command)?;
        Ok(wanted.min((given & 0xffff) as u16).min((given >> 16) as u16).saturating_add(1).min(wanted))
    }

    /// Takes in what nobody waits for (aborts), so that a line which they share with others is let go.
    pub(super) fn take_in(&self) {
        if let Ok(mut admin) = self.admin.try_lock() {
            while admin.take().is_some() {}
        }
    }

    /// Carries admin commands out one behind the other, and returns in which of the controller's lives that was.
    ///
    /// # Errors
    /// [`Error::Os`] (EIO) where the controller refuses one, with its status; [`Error::TimedOut`] where it does not answer.
    pub(super) fn commands(&self, commands: &[Command]) -> (u32, Result<()>) {
        let mut admin = self.admin();
        let done = commands.iter().try_for_each(|command| self.command_with(&mut admin, *command).map(drop));
        (self.epoch(), done)
    }

    fn command_with(&self, admin: &mut Admin, command: Command) -> Result<u32> {
        let (id, deadline) = (admin.put(command), Instant::now() + PATIENCE);
        loop {
            while let Some(ended) = admin.take() {
                if ended.id == id {
                    return result(command, ended);
                }
            }
            if Instant::now() > deadline || self.status() == GONE {
                let opcode = command[0] & 0xff;
                let message = format!("the NVMe controller does not answer the admin command {opcode:#04x}");
                return Err(Error::TimedOut(message));
            }
            // A vector that it shares with I/O is not taken: whoever waits there would not wake.
            if self.function.vector_count() > 1 && self.vector.take() > 0 {
                self.vector.unmask();
            } else if self.function.vector_count() > 1 {
                sys::wait_readable(self.vector.event(), Duration::from_millis(10));
            } else {
                thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Asks that an I/O command be given up, and does not wait for an answer: the command itself is what ends.
    pub(super) fn abort(&self, queue: u16, id: u16) {
        let mut admin = self.admin();
        while admin.take().is_some() {}
        // Where nothing is answered, one more question helps nobody; what was cancelled ends with the controller's reset.
        if admin.in_flight < ADMIN_ENTRIES / 2 {
            let mut command = Command::default();
            (command[0], command[10]) = (opcode::ABORT, u32::from(id) << 16 | u32::from(queue));
            admin.put(command);
        }
    }

    fn identify(&self, kind: u32, namespace: u32) -> Result<DmaMemory> {
        let memory = DmaMemory::new(&self.function, 4096)?;
        let mut command = Command::default();
        (command[0], command[1], command[10]) = (opcode::IDENTIFY, namespace, kind);
        set_address(&mut command, memory.address(0));
        self.commands(&[command]).1?;
        Ok(memory)
    }

    /// What it says of itself.
    pub(super) fn identity(&self) -> Result<Identity> {
        let identity = Identity::parse(&self.identify(1, 0)?);
        let list = self.identify(2, 0)?;
        let ids = (0..1024).map(|index| list.read::<u32>(4 * index)).take_while(|id| *id != 0);
        let namespaces = ids.map(|id| Ok(Namespace::parse(id, &self.identify(0, id)?))).collect::<Result<_>>()?;
        Ok(Identity { namespaces, ..identity })
    }

    fn admin(&self) -> MutexGuard<'_, Admin> {
        // Nothing that panics runs under the lock.
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the bus address of at most one page into a command.
pub(super) fn set_address(command: &mut Command, address: u64) {
    (command[6], command[7]) = (address as u32, (address >> 32) as u32);
}

fn result(command: Command, ended: Ended) -> Result<u32> {
    if ended.code == 0 {
        return Ok(ended.result);
    }
    let (opcode, code) = (command[0] & 0xff, ended.code);
    let message = format!("the NVMe controller refuses the admin command {opcode:#04x} (status {code:#05x})");
    Err(Error::os(Errno::EIO, message))
}

impl Admin {
    fn put(&mut self, mut command: Command) -> u16 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.in_flight += 1;
        command[0] |= u32::from(id) << 16;
        self.rings.put(&command);
        self.rings.ring();
        id
    }

    fn take(&mut self) -> Option<Ended> {
        let ended = self.rings.take();
        if ended.is_some() {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.rings.release();
        }
        ended
    }
}

impl Drop for Controller {
    /// What it has in its cache is brought to the medium, and it reaches no memory any more.
    fn drop(&mut self) {
        if self.function.check().is_err() {
            return;
        }
        let runs = self.registers.read32(property::CONFIGURATION) & 1 != 0;
        if runs && self.failure().is_none() && self.illness().is_none() {
            self.registers.write32(property::CONFIGURATION, ENABLED | SHUT_DOWN);
            self.await_status(SHUTDOWN_STATE, SHUTDOWN_OVER, SHUTDOWN);
        }
        self.halt();
    }
}
