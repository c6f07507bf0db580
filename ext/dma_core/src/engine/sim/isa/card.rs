//! The card on a channel: it asks the controller for transfers to or from its memory. A 16-bit card, on channels 5 to 7, takes
//! even addresses and counts.
//!
//! Its ports are at `0x300 + 0x10 * channel`:
//!
//! | Offset | Register | Width | |
//! |---|---|---|---|
//! | 0x0 | ADDRESS | 32 | where in its memory; counts up |
//! | 0x4 | COUNT | 32 | bytes that it asks for; counts down |
//! | 0x8 | CONTROL | 32 | see [`control`] |
//! | 0xc | STATUS | 32 | see [`status`]; bits 8 to 15: the code of [`Status`] |

use super::chip::Transfer;
use crate::engine::sim::faults::Kind;
use crate::transfer::Status;

/// Bits of the CONTROL register; the first two are those of a descriptor. Without either, as for a verify, no byte moves.
pub(super) mod control {
    pub const TO_DEVICE: u32 = 0x01;
    pub const FROM_DEVICE: u32 = 0x02;
    /// It goes on asking past a terminal count, for a channel that is autoinitialized.
    pub const THROUGH: u32 = 0x04;
    /// It pulls EOP with its last byte.
    pub const EOP: u32 = 0x08;
    /// It begins to ask: its DREQ is active until COUNT is 0, or the controller reaches its terminal count.
    pub const START: u32 = 0x10;
    pub const STOP: u32 = 0x20;
}

/// Bits of the STATUS register.
pub(super) mod status {
    /// It asks.
    pub const BUSY: u32 = 0x01;
    /// What it asked for was moved, or the terminal count ended it.
    pub const DONE: u32 = 0x02;
    pub const ERROR: u32 = 0x04;
    /// The terminal count was reached since it was started.
    pub const TERMINAL_COUNT: u32 = 0x08;
}

/// Where the ports are, and bytes of each card's.
pub(super) const PORTS: u64 = 0x300;
pub(super) const BLOCK: u64 = 0x10;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Card {
    address: u32,
    count: u32,
    control: u32,
    status: u32,
    /// Why it gave up.
    failure: Option<Status>,
    /// A fault: it asks for nothing though it has not ended.
    is_stuck: bool,
    /// A fault: nobody hears its interrupt.
    pub is_mute: bool,
    /// What goes wrong with its next byte.
    pub fault: Option<Kind>,
}

impl Card {
    /// Reads `width` bytes of its ports.
    pub(super) fn read(&self, at: u64, width: u8) -> u64 {
        let bits = u64::MAX >> (64 - 8 * u32::from(width));
        (self.registers() >> (8 * at)) as u64 & bits
    }

    /// Writes `width` bytes of its ports. It has `memory` bytes, and moves `unit` bytes at a time.
    pub(super) fn write(&mut self, at: u64, width: u8, value: u64, (memory, unit): (u64, u64)) {
        let bits = u128::from(u64::MAX >> (64 - 8 * u32::from(width))) << (8 * at);
        let registers = self.registers() & !bits | u128::from(value) << (8 * at) & bits;
        let [address, count, control] = [0, 32, 64].map(|from| (registers >> from) as u32);
        // While it asks, it counts in these.
        if !self.is_busy() {
            (self.address, self.count) = (address, count);
        }
        self.control = control & 0xf;
        if !(at..at + u64::from(width)).contains(&8) {
            return;
        }
        if control & control::STOP != 0 {
            self.stop();
        } else if control & control::START != 0 {
            self.start(memory, unit);
        }
    }

    fn registers(&self) -> u128 {
        let Card { address, count, control, status, .. } = *self;
        [status, control, count, address].into_iter().fold(0, |all, register| all << 32 | u128::from(register))
    }

    fn start(&mut self, memory: u64, unit: u64) {
        let (address, count) = (u64::from(self.address), u64::from(self.count));
        (self.status, self.failure, self.fault) = (status::BUSY, None, None);
        (self.is_stuck, self.is_mute) = (false, false);
        if address % unit != 0 || count % unit != 0 {
            self.fail(Status::BadLength);
        } else if address + count > memory {
            self.fail(if self.control & control::FROM_DEVICE != 0 {
                Status::BadSource
            } else {
                Status::BadDestination
            });
        } else if count == 0 {
            self.status = status::DONE;
        }
    }

    /// It asks no more, and says nothing of what it did.
    pub(super) fn stop(&mut self) {
        (self.status, self.is_stuck) = (0, false);
    }

    /// Whether it has something to move, asking for it or not.
    pub(super) fn is_busy(&self) -> bool {
        self.status & status::BUSY != 0
    }

    /// Whether its DREQ is active.
    pub(super) fn asks(&self) -> bool {
        self.is_busy() && !self.is_stuck
    }

    /// Bytes that it still asks for.
    pub(super) fn left(&self) -> u64 {
        self.count.into()
    }

    /// Where in its memory the next byte is.
    pub(super) fn address(&self) -> u64 {
        self.address.into()
    }

    /// Whether the controller moves bytes the way that the card is set to.
    pub(super) fn agrees(&self, transfer: Transfer) -> bool {
        match transfer {
            Transfer::ToMemory => self.control & control::FROM_DEVICE != 0,
            Transfer::FromMemory => self.control & control::TO_DEVICE != 0,
            Transfer::Verify | Transfer::MemoryToMemory { .. } => true,
        }
    }

    /// So many bytes were moved; true where the card pulls EOP.
    pub(super) fn advance(&mut self, bytes: u64) -> bool {
        self.address = self.address.wrapping_add(bytes as u32);
        self.count = self.count.saturating_sub(bytes as u32);
        if self.count == 0 {
            self.status = self.status & status::TERMINAL_COUNT | status::DONE;
        }
        self.count == 0 && self.control & control::EOP != 0
    }

