//! The registers of a simulated device: a block for the device, then one for each channel. A driver can do everything through
//! them: start a transfer, or set a ring up and ring its doorbell.
//!
//! | Offset | Register | Width | |
//! |---|---|---|---|
//! | 0x00 | ID | 32 | `0x444d4131` |
//! | 0x04 | CHANNELS | 32 | how many channels |
//! | 0x08 | MEMORY | 64 | bytes of device memory |
//! | 0x10 | LINK | 32 | bit 0: the device is reached |
//! | 0x14 | RESET | 32 | writing 1 resets the device |
//! | 0x18 | MESSAGE_CONTROL | 16 | as in an MSI-X capability: bits 0 to 10: vectors less one; bit 14: all are masked; bit 15: set |
//! | 0x20 | PENDING | 4 x 64 | a bit for each channel: its interrupt waits for its vector to be unmasked |
//!
//! Channel *n* from `0x100 + 0x40 * n` on:
//!
//! | Offset | Register | Width | |
//! |---|---|---|---|
//! | 0x00 | SOURCE | 64 | address to read from |
//! | 0x08 | DESTINATION | 64 | address to write to |
//! | 0x10 | COUNT | 32 | bytes; counts down |
//! | 0x14 | CONTROL | 16 | see [`control`] |
//! | 0x16 | STATUS | 16 | see [`status`]; bits 8 to 15: the code of [`Status`] |
//! | 0x18 | POSITION | 32 | bytes moved of the transfer in hand |
//! | 0x1c | HEAD | 32 | the slot that is fetched next |
//! | 0x20 | RING | 64 | bus address of the descriptor ring |
//! | 0x28 | RING_SIZE | 32 | its slots; 0: no ring |
//! | 0x2c | TAIL | 32 | doorbell: descriptors before this slot are there |
//! | 0x30 | FAULT | 64 | bus address of the last fault of the IOMMU |
//! | 0x38 | VECTOR_CONTROL | 32 | as in an MSI-X table: bit 0: the interrupt of the channel is masked |

use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};

use super::device::Device;
use super::vector;
use crate::engine::Registers;
use crate::transfer::{flags, Descriptor, Status};

/// Where the block of a channel begins.
pub fn channel_offset(channel: u16) -> u64 {
    BLOCKS + BLOCK * u64::from(channel)
}

const ID: u32 = 0x444d_4131;
const BLOCKS: u64 = 0x100;
const BLOCK: u64 = 0x40;
const LINK: usize = 0x10;
const RESET: usize = 0x14;
const MESSAGE_CONTROL: usize = 0x18;
const PENDING: Range<usize> = 0x20..0x40;
const CONTROL: usize = 0x14;
const TAIL: usize = 0x2c;
const VECTOR_CONTROL: usize = 0x38;
/// Where a driver has the channel, these are its own: writing them does nothing.
const RING_REGISTERS: Range<usize> = 0x20..0x30;

/// Bits of the CONTROL register; the first three are those of a descriptor.
pub(super) mod control {
    use super::flags;

    pub const INTERRUPT: u16 = flags::INTERRUPT as u16;
    /// Begins a transfer.
    pub const START: u16 = 1 << 8;
    /// Aborts the transfer that the registers began.
    pub const ABORT: u16 = 1 << 9;
    /// Aborts what is under way, and forgets the ring unless a driver has it.
    pub const RESET: u16 = 1 << 10;
}

/// Bits of the STATUS register.
pub(super) mod status {
    pub const BUSY: u16 = 1 << 0;
    pub const DONE: u16 = 1 << 1;
    pub const ERROR: u16 = 1 << 2;
    /// The ring cannot be read; the channel has to be reset.
    pub const HALTED: u16 = 1 << 3;
}

/// What the registers of a channel hold.
#[derive(Debug, Default)]
pub(super) struct Bank {
    pub source: u64,
    pub destination: u64,
    pub count: u32,
    pub control: u16,
    pub status: u16,
    pub position: u32,
    pub head: u32,
    pub ring_base: u64,
    pub ring_size: u32,
    pub fault: u64,
    /// A transfer was asked for and not begun.
    pub start: bool,
}

/// What a write to a channel's registers asks for beside new values.
pub(super) enum Command {
    None,
    Abort,
    Reset,
    Doorbell(u32),
    /// A new Vector Control.
    Mask(u32),
}

impl Bank {
    /// The transfer that the registers describe.
    pub(super) fn descriptor(&self) -> Descriptor {
        let (source, destination, length) = (self.source, self.destination, self.count);
        let flags = u32::from(self.control) & (flags::TO_DEVICE | flags::FROM_DEVICE);
        Descriptor { source, destination, length, flags, ..Descriptor::default() }
    }

    pub(super) fn begin(&mut self) {
        (self.status, self.position) = (status::BUSY, 0);
    }

    /// Shows how far the transfer in hand is.
    pub(super) fn show(&mut self, position: u64, left: u64) {
        (self.position, self.count) = (position as u32, left as u32);
    }

    pub(super) fn end(&mut self, result: Status, halted: bool) {
        self.status = (result.code() as u16) << 8;
        self.status |= if result.is_failure() { status::ERROR } else { status::DONE };
        if halted {
            self.status |= status::HALTED;
        }
        if let Status::IommuFault { address, .. } = result {
            self.fault = address;
        }
    }

    fn image(&self, tail: u32, vector: u32) -> [u8; BLOCK as usize] {
        let mut image = [0; BLOCK as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &self.source.to_le_bytes());
        put(0x08, &self.destination.to_le_bytes());
        put(0x10, &self.count.to_le_bytes());
        put(CONTROL, &self.control.to_le_bytes());
        put(0x16, &self.status.to_le_bytes());
        put(0x18, &self.position.to_le_bytes());
        put(0x1c, &self.head.to_le_bytes());
        put(0x20, &self.ring_base.to_le_bytes());
        put(0x28, &self.ring_size.to_le_bytes());
        put(TAIL, &tail.to_le_bytes());
        put(0x30, &self.fault.to_le_bytes());
        put(VECTOR_CONTROL, &vector.to_le_bytes());
        image
    }

