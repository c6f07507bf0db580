//! Files as engines: the device address is the offset in the file.

mod alignment;
mod character;
mod choice;
mod order;
pub mod threads;
pub mod uring;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::Arc;

use nix::errno::Errno;

use super::edges::Edges;
use super::{Cache, Limits, Stats};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::sys;
use crate::transfer::{Completion, Direction, Op, Path, Status};
use character::Sides;
pub use choice::{serve, Choice};

/// The length of one operation where nobody asks for another: large enough to amortise it, small enough for several of them to
/// overlap and for an interrupt to be answered soon.
pub const OPERATION: usize = 1 << 20;

/// The same of writes: those of a transfer go one after the other, and the kernel keeps the disk busy with the parts of one. And of
/// what is copied from the page cache, by several threads, of which no two are to make the same huge page.
const LONG: usize = 8 << 20;
/// After how many reads in a row that found their bytes in the page cache the next is not asked about.
const STREAK: u32 = 32;

/// What a file takes through the page cache.
const BUFFERED: Limits = Limits { max_len: OPERATION as u64, max_long: LONG as u64, ..Limits::ANY };

/// Whether a file is read and written past the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// Direct, or an error.
    Always,
    /// Direct where the file system can, buffered otherwise; the statistics tell.
    Auto,
    /// Through the page cache.
    Never,
}

/// A file opened for transfers: one descriptor through the page cache, and one past it (O_DIRECT) where that works.
///
/// What meets the alignment goes direct. The partial blocks at the edges of a write go through the page cache: there the kernel
/// merges them under its own locks, so that neither the file's length nor a neighbour's bytes are ever wrong in between, which
/// a read-modify-write from here, followed by a truncate, could not promise to other processes or after a crash.
///
/// A character device has no page cache, and one descriptor; its driver gets every request as it is.
#[derive(Debug)]
pub struct Handle {
    /// Of a character device the one descriptor; of a pair of them that which is written.
    buffered: OwnedFd,
    direct: Option<OwnedFd>,
    limits: Limits,
    required: bool,
    readable: bool,
    /// `S_IFMT` of its mode.
    file_type: u32,
    /// Of a character device that was opened as a device.
    sides: Option<Sides>,
    /// Edges of writes exclude direct writes to their page: what the kernel writes back of it would undo a direct write that was
    /// under way when the page was read.
    edges: Arc<Edges>,
    /// How many reads in a row found their bytes in the page cache.
    streak: AtomicU32,
    stats: Arc<Stats>,
    generation: u32,
}

impl Handle {
    /// Opens `path` with the flags of open(2); `perm` is the mode of a file that is created.
    ///
    /// # Errors
    /// [`Error::Os`] where open(2) refuses; [`Error::Unsupported`] for what is neither file nor device, for a character device without
    /// addresses, and with [`Direct::Always`] where the file system has no direct I/O.
    pub fn open(path: &FilePath, flags: i32, perm: u32, direct: Direct) -> Result<Handle> {
        let shown = path.display();
        let context = |errno| Error::os(errno, format!("cannot open {shown}"));
        // Without O_NONBLOCK, opening a FIFO would wait for its other end.
        let buffered = sys::open(path, flags | libc::O_NONBLOCK, perm).map_err(context)?;
        let stat = sys::stat(buffered.as_fd()).map_err(context)?;
        let file_type = stat.mode & libc::S_IFMT;
        match file_type {
            libc::S_IFREG | libc::S_IFBLK | libc::S_IFCHR => {}
            libc::S_IFDIR => return Err(context(Errno::EISDIR)),
            _ => {
                return Err(Error::Unsupported(format!(
                    "{shown} is neither a regular file nor a device; read and write it in order, with an ordinary IO"
                )))
            }
        }
        sys::set_flags(buffered.as_fd(), 0).map_err(context)?;
        let stats = Arc::new(Stats::default());
        let (direct_fd, limits) = match direct {
            _ if file_type == libc::S_IFCHR => (None, character::limits(path, buffered.as_fd(), direct)?),
            Direct::Never => (None, BUFFERED),
            _ => match alignment::open_direct(path, flags, stat) {
                Ok((fd, limits)) => (Some(fd), limits),
                Err(why) if direct == Direct::Always => {
                    return Err(Error::Unsupported(format!(
                        "{shown} cannot be opened for direct I/O ({why}); use direct: :auto or direct: false"
                    )));
                }
                Err(_) => {
                    stats.fallbacks.fetch_add(1, Relaxed);
                    (None, BUFFERED)
                }
            },
        };
        Ok(Handle {
            buffered,
            direct: direct_fd,
            limits,
            required: direct == Direct::Always,
            readable: flags & libc::O_ACCMODE != libc::O_WRONLY,
            file_type,
            sides: None,
            edges: Edges::new(),
            stats,
            streak: AtomicU32::new(0),
            generation: sys::fork_generation(),
        })
    }

