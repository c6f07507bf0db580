//! Memory that reading ahead uses again and again.

use std::sync::Arc;

use crate::engine::file::OPERATION;
use crate::error::Result;
use crate::memory::{Huge, Layout, Lock, Pool, Region};

/// Regions of one size, made for the first who needs them and used again by the next.
#[derive(Debug, Default)]
pub struct Regions {
    pool: Option<Pool>,
}

impl Regions {
    /// Makes sure of `count` regions of `size` bytes. They are cut from one allocation, so that chunks smaller than a huge page
    /// lie in huge pages together: the disk takes a 1 MiB request from these in one piece.
    ///
    /// # Errors
    /// What [`Pool::new`] raises.
    pub fn reserve(&mut self, count: usize, size: usize) -> Result<()> {
        if self.pool.as_ref().is_none_or(|pool| pool.size() < size || pool.count() < count) {
            self.pool = None;
            self.pool = Some(Pool::new(count, size, 1, Huge::Auto, Lock::Never)?);
        }
        Ok(())
    }

    /// A region of at least `size` bytes: from the pool, or of its own where that is too small or the user has kept the pool's.
    ///
    /// # Errors
    /// What [`Region::allocate`] raises.
    pub fn region(&self, size: usize) -> Result<Arc<Region>> {
        if let Some(pool) = self.pool.as_ref().filter(|pool| pool.size() >= size) {
            if let Some(region) = pool.checkout()? {
                return Ok(region);
            }
        }
        Region::allocate(Layout::new(size), Lock::Never)
    }

    /// Gives large memory back between uses.
    pub fn trim(&mut self) {
        self.pool.take_if(|pool| pool.pages().len() > OPERATION);
    }
}
