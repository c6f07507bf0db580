//! A function without a driver here: whoever opens it drives it, by registers, interrupts and mappings.

use std::sync::Arc;

use super::Function;
use crate::engine::{Bank, Engine, Limits, Mapping, Queue, Registers, Stats};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transfer::Access;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Bare {
    function: Arc<Function>,
    stats: Arc<Stats>,
}

impl Bare {
    pub(super) fn new(function: Arc<Function>) -> Bare {
        Bare { function, stats: Arc::default() }
    }
}

impl Engine for Bare {
    fn name(&self) -> &'static str {
        "vfio"
    }

    fn limits(&self) -> Limits {
        Limits { size: 0, flushes: false, ..Limits::ANY }
    }

    fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    fn queue(&self, _index: u16, _depth: u32) -> Result<Box<dyn Queue>> {
        let listed = self.function.listed();
        Err(Error::Unsupported(format!(
            "{} ({:04x}:{:04x}) has no channels: there is no driver for it here, or none was wanted; drive it by its registers, \
             interrupts (wait_interrupt) and mappings (map)",
            listed.address, listed.vendor, listed.device
        )))
    }

    fn map(&self, span: Span, access: Access) -> Result<Arc<dyn Mapping>> {
        self.function.map(span, access)
    }

    fn registers(&self, bank: Bank) -> Result<Arc<dyn Registers>> {
        self.function.registers(bank)
    }

    fn pins(&self) -> bool {
        true
    }

    fn reset(&self) -> Result<()> {
        self.function.reset()
    }
}
