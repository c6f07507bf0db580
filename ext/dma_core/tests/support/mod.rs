//! Memory as the tests make it and look at it.

use std::sync::Arc;

use dma_core::memory::{Region, Span};

#[path = "../../src/memory/testing.rs"]
mod testing;

pub use testing::{bytes, region};

/// All of `region`.
pub fn whole(region: &Arc<Region>) -> Span {
    Span::new(region, 0, region.len()).unwrap()
}