    fn write(&mut self, offset: usize, width: usize, value: u64, tail: u32, vector: u32) -> Command {
        let mut image = self.image(tail, vector);
        image[offset..offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
        let touches = |at: usize, len: usize| offset < at + len && at < offset + width;
        let u64_at = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes"));
        self.source = u64_at(0x00);
        self.destination = u64_at(0x08);
        self.count = u32_at(0x10);
        self.ring_base = u64_at(0x20);
        if touches(VECTOR_CONTROL, 4) {
            return Command::Mask(u32_at(VECTOR_CONTROL));
        }
        if touches(0x28, 4) {
            (self.ring_size, self.head) = (u32_at(0x28), 0);
            return Command::Doorbell(if touches(TAIL, 4) { u32_at(TAIL) } else { 0 });
        }
        if touches(TAIL, 4) {
            return Command::Doorbell(u32_at(TAIL));
        }
        if touches(CONTROL, 2) {
            let written = u16::from_le_bytes([image[CONTROL], image[CONTROL + 1]]);
            self.control = written & !(control::START | control::ABORT | control::RESET);
            if written & control::RESET != 0 {
                return Command::Reset;
            }
            if written & control::ABORT != 0 {
                return Command::Abort;
            }
            if written & control::START != 0 {
                self.start = true;
                self.begin();
            }
        }
        Command::None
    }
}

/// The registers of one device, as long as it is there.
#[derive(Debug)]
pub(super) struct Window(pub Weak<Device>);

impl Registers for Window {
    fn size(&self) -> u64 {
        let channels = self.0.upgrade().map_or(0, |device| device.options().channels);
        channel_offset(channels)
    }

    fn read(&self, offset: u64, width: u8) -> u64 {
        // What is not there reads as all ones, as on a bus that nobody answers on.
        let (Some(device), width) = (self.0.upgrade(), usize::from(width)) else { return u64::MAX };
        let read = |image: &[u8], at: usize| {
            let mut bytes = [0; 8];
            bytes[..width].copy_from_slice(&image[at..at + width]);
            u64::from_le_bytes(bytes)
        };
        if !device.has_link() && offset != LINK as u64 {
            return u64::MAX >> (64 - 8 * width);
        }
        if offset < BLOCKS {
            let mut image = [0; BLOCKS as usize];
            image[0x00..0x04].copy_from_slice(&ID.to_le_bytes());
            image[0x04..0x08].copy_from_slice(&u32::from(device.options().channels).to_le_bytes());
            image[0x08..0x10].copy_from_slice(&device.options().memory.to_le_bytes());
            image[LINK] = u8::from(device.has_link());
            show_vectors(&device, &mut image);
            return read(&image, offset as usize);
        }
        let (channel, at) = split(offset);
        device.with_controller(channel, |controller, _| {
            let (tail, vector) = (controller.port.doorbell.tail(), controller.signal.vector.control());
            read(&controller.bank.image(tail, vector), at)
        })
    }

    fn write(&self, offset: u64, width: u8, value: u64) {
        let Some(device) = self.0.upgrade() else { return };
        if offset < BLOCKS {
            if offset == RESET as u64 && value & 1 != 0 {
                device.reset();
            }
            if (offset..offset + u64::from(width)).contains(&(MESSAGE_CONTROL as u64 + 1)) {
                let upper = value >> (8 * (MESSAGE_CONTROL as u64 + 1 - offset));
                let masked = upper as u16 & (vector::FUNCTION_MASK >> 8) != 0;
                device.with_controllers(|controller, bus| controller.set_function_mask(masked, bus));
                device.machine().wake();
            }
            return;
        }
        let (channel, at) = split(offset);
        device.with_controller(channel, |controller, bus| {
            let (tail, taken) = (controller.port.doorbell.tail(), controller.port.taken.load(SeqCst));
            if taken && RING_REGISTERS.contains(&at) {
                return;
            }
            if (0x20..TAIL).contains(&at) {
                controller.refetch();
            }
            let vector = controller.signal.vector.control();
            match controller.bank.write(at, usize::from(width), value, tail, vector) {
                Command::None => {}
                Command::Abort => controller.abort(None, bus),
                Command::Reset if taken => controller.abort_current(bus),
                Command::Reset => controller.reset(bus),
                Command::Mask(control) => controller.set_vector_control(control, bus),
                Command::Doorbell(tail) => Arc::clone(&controller.port).doorbell.ring(tail),
            }
        });
        device.machine().wake();
    }
}

/// The registers of all vectors.
fn show_vectors(device: &Device, image: &mut [u8; BLOCKS as usize]) {
    let (mut message_control, mut pending) =
        (vector::ENABLE | (device.options().channels - 1), [0; PENDING.end - PENDING.start]);
    device.with_controllers(|controller, _| {
        let (index, vector) = (usize::from(controller.port.index), &controller.signal.vector);
        pending[index / 8] |= u8::from(vector.is_pending()) << (index % 8);
        message_control |= if vector.is_function_masked() { vector::FUNCTION_MASK } else { 0 };
    });
    image[MESSAGE_CONTROL..MESSAGE_CONTROL + 2].copy_from_slice(&message_control.to_le_bytes());
    image[PENDING].copy_from_slice(&pending);
}

fn split(offset: u64) -> (u16, usize) {
    (((offset - BLOCKS) / BLOCK) as u16, ((offset - BLOCKS) % BLOCK) as usize)
}
