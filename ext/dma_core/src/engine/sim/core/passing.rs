//! Looking into the run of transfers that an 8237 has the bus for: what of it has passed is carried out, and the rest goes on.

use super::{timing, Core, Current};
use crate::engine::sim::cpu::Block;
use crate::engine::sim::timing::Timing;

impl Core {
    /// Carries out what has been transferred by now of the run that a master has the bus for. The run ends when it would have
    /// ended, and was granted once, however often somebody looks.
    pub(super) fn settle(&mut self, index: usize) {
        let seat = &self.seats[index];
        let (bus, Some(piece)) = (seat.bus, seat.controller.piece()) else { return };
        let Some(current) = self.buses[bus].current.filter(|current| current.index == index) else { return };
        // S1 is over with the first transfer.
        let timing = Timing { setup: 0, ..*timing(&seat.controller, &self.options.timing) };
        let left = |bytes: u64| Block::new(bytes, current.mode, &timing, &self.memory);
        let edge = |bytes: u64| current.end.saturating_sub(left(bytes).cycles);
        // A few transfers together take no more than each by itself.
        let most = current.end.saturating_sub(self.now) / left(piece).cycles.max(1);
        let mut rests = (most.max(1)..current.len / piece).map(|count| count * piece);
        let Some(rest) = rests.find(|rest| edge(*rest) <= self.now) else { return };
        let (passed, rest) = current.cut(edge(rest), rest, left(rest));
        let (now, master) = (self.now, seat.controller.master());
        self.end(passed);
        self.now = now;
        let seat = &mut self.seats[index];
        // It may have met a fault.
        let goes_on = seat.controller.master() == master && seat.controller.next_len(rest.len) >= Some(rest.len);
        self.buses[bus].current = goes_on.then_some(rest);
        if goes_on {
            seat.asked = Some(rest.asked);
            seat.stats.grants -= 1;
        }
    }
}

impl Current {
    /// What is over at `edge`, and the last `len` bytes, which take the bus for `block`.
    fn cut(self, edge: u64, len: u64, block: Block) -> (Current, Current) {
        let waits = self.waits.min(edge.saturating_sub(self.begin));
        let (before, block) = self.block.cut(block);
        let passed = Current { len: self.len - len, end: edge, waits, block: before, ..self };
        (passed, Current { len, asked: edge, begin: edge, waits: self.waits - waits, block, ..self })
    }
}
