//! What is on the bus: the controllers, their cards, and the memory between which they move bytes; and the ports of all of them.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::card::{Card, BLOCK, PORTS};
use super::cascade::{is_wide, Grant, Pair};
use super::chip::{Pace, Transfer, Walk};
use crate::engine::sim::controller::Bus;
use crate::engine::sim::cpu::Mode;
use crate::engine::sim::faults::Kind;
use crate::engine::sim::port::{Common, Port};
use crate::engine::sim::timing::Timing;
use crate::engine::sim::trace::{Event, What};
use crate::transfer::{Access, Status};

/// Channels, one of which passes the bus on.
pub(super) const CHANNELS: usize = 8;
/// Bytes of I/O ports.
pub(super) const SIZE: u64 = 0x400;
/// What the bus brings where nobody drives it.
const FLOATING: u8 = 0xff;

/// What transfers cost beside the cycles of the bus, in running totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    /// Accesses of software to ports, to read and to write.
    pub port_reads: u64,
    /// See [`Costs::port_reads`].
    pub port_writes: u64,
    /// Times that the driver programmed a channel.
    pub programmings: u64,
    /// Terminal counts that were reached.
    pub terminal_counts: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Board {
    pub common: Arc<Common>,
    pub ports: Vec<Arc<Port>>,
    pub cards: [Card; CHANNELS],
    pub costs: Costs,
    pair: Pair,
}

impl Board {
    pub(super) fn new(common: Arc<Common>, ports: Vec<Arc<Port>>) -> Board {
        Board { common, ports, cards: Default::default(), costs: Costs::default(), pair: Pair::new() }
    }

    /// As after it was switched on. Nobody asks for anything.
    pub(super) fn reset(&mut self) {
        (self.cards, self.pair) = (Default::default(), Pair::new());
    }

    /// Reads `width` bytes of ports. Those of the controllers are a byte each, and the bus reads one after the other.
    pub(super) fn read(&mut self, at: u64, width: u8) -> u64 {
        self.costs.port_reads += 1;
        if let Some((channel, at)) = card_at(at) {
            return self.cards[channel].read(at, width);
        }
        let mut byte = |at: u64| u64::from(self.pair.read(at as u16).unwrap_or(FLOATING));
        (0..u64::from(width)).fold(0, |value, index| value | byte(at + index) << (8 * index))
    }

    /// Writes `width` bytes of ports, as they are read.
    pub(super) fn write(&mut self, at: u64, width: u8, value: u64) {
        self.costs.port_writes += 1;
        if let Some((channel, at)) = card_at(at) {
            let unit = if is_wide(channel as u16) { 2 } else { 1 };
            self.cards[channel].write(at, width, value, (self.common.options.memory, unit));
            return self.refresh(channel);
        }
        value.to_le_bytes().into_iter().zip(at..at + u64::from(width)).for_each(|(byte, at)| {
            self.pair.write(at as u16, byte);
        });
    }

    /// Takes the DREQ of a card over.
    pub(super) fn refresh(&mut self, channel: usize) {
        self.pair.set_request(channel as u16, self.cards[channel].asks());
    }

    /// How many bytes the next run of transfers moves, in which nobody takes the bus away; `None` where nobody asks for it.
    pub(super) fn next_len(&self) -> Option<u64> {
        self.pair.grant().map(|grant| u64::from(self.run(&grant)) * grant.width)
    }

    /// Bytes of one of its transfers.
    pub(super) fn piece(&self) -> Option<u64> {
        self.pair.grant().map(|grant| grant.width)
    }

    /// The next run has the bus.
    pub(super) fn begin(&mut self) {
        if let Some(grant) = self.pair.grant() {
            self.pair.begin(&grant);
        }
    }

    /// Transfers of the next run: a demand ends with what the card asks for.
    fn run(&self, grant: &Grant) -> u32 {
        let run = grant.service.run();
        let card = &self.cards[usize::from(grant.channel)];
        if matches!(grant.service.transfer, Transfer::MemoryToMemory { .. }) || !card.asks() {
            return run;
        }
        run.min(u32::try_from(card.left() / grant.width).unwrap_or(u32::MAX)).max(1)
    }

    /// Whether the next run goes on with a service that has the bus.
    pub(super) fn goes_on(&self) -> bool {
        self.pair.is_active()
    }

    /// How the channel that comes next shares the bus with the CPU: single transfers leave it after each.
    pub(super) fn mode(&self) -> Mode {
        match self.pair.grant() {
            Some(grant) if grant.service.pace == Pace::Single => Mode::CycleStealing,
            _ => Mode::Burst,
        }
    }

