//! The system calls, each once, behind safe signatures. Nothing above this module calls `libc` or `nix` for effect.

mod extents;
mod per_process;
pub mod vfio;

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{getrlimit, Resource, RLIM_INFINITY};

use crate::error::errno;

pub use extents::{allocate, copies_remotely, copy_range, file_system, next_data, reflink, truncate};
pub use per_process::PerProcess;

/// The size of a huge page that `MADV_HUGEPAGE` and `MAP_HUGETLB` use on the platforms Ruby runs DMA on, in bytes.
pub const HUGE_PAGE: usize = 2 << 20;

/// The most bytes one read(2) or write(2) moves on Linux (read(2), NOTES).
pub const MAX_RW: usize = 0x7fff_f000;

/// The kernel's page size in bytes.
pub fn page_size() -> usize {
    // No OnceLock, here and below: the child of a fork would wait for ever for a thread of its parent that is in the midst of it.
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    if SIZE.load(Ordering::Relaxed) == 0 {
        // SAFETY: sysconf reads a constant of the system.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        SIZE.store(usize::try_from(size).expect("the kernel reports a page size"), Ordering::Relaxed);
    }
    SIZE.load(Ordering::Relaxed)
}

/// How many forks lie between this process and the one that first asked: what holds memory, descriptors or locks keeps the
/// number it was made under and refuses to work under another. An atomic load, where getpid(2) would be a system call.
pub fn fork_generation() -> u32 {
    static GENERATION: AtomicU32 = AtomicU32::new(0);
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    if !REGISTERED.load(Ordering::Relaxed) && !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler only adds to an atomic, which is async-signal-safe.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
    GENERATION.load(Ordering::Relaxed)
}

/// Locks the pages of `[address, address + len)`: all at once, or each when it is first touched (mlock2(2)).
///
/// # Safety
/// The range must be mapped.
pub unsafe fn mlock(address: *const u8, len: usize, on_fault: bool) -> Result<(), Errno> {
    let flags = if on_fault { libc::MLOCK_ONFAULT } else { 0 };
    // SAFETY: locking changes no byte; the caller vouches for the range.
    Errno::result(unsafe { libc::mlock2(address.cast(), len, flags) }).map(drop)
}

/// Unlocks the pages of `[address, address + len)`.
///
/// # Safety
/// The range must be mapped, and nobody else may count on its being locked.
pub unsafe fn munlock(address: *const u8, len: usize) -> Result<(), Errno> {
    // SAFETY: unlocking changes no byte; the caller vouches for the range.
    Errno::result(unsafe { libc::munlock(address.cast(), len) }).map(drop)
}

/// madvise(2).
///
/// # Safety
/// The range must be mapped, and the advice must not take away bytes that are still wanted.
pub unsafe fn madvise(address: *mut u8, len: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: the caller vouches for range and advice.
    Errno::result(unsafe { libc::madvise(address.cast(), len, advice) }).map(drop)
}

/// Lets this process have the huge pages that it asks for by MADV_HUGEPAGE. Ruby disables huge pages when it starts, because of
/// its own heap (prctl(2), PR_SET_THP_DISABLE); for what does not ask they stay disabled.
pub fn allow_advised_huge_pages() {
    const EXCEPT_ADVISED: libc::c_ulong = 1 << 1; // PR_THP_DISABLE_EXCEPT_ADVISED, from Linux 6.18 on
    static ASKED: AtomicBool = AtomicBool::new(false);
    if ASKED.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: these two take numbers, and change no byte.
    let prctl = |option: i32, disable: libc::c_ulong, flags: libc::c_ulong| unsafe {
        libc::prctl(option, disable, flags, 0 as libc::c_ulong, 0 as libc::c_ulong)
    };
    let disabled = prctl(libc::PR_GET_THP_DISABLE, 0, 0) == 1;
    if !disabled || prctl(libc::PR_SET_THP_DISABLE, 1, EXCEPT_ADVISED) == 0 {
        return;
    }
    // An older kernel knows all or none: where the system gives them to who asks only, all are the same.
    let system = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if system.contains("[madvise]") {
        prctl(libc::PR_SET_THP_DISABLE, 0, 0);
    }
}

