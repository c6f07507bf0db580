//! A channel's interrupts on their way to the CPU: held back, masked, sent as a message, and handled when the CPU has time.
//!
//! A message is a posted write of four bytes (PCI 3.0, 6.8.3.3). It takes no cycles of the bus here: it goes with the status before it.

use std::ptr;
use std::sync::atomic::Ordering::Relaxed;

use super::controller::{Bus, Controller};
use super::handler::Handled;
use super::moderation::{Coalesce, Moderation};
use super::timing::Timing;
use super::trace::{Event, What};
use super::vector::Vector;

/// What is between the completions of a channel and its messages.
#[derive(Debug)]
pub(super) struct Signal {
    /// Where its messages go: an entry of the [table](super::remapping).
    pub entry: usize,
    pub moderation: Moderation,
    pub vector: Vector,
}

impl Default for Signal {
    fn default() -> Signal {
        Signal { entry: 0, moderation: Moderation::new(Coalesce::NONE, &Timing::IDEAL), vector: Vector::default() }
    }
}

impl Signal {
    /// Nobody is to be told of anything any more.
    pub(super) fn forget(&mut self) {
        self.moderation.clear();
        self.vector.clear();
    }
}

impl Bus<'_> {
    /// Writes down for how long the CPU is busy.
    pub(super) fn note_handler(&mut self, handled: Handled) {
        let Handled { master: (device, channel), begin, end } = handled;
        if let Some(trace) = self.trace {
            let (cycle, asked, what) = (end, begin, What::Handler);
            trace.events.push(Event { cycle, asked, begin, waits: 0, device, channel, what, address: 0, len: 0 });
        }
    }
}

impl Controller {
    /// A completion asks for an interrupt.
    pub(super) fn interrupt(&mut self, lost: bool, bus: &mut Bus<'_>) {
        if lost {
            return self.note(bus, What::LostInterrupt, 0, 0);
        }
        self.signal.moderation.add(bus.now);
        self.tell(bus);
    }

    /// Tells of what was held back long enough, and has itself called again for what was not.
    pub(super) fn tell(&mut self, bus: &mut Bus<'_>) {
        match self.signal.moderation.due() {
            Some(due) if due > bus.now => bus.timers.set(due, self.master()),
            Some(_) => {
                let told = self.signal.moderation.take(bus.now);
                let completions = self.signal.vector.send(told);
                self.send(completions, bus);
            }
            None => {}
        }
    }

    /// When it has to be called by, because of what it holds back.
    pub(super) fn due(&self) -> Option<u64> {
        self.signal.moderation.due()
    }

    /// Whether it has completed what nobody was told of yet, and somebody will be.
    pub(super) fn owes(&self, bus: &Bus<'_>) -> bool {
        let Signal { moderation, vector, .. } = &self.signal;
        moderation.due().is_some() || vector.is_pending() || bus.handlers.has(self.master())
    }

    /// Follows another rule from now on.
    pub(super) fn coalesce(&mut self, coalesce: Coalesce, bus: &mut Bus<'_>) {
        self.signal.moderation.change(coalesce, bus.timing, bus.now);
        self.tell(bus);
        self.say_whether_late(bus);
    }

    /// Writes its Vector Control register.
    pub(super) fn set_vector_control(&mut self, control: u32, bus: &mut Bus<'_>) {
        let completions = self.signal.vector.set_control(control);
        self.send(completions, bus);
        self.say_whether_late(bus);
    }

    /// Masks it with all of its device, or not any more.
    pub(super) fn set_function_mask(&mut self, masked: bool, bus: &mut Bus<'_>) {
        let completions = self.signal.vector.set_function_mask(masked);
        self.send(completions, bus);
        self.say_whether_late(bus);
    }

    /// The CPU looks for what it completed.
    pub(super) fn handled(&mut self, handled: Handled, bus: &mut Bus<'_>) {
        bus.note_handler(handled);
        self.port.raise();
    }

    /// Writes four bytes of the device where they are a message. Whether it may.
    pub(super) fn write_message(&self, from: u64, to: u64, bus: &mut Bus<'_>) -> bool {
        let mut data = [0; 4];
        // SAFETY: the four bytes were found to lie in the device's memory.
        unsafe { ptr::copy_nonoverlapping(self.port.common.device(from), data.as_mut_ptr(), data.len()) };
        match bus.remapping.receive(self.port.common.number, to, u32::from_le_bytes(data)) {
            Some(Some((cpu, master))) => bus.handlers.disturb(cpu, master, bus.now),
            Some(None) => {}
            None => return false,
        }
        true
    }

    fn say_whether_late(&self, bus: &Bus<'_>) {
        let Signal { moderation, vector, .. } = &self.signal;
        self.port.late.store(moderation.holds() || vector.is_masked() || !bus.handlers.are_free(), Relaxed);
    }

    fn send(&mut self, completions: u64, bus: &mut Bus<'_>) {
        if completions == 0 {
            return;
        }
        self.note(bus, What::Interrupt, 0, 0);
        self.port.interrupts.fetch_add(1, Relaxed);
        let cpu = bus.remapping.cpu(self.signal.entry);
        if bus.handlers.ask(cpu, self.master(), completions, bus.now) {
            self.port.raise();
        }
    }
}
