//! Programmed I/O: the CPU itself moves each word between memory and the device, and the bus is taken for each.
//!
//! It is what DMA is compared with. A write is posted, and takes a transaction of the bus; a read waits for its bytes as well
//! ([`Timing::read`](super::Timing)). Channels that ask for a bus that all share get it between two words.

use std::ptr;

use nix::errno::Errno;

use super::core::Core;
use super::device::Device;
use crate::error::{Error, Result};

/// Bytes that one instruction moves.
const WIDTHS: [usize; 4] = [1, 2, 4, 8];

impl Device {
    /// Writes `bytes` to the device's memory from offset `at`, `width` at a time.
    ///
    /// # Errors
    /// [`Error::Argument`] for a width that no instruction has, and outside of the device.
    pub fn pio_write(&self, at: u64, bytes: &[u8], width: usize) -> Result<()> {
        let words = self.words(at, bytes.len(), width)?;
        self.machine().operate(words, width as u64, false);
        if self.has_link() {
            let to = self.common().device(at);
            // SAFETY: the range was checked, and nobody but the machine's channels reaches that memory, which two at once may do
            // as they do in a device.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
        Ok(())
    }

    /// Reads `len` bytes of the device's memory from offset `at`, `width` at a time. What is not reached reads as all ones.
    ///
    /// # Errors
    /// As [`Device::pio_write`]; [`Error::Os`] (ENOMEM) where there is no memory for them.
    pub fn pio_read(&self, at: u64, len: usize, width: usize) -> Result<Vec<u8>> {
        let words = self.words(at, len, width)?;
        let mut bytes = Vec::new();
        let reserved = bytes.try_reserve_exact(len);
        reserved.map_err(|_| Error::os(Errno::ENOMEM, format!("cannot hold the {len} bytes that are read")))?;
        self.machine().operate(words, width as u64, true);
        bytes.resize(len, 0xff);
        if self.has_link() {
            let from = self.common().device(at);
            // SAFETY: as for writing.
            unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        }
        Ok(bytes)
    }

    fn words(&self, at: u64, len: usize, width: usize) -> Result<u64> {
        self.machine().check()?;
        if !WIDTHS.contains(&width) {
            return Err(Error::Argument(format!("width: {width} bytes at a time is none of 1, 2, 4 and 8")));
        }
        let size = self.options().memory;
        if at.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(Error::Argument(format!("{len} bytes at {at} are outside the device, which has {size}")));
        }
        Ok(len.div_ceil(width) as u64)
    }
}

impl Core {
    /// Lets the CPU carry out `count` operations of `cycles` each.
    pub(super) fn operate(&mut self, count: u64, cycles: u64) {
        self.operations += count;
        if self.options.timing.links {
            // The link has a direction for each.
            let until = self.now.saturating_add(count.saturating_mul(cycles));
            while self.transact(Some(until)) {}
            return;
        }
        for left in (1..=count).rev() {
            let Some(end) = self.next_end() else {
                let until = self.now.saturating_add(left.saturating_mul(cycles));
                while self.transact(Some(until)) {}
                return;
            };
            // Timers before it take nothing of the bus.
            while self.now < end && self.transact(Some(end)) {}
            self.now = self.now.saturating_add(cycles);
        }
    }
}
