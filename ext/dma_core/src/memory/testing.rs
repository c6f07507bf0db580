//! Memory as the unit tests make it and look at it.

use std::sync::Arc;

use super::{Layout, Lock, Region};

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
