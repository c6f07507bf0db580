//! The plain values of a transfer: what is to be done, how it ended, and the descriptor that says it to a device.

use std::fmt;
use std::mem::discriminant;

use nix::errno::Errno;

use crate::error::Error;
use crate::memory::Span;

/// Which way the bytes go between memory and a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From memory to the device: the device reads memory.
    ToDevice,
    /// From the device to memory: the device writes memory.
    FromDevice,
}

impl Direction {
    /// The operation that moves the bytes of `span`, to or from `offset` of the device.
    pub fn op(self, offset: u64, span: Span) -> Op {
        match self {
            Direction::ToDevice => Op::Write { offset, span },
            Direction::FromDevice => Op::Read { offset, span },
        }
    }
}

/// What a device does to memory: asks for, or may do through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads it, as a transfer to the device does.
    Read,
    /// Writes it, as a transfer from the device does.
    Write,
    /// Either.
    Both,
}

impl Access {
    /// Whether a mapping with this access lets `wanted` through.
    pub fn allows(self, wanted: Access) -> bool {
        self == Access::Both || self == wanted
    }

    /// `read`, `write` or `both`.
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Both => "both",
        }
    }
}

/// One operation, or one element of a [`crate::channel::Request`]. It owns the memory that it uses.
#[derive(Debug)]
pub enum Op {
    /// From the device to memory. The device address of a file is the offset in it.
    Read {
        /// Device address of the first byte.
        offset: u64,
        /// Where the bytes go.
        span: Span,
    },
    /// From memory to the device.
    Write {
        /// Device address of the first byte.
        offset: u64,
        /// Where the bytes come from.
        span: Span,
    },
    /// From one place of the device to another; where they overlap, the result is as if the bytes had been held in between.
    Copy {
        /// Device address of the first byte to read.
        from: u64,
        /// Device address of the first byte to write.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// Descriptors that lie in memory already: the engine fetches them by itself, by bus address, and writes the status of each
    /// back into it.
    List {
        /// Bus address of the first descriptor.
        first: u64,
        /// The bytes that all of them move.
        len: u64,
        /// The memory they lie in.
        ring: Span,
    },
    /// What was written becomes durable.
    Flush {
        /// Leave metadata that is not needed to read the data back (fdatasync(2)).
        data_only: bool,
    },
}

impl Op {
    /// How many bytes it moves; a flush counts as one.
    pub fn len(&self) -> u64 {
        match self {
            Op::Read { span, .. } | Op::Write { span, .. } => span.len() as u64,
            Op::Copy { len, .. } | Op::List { len, .. } => *len,
            Op::Flush { .. } => 1,
        }
    }

    /// Whether it moves nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory it uses.
    pub fn span(&self) -> Option<&Span> {
        match self {
            Op::Read { span, .. } | Op::Write { span, .. } => Some(span),
            Op::List { ring, .. } => Some(ring),
            Op::Copy { .. } | Op::Flush { .. } => None,
        }
    }
}

/// How an operation was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The device moved the bytes to or from our memory.
    Direct,
    /// Through the kernel's page cache.
    Buffered,
}

/// How an operation or a transfer ended: one taxonomy for every engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has not ended.
    Pending,
    /// All was done.
    Complete,
    /// It was cancelled.
    Aborted,
    /// It was given up because it took longer than somebody would wait.
    TimedOut,
    /// It was never begun, because what it had to wait for failed.
    NotAttempted,
    /// The device has nothing to read at this address.
    BadSource,
    /// The device has nothing to write at this address.
    BadDestination,
    /// A length that the device does not take.
    BadLength,
    /// The IOMMU let nothing through: not mapped, or not for this access.
    IommuFault {
        /// The bus address.
        address: u64,
        /// What the device wanted to do there.
        access: Access,
    },
    /// The bus did not bring the bytes.
    BusReadError,
    /// The bus did not take the bytes.
    BusWriteError,
    /// The bytes that came are marked as spoiled.
    DataPoison,
    /// The descriptor could not be fetched, or makes no sense.
    DescriptorError,
    /// The device is not reached any more.
    LinkDown,
    /// There was no room for it in the ring.
    RingFull,
    /// The device cannot read or write its medium there.
    MediumError,
    /// The device failed, or ended it for a reason of its own.
    DeviceError {
        /// The device's code: of NVMe the status code type and the status code, in three hexadecimal digits.
        code: u16,
    },
    /// The operating system refused.
    Os(Errno),
}

/// Every status but [`Status::Os`] with its code and name, which is a symbol in Ruby.
const NAMES: [(Status, &str); 17] = [
    (Status::Pending, "pending"),
    (Status::Complete, "complete"),
    (Status::Aborted, "aborted"),
    (Status::TimedOut, "timed_out"),
    (Status::NotAttempted, "not_attempted"),
    (Status::BadSource, "bad_source"),
    (Status::BadDestination, "bad_destination"),
    (Status::BadLength, "bad_length"),
    (Status::IommuFault { address: 0, access: Access::Both }, "iommu_fault"),
    (Status::BusReadError, "bus_read_error"),
    (Status::BusWriteError, "bus_write_error"),
    (Status::DataPoison, "data_poison"),
    (Status::DescriptorError, "descriptor_error"),
    (Status::LinkDown, "link_down"),
    (Status::RingFull, "ring_full"),
    (Status::MediumError, "medium_error"),
    (Status::DeviceError { code: 0 }, "device_error"),
];
const OS: u32 = 1 << 16;

impl Status {
    fn place(&self) -> Option<usize> {
        NAMES.iter().position(|(other, _)| discriminant(other) == discriminant(self))
    }

