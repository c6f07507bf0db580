//! An IOMMU group in a container: the only file that knows of the two. What is above asks it to map, to unmap and to open a
//! device; iommufd, which no distribution's kernel gives devices through yet, would be another one of the same shape.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::errno::Errno;

use super::addresses::Addresses;
use crate::error::{Error, Result};
use crate::memory::pin_error;
use crate::sys::{self, vfio, PerProcess};
use crate::transfer::Access;

/// Where VFIO's device files are.
pub(super) const DIRECTORY: &str = "/dev/vfio";

/// One group's container.
#[derive(Debug)]
pub(super) struct Container {
    // Closed in this order: the group leaves the container first.
    group: OwnedFd,
    container: OwnedFd,
    addresses: Mutex<Addresses>,
    generation: u32,
}

/// The containers of this process: a group can be opened once, and is shared by the devices in it.
fn open_containers() -> MutexGuard<'static, HashMap<u32, Weak<Container>>> {
    static OPEN: PerProcess<Mutex<HashMap<u32, Weak<Container>>>> = PerProcess::new();
    // Nothing that panics runs under the lock.
    OPEN.get(|_| Mutex::default()).lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    /// The container of a group.
    pub(super) fn of_group(group: u32) -> Result<Arc<Container>> {
        let mut open = open_containers();
        if let Some(container) = open.get(&group).and_then(Weak::upgrade) {
            return Ok(container);
        }
        let container = Arc::new(Container::open(group)?);
        open.retain(|_, other| other.strong_count() > 0);
        open.insert(group, Arc::downgrade(&container));
        Ok(container)
    }

    fn open(number: u32) -> Result<Container> {
        let path = PathBuf::from(format!("{DIRECTORY}/{number}"));
        let group = open(&path)?;
        let container = open(Path::new("/dev/vfio/vfio"))?;
        let cannot = |errno, what: &str| Error::os(errno, format!("cannot {what} IOMMU group {number}"));
        if !vfio::is_usable(container.as_fd()).map_err(|errno| cannot(errno, "ask for the container of"))? {
            return Err(Error::Unsupported(
                "this kernel's VFIO has no type1v2 IOMMU; load the module: modprobe vfio_iommu_type1".into(),
            ));
        }
        if !vfio::is_viable(group.as_fd()).map_err(|errno| cannot(errno, "ask for the status of"))? {
            return Err(Error::Unsupported(format!(
                "IOMMU group {number} is not viable: another device of the group belongs to the kernel; bind all of them to vfio-pci"
            )));
        }
        vfio::join(group.as_fd(), container.as_fd()).map_err(|errno| match errno {
            Errno::EPERM => Error::os(
                errno,
                format!(
                    "cannot give IOMMU group {number} its IOMMU: interrupts are not remapped here, so that a device could forge \
                     them; enable interrupt remapping in the firmware, or, where you trust the device, \
                     echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
                ),
            ),
            errno => cannot(errno, "give an IOMMU to"),
        })?;
        let info = vfio::iommu_info(container.as_fd()).map_err(|errno| cannot(errno, "ask for the IOMMU of"))?;
        // A kernel before 5.4 does not say what may be mapped; there all but the interrupt window of a PC may.
        let all = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)];
        let ranges = if info.ranges.is_empty() { &all[..] } else { &info.ranges };
        let page = info.page.max(sys::page_size() as u64);
        let addresses = Mutex::new(Addresses::new(ranges, page));
        Ok(Container { group, container, addresses, generation: sys::fork_generation() })
    }

    /// Opens a device of the group.
    pub(super) fn device(&self, address: &str) -> Result<OwnedFd> {
        vfio::open_device(self.group.as_fd(), address)
            .map_err(|errno| Error::os(errno, format!("cannot open {address} in its IOMMU group")))
    }

    /// Pins whole pages of memory and gives them bus addresses below `end`.
    ///
    /// # Safety
    /// As [`vfio::map`].
    ///
    /// # Errors
    /// [`Error::LockLimit`] past RLIMIT_MEMLOCK; [`Error::Os`] ENOSPC where no addresses or no mappings are left.
    pub(super) unsafe fn map(&self, start: usize, len: usize, access: Access, end: u64) -> Result<u64> {
        let bytes = len as u64;
        let taken = self.addresses().take(bytes, end);
        let iova = taken.ok_or_else(|| {
            let largest = self.addresses().largest(end);
            let message = format!(
                "cannot give {len} bytes bus addresses below {end:#x}: the largest free range has {largest}; unmap or free other \
                 memory"
            );
            Error::os(Errno::ENOSPC, message)
        })?;
        // SAFETY: the caller vouches for the memory; nobody else has these addresses.
        let mapped = unsafe { vfio::map(self.container.as_fd(), start, bytes, iova, access) };
        mapped.map(|()| iova).map_err(|errno| {
            self.addresses().put(iova, bytes);
            match errno {
                Errno::ENOMEM => pin_error(bytes),
                Errno::ENOSPC => {
                    let message = format!(
                        "cannot map {len} bytes: the IOMMU takes no more mappings (dma_entry_limit of the module \
                         vfio_iommu_type1); unmap or free other memory"
                    );
                    Error::os(errno, message)
                }
                errno => Error::os(errno, format!("cannot map {len} bytes at {start:#x} for a device")),
            }
        })
    }

    /// Takes bus addresses away: no device reaches the memory any more.
    pub(super) fn unmap(&self, iova: u64, len: usize) {
        // The child of a fork has the parent's container, and must leave it alone.
        if self.generation != sys::fork_generation() {
            return;
        }
        // Nothing refuses what was mapped, whole and once. Where it did, the addresses are not given again.
        if vfio::unmap(self.container.as_fd(), iova, len as u64).is_ok() {
            self.addresses().put(iova, len as u64);
        }
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        // Nothing that panics runs under the lock.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let shown = path.display();
    sys::open(path, libc::O_RDWR, 0).map_err(|errno| {
        let way_out = match errno {
            Errno::EBUSY => format!("; another process has it: fuser -v {shown}"),
            Errno::EACCES | Errno::EPERM => format!("; as root: chown {} {shown}", sys::user()),
            _ => String::new(),
        };
        Error::os(errno, format!("cannot open {shown}{way_out}"))
    })
}
