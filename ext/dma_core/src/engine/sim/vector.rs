//! A channel's interrupt vector with its mask, as an entry of an MSI-X table (PCI Local Bus Specification 3.0, 6.8.2 and 6.8.3.4).
//!
//! A masked vector sends no message: its bit in the pending bit array stays set until it is unmasked, when one message is sent, or
//! until nothing is left to tell of. Other than there, a vector is unmasked to begin with, so that a driver that knows of no masks works.

/// Bit of a Vector Control register: the vector is masked.
pub(super) const MASKED: u32 = 1 << 0;
/// Bit of Message Control: all vectors of the device are masked, whatever their own masks.
pub(super) const FUNCTION_MASK: u16 = 1 << 14;
/// Bit of Message Control: messages are used. Always set.
pub(super) const ENABLE: u16 = 1 << 15;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Vector {
    /// Its own mask, and that of its device.
    masked: bool,
    function_masked: bool,
    /// Completions that a message would have told of.
    pending: u64,
}

impl Vector {
    /// Its Vector Control register.
    pub(super) fn control(&self) -> u32 {
        if self.masked {
            MASKED
        } else {
            0
        }
    }

    /// Whether no message is sent now.
    pub(super) fn is_masked(&self) -> bool {
        self.masked || self.function_masked
    }

    /// Whether all vectors of the device are masked.
    pub(super) fn is_function_masked(&self) -> bool {
        self.function_masked
    }

    /// Its bit of the pending bit array.
    pub(super) fn is_pending(&self) -> bool {
        self.pending > 0
    }

    /// A message about so many completions is due: about how many it is to be sent, 0 while it is masked.
    pub(super) fn send(&mut self, completions: u64) -> u64 {
        self.pending += completions;
        self.release()
    }

    /// Writes the Vector Control register: about how many completions a message is to be sent now.
    pub(super) fn set_control(&mut self, control: u32) -> u64 {
        self.masked = control & MASKED != 0;
        self.release()
    }

    /// Masks or unmasks it together with all of its device: about how many completions a message is to be sent now.
    pub(super) fn set_function_mask(&mut self, masked: bool) -> u64 {
        self.function_masked = masked;
        self.release()
    }

    /// Nothing is left to tell of.
    pub(super) fn clear(&mut self) {
        self.pending = 0;
    }

    fn release(&mut self) -> u64 {
        if self.is_masked() {
            0
        } else {
            std::mem::take(&mut self.pending)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmasked_vector_sends_and_a_masked_one_is_pending_until_unmasked() {
        let mut vector = Vector::default();
        assert_eq!((vector.send(3), vector.is_pending(), vector.control()), (3, false, 0));
        assert_eq!((vector.set_control(MASKED), vector.send(2), vector.send(1)), (0, 0, 0));
        assert_eq!((vector.is_pending(), vector.control()), (true, MASKED));
        assert_eq!((vector.set_control(0), vector.is_pending()), (3, false), "one message for all");
        assert_eq!(vector.set_control(0), 0, "and not again");
    }

    #[test]
    fn both_masks_have_to_be_open_and_neither_changes_the_other() {
        let mut vector = Vector::default();
        assert_eq!((vector.set_function_mask(true), vector.send(1), vector.control()), (0, 0, 0));
        assert_eq!((vector.set_control(MASKED), vector.set_function_mask(false)), (0, 0));
        assert!(vector.is_pending());
        assert_eq!(vector.set_control(!MASKED), 1, "reserved bits mask nothing");
    }

    #[test]
    fn what_is_settled_by_other_means_is_not_told_of() {
        let mut vector = Vector::default();
        vector.set_control(MASKED);
        vector.send(1);
        vector.clear();
        assert_eq!((vector.is_pending(), vector.set_control(0)), (false, 0));
    }
}