/// The soft RLIMIT_MEMLOCK in bytes; `None` when unlimited.
pub fn memlock_limit() -> Option<u64> {
    soft_limit(Resource::RLIMIT_MEMLOCK)
}

/// The soft RLIMIT_FSIZE in bytes; `None` when unlimited.
pub fn file_size_limit() -> Option<u64> {
    soft_limit(Resource::RLIMIT_FSIZE)
}

fn soft_limit(resource: Resource) -> Option<u64> {
    match getrlimit(resource) {
        Ok((soft, _)) if soft != RLIM_INFINITY => Some(soft),
        _ => None,
    }
}

/// The bytes this process has locked (VmLck of proc_pid_status(5)).
pub fn locked_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The bytes of `[address, address + len)` that huge pages back at this moment (proc_pid_smaps(5)). The kernel counts by
/// mapping, and may have joined this one with its neighbours: then it is what is certain, as if theirs had come first.
pub fn huge_bytes(address: usize, len: usize) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let (mut overlap, mut others, mut total) = (0, 0, 0);
    for line in smaps.lines() {
        if let Some((first, last)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
            if let (Ok(first), Ok(last)) = (usize::from_str_radix(first, 16), usize::from_str_radix(last, 16)) {
                overlap = last.min(address + len).saturating_sub(first.max(address));
                others = last - first - overlap;
                continue;
            }
        }
        let huge = ["AnonHugePages:", "Private_Hugetlb:"].iter().find_map(|key| line.strip_prefix(key));
        if let (true, Some(kib)) = (overlap > 0, huge) {
            let bytes = kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) * 1024;
            total += bytes.saturating_sub(others);
        }
    }
    total
}

/// The physical page frame of each page of a page-aligned range, from /proc/self/pagemap (kernel: admin-guide/mm/pagemap).
/// The kernel shows zeros without CAP_SYS_ADMIN, which comes back as EPERM.
///
/// # Safety
/// The range must be mapped, private, writable and anonymous: it is populated first, so that every page has a frame.
pub unsafe fn page_frames(address: *mut u8, len: usize) -> Result<Vec<u64>, Errno> {
    // SAFETY: populating faults pages in and keeps their bytes; the caller vouches for the range.
    unsafe { madvise(address, len, libc::MADV_POPULATE_WRITE) }?;
    let file = fs::File::open("/proc/self/pagemap").map_err(|e| errno(&e))?;
    let mut entries = vec![0u8; len / page_size() * 8];
    let offset = (address as usize / page_size() * 8) as u64;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut entries, offset).map_err(|e| errno(&e))?;
    entries
        .chunks_exact(8)
        .map(|entry| {
            let frame = u64::from_ne_bytes(entry.try_into().expect("eight bytes")) & ((1 << 55) - 1);
            if frame == 0 {
                Err(Errno::EPERM)
            } else {
                Ok(frame)
            }
        })
        .collect()
}

/// Opens a file with `flags`, always close-on-exec.
pub fn open(path: &Path, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    retry(|| {
        // SAFETY: `path` is a NUL-terminated string that outlives the call.
        let fd = Errno::result(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) })?;
        // SAFETY: open returned a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

/// Sets the status flags of an open file (fcntl(2), F_SETFL): those it was opened with that are not among them are taken back.
pub fn set_flags(fd: BorrowedFd<'_>, flags: i32) -> Result<(), Errno> {
    nix::fcntl::fcntl(fd, nix::fcntl::F_SETFL(nix::fcntl::OFlag::from_bits_retain(flags))).map(drop)
}

/// The number of the user that this process is.
pub fn user() -> u32 {
    // SAFETY: it only reads the user of the process.
    unsafe { libc::getuid() }
}

/// Whether this user may open a file for reading and writing (access(2)).
pub fn may_open(path: &Path) -> Result<(), Errno> {
    use nix::unistd::AccessFlags;
    nix::unistd::access(path, AccessFlags::R_OK | AccessFlags::W_OK)
}

/// What statx(2) tells of an open file.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Device and inode: the file's identity.
    pub id: (u64, u64),
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// The device the file lies on, as (major, minor); for a device file the device itself.
    pub device: (u32, u32),
    /// Memory and offset alignment of direct I/O; zeros where the file has none; `None` where the kernel does not say.
    pub direct: Option<(u32, u32)>,
}

