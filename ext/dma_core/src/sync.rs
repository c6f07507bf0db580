//! The atomics of protocols that loom checks: its own under `cfg(loom)`, where every interleaving is tried.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicU32;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicU32;