    /// The code in a descriptor's status field. What a fault was about is not in it.
    pub fn code(self) -> u32 {
        match self {
            Status::Os(errno) => OS | errno as u32,
            status => status.place().unwrap_or(0) as u32,
        }
    }

    /// The status with this code; a code that nobody gives is a [`Status::DescriptorError`].
    pub fn from_code(code: u32) -> Status {
        if code & OS != 0 {
            return Status::Os(Errno::from_raw((code & !OS) as i32));
        }
        NAMES.get(code as usize).map_or(Status::DescriptorError, |(status, _)| *status)
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Status> {
        NAMES.iter().find(|(_, other)| *other == name).map(|(status, _)| *status)
    }

    /// Its name in Ruby: `complete`, `iommu_fault`, ...; of an operating system's error `os_error`.
    pub fn name(self) -> &'static str {
        self.place().map_or("os_error", |place| NAMES[place].1)
    }

    /// How a transfer ends that meets this error on its way to the engine.
    pub fn of(error: &Error) -> Status {
        match error {
            Error::Os { errno, .. } => Status::Os(*errno),
            Error::LockLimit { .. } => Status::Os(Errno::ENOMEM),
            Error::RingFull(_) => Status::RingFull,
            Error::TimedOut(_) => Status::TimedOut,
            _ => Status::DescriptorError,
        }
    }

    /// Whether it ended, and not well.
    pub fn is_failure(self) -> bool {
        !matches!(self, Status::Pending | Status::Complete)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::IommuFault { address, access } => {
                write!(f, "IOMMU fault: no {} access at bus address {address:#x}", access.name())
            }
            Status::DeviceError { code } => write!(f, "device error {code:#05x}"),
            Status::Os(errno) => f.write_str(errno.desc()),
            status => f.write_str(&status.name().replace('_', " ")),
        }
    }
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// The tag it was pushed with.
    pub tag: u32,
    /// How it ended, never [`Status::Pending`].
    pub status: Status,
    /// Bytes moved from the start without a gap, also where it failed.
    pub bytes: usize,
    /// A read that ended short because nothing is there to read.
    pub eof: bool,
}

impl Completion {
    /// Of an operation that was given up before it moved a byte.
    pub(crate) fn aborted(tag: u32) -> Completion {
        Completion { tag, status: Status::Aborted, bytes: 0, eof: false }
    }
}

/// The control flags of a [`Descriptor`].
pub mod flags {
    /// The source is a bus address of memory, the destination a device address.
    pub const TO_DEVICE: u32 = 0x01;
    /// The source is a device address, the destination a bus address of memory. With [`TO_DEVICE`]: both are device addresses.
    pub const FROM_DEVICE: u32 = 0x02;
    /// The device raises its interrupt when it has written the status back.
    pub const INTERRUPT: u32 = 0x04;
    /// Not begun before all earlier ones are over; not attempted where one of them failed since the ring was last empty.
    pub const FENCE: u32 = 0x08;
    /// It goes on with the descriptor at `next`.
    pub const CHAIN: u32 = 0x10;
    /// It belongs to the same transfer as the one before it in the ring, and is not attempted where that one failed.
    pub const LINK: u32 = 0x40;
    /// Software wants it skipped, and what is chained to it let alone: its status will be [`super::Status::Aborted`].
    pub const CANCEL: u32 = 0x20;
}

/// A descriptor as the simulated PCIe engine fetches it: six fields in 40 bytes, little-endian as PCIe is.
///
/// | Offset | Field | Width |
/// |---|---|---|
/// | 0 | source address | 64 |
/// | 8 | destination address | 64 |
/// | 16 | length | 32 |
/// | 20 | control flags | 32 |
/// | 24 | next descriptor | 64 |
/// | 32 | status | 32 |
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// Address to read from.
    pub source: u64,
    /// Address to write to.
    pub destination: u64,
    /// Bytes.
    pub length: u32,
    /// See [`flags`].
    pub flags: u32,
    /// Bus address of the next descriptor of a chain.
    pub next: u64,
    /// [`Status::code`], written by the device.
    pub status: u32,
}

impl Descriptor {
    /// Bytes from one descriptor of a ring to the next.
    pub const SIZE: usize = size_of::<Descriptor>();
    /// Where the control flags are in it.
    pub const FLAGS: usize = std::mem::offset_of!(Descriptor, flags);
    /// Where the status is in it.
    pub const STATUS: usize = std::mem::offset_of!(Descriptor, status);
}

const _: () = {
    assert!(Descriptor::SIZE == 40);
    assert!(std::mem::offset_of!(Descriptor, source) == 0);
    assert!(std::mem::offset_of!(Descriptor, destination) == 8);
    assert!(std::mem::offset_of!(Descriptor, length) == 16);
    assert!(Descriptor::FLAGS == 20);
    assert!(std::mem::offset_of!(Descriptor, next) == 24);
    assert!(Descriptor::STATUS == 32);
    assert!(cfg!(target_endian = "little"), "the wire format is little-endian");
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_of_statuses_go_both_ways() {
        for (code, (status, name)) in NAMES.iter().enumerate() {
            assert_eq!((status.code(), status.name()), (code as u32, *name));
            assert_eq!(Status::from_code(code as u32), *status);
            assert_eq!(Status::from_name(name), Some(*status));
        }
        let os = Status::Os(Errno::EIO);
        assert_eq!(Status::from_code(os.code()), os);
        assert_eq!(Status::from_code(99), Status::DescriptorError);
    }

    #[test]
    fn a_mapping_allows_its_own_access_only() {
        assert!(Access::Both.allows(Access::Read) && Access::Both.allows(Access::Write));
        assert!(Access::Read.allows(Access::Read) && !Access::Read.allows(Access::Write));
        assert!(!Access::Write.allows(Access::Read));
    }
}
