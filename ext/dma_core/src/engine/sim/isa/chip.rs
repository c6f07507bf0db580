//! An Intel 8237A, as its data sheet (order number 231466) has it: registers, requests, priority, counting. It moves no bytes
//! itself: it says which channel is served and at which addresses, and is told how many transfers were made.
//!
//! | Port | Written | Read |
//! |---|---|---|
//! | 0, 2, 4, 6 | base and current address of channel 0 to 3 | current address |
//! | 1, 3, 5, 7 | base and current word count | current word count |
//! | 8 | command, see [`command`] | status: 0 to 3 terminal count, cleared by reading; 4 to 7 DREQ |
//! | 9 | request: bits 0, 1 channel, bit 2 set | |
//! | A | mask of one channel: bits 0, 1 channel, bit 2 set | |
//! | B | mode: bits 0, 1 channel, others see [`mode`] | |
//! | C | clears the first/last flip-flop | |
//! | D | master clear | temporary register |
//! | E | clears all masks | |
//! | F | all masks | |
//!
//! Two bits of the command are kept and make no difference: the sense of DACK (bit 7), for a card knows its own either way, and
//! extended write (bit 5), a longer pulse within the same states.

/// Bits of the command register ("Command Register").
pub(super) mod command {
    pub const MEMORY_TO_MEMORY: u8 = 0x01;
    pub const ADDRESS_HOLD: u8 = 0x02;
    pub const DISABLE: u8 = 0x04;
    pub const COMPRESSED: u8 = 0x08;
    pub const ROTATING: u8 = 0x10;
    pub const DREQ_LOW: u8 = 0x40;
}

/// Bits of a mode ("Mode Register").
pub(super) mod mode {
    pub const TRANSFER: u8 = 0x0c;
    pub const TO_MEMORY: u8 = 0x04;
    pub const FROM_MEMORY: u8 = 0x08;
    pub const AUTOINITIALIZE: u8 = 0x10;
    pub const DECREMENT: u8 = 0x20;
    pub const DEMAND: u8 = 0x00;
    pub const SINGLE: u8 = 0x40;
    pub const BLOCK: u8 = 0x80;
    pub const CASCADE: u8 = 0xc0;
}

/// Registers by port, from 8 on.
pub(super) mod port {
    pub const COMMAND: u16 = 0x8;
    pub const REQUEST: u16 = 0x9;
    pub const MASK: u16 = 0xa;
    pub const MODE: u16 = 0xb;
    pub const CLEAR_FLIP_FLOP: u16 = 0xc;
    pub const MASTER_CLEAR: u16 = 0xd;
    pub const CLEAR_MASKS: u16 = 0xe;
    pub const ALL_MASKS: u16 = 0xf;
}

/// What a port reads as that has nothing to read.
const FLOATING: u8 = 0xff;
const CHANNELS: usize = 4;
/// Transfers whose addresses have the same A8 to A15.
const LATCH: u32 = 256;

/// How a channel takes the bus ("Active Cycle").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Until terminal count, or as long as DREQ is active.
    Demand,
    /// For one transfer.
    Single,
    /// Until terminal count.
    Block,
    /// It only passes the bus on, to another controller.
    Cascade,
}

/// What a transfer does ("Transfer Types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// Addresses and DACK, and no byte moves. The code that the data sheet calls illegal does the same here.
    Verify,
    /// From the device to memory: the data sheet's write.
    ToMemory,
    /// From memory to the device: the data sheet's read.
    FromMemory,
    /// From the address of channel 0, which may be held, to this one of channel 1.
    MemoryToMemory { to: Walk, holds: bool },
}

/// Where an address register is, and which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walk {
    pub address: u16,
    pub down: bool,
}

impl Walk {
    /// Where it is after so many transfers.
    pub(super) fn after(self, transfers: u16) -> Walk {
        let Walk { address, down } = self;
        Walk { address: if down { address.wrapping_sub(transfers) } else { address.wrapping_add(transfers) }, down }
    }
}

/// What the controller does with the bus when it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Service {
    pub channel: usize,
    pub pace: Pace,
    pub transfer: Transfer,
    pub walk: Walk,
    /// Transfers until the terminal count.
    pub left: u32,
}