/// statx(2) of an open descriptor.
pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_BASIC_STATS | libc::STATX_DIOALIGN;
    // SAFETY: the path is an empty C string, the buffer has the size of a struct statx.
    let done = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, mask, buffer.as_mut_ptr()) };
    Errno::result(done)?;
    // SAFETY: zeroed, then filled by the kernel; every bit pattern is a valid struct statx.
    let stat = unsafe { buffer.assume_init() };
    let mode = u32::from(stat.stx_mode);
    let is_device = mode & libc::S_IFMT == libc::S_IFBLK;
    Ok(Stat {
        id: (libc::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        mode,
        size: stat.stx_size,
        device: if is_device {
            (stat.stx_rdev_major, stat.stx_rdev_minor)
        } else {
            (stat.stx_dev_major, stat.stx_dev_minor)
        },
        direct: (stat.stx_mask & libc::STATX_DIOALIGN != 0)
            .then_some((stat.stx_dio_mem_align, stat.stx_dio_offset_align)),
    })
}

/// `st_mode` of what is at `path`. Nothing is opened: some drivers allow that only once.
pub fn mode(path: &Path) -> Result<u32, Errno> {
    fs::metadata(path).map(|metadata| metadata.mode()).map_err(|error| errno(&error))
}

/// Whether a character device is at `path`.
pub fn is_character_device(path: &Path) -> Result<bool, Errno> {
    mode(path).map(|mode| mode & libc::S_IFMT == libc::S_IFCHR)
}

/// Whether pread(2) and pwrite(2) work on an open file at all: they do not on pipes and terminals (ESPIPE). preadv(2) of no piece is
/// refused for the same reason, and does not get as far as to the driver.
pub fn takes_offsets(fd: BorrowedFd<'_>) -> bool {
    nix::sys::uio::preadv(fd, &mut [], 0) != Err(Errno::ESPIPE)
}

/// The size of a block device in bytes: statx reports zero for it.
pub fn device_size(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64 (linux/fs.h).
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &mut size) })?;
    Ok(size)
}

/// The logical block size of a block device in bytes, from sysfs; a partition has its disk's.
pub fn logical_block_size((major, minor): (u32, u32)) -> Option<u32> {
    let base = format!("/sys/dev/block/{major}:{minor}");
    let names = ["queue/logical_block_size", "../queue/logical_block_size"];
    let text = names.iter().find_map(|name| fs::read_to_string(format!("{base}/{name}")).ok())?;
    text.trim().parse().ok()
}

/// pread(2) into raw memory; EINTR is retried.
///
/// # Safety
/// `address` must be valid for writing `len` bytes, and no Rust reference may point there.
pub unsafe fn pread(fd: BorrowedFd<'_>, address: *mut u8, len: usize, offset: u64) -> Result<usize, Errno> {
    retry(|| {
        // SAFETY: the caller vouches for the memory.
        let n = unsafe { libc::pread(fd.as_raw_fd(), address.cast(), len.min(MAX_RW), as_off(offset)?) };
        Errno::result(n).map(|n| n as usize)
    })
}

/// preadv2(2) with RWF_NOWAIT: of what is in the page cache as much as is there, without a wait; otherwise EAGAIN.
///
/// # Safety
/// `address` must be valid for writing `len` bytes, and no Rust reference may point there.
pub unsafe fn pread_cached(fd: BorrowedFd<'_>, address: *mut u8, len: usize, offset: u64) -> Result<usize, Errno> {
    let part = libc::iovec { iov_base: address.cast(), iov_len: len.min(MAX_RW) };
    // SAFETY: the caller vouches for the memory.
    let n = unsafe { libc::preadv2(fd.as_raw_fd(), &part, 1, as_off(offset)?, libc::RWF_NOWAIT) };
    Errno::result(n).map(|n| n as usize)
}

