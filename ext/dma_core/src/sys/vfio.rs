//! The ioctls of VFIO's containers, groups and devices, each once (kernel: include/uapi/linux/vfio.h).

use std::ffi::{c_void, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

use nix::errno::Errno;
use vfio_bindings::bindings::vfio::*;

use crate::transfer::Access;

/// What the kernel says of the IOMMU behind a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IommuInfo {
    /// The smallest page it maps, in bytes.
    pub page: u64,
    /// Bus addresses that may be mapped, as (first, last).
    pub ranges: Vec<(u64, u64)>,
    /// How many more mappings the container takes; `None` where the kernel does not say.
    pub mappings_left: Option<u32>,
}

/// A region of a device: a BAR or its configuration space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Region {
    /// Bytes.
    pub size: u64,
    /// Where it begins in the device's file.
    pub offset: u64,
    /// What of it mmap(2) takes, as (offset in the region, length).
    pub areas: Vec<(u64, u64)>,
}

const ARGSZ_MAX: usize = 64 << 10;

/// ioctl(2) with VFIO's request number `number`.
///
/// # Safety
/// `argument` must be what the request takes.
unsafe fn call(fd: BorrowedFd<'_>, number: u32, argument: *mut c_void) -> Result<i32, Errno> {
    let request = libc::c_ulong::from(VFIO_TYPE) << 8 | libc::c_ulong::from(VFIO_BASE + number);
    // SAFETY: the caller vouches for the argument.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) })
}

/// A request with a struct of its own.
///
/// # Safety
/// `T` must be the struct that the request takes, with its `argsz` set to no more than the size of `T`.
unsafe fn call_with<T>(fd: BorrowedFd<'_>, number: u32, argument: &mut T) -> Result<i32, Errno> {
    // SAFETY: the caller vouches for the type.
    unsafe { call(fd, number, std::ptr::from_mut(argument).cast()) }
}

/// A struct that the kernel fills, and capabilities behind it: grows until all of it fits.
///
/// # Safety
/// The request must take a struct that begins with `argsz` and has `size` bytes, of which `head` are set by the caller.
unsafe fn call_growing(fd: BorrowedFd<'_>, number: u32, size: usize, head: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; size];
    loop {
        let argsz = bytes.len() as u32;
        bytes[4..4 + head.len()].copy_from_slice(head);
        bytes[..4].copy_from_slice(&argsz.to_ne_bytes());
        // SAFETY: the buffer has as many bytes as argsz says; the caller vouches for the rest.
        unsafe { call(fd, number, bytes.as_mut_ptr().cast()) }?;
        let wanted = u32_at(&bytes, 0) as usize;
        if wanted <= bytes.len() || wanted > ARGSZ_MAX {
            return Ok(bytes);
        }
        bytes = vec![0; wanted];
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_ne_bytes(four.try_into().expect("four bytes")))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |eight| u64::from_ne_bytes(eight.try_into().expect("eight bytes")))
}

/// The capabilities in `bytes` from offset `first` on, as (id, offset of the capability).
fn capabilities(bytes: &[u8], first: u32) -> Vec<(u32, usize)> {
    let (mut found, mut at) = (Vec::new(), first as usize);
    // Each lies behind the one before it, so that a chain always ends.
    while at >= 4 && at + 8 <= bytes.len() {
        found.push((u32_at(bytes, at) & 0xffff, at));
        let next = u32_at(bytes, at + 4) as usize;
        if next <= at {
            break;
        }
        at = next;
    }
    found
}

/// Whether the container speaks this crate's version of the interface and has IOMMUs of the type that it uses (type1v2).
pub fn is_usable(container: BorrowedFd<'_>) -> Result<bool, Errno> {
    // SAFETY: these two take a number.
    unsafe {
        let version = call(container, 0, null_mut())?;
        let type1 = call(container, 1, VFIO_TYPE1v2_IOMMU as usize as *mut c_void)?;
        Ok(version == VFIO_API_VERSION as i32 && type1 == 1)
    }
}

