//! Registers of a function: a BAR or its configuration space.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use crate::engine::Registers;
use crate::error::{errno, Error, Result};
use crate::sys::{self, vfio};

/// A region of a function, mapped where it can be; the rest of it is reached through the kernel.
#[derive(Debug)]
pub(super) struct Bar {
    device: Arc<OwnedFd>,
    offset: u64,
    size: u64,
    areas: Vec<Area>,
    generation: u32,
}

#[derive(Debug)]
struct Area {
    start: u64,
    map: ManuallyDrop<MmapRaw>,
}

impl Bar {
    /// Maps a region.
    pub(super) fn new(device: &Arc<OwnedFd>, region: &vfio::Region) -> Result<Bar> {
        let mut areas = Vec::new();
        for (start, len) in &region.areas {
            let cannot = |errno| Error::os(errno, format!("cannot map {len} bytes of registers"));
            let mut options = MmapOptions::new();
            options.offset(region.offset + start).len(*len as usize);
            let map = options.map_raw(device.as_raw_fd()).map_err(|e| cannot(errno(&e)))?;
            // SAFETY: the range is the new mapping; the child of a fork gets none of it, and is refused before it would look.
            unsafe { sys::madvise(map.as_mut_ptr(), map.len(), libc::MADV_DONTFORK) }.map_err(cannot)?;
            areas.push(Area { start: *start, map: ManuallyDrop::new(map) });
        }
        let generation = sys::fork_generation();
        Ok(Bar { device: Arc::clone(device), offset: region.offset, size: region.size, areas, generation })
    }

    /// Where the register at `offset` is in memory, if it is mapped.
    fn place(&self, offset: u64, width: u8) -> Option<*mut u8> {
        assert!(offset + u64::from(width) <= self.size, "a register lies in its region");
        let area = self
            .areas
            .iter()
            .find(|area| offset >= area.start && offset + u64::from(width) <= area.start + area.map.len() as u64)?;
        // SAFETY: the offset lies in the area.
        Some(unsafe { area.map.as_mut_ptr().add((offset - area.start) as usize) })
    }

    /// Reads a register of 32 bits.
    pub(super) fn read32(&self, offset: u64) -> u32 {
        self.read(offset, 4) as u32
    }

    /// Writes a register of 32 bits.
    pub(super) fn write32(&self, offset: u64, value: u32) {
        self.write(offset, 4, u64::from(value));
    }
}

impl Registers for Bar {
    fn size(&self) -> u64 {
        self.size
    }

    /// All ones where the device does not answer, as the bus has it.
    fn read(&self, offset: u64, width: u8) -> u64 {
        if let Some(place) = self.place(offset, width) {
            // SAFETY: the place is mapped while this lives and aligned as the caller checked; nobody makes references to registers.
            return unsafe {
                match width {
                    1 => u64::from(ptr::read_volatile(place)),
                    2 => u64::from(ptr::read_volatile(place.cast::<u16>())),
                    4 => u64::from(ptr::read_volatile(place.cast::<u32>())),
                    _ => ptr::read_volatile(place.cast::<u64>()),
                }
            };
        }
        let mut bytes = [0xff; 8];
        // SAFETY: the array has as many bytes as any register.
        let _ = unsafe { sys::pread(self.device.as_fd(), bytes.as_mut_ptr(), width.into(), self.offset + offset) };
        u64::from_le_bytes(bytes) & u64::MAX >> (64 - 8 * u32::from(width))
    }

    /// Lost where the device does not answer.
    fn write(&self, offset: u64, width: u8, value: u64) {
        if let Some(place) = self.place(offset, width) {
            // SAFETY: as in `read`.
            return unsafe {
                match width {
                    1 => ptr::write_volatile(place, value as u8),
                    2 => ptr::write_volatile(place.cast::<u16>(), value as u16),
                    4 => ptr::write_volatile(place.cast::<u32>(), value as u32),
                    _ => ptr::write_volatile(place.cast::<u64>(), value),
                }
            };
        }
        let bytes = value.to_le_bytes();
        // SAFETY: the array has as many bytes as any register.
        let _ = unsafe { sys::pwrite(self.device.as_fd(), bytes.as_ptr(), width.into(), self.offset + offset) };
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // In the child of a fork the addresses are not these any more.
        if self.generation == sys::fork_generation() {
            for area in &mut self.areas {
                // SAFETY: dropped here only, and never used after.
                unsafe { ManuallyDrop::drop(&mut area.map) };
            }
        }
    }
}
