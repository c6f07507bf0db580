//! Where a file has bytes, where it is to have them, and copies of them that the kernel makes by itself.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::{lseek, Whence};

use super::{as_off, retry};

/// File systems whose server copies by itself (copy_file_range(2)): NFS, SMB by its three names, Ceph (linux/magic.h).
const REMOTE: [i64; 5] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400];

/// The kind of file system that an open file is on, by its number in statfs(2).
pub fn file_system(fd: BorrowedFd<'_>) -> Result<i64, Errno> {
    let mut buffer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the buffer has the size of a struct statfs.
    Errno::result(unsafe { libc::fstatfs(fd.as_raw_fd(), buffer.as_mut_ptr()) })?;
    // SAFETY: zeroed, then filled by the kernel; every bit pattern is a valid struct statfs.
    let statfs = unsafe { buffer.assume_init() };
    #[allow(clippy::unnecessary_cast)] // Its width differs between platforms.
    Ok(statfs.f_type as i64)
}

/// ftruncate(2).
pub fn truncate(fd: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    let size = as_off(size)?;
    retry(|| nix::unistd::ftruncate(fd, size))
}

/// fallocate(2), mode 0: gives every byte of the range its place, and the file that length at least.
pub fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<(), Errno> {
    let (offset, len) = (as_off(offset)?, as_off(len)?);
    retry(|| nix::fcntl::fallocate(fd, nix::fcntl::FallocateFlags::empty(), offset, len))
}

/// Makes `to` a file of the same bytes as `from`, which both share until one of them is written to (ioctl_ficlone(2)).
pub fn reflink(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    const FICLONE: libc::c_ulong = 0x4004_9409;
    // SAFETY: FICLONE takes a descriptor, and reads no memory (linux/fs.h).
    retry(|| Errno::result(unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) }).map(drop))
}

/// Has the kernel copy up to `len` bytes at `offset` to the same place of `to`; how many it did (copy_file_range(2)).
pub fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, offset: u64, len: usize) -> Result<usize, Errno> {
    let offset = as_off(offset)?;
    retry(|| nix::fcntl::copy_file_range(from, Some(&mut offset.clone()), to, Some(&mut offset.clone()), len))
}

/// Whether two files lie on file systems of the same kind, whose server copies by itself.
pub fn copies_remotely(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    matches!((file_system(from), file_system(to)), (Ok(from), Ok(to)) if from == to && REMOTE.contains(&from))
}

/// Start and end of the next bytes at or behind `offset` that are no hole, as far as the file system knows (lseek(2), SEEK_DATA);
/// `None` where there is nothing but a hole up to the end. Moves the position of the descriptor.
pub fn next_data(fd: BorrowedFd<'_>, offset: u64) -> Result<Option<(u64, u64)>, Errno> {
    let start = match lseek(fd, as_off(offset)?, Whence::SeekData) {
        Err(Errno::ENXIO) => return Ok(None),
        start => start?,
    };
    match lseek(fd, start, Whence::SeekHole) {
        // It was cut in between.
        Err(Errno::ENXIO) => Ok(None),
        end => Ok(Some((start as u64, end? as u64))),
    }
}