    /// The channel that comes next.
    pub(super) fn next_channel(&self) -> Option<u16> {
        self.pair.grant().map(|grant| grant.channel)
    }

    /// What transfers of the channel that comes next cost on a bus.
    pub(super) fn timing(&self, bus: &Timing) -> Timing {
        let Some(grant) = self.pair.grant() else { return *bus };
        let (setup, beat) = grant.cycles();
        let payload = if grant.service.pace == Pace::Single { grant.width } else { u64::MAX };
        Timing { width: grant.width, beat, setup, payload, overhead: 0, dual: 0, ..*bus }
    }

    /// Moves the next run, or as much of it as has the bus. Returns the channel whose card interrupts, because it has all that it asked
    /// for, met the terminal count or gave up.
    pub(super) fn transact(&mut self, bus: &mut Bus<'_>) -> Option<usize> {
        let grant = self.pair.grant()?;
        let granted = u32::try_from(bus.len / grant.width).unwrap_or(u32::MAX);
        let (channel, run) = (usize::from(grant.channel), self.run(&grant).min(granted));
        let was_busy = self.cards[channel].is_busy();
        if let Transfer::MemoryToMemory { to, holds } = grant.service.transfer {
            self.copy(&grant, (to, holds), run, bus);
            self.count(&grant, run, bus);
        } else {
            let made = self.serve(&grant, run, bus);
            self.account(&grant, made, bus);
        }
        (was_busy && !self.cards[channel].is_busy()).then_some(channel)
    }

    /// Counts transfers; true at the terminal count.
    fn count(&mut self, grant: &Grant, transfers: u32, bus: &mut Bus<'_>) -> bool {
        let is_over = self.pair.advance(grant, transfers);
        if is_over {
            self.costs.terminal_counts += 1;
            self.note(bus, grant.channel.into(), What::TerminalCount, 0, 0);
        }
        is_over
    }

    /// Counts what was moved between a card and memory.
    fn account(&mut self, grant: &Grant, transfers: u32, bus: &mut Bus<'_>) {
        let (channel, bytes) = (usize::from(grant.channel), u64::from(transfers) * grant.width);
        self.ports[channel].bytes.fetch_add(bytes, Relaxed);
        let was_asking = self.cards[channel].asks();
        let pulls = was_asking && self.cards[channel].advance(bytes);
        let is_over = transfers > 0 && self.count(grant, transfers, bus);
        if pulls && !is_over {
            self.pair.end(grant.channel);
        }
        if was_asking && (is_over || pulls) {
            self.cards[channel].reach_terminal_count();
        }
        self.refresh(channel);
    }

    /// Moves up to `run` transfers between a card and memory; how many it were.
    fn serve(&mut self, grant: &Grant, run: u32, bus: &mut Bus<'_>) -> u32 {
        let channel = usize::from(grant.channel);
        if self.cards[channel].asks() && !self.cards[channel].agrees(grant.service.transfer) {
            self.cards[channel].fail(Status::DescriptorError);
            return 0;
        }
        let (len, fault) = self.spoiled(grant, u64::from(run) * grant.width, bus);
        let (moved, failure) = self.move_bytes(grant, len, bus);
        if let Some(why) = failure.or_else(|| fault.map(|kind| self.spoil(grant, kind, moved))) {
            self.common.record(why);
            self.cards[channel].advance(moved);
            self.cards[channel].fail(why);
        }
        (moved / grant.width) as u32
    }

    /// How many bytes, of `len`, lie before what goes wrong.
    fn spoiled(&mut self, grant: &Grant, len: u64, bus: &mut Bus<'_>) -> (u64, Option<Kind>) {
        let (channel, first) = (usize::from(grant.channel), grant.address(grant.service.walk));
        let card = &mut self.cards[channel];
        if !card.asks() {
            return (len, None);
        }
        if let Some(kind) = card.fault.take() {
            return (0, Some(kind));
        }
        let is_down = grant.service.walk.down;
        let low = if is_down { first + grant.width - len } else { first };
        let ranges = [(low, len), (card.address(), len)];
        match bus.faults.at_addresses(self.common.number, grant.channel, &ranges) {
            None => (len, None),
            Some((Kind::LostInterrupt, _)) => {
                card.is_mute = true;
                (len, None)
            }
            Some((Kind::Hang, _)) => {
                self.hang(channel, bus);
                (0, None)
            }
            Some((kind, at)) => {
                let in_memory =
                    if is_down { (first + grant.width - 1).wrapping_sub(at) } else { at.wrapping_sub(first) };
                let before = in_memory.min(at.wrapping_sub(self.cards[channel].address())).min(len);
                (before - before % grant.width, Some(kind))
            }
        }
    }

