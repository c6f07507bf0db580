//! What happened on the bus, in the order it did.

use std::fmt;

use crate::transfer::{Access, Status};

/// A kind of transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A descriptor was fetched.
    Fetch,
    /// Bytes went from memory to the device.
    ToDevice,
    /// Bytes went from the device to memory.
    FromDevice,
    /// Bytes went from one place of the device to another.
    Within,
    /// Bytes went from one place of memory to another.
    Memory,
    /// A channel of an 8237 reached its terminal count.
    TerminalCount,
    /// A status was written back, or shown in the status register.
    Status(Status),
    /// An interrupt was raised.
    Interrupt,
    /// An interrupt was due and got lost.
    LostInterrupt,
    /// The channel does nothing any more.
    Hang,
}

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When it was over, in cycles since the machine was made.
    pub cycle: u64,
    /// Which device of the machine.
    pub device: u32,
    /// Which channel of the device.
    pub channel: u16,
    /// What it was.
    pub what: What,
    /// The bus address of memory, of the byte that was written where it is from one place to another; for [`What::Within`] the
    /// device address that was written.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

impl What {
    /// Its name in Ruby.
    pub fn name(&self) -> &'static str {
        match self {
            What::Fetch => "fetch",
            What::ToDevice => "to_device",
            What::FromDevice => "from_device",
            What::Within => "within",
            What::Memory => "memory",
            What::TerminalCount => "terminal_count",
            What::Status(_) => "status",
            What::Interrupt => "interrupt",
            What::LostInterrupt => "lost_interrupt",
            What::Hang => "hang",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { cycle, device, channel, what, address, len } = self;
        write!(f, "{cycle} {device}.{channel} {}", what.name())?;
        match what {
            What::Interrupt | What::LostInterrupt | What::Hang | What::TerminalCount => Ok(()),
            What::Status(Status::IommuFault { address: at, access }) => {
                write!(f, " {address:#x} iommu_fault {} {at:#x}", Access::name(*access))
            }
            What::Status(status) => write!(f, " {address:#x} {}", status.name()),
            _ => write!(f, " {address:#x} {len}"),
        }
    }
}
