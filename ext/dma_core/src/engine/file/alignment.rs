//! What direct I/O needs of a file: asked of the kernel, then of the device, then tried; never assumed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::BUFFERED;
use crate::engine::Limits;
use crate::memory::{Huge, Layout, Pages};
use crate::sys::{self, Stat};

/// Opens a second descriptor of the file in `stat` with O_DIRECT, and finds the alignment it needs; or says why not.
pub(super) fn open_direct(path: &Path, flags: i32, stat: Stat) -> Result<(OwnedFd, Limits), String> {
    if matches!(stat.direct, Some((memory, offset)) if memory == 0 || offset == 0) {
        return Err("statx says that this file takes none".into());
    }
    let flags = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC) | libc::O_DIRECT | libc::O_NONBLOCK;
    let fd = sys::open(path, flags, 0).map_err(|errno| match errno {
        Errno::EINVAL => "the file system refuses O_DIRECT".to_owned(),
        errno => errno.desc().to_owned(),
    })?;
    let same = sys::stat(fd.as_fd()).is_ok_and(|second| second.id == stat.id);
    if !same {
        return Err("it was replaced by another file while it was opened".into());
    }
    // With O_NONBLOCK, io_uring would take every file system for one that never makes it wait.
    sys::set_flags(fd.as_fd(), libc::O_DIRECT).map_err(|errno| errno.desc().to_owned())?;
    let limits = match (stat.direct, sys::logical_block_size(stat.device)) {
        (Some((memory, offset)), _) => Limits { granule: offset.into(), memory: memory as usize, ..BUFFERED },
        (None, Some(block)) => Limits { granule: block.into(), memory: block as usize, ..BUFFERED },
        (None, None) => probe(&fd, flags)?,
    };
    if limits.granule > 1 << 20 || !limits.granule.is_power_of_two() || !limits.memory.is_power_of_two() {
        return Err(format!("it needs an alignment of {} bytes, memory of {}", limits.granule, limits.memory));
    }
    Ok((fd, limits))
}

/// Finds the smallest block that is read, with memory aligned no better than that. Where nothing can be read (the file ends
/// before, or is open for writing only) the page size is right on every file system.
fn probe(fd: &OwnedFd, flags: i32) -> Result<Limits, String> {
    let page = sys::page_size();
    let limits = |size: usize| Limits { granule: size as u64, memory: size, ..BUFFERED };
    if flags & libc::O_ACCMODE == libc::O_WRONLY {
        return Ok(limits(page));
    }
    let memory =
        Pages::allocate(Layout { size: 2 * page, align: page, huge: Huge::Never }).map_err(|e| e.to_string())?;
    let mut size = 512;
    while size <= page {
        // SAFETY: `size` bytes from `size` on lie inside the two pages.
        match unsafe { sys::pread(fd.as_fd(), (memory.address() + size) as *mut u8, size, size as u64) } {
            Ok(0) => return Ok(limits(page)),
            Ok(_) => return Ok(limits(size)),
            Err(Errno::EINVAL) => size *= 2,
            Err(errno) => return Err(errno.desc().to_owned()),
        }
    }
    Err("no block size up to a page is taken".into())
}