    /// Opens what is at `path` as a device: for reading only where it may not be written to, and a character device for all that
    /// it can do.
    ///
    /// # Errors
    /// See [`Handle::open`].
    pub fn of_device(path: &FilePath, direct: Direct) -> Result<Handle> {
        if sys::is_character_device(path) == Ok(true) {
            return character::open(path, direct);
        }
        Ok(Handle::open_allowed(path, &[libc::O_RDWR, libc::O_RDONLY], direct)?.0)
    }

    /// Opens `path` with the first of these flags that its permissions allow, and says which.
    fn open_allowed(path: &FilePath, choices: &[i32], direct: Direct) -> Result<(Handle, i32)> {
        let mut refused = None;
        for flags in choices {
            match Handle::open(path, *flags, 0, direct) {
                Err(error @ Error::Os { errno: Errno::EACCES | Errno::EROFS | Errno::EPERM, .. }) => {
                    refused.get_or_insert(error);
                }
                opened => return opened.map(|handle| (handle, *flags)),
            }
        }
        Err(refused.expect("there is a choice"))
    }

    /// What operations must look like to go direct; all ones where there is no direct descriptor.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What was done so far.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Whether aligned operations go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some() || self.is_character()
    }

    /// Whether it was opened for reading.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether it is a regular file, which can be cut and have holes.
    pub fn is_regular(&self) -> bool {
        self.file_type == libc::S_IFREG
    }

    /// Whether it is a character device.
    pub fn is_character(&self) -> bool {
        self.file_type == libc::S_IFCHR
    }

    /// The direction that it has not, and why.
    pub fn missing(&self) -> Option<(Direction, &str)> {
        let (direction, why) = self.sides.as_ref()?.missing.as_ref()?;
        Some((*direction, why))
    }

    /// The descriptor through the page cache; of a character device its only one.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }

    /// The size in bytes now; 0 of a character device, which does not say it.
    pub fn size(&self) -> Result<u64, Errno> {
        if self.file_type == libc::S_IFBLK {
            sys::device_size(self.buffered.as_fd())
        } else {
            Ok(sys::stat(self.buffered.as_fd())?.size)
        }
    }

    /// Refuses the child of a fork: workers and locks of the parent are not there.
    pub fn check(&self) -> Result<()> {
        if self.generation == sys::fork_generation() {
            return Ok(());
        }
        Err(Error::Closed("this file belongs to the parent process; open it anew after fork".into()))
    }

    /// Which way an operation goes: past the page cache where it is aligned as that needs, unless its bytes are in there already.
    fn path(&self, op: &Op, cache: Cache) -> Path {
        match op {
            _ if self.is_character() => Path::Direct,
            Op::Read { offset, span } if self.direct.is_some() && self.is_held(*offset, span, cache) => {
                self.stats.cached_requests.fetch_add(1, Relaxed);
                Path::Buffered
            }
            Op::Read { offset, span } if self.fits(*offset, span) => Path::Direct,
            Op::Write { offset, span } if self.fits(*offset, span) => Path::Direct,
            _ => Path::Buffered,
        }
    }

    /// Whether the page cache has what is read.
    fn is_held(&self, offset: u64, span: &Span, cache: Cache) -> bool {
        match cache {
            Cache::Past => false,
            Cache::Through => true,
            // The rest comes with it, read ahead.
            Cache::Ask => {
                let (there, all) = self.cached(offset, span.len() as u64);
                there > all / 2
            }
        }
    }

    /// The descriptor that an operation of this kind goes through.
    fn descriptor_for(&self, op: &Op, path: Path) -> BorrowedFd<'_> {
        let other = match (path, op) {
            (Path::Direct, Op::Read { .. }) if self.is_character() => {
                self.sides.as_ref().and_then(|sides| sides.reads.as_ref())
            }
            (Path::Direct, _) => self.direct.as_ref(),
            (Path::Buffered, _) => None,
        };
        other.unwrap_or(&self.buffered).as_fd()
    }

    fn fits(&self, offset: u64, span: &Span) -> bool {
        let Limits { granule, memory, .. } = self.limits;
        let aligned =
            offset % granule == 0 && span.len() as u64 % granule == 0 && span.address() as usize % memory == 0;
        self.direct.is_some() && aligned
    }

    /// Whether an operation that direct I/O refused (a file that was just made compressed or encrypted, say) is to go through the
    /// page cache after all. The kernel cuts a write off at RLIMIT_FSIZE, at any byte: direct I/O then refuses what is left of it.
    fn may_fall_back(&self, op: &Op, path: Path, errno: Errno) -> bool {
        let cut = || match op {
            Op::Write { offset, span } => {
                sys::file_size_limit().is_some_and(|limit| offset.saturating_add(span.len() as u64) > limit)
            }
            _ => false,
        };
        let may = path == Path::Direct && errno == Errno::EINVAL && !self.is_character() && (!self.required || cut());
        if may {
            self.stats.fallbacks.fetch_add(1, Relaxed);
        }
        may
    }

    /// The completion of an operation that the kernel has carried out.
    fn end(&self, tag: u32, op: &Op, path: Path, result: Result<usize, Errno>) -> Completion {
        let eof = match op {
            Op::Read { offset, span } => result.is_ok_and(|n| {
                // Of a device it is a packet, or its end: asked for the rest, the driver would wait for the next packet.
                n < span.len() && (self.sides.is_some() || self.ends_at(*offset, n))
            }),
            _ => false,
        };
        if let Op::Read { .. } | Op::Write { .. } = op {
            self.stats.count(path, result.unwrap_or(0));
        }
        let (status, bytes) = match result {
            Ok(bytes) => (Status::Complete, bytes),
            Err(errno) => (Status::Os(errno), 0),
        };
        Completion { tag, status, bytes, eof }
    }

    /// How reads of a range are to go, as far as one look at the page cache tells. Where direct I/O was asked for, nobody looks.
    pub fn look(&self, offset: u64, len: u64) -> Cache {
        if self.direct.is_none() {
            return Cache::Past;
        }
        self.survey(offset, len)
    }

    /// The same, also of a file that is read through the page cache in any case.
    pub fn survey(&self, offset: u64, len: u64) -> Cache {
        if self.required || self.is_character() || len == 0 {
            return Cache::Past;
        }
        match self.cached(offset, len) {
            (0, _) => Cache::Past,
            (there, all) if there == all => Cache::Through,
            _ => Cache::Ask,
        }
    }

    /// The same without asking, which is as dear as reading a little, behind so many reads that found their bytes there. The one that
    /// does not find them has the kernel read some ahead, and the next is asked about again.
    pub fn expect(&self, offset: u64, len: u64) -> Cache {
        match self.streak.load(Relaxed) < STREAK {
            true => self.survey(offset, len),
            false => Cache::Through,
        }
    }

    /// Copies bytes from the page cache to `address`, whatever its alignment; how many. It stops at the first that is not there.
    ///
    /// # Safety
    /// `address` must be valid for writing `len` bytes, and no Rust reference may point there.
    pub unsafe fn read_cached(&self, address: *mut u8, len: usize, offset: u64) -> usize {
        // SAFETY: the caller vouches for the memory.
        let n = unsafe { sys::pread_cached(self.buffered.as_fd(), address, len, offset) }.unwrap_or(0);
        if n > 0 {
            self.stats.count(Path::Buffered, n);
            self.stats.cached_requests.fetch_add(u64::from(self.direct.is_some()), Relaxed);
        }
        let streak = if n == len { self.streak.load(Relaxed).saturating_add(1) } else { 0 };
        self.streak.store(streak, Relaxed);
        n
    }

    /// How many pages of a range are in the page cache, as far as that can be known, and how many it has up to the end of the file.
    fn cached(&self, offset: u64, len: u64) -> (u64, u64) {
        let page = sys::page_size() as u64;
        let first = offset / page;
        let pages = |end: u64| end.div_ceil(page).saturating_sub(first);
        let end = offset.saturating_add(len);
        let (all, start) = (pages(end), first * page);
        let there = sys::cached_pages(self.buffered.as_fd(), start, all * page).unwrap_or(0);
        if there == 0 || there == all {
            return (there, all);
        }
        // Memory may be larger than what is left of the file.
        let size = self.size().unwrap_or(end);
        (there, pages(end.min(size)).max(there))
    }

    /// Whether a read of `n` bytes at `offset` that came back short met the end of the file. Of a file that says it has no
    /// size (proc(5) makes such) only a read of nothing tells.
    fn ends_at(&self, offset: u64, n: usize) -> bool {
        n == 0 || self.is_behind(offset + n as u64)
    }

    /// Whether no byte of the file lies at `offset` or behind, as far as it says.
    pub fn is_behind(&self, offset: u64) -> bool {
        self.size().is_ok_and(|size| size > 0 && offset >= size)
    }
}
