//! Memory as the tests of this crate make it and look at it; those in tests/ include this file.

use std::sync::Arc;

use dma_core::memory::{Layout, Lock, Region};

/// `len` bytes of memory, all of them `byte`.
pub fn region(len: usize, byte: u8) -> Arc<Region> {
    let region = Region::allocate(Layout::new(len), Lock::Never).unwrap();
    region.fill(0, len, byte).unwrap();
    region
}

/// All bytes of `region`.
pub fn bytes(region: &Region) -> Vec<u8> {
    let mut out = vec![0; region.len()];
    // SAFETY: `out` has the length of the region.
    unsafe { region.read(0, out.as_mut_ptr(), out.len()) }.unwrap();
    out
}
