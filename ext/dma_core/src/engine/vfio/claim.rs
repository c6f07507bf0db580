//! Who has a channel.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;

use crate::error::{Error, Result};

/// A channel for one queue, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Takes channel `index`.
    ///
    /// # Errors
    /// [`Error::Busy`] where another queue has it.
    pub(super) fn new(taken: &Arc<AtomicBool>, index: u16) -> Result<Claim> {
        if taken.swap(true, SeqCst) {
            return Err(Error::Busy(format!("channel {index} is in use")));
        }
        Ok(Claim(Arc::clone(taken)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}