/// Whether every device of the group is VFIO's or nobody's.
pub fn is_viable(group: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut status = vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, flags: 0 };
    // SAFETY: VFIO_GROUP_GET_STATUS fills a struct vfio_group_status.
    unsafe { call_with(group, 3, &mut status) }?;
    Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// Puts a group into a container, and gives the container its IOMMU.
pub fn join(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut fd = container.as_raw_fd();
    // SAFETY: VFIO_GROUP_SET_CONTAINER takes a descriptor, VFIO_SET_IOMMU a number.
    unsafe {
        call_with(group, 4, &mut fd)?;
        call(container, 2, VFIO_TYPE1v2_IOMMU as usize as *mut c_void)?;
    }
    Ok(())
}

/// Opens the device with this address in the group.
pub fn open_device(group: BorrowedFd<'_>, address: &str) -> Result<OwnedFd, Errno> {
    let name = CString::new(address).map_err(|_| Errno::EINVAL)?;
    // SAFETY: VFIO_GROUP_GET_DEVICE_FD takes a C string.
    let fd = unsafe { call(group, 6, name.as_ptr() as *mut c_void) }?;
    // The kernel makes it close-on-exec.
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the container's IOMMU maps.
pub fn iommu_info(container: BorrowedFd<'_>) -> Result<IommuInfo, Errno> {
    // SAFETY: VFIO_IOMMU_GET_INFO fills a struct vfio_iommu_type1_info and capabilities.
    let bytes = unsafe { call_growing(container, 12, size_of::<vfio_iommu_type1_info>(), &[]) }?;
    let (flags, sizes) = (u32_at(&bytes, 4), u64_at(&bytes, 8));
    let mut info = IommuInfo { page: 1 << sizes.trailing_zeros().min(62), ..IommuInfo::default() };
    if flags & VFIO_IOMMU_INFO_CAPS == 0 {
        return Ok(info);
    }
    for (id, at) in capabilities(&bytes, u32_at(&bytes, 16)) {
        match id {
            VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                let ranges = (0..u32_at(&bytes, at + 8) as usize).map(|index| at + 16 + index * 16);
                info.ranges = ranges.map(|at| (u64_at(&bytes, at), u64_at(&bytes, at + 8))).collect();
            }
            VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => info.mappings_left = Some(u32_at(&bytes, at + 8)),
            _ => {}
        }
    }
    Ok(info)
}

/// Pins memory and lets devices of the container reach it at bus address `iova`.
///
/// # Safety
/// `[address, address + len)` must be mapped, and must not be used for anything else before [`unmap`]: while it is mapped, a
/// device may read it, and where `access` says so write it, at any time.
pub unsafe fn map(container: BorrowedFd<'_>, address: usize, len: u64, iova: u64, access: Access) -> Result<(), Errno> {
    let flags = match access {
        Access::Read => VFIO_DMA_MAP_FLAG_READ,
        Access::Write => VFIO_DMA_MAP_FLAG_WRITE,
        Access::Both => VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
    };
    let argsz = size_of::<vfio_iommu_type1_dma_map>() as u32;
    let mut request = vfio_iommu_type1_dma_map { argsz, flags, vaddr: address as u64, iova, size: len };
    // SAFETY: VFIO_IOMMU_MAP_DMA takes this struct; the caller vouches for the memory.
    unsafe { call_with(container, 13, &mut request) }.map(drop)
}

/// Takes bus addresses away, and lets go of the memory behind them: no device reaches it after this.
pub fn unmap(container: BorrowedFd<'_>, iova: u64, len: u64) -> Result<(), Errno> {
    let argsz = size_of::<vfio_iommu_type1_dma_unmap>() as u32;
    let mut request =
        vfio_iommu_type1_dma_unmap { argsz, flags: 0, iova, size: len, data: __IncompleteArrayField::new() };
    // SAFETY: VFIO_IOMMU_UNMAP_DMA takes this struct, and changes no byte of memory.
    unsafe { call_with(container, 14, &mut request) }.map(drop)
}