impl Service {
    /// How many transfers go in one go: until A8 to A15 change, which takes a state of its own ("Address Generation").
    pub(super) fn run(&self) -> u32 {
        let low = u32::from(self.walk.address) % LATCH;
        let together = match (self.pace, self.transfer) {
            (Pace::Single, _) => 1,
            (_, Transfer::MemoryToMemory { .. }) => LATCH,
            _ if self.walk.down => low + 1,
            _ => LATCH - low,
        };
        together.min(self.left)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Channel {
    base_address: u16,
    base_count: u16,
    address: u16,
    count: u16,
    mode: u8,
}

impl Channel {
    fn pace(&self) -> Pace {
        match self.mode & mode::CASCADE {
            mode::DEMAND => Pace::Demand,
            mode::SINGLE => Pace::Single,
            mode::BLOCK => Pace::Block,
            _ => Pace::Cascade,
        }
    }

    fn walk(&self) -> Walk {
        Walk { address: self.address, down: self.mode & mode::DECREMENT != 0 }
    }

    fn left(&self) -> u32 {
        u32::from(self.count) + 1
    }

    fn is_autoinitialized(&self) -> bool {
        self.mode & mode::AUTOINITIALIZE != 0
    }

    fn autoinitialize(&mut self) {
        (self.address, self.count) = (self.base_address, self.base_count);
    }

    /// Counts transfers; true where the count went from 0 to FFFF.
    fn advance(&mut self, transfers: u32, holds: bool) -> bool {
        let is_over = transfers >= self.left();
        self.count = self.count.wrapping_sub(transfers as u16);
        if !holds {
            self.address = self.walk().after(transfers as u16).address;
        }
        is_over
    }

    /// The byte of a pair of registers, base and current.
    fn write(&mut self, is_count: bool, high: bool, value: u8) {
        let [base, current] = match is_count {
            true => [&mut self.base_count, &mut self.count],
            false => [&mut self.base_address, &mut self.address],
        };
        for register in [base, current] {
            let mut bytes = register.to_le_bytes();
            bytes[usize::from(high)] = value;
            *register = u16::from_le_bytes(bytes);
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Chip {
    channels: [Channel; CHANNELS],
    command: u8,
    /// A bit for each channel: its terminal count was reached; software requests it; it is masked; its DREQ pin is high.
    reached: u8,
    requested: u8,
    masked: u8,
    pins: u8,
    /// The next byte of a register of 16 bits is the high one: the first/last flip-flop.
    high: bool,
    temporary: u8,
    /// Whose service is under way, and whose was the last: it comes last where priority rotates.
    active: Option<usize>,
    last: usize,
}

impl Chip {
    /// One after a reset.
    pub(super) fn new() -> Chip {
        Chip {
            channels: [Channel::default(); CHANNELS],
            command: 0,
            reached: 0,
            requested: 0,
            masked: 0xf,
            pins: 0,
            high: false,
            temporary: 0,
            active: None,
            last: CHANNELS - 1,
        }
    }

    /// Clears what a reset clears ("Software Commands", Master Clear): not addresses, counts and modes.
    fn master_clear(&mut self) {
        let Chip { channels, pins, .. } = *self;
        *self = Chip { channels, pins, ..Chip::new() };
    }

    /// Reads the register at a port, from 0 to F.
    pub(super) fn read(&mut self, at: u16) -> u8 {
        match at {
            0..=7 => {
                let channel = &self.channels[usize::from(at / 2)];
                let register = if at % 2 == 1 { channel.count } else { channel.address };
                register.to_le_bytes()[usize::from(self.flip())]
            }
            port::COMMAND => std::mem::take(&mut self.reached) | self.requests() << 4,
            port::MASTER_CLEAR => self.temporary,
            _ => FLOATING,
        }
    }

    /// Writes the register at a port, from 0 to F.
    pub(super) fn write(&mut self, at: u16, value: u8) {
        let (channel, one) = (usize::from(value & 3), 1 << (value & 3));
        let put = |bits: u8| if value & 4 != 0 { bits | one } else { bits & !one };
        match at {
            0..=7 => {
                let high = self.flip();
                self.channels[usize::from(at / 2)].write(at % 2 == 1, high, value);
            }
            port::COMMAND => self.command = value,
            port::REQUEST => self.requested = put(self.requested),
            port::MASK => self.masked = put(self.masked),
            port::MODE => self.channels[channel].mode = value & !3,
            port::CLEAR_FLIP_FLOP => self.high = false,
            port::MASTER_CLEAR => self.master_clear(),
            port::CLEAR_MASKS => self.masked = 0,
            port::ALL_MASKS => self.masked = value & 0xf,
            _ => {}
        }
        // A block that is masked ends: on a board the processor, which has no bus meanwhile, could not do that.
        self.active = self.active.filter(|channel| self.wants(*channel));
    }

    fn flip(&mut self) -> bool {
        self.high = !self.high;
        !self.high
    }

    /// The channels whose DREQ is active.
    fn requests(&self) -> u8 {
        if self.command & command::DREQ_LOW != 0 {
            !self.pins & 0xf
        } else {
            self.pins
        }
    }

    /// Sets the DREQ pin of a channel.
    pub(super) fn set_request(&mut self, channel: usize, on: bool) {
        let bit = 1 << channel;
        self.pins = if on { self.pins | bit } else { self.pins & !bit };
        self.active = self.active.filter(|active| *active != channel || self.wants(channel));
    }

    /// Whether a channel has something to do, or goes on with a service.
    fn wants(&self, channel: usize) -> bool {
        let (bit, pace) = (1 << channel, self.channels[channel].pace());
        // Requests of software cannot be masked, and are for blocks only ("Request Register").
        let by_software = self.requested & bit != 0 && pace == Pace::Block;
        let goes_on = self.active == Some(channel) && pace == Pace::Block;
        let by_device = self.masked & bit == 0 && (self.requests() & bit != 0 || goes_on);
        match (self.is_memory_to_memory(), channel) {
            _ if self.command & command::DISABLE != 0 => false,
            (true, 0) => by_software,
            (true, 1) => false,
            _ => by_software || by_device,
        }
    }

    fn is_memory_to_memory(&self) -> bool {
        self.command & command::MEMORY_TO_MEMORY != 0
    }

    /// Whether transfers lack their S3 ("Compressed Timing"); those from memory to memory never do.
    pub(super) fn is_compressed(&self) -> bool {
        self.command & command::COMPRESSED != 0 && !self.is_memory_to_memory()
    }

    /// Whether a service is under way: the bus is not given back between two transfers.
    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// What it does with the bus; `None` where it does not ask for it.
    pub(super) fn service(&self) -> Option<Service> {
        // The channel in service is not interrupted by any other ("Priority").
        let first = if self.command & command::ROTATING != 0 { self.last + 1 } else { 0 };
        let by_priority =
            || (first..first + CHANNELS).map(|number| number % CHANNELS).find(|number| self.wants(*number));
        let channel = self.active.or_else(by_priority)?;
        let Channel { mode: bits, .. } = self.channels[channel];
        let (mut left, pace) = (self.channels[channel].left(), self.channels[channel].pace());
        let transfer = match bits & mode::TRANSFER {
            _ if channel == 0 && self.is_memory_to_memory() => {
                let [from, to, ..] = &self.channels;
                left = if from.is_autoinitialized() { to.left().min(from.left()) } else { to.left() };
                Transfer::MemoryToMemory { to: to.walk(), holds: self.holds() }
            }
            mode::TO_MEMORY => Transfer::ToMemory,
            mode::FROM_MEMORY => Transfer::FromMemory,
            _ => Transfer::Verify,
        };
        Some(Service { channel, pace, transfer, walk: self.channels[channel].walk(), left })
    }

    fn holds(&self) -> bool {
        self.command & command::ADDRESS_HOLD != 0
    }

    /// The [service](Chip::service) has the bus.
    pub(super) fn begin(&mut self) {
        self.active = self.service().map(|service| service.channel);
    }

    /// So many transfers of the [service](Chip::service) were made, no more than were left; true where that was the terminal
    /// count.
    pub(super) fn advance(&mut self, transfers: u32) -> bool {
        let Some(Service { channel, pace, transfer, .. }) = self.service() else { return false };
        (self.active, self.last) = (Some(channel), channel);
        if let Transfer::MemoryToMemory { holds, .. } = transfer {
            // The count of channel 0 ends nothing ("Memory-to-Memory").
            if self.channels[0].advance(transfers, holds) && self.channels[0].is_autoinitialized() {
                self.channels[0].autoinitialize();
            }
            let is_over = self.channels[1].advance(transfers, false);
            if is_over {
                self.end(1);
            }
            return is_over;
        }
        let is_over = pace != Pace::Cascade && self.channels[channel].advance(transfers, false);
        if is_over {
            self.end(channel);
        } else if pace == Pace::Single {
            self.active = None;
        }
        is_over
    }

    /// The last byte that was moved from memory to memory.
    pub(super) fn hold(&mut self, byte: u8) {
        self.temporary = byte;
    }

    /// EOP of a channel, its own at the terminal count or from outside: its service ends ("Autoinitialize", "Mask Register").
    pub(super) fn end(&mut self, channel: usize) {
        let bit = 1 << channel;
        self.reached |= bit;
        self.requested &= !bit;
        if self.channels[channel].is_autoinitialized() {
            self.channels[channel].autoinitialize();
        } else {
            self.masked |= bit;
        }
        if channel == 1 && self.is_memory_to_memory() {
            self.requested &= !1;
        }
        self.active = None;
    }
}

#[cfg(test)]
mod tests;
