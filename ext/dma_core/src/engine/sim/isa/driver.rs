//! The driver's part that runs in the machine: it programs a channel for one piece of a transfer after the other, the next one when
//! the card interrupts. Nobody has to wait for that.
//!
//! A piece is what the controller moves with one programming: no more than to the end of a page of 64 KiB (128 KiB). Memory past the
//! 16 MiB that it reaches is bounced, as the kernel's swiotlb does it (Documentation/core-api/swiotlb.rst): through an area below, a
//! page of it for each channel.

mod master;

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::board::{Board, Costs, CHANNELS};
use super::card::{control, BLOCK, PORTS};
use super::cascade::{is_wide, page_size, Ports};
use super::chip::mode;
use crate::engine::sim::controller::Bus;
use crate::engine::sim::cpu::Mode;
use crate::engine::sim::faults::Kind;
use crate::engine::sim::trace::What;
use crate::engine::{Manner, Mapping, Stats};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::{Op, Status};

/// A transfer of a channel.
#[derive(Debug)]
pub(super) struct Job {
    pub tag: u32,
    /// Bytes that were moved, and of the piece in hand.
    pub done: u64,
    piece: u64,
    manner: Manner,
    is_quiet: bool,
    /// Where the controller reaches its memory: bus address and length of each piece.
    direct: Option<Vec<(u64, u64)>>,
    /// Dropped before the operation, and its memory with it, is let go of.
    _mapping: Option<Arc<dyn Mapping>>,
    op: Op,
}

impl Job {
    pub(super) fn new(
        tag: u32,
        op: Op,
        manner: Manner,
        direct: Option<Vec<(u64, u64)>>,
        mapping: Option<Arc<dyn Mapping>>,
    ) -> Job {
        Job { tag, done: 0, piece: 0, manner, is_quiet: false, direct, _mapping: mapping, op }
    }

    /// Where it is in the card's memory, its own memory, and whether the device writes that.
    fn parts(&self) -> Option<(u64, &Span, bool)> {
        match &self.op {
            Op::Read { offset, span } => Some((*offset, span, true)),
            Op::Write { offset, span } => Some((*offset, span, false)),
            _ => None,
        }
    }

    fn left(&self) -> u64 {
        self.op.len().saturating_sub(self.done)
    }

    /// The bus address of the next byte, and how many follow it there; `None` where the memory is bounced.
    fn direct(&self) -> Option<(u64, u64)> {
        let mut skip = self.done;
        for (address, len) in self.direct.as_ref()? {
            if skip < *len {
                return Some((address + skip, len - skip));
            }
            skip -= len;
        }
        None
    }
}

/// A transfer that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub job: Job,
    pub status: Status,
}

/// What a driver does on a channel.
#[derive(Debug)]
pub(super) struct Line {
    /// Where memory is bounced, at this bus address.
    area: Span,
    address: u64,
    waiting: VecDeque<Job>,
    current: Option<Job>,
    ended: Vec<Ended>,
    /// The last transfer failed: what is linked to it is not attempted.
    is_broken: bool,
    /// Keeps the area where it is.
    _mapping: Arc<dyn Mapping>,
}

impl Line {
    /// One that bounces through `area`, which is mapped in one piece.
    pub(super) fn new(area: Span, mapping: Arc<dyn Mapping>) -> Line {
        let address = mapping.segments()[0].0;
        let (waiting, current, ended) = (VecDeque::new(), None, Vec::new());
        Line { area, address, waiting, current, ended, is_broken: false, _mapping: mapping }
    }

    fn end(&mut self, job: Job, status: Status) {
        self.is_broken = status.is_failure();
        self.ended.push(Ended { job, status });
    }
}

/// The master of a device with 8237s. See the [module](self).
#[derive(Debug)]
pub(in crate::engine::sim) struct Isa {
    board: Board,
    lines: [Option<Line>; CHANNELS],
    modes: [Mode; CHANNELS],
    /// Cards that the CPU has yet to look at.
    raised: [bool; CHANNELS],
    stats: Arc<Stats>,
}

/// As software sees it.
impl Isa {
    pub(super) fn read(&mut self, at: u64, width: u8) -> u64 {
        self.board.read(at, width)
    }

    /// Writes ports. The card of a channel that has a driver is the driver's own: writing it does nothing.
    pub(super) fn write(&mut self, at: u64, width: u8, value: u64) {
        let is_taken = |channel: u64| self.lines.get(channel as usize).is_some_and(Option::is_some);
        if !at.checked_sub(PORTS).is_some_and(|at| is_taken(at / BLOCK)) {
            self.board.write(at, width, value);
        }
    }

