//! PCI functions through VFIO, the kernel's way of giving a device to a program (kernel: Documentation/driver-api/vfio.rst).
//!
//! A function reaches memory by bus addresses that the IOMMU translates: what is not mapped it cannot reach, whatever it is told.
//! Descriptors come from the [`crate::channel`] as operations; a driver here (`edu`, [`nvme`]) writes them as the device wants
//! them, or nobody does (`bare`) and the program is the driver.
//!
//! # Who owns the memory, and when
//!
//! 1. **Mapped.** `space` gives memory a bus address: the kernel pins its pages (they neither move nor are swapped) and the
//!    IOMMU lets the function reach them. Allocations of ours are mapped whole, once, and stay mapped when the transfer is over; what
//!    somebody mapped himself ([`Function::map`]) stays until he drops the mapping; foreign memory is mapped for one transfer.
//! 2. **In flight.** From [`crate::engine::Queue::push`] until its completion has been reaped, an operation and the
//!    [`crate::memory::Span`] in it belong to the queue. The span keeps the memory from being freed or handed on, and the mapping from being
//!    taken away. The program may look at the bytes; it must not count on them.
//! 3. **Idle.** Between transfers the memory is the program's. A device that writes into it then is broken, but it reaches only what
//!    this process gave it, for as long as it is mapped.
//! 4. **Freed.** Before pages are given back to the kernel, [`crate::memory::Pages`] tells every [`crate::memory::Hold`]: the bus
//!    address is gone (VFIO_IOMMU_UNMAP_DMA flushes the IOMMU's cache and returns when no access is under way) before the pages are.
//!
//! **Close, and an exception that leads to it.** Transfers are given up; the queue stops ([`crate::engine::Queue::stop`]): the
//! device has said that it is done, or was reset, or is no bus master any more and begins no transaction. Only then are
//! operations dropped, and only after [`Function`] has taken bus mastering away are mappings taken away with it. Registers go
//! with the function: who asks for them later is refused.
//!
//! **Exit.** Ruby finalises its objects in any order. Buffers in flight are held by the queue, so that the order does not matter.
//!
//! **Kill, and a panic that ends the process.** Nothing of this crate runs. The kernel closes the files: each device holds its
//! group and the group its container, so that the device goes first. VFIO disables interrupts and bus mastering, resets the function where it
//! can, and only when the last device has gone does the container unmap and unpin. The pages outlive the process until
//! then, for pinning holds them, and nobody else is given them.
//!
//! **Fork.** The child has copies of the descriptors, and must not use them: everything here refuses it
//! ([`crate::sys::fork_generation`]). Memory of ours reads as zeros there and is never shared with it, so that the parent's pages stay the
//! ones the device has; memory of others is copied for the child at the fork, because it is pinned. BARs are not mapped in the
//! child (MADV_DONTFORK). A child that goes on without exec(2) keeps the device from being given to another process until it
//! ends; the parent's close makes the device quiet nevertheless, for it does so by command and not by closing.
//!
//! **Panic.** Locks survive it; the value that is dropped on the way does what close does.

mod addresses;
mod bar;
mod bare;
mod claim;
mod config;
mod container;
mod edu;
mod function;
mod interrupts;
pub mod nvme;
pub mod pci;
mod space;

use std::sync::Arc;

use super::Engine;
use crate::error::{Error, Result};

pub use function::{Function, Interrupt, Options};
pub use interrupts::{Kind as InterruptKind, Vector};

use nvme::{Nvme, NvmeEngine};

/// The most interrupts of a function without a driver here: each is a file descriptor.
const VECTORS: u32 = 64;
/// What the IOMMU maps by one entry where it can.
const LARGE_PAGE: u64 = crate::sys::HUGE_PAGE as u64;

/// Who drives a function.
#[derive(Debug, Clone)]
pub enum Driver {
    /// Nobody here.
    Bare,
    /// The driver of QEMU's educational device.
    Edu,
    /// The driver of NVMe controllers.
    Nvme(Arc<Nvme>),
}

impl Driver {
    /// Its name; none where there is none.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Driver::Bare => None,
            Driver::Edu => Some("edu"),
            Driver::Nvme(_) => Some("nvme"),
        }
    }
}

/// A function that is open, with its driver.
#[derive(Debug)]
pub struct Driven {
    /// The function.
    pub function: Arc<Function>,
    /// Who drives it.
    pub driver: Driver,
}

impl Driven {
    /// Opens the function at `address` with the driver for it, if there is one and it is wanted. Beside it: its engine, how many
    /// channels it has, and how many operations each holds.
    ///
    /// # Errors
    /// [`Error::Os`] where there is none (ENODEV), another process has it (EBUSY), or rights are missing (EACCES); [`Error::Busy`]
    /// where this process has it; [`Error::Unsupported`] for whatever else is in the way, with the line that mends it;
    /// [`Error::Argument`] for options that are not the device's.
    pub(crate) fn open(address: &str, options: Options) -> Result<(Driven, Arc<dyn Engine>, u16, u32)> {
        let listed = pci::find(address)?;
        let is_edu = !options.bare && (listed.vendor, listed.device) == edu::ID;
        let is_nvme = !options.bare && listed.class == nvme::CLASS;
        if options.namespace.is_some() && !is_nvme {
            return Err(Error::Argument(format!(
                "namespace: {} is no NVMe controller with its driver",
                listed.address
            )));
        }
        let widest = if is_edu { edu::ADDRESS_BITS } else { 64 };
        let bits = options.address_bits.unwrap_or(widest);
        if !(13..=widest).contains(&bits) {
            return Err(Error::Argument(format!("address_bits: {bits} is outside 13..{widest}")));
        }
        let vectors = match () {
            () if is_edu => 1,
            () if is_nvme => nvme::VECTORS,
            () => VECTORS,
        };
        let function = Arc::new(Function::open(listed, bits, options.interrupts, vectors)?);
        let (driver, engine, channels, depth): (_, Arc<dyn Engine>, _, _) = if is_edu {
            (Driver::Edu, Arc::new(edu::Edu::new(Arc::clone(&function))?), 1, edu::DEPTH)
        } else if is_nvme {
            let nvme = Arc::new(Nvme::new(Arc::clone(&function), options.namespace)?);
            let (channels, depth) = (nvme.channels(), nvme.depth());
            (Driver::Nvme(Arc::clone(&nvme)), Arc::new(NvmeEngine(nvme)), channels, depth)
        } else {
            (Driver::Bare, Arc::new(bare::Bare::new(Arc::clone(&function))), 0, 0)
        };
        Ok((Driven { function, driver }, engine, channels, depth))
    }
}
