//! What a controller says of a command's end (NVM Express Base Specification 2.0, 3.3.3.2.1).

use crate::transfer::Status;

/// The status of a read or write that ended with this status code type and status code, as `type << 8 | code`.
pub(super) fn status_of(code: u16, is_write: bool) -> Status {
    match code {
        0x000 => Status::Complete,
        // Invalid opcode, field, PRP offset, namespace: the command makes no sense to the controller.
        0x001 | 0x002 | 0x00b | 0x013 => Status::DescriptorError,
        // Data transfer error: the device did not get to the memory.
        0x004 if is_write => Status::BusReadError,
        0x004 => Status::BusWriteError,
        // Aborted for power loss, by request, with its queue, with a fused command.
        0x005 | 0x007 | 0x008 | 0x009 | 0x00a => Status::Aborted,
        // LBA out of range.
        0x080 if is_write => Status::BadDestination,
        0x080 => Status::BadSource,
        // Every media and data integrity error: write fault, unrecovered read error, guard, tag, compare, access denied.
        0x200..=0x2ff => Status::MediumError,
        code => Status::DeviceError { code },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_the_statuses_of_every_engine() {
        assert_eq!(status_of(0, false), Status::Complete);
        assert_eq!((status_of(0x80, false), status_of(0x80, true)), (Status::BadSource, Status::BadDestination));
        assert_eq!((status_of(4, false), status_of(4, true)), (Status::BusWriteError, Status::BusReadError));
        assert_eq!((status_of(0x281, false), status_of(0x280, true)), (Status::MediumError, Status::MediumError));
        assert_eq!(status_of(7, true), Status::Aborted);
        assert_eq!(status_of(0x006, false), Status::DeviceError { code: 6 });
        assert_eq!(status_of(0x7ff, false), Status::DeviceError { code: 0x7ff });
    }
}