    pub(in crate::engine::sim) fn costs(&self) -> Costs {
        self.board.costs
    }

    /// How the driver programs a channel.
    pub(in crate::engine::sim) fn set_mode(&mut self, channel: u16, mode: Mode) -> Result<()> {
        if mode == Mode::Transparent {
            let what = "mode: an 8237 has :burst (demand mode) and :cycle_stealing (single mode), but not :transparent";
            return Err(Error::Argument(what.into()));
        }
        self.modes[usize::from(channel)] = mode;
        Ok(())
    }

    /// Aborts what is in hand on all channels, and brings controllers and cards to where they were in the beginning. What waits
    /// goes on.
    pub(in crate::engine::sim) fn reset(&mut self, bus: &mut Bus<'_>) {
        self.board.reset();
        for channel in 0..CHANNELS {
            self.abort(channel, bus);
            if let Some(line) = &mut self.lines[channel] {
                line.is_broken = false;
            }
            self.begin(channel, bus);
        }
    }

    /// Gives a channel to a driver.
    pub(super) fn open(&mut self, channel: usize, line: Line) {
        self.stop(channel);
        self.lines[channel] = Some(line);
    }

    /// Takes a channel, and everything that waits and has ended there, from its driver.
    pub(super) fn close(&mut self, channel: usize) -> Option<Line> {
        self.stop(channel);
        self.lines[channel].take()
    }

    /// Takes what waits, is in hand and has ended on a channel.
    pub(super) fn clear(&mut self, channel: usize) -> Vec<Job> {
        self.stop(channel);
        let Some(line) = &mut self.lines[channel] else { return Vec::new() };
        line.is_broken = false;
        let ended = line.ended.drain(..).map(|ended| ended.job);
        line.current.take().into_iter().chain(line.waiting.drain(..)).chain(ended).collect()
    }

    /// Adds a transfer, which begins with [`Isa::begin`].
    pub(super) fn push(&mut self, channel: usize, job: Job) {
        if let Some(line) = &mut self.lines[channel] {
            line.waiting.push_back(job);
        }
    }

    /// Takes those that have ended.
    pub(super) fn take_ended(&mut self, channel: usize) -> Vec<Ended> {
        self.lines[channel].as_mut().map_or_else(Vec::new, |line| std::mem::take(&mut line.ended))
    }

    /// Ends a transfer as aborted, if it has not ended.
    pub(super) fn cancel(&mut self, channel: usize, tag: u32, bus: &mut Bus<'_>) {
        let Some(line) = &mut self.lines[channel] else { return };
        if let Some(index) = line.waiting.iter().position(|job| job.tag == tag) {
            // The one before it did not fail by that.
            line.ended.extend(line.waiting.remove(index).map(|job| Ended { job, status: Status::Aborted }));
        } else if line.current.as_ref().is_some_and(|job| job.tag == tag) {
            self.abort(channel, bus);
            self.begin(channel, bus);
        }
    }
}

/// What it does when something is asked of it or a card interrupts.
impl Isa {
    /// Begins the transfer that waits first, if none is in hand.
    pub(super) fn begin(&mut self, channel: usize, bus: &mut Bus<'_>) {
        let Board { common, ports, .. } = &self.board;
        let (common, port) = (Arc::clone(common), Arc::clone(&ports[channel]));
        loop {
            let Some(line) = self.lines[channel].as_mut().filter(|line| line.current.is_none()) else { return };
            let Some(job) = line.waiting.pop_front() else { return };
            let refused = match job.left() {
                _ if job.manner.linked && line.is_broken => Some(Status::NotAttempted),
                _ if !common.link.load(Relaxed) => Some(Status::LinkDown),
                0 => Some(Status::Complete),
                _ => None,
            };
            if let Some(status) = refused {
                self.end(channel, job, status, bus);
                continue;
            }
            line.current = Some(job);
            port.descriptors.fetch_add(1, Relaxed);
            self.program(channel);
            match bus.faults.at_descriptor(common.number, port.index) {
                Some(Kind::LostInterrupt) => self.board.cards[channel].is_mute = true,
                Some(Kind::Hang) => self.board.hang(channel, bus),
                fault => self.board.cards[channel].fault = fault,
            }
        }
    }

