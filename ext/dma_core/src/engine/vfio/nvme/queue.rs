//! An I/O queue pair: operations become commands, completions end them.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::claim::Claim;
use super::super::interrupts::Vector;
use super::super::space::Pinned;
use super::super::Interrupt;
use super::controller::{opcode, set_address, FAILED};
use super::rings::{Command, DmaMemory, Rings};
use super::status::status_of;
use super::{Nvme, PAGE};
use crate::engine::{Manner, Queue, Rejected};
use crate::error::{Error, Result};
use crate::transfer::{Access, Completion, Op, Path, Status};

/// Opcodes of the NVM command set (NVM Command Set Specification 1.0, section 3).
const FLUSH: u32 = 0x00;
const WRITE: u32 = 0x01;
const READ: u32 = 0x02;

/// Tags are below this one, and the rest of an identifier is a generation.
const TAGS: u16 = super::ENTRIES as u16;
/// How long a command that was asked to be given up may go on before the controller is reset.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// How often the controller's health is looked at while nothing ends, and whether the device is leaving while commands are pushed.
const HEALTH: Duration = Duration::from_millis(100);
/// How many failures of the controller a command may live through: it may be what it fails at.
const ATTEMPTS: u32 = 2;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct NvmeQueue {
    nvme: Arc<Nvme>,
    index: u16,
    rings: Rings,
    vector: Arc<Vector>,
    /// A page list for each command.
    lists: DmaMemory,
    /// By tag.
    slots: Vec<Option<Slot>>,
    /// What the next command's identifier has above its tag, so that an abort or a completion that comes late means no other command.
    generation: u16,
    in_flight: usize,
    ended: Vec<Completion>,
    /// Of which of its controller's lives the pair is, and whether it was made in that.
    epoch: u32,
    is_there: bool,
    /// How often the controller had failed by then.
    failures: u32,
    looked: Instant,
    /// When it was last looked whether the device is leaving.
    asked: Instant,
    _claim: Claim,
}

#[derive(Debug)]
struct Slot {
    command: Command,
    cancelled: Option<Instant>,
    attempts: u32,
    // Unmapped, where it is mapped for this command only, before the memory is let go of.
    _pinned: Option<Arc<Pinned>>,
    op: Op,
}

impl Slot {
    /// The command's identifier.
    fn id(&self) -> u16 {
        (self.command[0] >> 16) as u16
    }
}

impl NvmeQueue {
    /// Creates pair `index + 1` of the controller.
    pub(super) fn new(nvme: &Arc<Nvme>, index: u16, claim: Claim) -> Result<NvmeQueue> {
        let (controller, entries) = (&nvme.controller, nvme.entries);
        let lists = usize::from(entries) * nvme.list_size();
        let vector = nvme.vector_of(index);
        let mut queue = NvmeQueue {
            rings: Rings::new(&controller.function, &controller.registers, index + 1, entries, controller.stride)?,
            vector: controller.function.interrupt(Interrupt::Vector(vector))?,
            lists: DmaMemory::new(&controller.function, lists)?,
            slots: (0..entries).map(|_| None).collect(),
            generation: 0,
            in_flight: 0,
            ended: Vec::new(),
            epoch: controller.epoch(),
            is_there: false,
            failures: controller.failures(),
            looked: Instant::now(),
            asked: Instant::now(),
            nvme: Arc::clone(nvme),
            index,
            _claim: claim,
        };
        queue.create()?;
        Ok(queue)
    }

    fn id(&self) -> u16 {
        self.index + 1
    }

    /// Has the controller make the pair, in the memory that is there.
    fn create(&mut self) -> Result<()> {
        self.rings.restart();
        let (id, size) = (u32::from(self.id()), u32::from(self.rings.entries) - 1);
        let vector = self.nvme.vector_of(self.index) as u32;
        let command = |opcode, flags, address| {
            let mut command = Command::default();
            (command[0], command[10], command[11]) = (opcode, size << 16 | id, flags);
            set_address(&mut command, address);
            command
        };
        // Contiguous, the one with interrupts, the other with its completions in the first.
        let (completion, submission) = (self.rings.completion.address(0), self.rings.submission.address(0));
        let (epoch, done) = self.nvme.controller.commands(&[
            command(opcode::CREATE_COMPLETION_QUEUE, vector << 16 | 0b11, completion),
            command(opcode::CREATE_SUBMISSION_QUEUE, id << 16 | 0b01, submission),
        ]);
        (self.epoch, self.is_there) = (epoch, done.is_ok());
        if done.is_err() {
            // Half of it may be there.
            let _ = self.delete();
        }
        done
    }

