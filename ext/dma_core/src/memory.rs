//! Memory for transfers: page-aligned mappings, the regions cut from them, and pools of equal regions.

mod page_lock;
mod pages;
mod pool;
pub mod processor;
mod region;
mod registry;
mod span;
#[cfg(test)]
pub(crate) mod testing;

pub use page_lock::PageLock;
pub(crate) use pages::pin_error;
pub use pages::{Hold, Huge, Layout, Lock, Pages, Residency};
pub use pool::{Pool, Waiter};
pub use region::{check_range, Region};
pub use registry::find;
pub use span::{BusAddresses, Span};