    /// Programs the controller and the card for the next piece of the transfer in hand.
    fn program(&mut self, channel: usize) {
        let Some(line) = &mut self.lines[channel] else { return };
        let Some(job) = &mut line.current else { return };
        let page = page_size(channel as u16);
        let (address, len) = job.direct().unwrap_or((line.address, page));
        job.piece = job.left().min(len).min(page - address % page);
        let (done, piece) = (job.done, job.piece);
        let is_bounced = job.direct.is_none();
        let Some((offset, span, writes)) = job.parts() else { return };
        if is_bounced && !writes {
            span.copy_to(done as usize, &line.area, piece as usize);
            self.stats.bounced_bytes.fetch_add(piece, Relaxed);
        }
        self.write_registers(channel, address, (offset + done, piece), writes);
    }

    /// The sequence of a textbook: mask, flip-flop, mode, address, page, count, the card, and the mask taken away.
    fn write_registers(&mut self, channel: usize, address: u64, (offset, len): (u64, u64), writes: bool) {
        let ports = Ports::of(channel as u16);
        let wide = u32::from(is_wide(channel as u16));
        let pace = if self.modes[channel] == Mode::CycleStealing { mode::SINGLE } else { mode::DEMAND };
        let (transfer, direction) = match writes {
            true => (mode::TO_MEMORY, control::FROM_DEVICE),
            false => (mode::FROM_MEMORY, control::TO_DEVICE),
        };
        let [low, high, ..] = (address >> wide).to_le_bytes();
        let [count_low, count_high, ..] = ((len >> wide).saturating_sub(1)).to_le_bytes();
        let (mask, bits) = (ports.number | 4, pace | transfer | ports.number);
        let sequence = [
            (ports.mask, mask),
            (ports.clear_flip_flop, 0),
            (ports.mode, bits),
            (ports.address, low),
            (ports.address, high),
            (ports.page, (address >> 16) as u8),
            (ports.count, count_low),
            (ports.count, count_high),
        ];
        sequence.into_iter().for_each(|(port, value)| self.board.write(port.into(), 1, value.into()));
        let card = PORTS + BLOCK * channel as u64;
        let words = [(card, offset), (card + 4, len), (card + 8, (direction | control::START).into())];
        words.into_iter().for_each(|(port, value)| self.board.write(port, 4, value));
        self.board.write(ports.mask.into(), 1, ports.number.into());
        self.board.costs.programmings += 1;
    }

    /// The card has moved its piece, or gave up.
    fn interrupt(&mut self, channel: usize, bus: &mut Bus<'_>) {
        let Some(line) = &mut self.lines[channel] else { return };
        let Some(mut job) = line.current.take() else { return };
        let card = &self.board.cards[channel];
        self.board.ports[channel].interrupts.fetch_add(1, Relaxed);
        let moved = job.piece.saturating_sub(card.left());
        if let (Some((_, span, true)), None) = (job.parts(), &job.direct) {
            line.area.copy_to(0, &span.part(job.done as usize, moved as usize), moved as usize);
            self.stats.bounced_bytes.fetch_add(moved, Relaxed);
        }
        job.done += moved;
        job.is_quiet |= card.is_mute;
        let status = match card.failure() {
            Some(failure) => failure,
            None if job.left() == 0 => Status::Complete,
            // Somebody else programmed the controller meanwhile.
            None if moved < job.piece => Status::BadLength,
            None => {
                line.current = Some(job);
                return self.program(channel);
            }
        };
        self.end(channel, job, status, bus);
        self.begin(channel, bus);
    }

    fn end(&mut self, channel: usize, job: Job, status: Status, bus: &mut Bus<'_>) {
        let (interrupts, is_quiet) = (job.manner.interrupt, job.is_quiet);
        if let Some(line) = &mut self.lines[channel] {
            line.end(job, status);
        }
        if interrupts {
            self.board.note(bus, channel, if is_quiet { What::LostInterrupt } else { What::Interrupt }, 0, 0);
        }
        if interrupts && !is_quiet {
            self.board.ports[channel].raise();
        }
    }

    /// Ends the transfer in hand as aborted.
    fn abort(&mut self, channel: usize, bus: &mut Bus<'_>) {
        let Some(job) = self.lines[channel].as_mut().and_then(|line| line.current.take()) else { return };
        self.stop(channel);
        self.end(channel, job, Status::Aborted, bus);
    }

    /// Masks a channel and stops its card.
    fn stop(&mut self, channel: usize) {
        let ports = Ports::of(channel as u16);
        self.board.write(ports.mask.into(), 1, (ports.number | 4).into());
        self.board.cards[channel].stop();
        self.raised[channel] = false;
        self.board.refresh(channel);
    }
}