    /// Has the controller forget the pair; nothing of it is in flight.
    fn delete(&self) -> Result<()> {
        let command = |opcode| {
            let mut command = Command::default();
            (command[0], command[10]) = (opcode, self.id().into());
            command
        };
        let delete = |opcode| self.nvme.controller.commands(&[command(opcode)]).1;
        delete(opcode::DELETE_SUBMISSION_QUEUE).and(delete(opcode::DELETE_COMPLETION_QUEUE))
    }

    /// The command for an operation (NVM Command Set, 3.2.4 and 3.2.6), and what keeps its memory mapped.
    fn describe(&self, tag: u32, op: &Op) -> Result<(Command, Option<Arc<Pinned>>)> {
        let mut command = Command::default();
        command[1] = self.nvme.namespace.id;
        let (opcode, offset, span, access) = match op {
            Op::Read { offset, span } => (READ, *offset, span, Access::Write),
            Op::Write { offset, span } => (WRITE, *offset, span, Access::Read),
            Op::Flush { .. } => {
                command[0] = FLUSH;
                return Ok((command, None));
            }
            Op::Copy { .. } | Op::List { .. } => {
                return Err(Error::Unsupported("a namespace moves bytes between memory and itself only".into()));
            }
        };
        let pinned = self.nvme.controller.function.reach(span, access)?;
        let (block, len) = (self.nvme.namespace.block_size, span.len());
        let (first, count) = (offset / block, (len as u64 / block) as u32);
        command[0] = opcode;
        (command[10], command[11], command[12]) = (first as u32, (first >> 32) as u32, count - 1);
        self.point(&mut command, tag, pinned.address_of(span.address()), len);
        Ok((command, Some(pinned)))
    }

    /// Says where the memory is, in pages: the first address, and the second page or a list of all others
    /// (NVM Express Base Specification 2.0, 4.1.1).
    fn point(&self, command: &mut Command, tag: u32, address: u64, len: usize) {
        set_address(command, address);
        let (second, end) = ((address / PAGE + 1) * PAGE, address + len as u64);
        let others = end.saturating_sub(second).div_ceil(PAGE) as usize;
        let other = match others {
            0 => 0,
            1 => second,
            _ => {
                let list = tag as usize * self.nvme.list_size();
                for index in 0..others {
                    self.lists.write(list + 8 * index, second + index as u64 * PAGE);
                }
                self.lists.address(list)
            }
        };
        (command[8], command[9]) = (other as u32, (other >> 32) as u32);
    }

    fn end(&mut self, tag: u16, status: Status) {
        let Some(slot) = self.slots.get_mut(usize::from(tag)).and_then(Option::take) else { return };
        self.in_flight -= 1;
        let bytes = match (&slot.op, status) {
            (Op::Read { span, .. } | Op::Write { span, .. }, Status::Complete) => span.len(),
            _ => 0,
        };
        self.nvme.stats.count(Path::Direct, bytes);
        self.ended.push(Completion { tag: tag.into(), status, bytes, eof: false });
    }

    /// Whether the device is leaving. To look takes system calls; what was learned without that counts at once.
    fn is_leaving(&mut self) -> bool {
        let function = &self.nvme.controller.function;
        if self.asked.elapsed() > HEALTH {
            self.asked = Instant::now();
            function.look();
        }
        function.is_leaving()
    }

    /// Takes in what the controller says has ended; false where nothing has.
    fn take_in(&mut self) -> bool {
        let mut any = false;
        while let Some(ended) = self.rings.take() {
            any = true;
            let tag = ended.id % TAGS;
            let slot = self.slots.get(usize::from(tag)).and_then(Option::as_ref);
            let Some(slot) = slot.filter(|slot| slot.id() == ended.id) else { continue };
            let status = status_of(ended.code, matches!(slot.op, Op::Write { .. }));
            self.end(tag, status);
        }
        self.rings.release();
        any
    }