    /// The controller reached its terminal count.
    pub(super) fn reach_terminal_count(&mut self) {
        self.status |= status::TERMINAL_COUNT;
        if self.is_busy() && self.control & control::THROUGH == 0 {
            self.status = status::TERMINAL_COUNT | status::DONE;
        }
    }

    /// Gives up.
    pub(super) fn fail(&mut self, why: Status) {
        self.status = status::ERROR | (why.code() & 0xff) << 8;
        self.failure = Some(why);
    }

    /// Why it gave up.
    pub(super) fn failure(&self) -> Option<Status> {
        self.failure
    }

    /// Asks no more, and does not end.
    pub(super) fn hang(&mut self) {
        self.is_stuck = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: (u64, u64) = (0x1000, 1);

    fn started(address: u64, count: u64, control: u32) -> Card {
        let mut card = Card::default();
        card.write(0, 4, address, MEMORY);
        card.write(4, 4, count, MEMORY);
        card.write(8, 4, (control | control::START).into(), MEMORY);
        card
    }

    fn status(card: &Card) -> u32 {
        card.read(12, 4) as u32
    }

    #[test]
    fn it_asks_until_it_has_all_that_it_asked_for() {
        let mut card = started(0x100, 10, control::FROM_DEVICE);
        assert_eq!((card.asks(), status(&card), card.read(8, 4)), (true, status::BUSY, 2));
        assert!(!card.advance(4));
        assert_eq!((card.asks(), card.read(0, 4), card.read(4, 4)), (true, 0x104, 6));
        assert!(!card.advance(6));
        assert_eq!((card.asks(), status(&card), card.read(4, 4)), (false, status::DONE, 0));
    }

    #[test]
    fn a_terminal_count_ends_it_unless_it_goes_on() {
        for (control, asks) in [(control::FROM_DEVICE, false), (control::FROM_DEVICE | control::THROUGH, true)] {
            let mut card = started(0, 10, control);
            card.advance(4);
            card.reach_terminal_count();
            let seen = status::TERMINAL_COUNT | if asks { status::BUSY } else { status::DONE };
            assert_eq!((card.asks(), status(&card), card.left()), (asks, seen, 6));
        }
    }

    #[test]
    fn it_pulls_eop_with_its_last_byte_where_it_is_told_to() {
        let mut card = started(0, 10, control::TO_DEVICE | control::EOP);
        assert!(!card.advance(9));
        assert!(card.advance(1));
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let mut card = started(0, 10, control::TO_DEVICE);
        card.write(8, 1, control::STOP.into(), MEMORY);
        assert_eq!((card.asks(), status(&card), card.left()), (false, 0, 10));
    }

    #[test]
    fn registers_are_written_in_parts_and_only_the_first_byte_of_control_is_a_command() {
        let mut card = Card::default();
        for (at, value) in [(0, 0x34), (1, 0x12), (4, 2), (5, 0)] {
            card.write(at, 1, value, MEMORY);
        }
        card.write(10, 2, 0xffff, MEMORY);
        card.write(12, 4, 0xffff_ffff, MEMORY);
        assert_eq!((card.asks(), card.read(0, 8), status(&card)), (false, 2 << 32 | 0x1234, 0));
        card.write(0, 8, 3 << 32 | 4, MEMORY);
        card.write(8, 8, (control::START | control::TO_DEVICE).into(), MEMORY);
        assert_eq!((card.asks(), card.address(), card.left(), card.read(4, 2), card.read(9, 1)), (true, 4, 3, 3, 0));
    }

    #[test]
    fn what_it_cannot_do_it_refuses_at_once() {
        for (address, count, control, why) in [
            (0xfff, 2, control::FROM_DEVICE, Status::BadSource),
            (0xffff_ffff, 0xffff_ffff, control::TO_DEVICE, Status::BadDestination),
        ] {
            let card = started(address, count, control);
            assert_eq!((card.asks(), card.failure()), (false, Some(why)));
            assert_eq!(status(&card), status::ERROR | why.code() << 8);
        }
        assert_eq!(status(&started(0x1000, 0, control::TO_DEVICE)), status::DONE);
        let mut card = Card::default();
        card.write(4, 4, 3, (0x1000, 2));
        card.write(8, 1, control::START.into(), (0x1000, 2));
        assert_eq!(card.failure(), Some(Status::BadLength));
    }

    #[test]
    fn where_it_is_stays_its_own_while_it_asks() {
        let mut card = started(4, 10, control::TO_DEVICE);
        card.write(0, 8, u64::MAX, MEMORY);
        assert_eq!((card.address(), card.left()), (4, 10));
        card.write(8, 1, (control::START | control::FROM_DEVICE).into(), MEMORY);
        assert_eq!((card.address(), card.left(), card.asks()), (4, 10, true));
        card.advance(10);
        card.write(0, 4, 7, MEMORY);
        assert_eq!(card.address(), 7);
    }

    #[test]
    fn one_that_hangs_asks_no_more_and_is_busy_until_it_is_stopped() {
        let mut card = started(0, 10, control::TO_DEVICE);
        card.hang();
        assert_eq!((card.asks(), card.is_busy()), (false, true));
        card.stop();
        assert_eq!((card.asks(), card.is_busy()), (false, false));
    }

    #[test]
    fn it_moves_bytes_one_way_only() {
        let card = started(0, 10, control::TO_DEVICE);
        let ways = [Transfer::FromMemory, Transfer::ToMemory, Transfer::Verify];
        assert_eq!(ways.map(|transfer| card.agrees(transfer)), [true, false, true]);
    }
}
