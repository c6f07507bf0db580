//! DMA as the IBM AT has it: two Intel 8237A in cascade, page registers beside them, and a card on each channel that asks them for
//! transfers, with memory of its own. Software programs all of them through their I/O ports, see [`board`], [`cascade`], [`chip`] and
//! [`card`]; the driver of a channel does so where it has one.
//!
//! The controllers see memory by its physical address, below 16 MiB, and no IOMMU between.

mod board;
mod card;
mod cascade;
mod chip;
mod device;
mod driver;
mod queue;

pub use board::Costs;
pub(super) use driver::Isa;
pub(super) use queue::{IsaQueue, Ports};

#[cfg(test)]
mod tests;
