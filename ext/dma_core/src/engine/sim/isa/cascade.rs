//! The two controllers of the IBM AT, and the page registers beside them (IBM PC AT Technical Reference, "DMA Controller"; the
//! ports have their names in the Linux kernel's `arch/x86/include/asm/dma.h`).
//!
//! | Ports | |
//! |---|---|
//! | 0x00-0x0f | the controller of channels 0 to 3, which move bytes |
//! | 0xc0-0xdf, every second | the controller of channels 4 to 7, which move words of 16 bits; channel 4 has the other in cascade |
//! | 0x80-0x8f | page registers: 87, 83, 81, 82 of channels 0 to 3; 8b, 89, 8a of 5 to 7. Nobody uses the others |
//!
//! An address is 24 bits: the page's 8 and the controller's 16; of a word the page's upper 7, the controller's 16, and a zero. The
//! page does not count: a transfer that passes the end of 64 KiB (128 KiB of words) goes on at their beginning.

use super::chip::{mode, port, Chip, Pace, Service, Transfer, Walk};

/// Where the ports of the second controller, and the page registers, are.
const SECOND: u16 = 0xc0;
const PAGES: u16 = 0x80;
/// The page register of each channel. That of channel 4 is for refreshing memory.
const PAGE_PORTS: [u16; 8] = [0x87, 0x83, 0x81, 0x82, 0x8f, 0x8b, 0x89, 0x8a];

/// The channel through which the second controller passes the bus on.
pub(super) const CASCADE: u16 = 4;

/// Bus cycles of a clock of the controllers: they run at half the speed of the bus.
const CLOCK: u64 = 2;

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First(u16),
    Second(u16),
    Page(usize),
}

fn place(at: u16) -> Option<Place> {
    match at {
        0x00..=0x0f => Some(Place::First(at)),
        PAGES..=0x8f => Some(Place::Page(usize::from(at - PAGES))),
        SECOND..=0xdf => Some(Place::Second((at - SECOND) / 2)),
        _ => None,
    }
}

/// Where the ports of a channel are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub address: u16,
    pub count: u16,
    pub page: u16,
    pub mask: u16,
    pub mode: u16,
    pub clear_flip_flop: u16,
    /// The number of the channel in its controller.
    pub number: u8,
}

impl Ports {
    pub(super) fn of(channel: u16) -> Ports {
        let (base, step, number) = if is_wide(channel) { (SECOND, 2, channel - 4) } else { (0, 1, channel) };
        let at = |register: u16| base + step * register;
        Ports {
            address: at(2 * number),
            count: at(2 * number + 1),
            page: PAGE_PORTS[usize::from(channel)],
            mask: at(port::MASK),
            mode: at(port::MODE),
            clear_flip_flop: at(port::CLEAR_FLIP_FLOP),
            number: number as u8,
        }
    }
}

/// Whether a channel moves words.
pub(super) fn is_wide(channel: u16) -> bool {
    channel >= CASCADE
}

/// Bytes in which a channel's addresses wrap.
pub(super) fn page_size(channel: u16) -> u64 {
    (1 << 16) << u32::from(is_wide(channel))
}

/// Who has the bus, and what for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    pub channel: u16,
    pub service: Service,
    /// Bytes of a transfer.
    pub width: u64,
    compressed: bool,
    /// The pages of the channel and, of memory to memory, of the one that is written.
    pages: [u8; 2],
}

impl Grant {
    /// The bus address of a transfer of the channel.
    pub(super) fn address(&self, walk: Walk) -> u64 {
        self.place(self.pages[0], walk)
    }

    /// Of memory to memory the one that is written to.
    pub(super) fn target(&self, to: Walk) -> u64 {
        self.place(self.pages[1], to)
    }

    fn place(&self, page: u8, walk: Walk) -> u64 {
        let (page, address) = (u64::from(page), u64::from(walk.address));
        match self.width {
            1 => page << 16 | address,
            _ => (page & !1) << 16 | address << 1,
        }
    }

