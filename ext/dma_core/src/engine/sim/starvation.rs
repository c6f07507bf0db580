//! Who asks for a bus and never gets it, and why: for whoever gives up waiting for that.

use super::arbiter::Arbitration;
use super::core::{waits_in_vain, Core, Seat};

impl Core {
    /// What keeps a channel from the bus for as long as others go on as they do; `None` where nothing does.
    pub(super) fn starvation(&self, device: u32, channel: u16) -> Option<String> {
        let index = self.seats.iter().position(|seat| seat.controller.is_of(device, Some(channel)))?;
        let Seat { controller, bus, asked, .. } = &self.seats[index];
        let bus = *bus;
        if self.buses[bus].current.is_some_and(|current| current.index == index) {
            return None;
        }
        let is_passed_over = || {
            let asks = |seat: &Seat| seat.bus == bus && seat.asked.is_some();
            self.options.arbitration == Arbitration::Fixed && self.seats[..index].iter().any(asks)
        };
        let (why, remedy) = if waits_in_vain(controller, self.cpu.as_ref(), &self.options.timing, &self.memory) {
            ("the CPU leaves no gap of a word for mode: :transparent", "give a lower cpu_load:, or another mode:")
        } else if is_passed_over() {
            ("those before it have that with arbitration: :fixed", "give another arbitration:, or wait for them first")
        } else {
            return None;
        };
        let asked = (*asked)?;
        Some(format!("its channel has asked for the bus since cycle {asked}, and {why}; {remedy}"))
    }
}