    /// After a reset of the controller: makes the pair again, and tries again what was in flight and is still wanted.
    fn renew(&mut self) {
        let failed = u32::from(self.failures != self.nvme.controller.failures());
        self.failures = self.nvme.controller.failures();
        // Should it be reset meanwhile, that is seen next time.
        let epoch = self.nvme.controller.epoch();
        let failure = match self.nvme.controller.failure() {
            Some(failure) => {
                (self.epoch, self.is_there) = (epoch, false);
                Some(failure)
            }
            None => self.create().err().map(|_| FAILED),
        };
        for tag in 0..self.slots.len() as u16 {
            let Some(slot) = &mut self.slots[usize::from(tag)] else { continue };
            slot.attempts += failed;
            let (cancelled, tried) = (slot.cancelled.is_some(), slot.attempts >= ATTEMPTS);
            match failure {
                _ if cancelled => self.end(tag, Status::Aborted),
                Some(failure) => self.end(tag, failure),
                None if tried => self.end(tag, FAILED),
                None => self.rings.put(&slot.command),
            }
        }
        self.rings.ring();
    }

    /// Where nothing ends: resets a controller that has failed, or that does not give up what it should.
    fn watch(&mut self) {
        if self.in_flight == 0 {
            return;
        }
        let overdue = |slot: &Slot| slot.cancelled.is_some_and(|since| since.elapsed() > ABORT_GRACE);
        let ill = self.looked.elapsed() > HEALTH && {
            self.looked = Instant::now();
            self.nvme.controller.illness().is_some()
        };
        if ill || self.slots.iter().flatten().any(overdue) {
            // Where it does not come up again, its failure is what everything ends with.
            let _ = self.nvme.reset(self.epoch);
            self.renew();
        }
    }
}

impl Queue for NvmeQueue {
    fn push(&mut self, tag: u32, op: Op, _manner: Manner) -> Result<(), Rejected> {
        let (mut command, pinned) = match self.describe(tag, &op) {
            Ok(described) => described,
            Err(error) => return Err(Rejected::Failed(op, error)),
        };
        self.generation = self.generation.wrapping_add(TAGS);
        command[0] |= (u32::from(self.generation) + tag) << 16;
        self.slots[tag as usize] = Some(Slot { command, cancelled: None, attempts: 0, _pinned: pinned, op });
        self.in_flight += 1;
        match self.nvme.controller.failure() {
            Some(failure) => self.end(tag as u16, failure),
            None if self.is_leaving() => self.end(tag as u16, Status::LinkDown),
            None if !self.is_there => self.end(tag as u16, FAILED),
            None => self.rings.put(&command),
        }
        Ok(())
    }

    fn kick(&mut self) {
        self.rings.ring();
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        if self.epoch != self.nvme.controller.epoch() {
            self.renew();
        }
        if !self.take_in() {
            self.watch();
        }
        out.append(&mut self.ended);
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.vector.event()
    }

    fn acknowledge(&mut self) {
        if self.vector.take() > 0 {
            if self.nvme.controller.function.vector_count() == 1 {
                self.nvme.controller.take_in();
            }
            self.vector.unmask();
        }
    }

    /// Commands in flight end with a reset of the controller, after which those of other channels are tried again.
    fn stop(&mut self) -> bool {
        let controller = &self.nvme.controller;
        if self.in_flight > 0 && self.epoch == controller.epoch() {
            // Whatever it says, the controller was stopped in between.
            let _ = self.nvme.reset(self.epoch);
        }
        self.slots.iter_mut().for_each(|slot| *slot = None);
        self.in_flight = 0;
        true
    }

    fn cancel(&mut self, tag: u32) {
        let id = self.id();
        let Some(slot) = &mut self.slots[tag as usize] else { return };
        if slot.cancelled.is_none() {
            slot.cancelled = Some(Instant::now());
            let command = slot.id();
            self.rings.ring();
            self.nvme.controller.abort(id, command);
        }
    }
}

impl Drop for NvmeQueue {
    fn drop(&mut self) {
        if self.nvme.controller.function.check().is_err() {
            return;
        }
        self.stop();
        if self.is_there && self.epoch == self.nvme.controller.epoch() && self.delete().is_err() {
            let _ = self.nvme.reset(self.epoch);
        }
    }
}