/// pwrite(2) from raw memory; EINTR is retried.
///
/// # Safety
/// `address` must be valid for reading `len` bytes.
pub unsafe fn pwrite(fd: BorrowedFd<'_>, address: *const u8, len: usize, offset: u64) -> Result<usize, Errno> {
    retry(|| {
        // SAFETY: the caller vouches for the memory.
        let n = unsafe { libc::pwrite(fd.as_raw_fd(), address.cast(), len.min(MAX_RW), as_off(offset)?) };
        Errno::result(n).map(|n| n as usize)
    })
}

/// How many pages of a page-aligned range of a file are in the page cache; `None` where this process may not know. cachestat(2)
/// counts them from Linux 6.5 on, and only for who could write the file; before, mincore(2) tells, which calls all of them present
/// for anybody else.
pub fn cached_pages(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Option<u64> {
    let range = [offset, len];
    let mut counts = [0u64; 5];
    // SAFETY: `range` and `counts` are a struct cachestat_range and a struct cachestat (linux/mman.h).
    let done =
        unsafe { libc::syscall(SYS_CACHESTAT, fd.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0 as libc::c_uint) };
    match Errno::result(done) {
        Ok(_) => Some(counts[0]),
        Err(Errno::ENOSYS) => pages_in_core(fd, offset, len),
        Err(_) => None,
    }
}

/// The number of cachestat(2), the same on all platforms.
const SYS_CACHESTAT: libc::c_long = 451;

fn pages_in_core(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Option<u64> {
    if nix::sys::stat::fstat(fd).ok()?.st_uid != user() {
        return None;
    }
    let len = usize::try_from(len).ok()?;
    let map = memmap2::MmapOptions::new().offset(offset).len(len).map_raw_read_only(&fd).ok()?;
    let mut pages = vec![0u8; len.div_ceil(page_size())];
    // SAFETY: the mapping has `len` bytes, and `pages` a byte for each of its pages. None of them is touched.
    Errno::result(unsafe { libc::mincore(map.as_mut_ptr().cast(), len, pages.as_mut_ptr()) }).ok()?;
    Some(pages.iter().filter(|page| **page & 1 == 1).count() as u64)
}

/// fsync(2), or fdatasync(2) when only the data and what is needed to read it back matter.
pub fn sync(fd: BorrowedFd<'_>, data_only: bool) -> Result<(), Errno> {
    retry(|| if data_only { nix::unistd::fdatasync(fd) } else { nix::unistd::fsync(fd) })
}

/// A new eventfd(2): non-blocking, close-on-exec, zero.
pub fn eventfd() -> Result<EventFd, Errno> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

/// Signals an eventfd: whoever polls it wakes.
pub fn signal(event: &EventFd) {
    // The only refusal is a counter at its maximum, which is readable all the same.
    let _ = event.write(1);
}

/// Takes what was signalled, so that the eventfd is not readable until the next signal.
pub fn clear(event: &EventFd) {
    // EAGAIN: nothing was signalled, which is what the caller wants.
    let _ = event.read();
}

/// A descriptor that is readable while one of the two is: an epoll(7).
pub fn either(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for fd in [a, b] {
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    }
    Ok(epoll.0)
}

/// Waits until `fd` is readable; false after `timeout`.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    matches!(poll(&mut fds, timeout), Ok(n) if n > 0)
}

/// Keeps every signal away from the calling thread: they are for the application's threads.
pub fn block_signals() {
    // Blocking cannot fail with a valid set.
    let _ = nix::sys::signal::SigSet::all().thread_block();
}

fn as_off(offset: u64) -> Result<libc::off_t, Errno> {
    libc::off_t::try_from(offset).map_err(|_| Errno::EFBIG)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
