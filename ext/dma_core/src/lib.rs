//! Page-aligned memory that hardware and the kernel read and write directly, and the engines that move bytes through it.
//!
//! This crate knows nothing of Ruby. Dependencies point down only:
//! [`mod@file`], [`device`] → [`channel`] → [`engine`] → [`ring`] → [`transfer`] → [`memory`] → [`sys`] → [`error`].

// What unit and integration tests share names the crate as the latter do.
#[cfg(test)]
extern crate self as dma_core;

pub mod channel;
pub mod device;
pub mod engine;
pub mod error;
pub mod file;
pub mod memory;
pub mod ring;
mod sync;
pub mod sys;
pub mod transfer;

pub use error::{Error, Result};
/// The error numbers of the operating system.
pub use nix::errno::Errno;