/// Region `index` of a device; of size zero where it has none.
pub fn region(device: BorrowedFd<'_>, index: u32) -> Result<Region, Errno> {
    let head = [[0; 4], index.to_ne_bytes()].concat();
    // SAFETY: VFIO_DEVICE_GET_REGION_INFO takes a struct vfio_region_info with the index set.
    let bytes = unsafe { call_growing(device, 8, size_of::<vfio_region_info>(), &head) }?;
    let flags = u32_at(&bytes, 4);
    let mut region = Region { size: u64_at(&bytes, 16), offset: u64_at(&bytes, 24), areas: Vec::new() };
    if flags & VFIO_REGION_INFO_FLAG_MMAP == 0 || region.size == 0 {
        return Ok(region);
    }
    region.areas = vec![(0, region.size)];
    if flags & VFIO_REGION_INFO_FLAG_CAPS != 0 {
        for (id, at) in capabilities(&bytes, u32_at(&bytes, 12)) {
            if id == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
                let areas = (0..u32_at(&bytes, at + 8) as usize).map(|index| at + 16 + index * 16);
                region.areas = areas.map(|at| (u64_at(&bytes, at), u64_at(&bytes, at + 8))).collect();
            }
        }
    }
    Ok(region)
}

/// How many interrupts of this kind the device has.
pub fn irq_count(device: BorrowedFd<'_>, index: u32) -> u32 {
    let argsz = size_of::<vfio_irq_info>() as u32;
    let mut info = vfio_irq_info { argsz, flags: 0, index, count: 0 };
    // SAFETY: VFIO_DEVICE_GET_IRQ_INFO fills a struct vfio_irq_info with the index set.
    let done = unsafe { call_with(device, 9, &mut info) };
    // A kernel that does not know the kind says EINVAL.
    done.map_or(0, |_| info.count)
}

fn set_irqs(device: BorrowedFd<'_>, index: u32, flags: u32, count: usize, data: &[i32]) -> Result<i32, Errno> {
    let words = [(20 + 4 * data.len()) as u32, flags, index, 0, count as u32];
    let mut request: Vec<u32> = words.into_iter().chain(data.iter().map(|fd| *fd as u32)).collect();
    // SAFETY: VFIO_DEVICE_SET_IRQS takes five words and the descriptors that they count.
    unsafe { call(device, 10, request.as_mut_ptr().cast()) }
}

/// Has each of the device's interrupts of this kind signal an eventfd; none disables them. Zero, or how many the system can
/// give where it cannot give so many: then nothing was done.
pub fn route_irqs(device: BorrowedFd<'_>, index: u32, events: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let fds: Vec<i32> = events.iter().map(AsRawFd::as_raw_fd).collect();
    let data = if fds.is_empty() { VFIO_IRQ_SET_DATA_NONE } else { VFIO_IRQ_SET_DATA_EVENTFD };
    set_irqs(device, index, data | VFIO_IRQ_SET_ACTION_TRIGGER, fds.len(), &fds).map(|count| count as usize)
}

/// Lets an interrupt come again that the kernel masked when it came (INTx).
pub fn unmask_irq(device: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    set_irqs(device, index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 1, &[]).map(drop)
}

/// Whether the kernel can reset the device.
pub fn can_reset(device: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut info = vfio_device_info { argsz: size_of::<vfio_device_info>() as u32, ..Default::default() };
    // SAFETY: VFIO_DEVICE_GET_INFO fills a struct vfio_device_info.
    unsafe { call_with(device, 7, &mut info) }?;
    Ok(info.flags & VFIO_DEVICE_FLAGS_RESET != 0)
}

/// Resets the device, and nothing else.
pub fn reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: VFIO_DEVICE_RESET takes nothing.
    unsafe { call(device, 11, null_mut()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(links: &[(u16, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        for (id, next) in links {
            bytes.extend([id.to_ne_bytes(), 1u16.to_ne_bytes()].concat());
            bytes.extend(next.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_chain_of_capabilities_ends_whatever_it_says() {
        assert_eq!(capabilities(&chain(&[(1, 16), (3, 0)]), 8), [(1, 8), (3, 16)]);
        assert_eq!(capabilities(&chain(&[(1, 8)]), 8), [(1, 8)], "one that leads to itself");
        assert_eq!(capabilities(&chain(&[(1, 4000)]), 8), [(1, 8)], "one that leads outside");
        assert_eq!(capabilities(&chain(&[]), 0), []);
    }
}
