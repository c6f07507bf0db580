//! What the IOMMU of a machine refused, in the order in which it did, as in the fault recording registers of VT-d (3.0, 7.2).
//!
//! It holds the last ones. Other than there, where the newest go unrecorded while all registers are taken, the oldest make room.

use std::collections::VecDeque;

use super::space::Reason;
use super::trace::Master;
use crate::transfer::Access;

/// As many as VT-d has registers for, at most (10.4.2, `NFR`).
const MOST: usize = 256;

/// An access that an IOMMU refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IommuFault {
    /// The numbers of device and channel.
    pub master: Master,
    /// The bus address of the first byte that was not moved.
    pub address: u64,
    /// What the device wanted of it.
    pub access: Access,
    /// Why it may not.
    pub reason: Reason,
    /// When.
    pub cycle: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct FaultLog {
    last: VecDeque<IommuFault>,
    /// Those that made room.
    pub overflows: u64,
}

impl FaultLog {
    pub(super) fn add(&mut self, fault: IommuFault) {
        if self.last.len() == MOST {
            self.last.pop_front();
            self.overflows += 1;
        }
        self.last.push_back(fault);
    }

    /// The oldest first.
    pub(super) fn faults(&self) -> Vec<IommuFault> {
        self.last.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_those_that_made_room_are_counted() {
        let fault = |cycle| {
            let (address, access, reason) = (cycle << 12, Access::Read, Reason::NotMapped);
            IommuFault { master: (0, 0), address, access, reason, cycle }
        };
        let mut log = FaultLog::default();
        (0..300).for_each(|cycle| log.add(fault(cycle)));
        assert_eq!((log.faults(), log.overflows), ((44..300).map(fault).collect(), 44));
    }
}
