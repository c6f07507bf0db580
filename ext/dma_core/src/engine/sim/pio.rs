//! Programmed I/O: the CPU itself moves each word between memory and the device, and the bus is taken for each.
//!
//! It is what DMA is compared with. A write is posted, and takes a transaction of the bus; a read waits for its bytes as well
//! ([`Timing::read`](super::Timing)). Channels that ask for a bus that all share get it between two words.

use std::ptr;

use nix::errno::Errno;

use super::core::Core;
use super::device::Device;
use super::trace::Run;
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
    /// Lets the CPU carry out `count` operations of `cycles` each. What it does otherwise, it goes on with behind them.
    pub(super) fn operate(&mut self, count: u64, cycles: u64) {
        self.operations += count;
        if self.options.timing.links {
            // The link has a direction for each.
            let until = self.now.saturating_add(count.saturating_mul(cycles));
            while self.transact(Some(until)) {}
            return;
        }
        let (mut left, mut paused) = (count, None);
        while left > 0 {
            let others = self.next_end();
            if let Some(end) = others {
                // Timers before it take nothing of the bus.
                while self.now < end && self.transact(Some(end)) {}
            }
            paused = paused.or_else(|| self.pause());
            let words = match (others, self.alarm()) {
                (Some(_), _) => 1,
                // Whoever hears of that may ask for the bus.
                (None, Some(alarm)) => alarm.saturating_sub(self.now).div_ceil(cycles).clamp(1, left),
                (None, None) => left,
            };
            self.move_words(words, cycles);
            left -= words;
        }
        if let (Some(cpu), Some(wanted)) = (&mut self.cpu, paused) {
            cpu.resume(self.now, wanted);
        }
    }

    /// Has the CPU do nothing but move words; see [`Cpu::pause`](super::cpu::Cpu::pause).
    fn pause(&mut self) -> Option<u64> {
        let runs = self.trace.as_mut().map(|record| &mut record.runs);
        let (start, wanted) = self.cpu.as_mut()?.pause(self.now, runs);
        self.pass(start);
        Some(wanted)
    }

    /// Words of the CPU, one behind the other.
    fn move_words(&mut self, count: u64, cycles: u64) {
        let begin = self.now;
        if let Some(record) = &mut self.trace {
            record.runs.push(Run { master: None, begin, len: cycles, period: cycles, count });
        }
        self.pass(begin.saturating_add(count.saturating_mul(cycles)));
    }

    /// Lets time pass in which nobody else has the bus.
    fn pass(&mut self, until: u64) {
        while let Some(alarm) = self.alarm().filter(|alarm| *alarm <= until) {
            self.ring(alarm);
        }
        self.now = self.now.max(until);
    }
}
