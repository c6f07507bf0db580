//! The controllers as the machine sees them: a master of its bus.

use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::Isa;
use crate::engine::sim::controller::Bus;
use crate::engine::sim::cpu::Mode;
use crate::engine::sim::handler::Handled;
use crate::engine::sim::isa::board::{Board, Costs, CHANNELS};
use crate::engine::sim::isa::cascade::CASCADE;
use crate::engine::sim::options::DeviceOptions;
use crate::engine::sim::port::{Common, Port, INTERRUPT};
use crate::engine::sim::timing::Timing;
use crate::engine::sim::trace::Master;
use crate::engine::Stats;

impl Isa {
    pub(in crate::engine::sim) fn new(common: Arc<Common>, ports: Vec<Arc<Port>>, stats: Arc<Stats>) -> Isa {
        let board = Board::new(common, ports);
        Isa { board, lines: Default::default(), modes: Default::default(), raised: [false; CHANNELS], stats }
    }

    /// The numbers of its device, and of the channel that comes next.
    pub(in crate::engine::sim) fn master(&self) -> Master {
        (self.board.common.number, self.board.next_channel().unwrap_or(0))
    }

    /// Operations of the CPU so far: accesses to ports, interrupts, and words of eight bytes that it moved to bounce them.
    pub(in crate::engine::sim) fn operations(&self) -> u64 {
        let Costs { port_reads, port_writes, .. } = self.board.costs;
        let interrupts: u64 = self.board.ports.iter().map(|port| port.interrupts.load(Relaxed)).sum();
        port_reads + port_writes + interrupts * INTERRUPT + self.stats.bounced_bytes.load(Relaxed).div_ceil(8)
    }

    /// All of them but the cascade.
    pub(in crate::engine::sim) fn channels() -> Vec<u16> {
        (0..CHANNELS as u16).filter(|channel| *channel != CASCADE).collect()
    }

    /// What its device was made like.
    pub(in crate::engine::sim) fn options(&self) -> &DeviceOptions {
        &self.board.common.options
    }

    /// See [`Board::next_len`].
    pub(in crate::engine::sim) fn next_len(&self) -> Option<u64> {
        self.board.next_len()
    }

    /// See [`Board::goes_on`].
    pub(in crate::engine::sim) fn goes_on(&self) -> bool {
        self.board.goes_on()
    }

    /// See [`Board::mode`].
    pub(in crate::engine::sim) fn mode(&self) -> Mode {
        self.board.mode()
    }

    /// See [`Board::timing`].
    pub(in crate::engine::sim) fn timing(&self, bus: &Timing) -> Timing {
        self.board.timing(bus)
    }

    /// See [`Board::piece`].
    pub(in crate::engine::sim) fn piece(&self) -> Option<u64> {
        self.board.piece()
    }

    /// See [`Board::begin`].
    pub(in crate::engine::sim) fn begin_run(&mut self) {
        self.board.begin();
    }

    /// Moves the next run of transfers.
    pub(in crate::engine::sim) fn transact(&mut self, bus: &mut Bus<'_>) {
        let Some(channel) = self.board.transact(bus) else { return };
        // One that gets lost is none of the CPU's.
        let is_lost = self.board.cards[channel].is_mute;
        self.raised[channel] = !is_lost && !bus.handlers.ask(0, (self.board.common.number, channel as u16), 1, bus.now);
        if !self.raised[channel] {
            self.interrupt(channel, bus);
        }
    }

    /// The CPU looks at a card, unless it was stopped meanwhile.
    pub(in crate::engine::sim) fn handled(&mut self, handled: Handled, bus: &mut Bus<'_>) {
        bus.note_handler(handled);
        let channel = usize::from(handled.master.1);
        if mem::take(&mut self.raised[channel]) {
            self.interrupt(channel, bus);
        }
    }
}