    /// Bus cycles before a run of transfers, and of each of them: S1, which there is where A8 to A15 change, and S2 to S4, or S2 and
    /// S4; from memory to memory S11 to S14 and S21 to S24 ("Active Cycle", "Compressed Timing", "Memory-to-Memory").
    pub(super) fn cycles(&self) -> (u64, u64) {
        match (self.service.transfer, self.compressed) {
            (Transfer::MemoryToMemory { .. }, _) => (0, 8 * CLOCK),
            (_, false) => (CLOCK, 3 * CLOCK),
            (_, true) => (CLOCK, 2 * CLOCK),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Pair {
    first: Chip,
    second: Chip,
    pages: [u8; 16],
}

impl Pair {
    /// As the BIOS leaves them: all channels are masked but the one that passes the bus on to the first controller.
    pub(super) fn new() -> Pair {
        let (first, mut second) = (Chip::new(), Chip::new());
        second.write(port::MODE, mode::CASCADE);
        second.write(port::MASK, 0);
        Pair { first, second, pages: [0; 16] }
    }

    /// Reads a port; `None` where there is nothing.
    pub(super) fn read(&mut self, at: u16) -> Option<u8> {
        Some(match place(at)? {
            Place::First(register) => self.first.read(register),
            Place::Second(register) => self.second.read(register),
            Place::Page(index) => self.pages[index],
        })
    }

    /// Writes a port; nothing where there is none.
    pub(super) fn write(&mut self, at: u16, value: u8) {
        match place(at) {
            Some(Place::First(register)) => self.first.write(register, value),
            Some(Place::Second(register)) => self.second.write(register, value),
            Some(Place::Page(index)) => self.pages[index] = value,
            None => {}
        }
        self.pass_on();
    }

    /// Sets the DREQ pin of a channel.
    pub(super) fn set_request(&mut self, channel: u16, on: bool) {
        let (chip, number) = self.chip(channel);
        chip.set_request(number, on);
        self.pass_on();
    }

    /// EOP of a channel from outside.
    pub(super) fn end(&mut self, channel: u16) {
        let (chip, number) = self.chip(channel);
        chip.end(number);
        self.pass_on();
    }

    fn chip(&mut self, channel: u16) -> (&mut Chip, usize) {
        match is_wide(channel) {
            true => (&mut self.second, usize::from(channel - CASCADE)),
            false => (&mut self.first, usize::from(channel)),
        }
    }

    /// HRQ of the first controller is DREQ of channel 4.
    fn pass_on(&mut self) {
        self.second.set_request(0, self.first.service().is_some());
    }

    /// Who has the bus when the processor gives it away; `None` where nobody asks for it.
    pub(super) fn grant(&self) -> Option<Grant> {
        let outer = self.second.service()?;
        let is_first = outer.pace == Pace::Cascade && outer.channel == 0;
        let (chip, service, width) =
            if is_first { (&self.first, self.first.service()?, 1) } else { (&self.second, outer, 2) };
        let channel = service.channel as u16 + if is_first { 0 } else { CASCADE };
        // A card that is passed the bus would have to be a master; the register between reading and writing holds a byte.
        let moves = match service.transfer {
            _ if service.pace == Pace::Cascade => false,
            Transfer::MemoryToMemory { .. } => is_first,
            _ => true,
        };
        let page = |channel: u16| self.pages[usize::from(PAGE_PORTS[usize::from(channel)] - PAGES)];
        let pages = [page(channel), page((channel + 1).min(7))];
        moves.then_some(Grant { channel, service, width, compressed: chip.is_compressed(), pages })
    }

    /// Whether a service is under way.
    pub(super) fn is_active(&self) -> bool {
        self.first.is_active() || self.second.is_active()
    }

    /// The bus is given to it: nobody interrupts this service, or the transfer under way where it is single.
    pub(super) fn begin(&mut self, grant: &Grant) {
        self.second.begin();
        if !is_wide(grant.channel) {
            self.first.begin();
        }
    }

    /// So many transfers were made of those that the bus is [granted](Pair::grant) for; true at the terminal count.
    pub(super) fn advance(&mut self, grant: &Grant, transfers: u32) -> bool {
        if is_wide(grant.channel) {
            return self.second.advance(transfers);
        }
        self.second.advance(0);
        let is_over = self.first.advance(transfers);
        if !self.first.is_active() {
            // It gives the bus back, and then asks for it anew.
            self.second.set_request(0, false);
        }
        self.pass_on();
        is_over
    }

    /// Keeps the byte that went from memory to memory.
    pub(super) fn hold(&mut self, byte: u8) {
        self.first.hold(byte);
    }
}

#[cfg(test)]
mod tests;