    /// A card asks for nothing any more.
    pub(super) fn hang(&mut self, channel: usize, bus: &mut Bus<'_>) {
        self.cards[channel].hang();
        self.refresh(channel);
        self.note(bus, channel, What::Hang, 0, 0);
    }

    /// The status of a fault that was injected, behind so many bytes.
    fn spoil(&self, grant: &Grant, kind: Kind, moved: u64) -> Status {
        let address = grant.address(grant.service.walk.after((moved / grant.width) as u16));
        let reads = grant.service.transfer == Transfer::FromMemory;
        match kind {
            Kind::Poison => Status::DataPoison,
            Kind::IommuFault => {
                Status::IommuFault { address, access: if reads { Access::Read } else { Access::Write } }
            }
            Kind::LinkDown => {
                self.common.link.store(false, Relaxed);
                Status::LinkDown
            }
            _ if reads => Status::BusReadError,
            _ => Status::BusWriteError,
        }
    }

    /// Moves up to `len` bytes, and says why it were fewer.
    fn move_bytes(&self, grant: &Grant, len: u64, bus: &mut Bus<'_>) -> (u64, Option<Status>) {
        let (walk, mut moved, mut failure) = (grant.service.walk, 0, None);
        // Downwards each transfer is by itself.
        let together = if walk.down { grant.width } else { len };
        while moved < len && failure.is_none() {
            let at = grant.address(walk.after((moved / grant.width) as u16)) + moved % grant.width;
            match self.move_piece(grant, at, moved, together.min(len - moved)) {
                Ok(bytes) => moved += bytes,
                Err(status) => failure = Some(status),
            }
        }
        moved -= moved % grant.width;
        let what = match grant.service.transfer {
            Transfer::FromMemory => What::ToDevice,
            Transfer::ToMemory => What::FromDevice,
            _ => return (moved, failure),
        };
        if moved > 0 {
            let low = if walk.down { grant.address(walk) + grant.width - moved } else { grant.address(walk) };
            self.note(bus, grant.channel.into(), what, low, moved);
        }
        (moved, failure)
    }

    /// Moves up to `len` bytes at bus address `at`, and as far behind where the card is as was `moved`.
    fn move_piece(&self, grant: &Grant, at: u64, moved: u64, len: u64) -> Result<u64, Status> {
        let card = &self.cards[usize::from(grant.channel)];
        let own = card.address() + moved;
        match (grant.service.transfer, card.asks()) {
            (Transfer::ToMemory, true) => self.common.copy_out(own, at, len),
            (Transfer::FromMemory, true) => self.common.copy_in(at, own, len),
            // Of a block that is longer than what the card asked for, nobody sends or takes the rest, and misses it.
            (Transfer::ToMemory, false) => Ok(self.common.fill(at, len, FLOATING).unwrap_or(len)),
            _ => Ok(len),
        }
    }

    /// Moves bytes from memory to memory, one after the other: they may overlap. Where no memory is, none answers.
    fn copy(&mut self, grant: &Grant, (to, holds): (Walk, bool), run: u32, bus: &mut Bus<'_>) {
        for step in 0..run as u16 {
            let from = if holds { grant.service.walk } else { grant.service.walk.after(step) };
            let byte = self.common.peek(grant.address(from)).unwrap_or(FLOATING);
            self.common.fill(grant.target(to.after(step)), 1, byte).ok();
            self.pair.hold(byte);
        }
        let low = if to.down { to.after(run as u16 - 1) } else { to };
        self.note(bus, grant.channel.into(), What::Memory, grant.target(low), run.into());
    }

    pub(super) fn note(&self, bus: &mut Bus<'_>, channel: usize, what: What, address: u64, len: u64) {
        if let Some(trace) = bus.trace {
            let (device, channel) = (self.common.number, channel as u16);
            let Bus { now: cycle, asked, begin, waits, .. } = *bus;
            trace.events.push(Event { cycle, asked, begin, waits, device, channel, what, address, len });
        }
    }
}

/// Whose card's port it is, and which.
fn card_at(at: u64) -> Option<(usize, u64)> {
    let (channel, at) = (at.checked_sub(PORTS)? / BLOCK, at % BLOCK);
    (channel < CHANNELS as u64).then_some((channel as usize, at))
}
