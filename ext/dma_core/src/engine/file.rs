//! Files as engines: the device address is the offset in the file.

mod alignment;
mod character;
pub mod threads;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path as FilePath;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;

use super::{Limits, Stats};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::sys;
use crate::transfer::{Completion, Direction, Op, Path, Status};
use character::Sides;

/// The length of one operation where nobody asks for another: large enough to amortise it, small enough for several of them to
/// overlap and for an interrupt to be answered soon.
pub const OPERATION: usize = 1 << 20;

/// What a file takes through the page cache.
const BUFFERED: Limits = Limits { max_len: OPERATION as u64, ..Limits::ANY };

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
    /// `S_IFMT` of its mode.
    file_type: u32,
    /// Of a character device that was opened as a device.
    sides: Option<Sides>,
    /// Edges of writes exclude direct writes: block devices have no lock of their own for the two in one page.
    edges: RwLock<()>,
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
            _ => return Err(Error::Unsupported(format!("{shown} is neither a regular file nor a device"))),
        }
        nix::fcntl::fcntl(&buffered, nix::fcntl::F_SETFL(nix::fcntl::OFlag::empty())).map_err(context)?;
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
            file_type,
            sides: None,
            edges: RwLock::new(()),
            stats,
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

    /// Carries one operation out on the calling thread.
    pub(crate) fn execute(&self, tag: u32, op: &Op) -> Completion {
        let (path, result, eof) = match op {
            Op::Read { offset, span } => self.read(*offset, span),
            Op::Write { offset, span } => self.write(*offset, span),
            Op::Flush { data_only } => {
                let done = sys::sync(self.buffered.as_fd(), *data_only);
                return end(tag, done.map(|()| 0), false);
            }
            // The channel asks the limits first.
            Op::Copy { .. } | Op::List { .. } => return end(tag, Err(Errno::EOPNOTSUPP), false),
        };
        self.stats.count(path, result.unwrap_or(0));
        end(tag, result, eof)
    }

    fn read(&self, offset: u64, span: &Span) -> (Path, Result<usize, Errno>, bool) {
        // SAFETY: the span's memory is valid and kept by it, and nobody makes references to it.
        let read = |fd: BorrowedFd<'_>| unsafe { sys::pread(fd, span.address(), span.len(), offset) };
        if let Some(sides) = &self.sides {
            let result = read(sides.reads.as_ref().unwrap_or(&self.buffered).as_fd());
            // A packet, or the device's end: asked for the rest, the driver would wait for the next packet.
            return (Path::Direct, result, result.is_ok_and(|n| n < span.len()));
        }
        let (path, result) = self.attempt(offset, span, || !self.required, read);
        let eof = result.is_ok_and(|n| n < span.len() && self.ends_at(offset, n));
        (path, result, eof)
    }

    fn write(&self, offset: u64, span: &Span) -> (Path, Result<usize, Errno>, bool) {
        let edge = self.direct.is_some() && self.fitting(offset, span).is_none();
        let (_alone, _beside);
        if edge {
            _alone = self.edges.write().unwrap_or_else(PoisonError::into_inner);
        } else {
            _beside = self.edges.read().unwrap_or_else(PoisonError::into_inner);
        }
        // SAFETY: the span's memory is valid and kept by it.
        let write = |fd: BorrowedFd<'_>| unsafe { sys::pwrite(fd, span.address(), span.len(), offset) };
        // The kernel cuts a write off at RLIMIT_FSIZE, at any byte: direct I/O then refuses what is left of it.
        let cut = || sys::file_size_limit().is_some_and(|limit| offset.saturating_add(span.len() as u64) > limit);
        let (path, result) = self.attempt(offset, span, || !self.required || cut(), write);
        (path, result, false)
    }

    /// Runs `call` on the descriptor that fits, and once more through the page cache where direct I/O is refused after all
    /// and `may` says that this is allowed.
    fn attempt(
        &self,
        offset: u64,
        span: &Span,
        may: impl Fn() -> bool,
        call: impl Fn(BorrowedFd<'_>) -> Result<usize, Errno>,
    ) -> (Path, Result<usize, Errno>) {
        if let Some(direct) = self.fitting(offset, span) {
            match call(direct) {
                // The file system refuses what it said it could take (a file just made compressed or encrypted, say).
                Err(Errno::EINVAL) if may() => {
                    self.stats.fallbacks.fetch_add(1, Relaxed);
                }
                result => return (Path::Direct, result),
            }
        }
        (if self.is_character() { Path::Direct } else { Path::Buffered }, call(self.buffered.as_fd()))
    }

    fn fitting(&self, offset: u64, span: &Span) -> Option<BorrowedFd<'_>> {
        let Limits { granule, memory, .. } = self.limits;
        let fits = offset % granule == 0 && span.len() as u64 % granule == 0 && span.address() as usize % memory == 0;
        self.direct.as_ref().filter(|_| fits).map(AsFd::as_fd)
    }

    /// Whether a read of `n` bytes at `offset` that came back short met the end of the file. Of a file that says it has no
    /// size (proc(5) makes such) only a read of nothing tells.
    fn ends_at(&self, offset: u64, n: usize) -> bool {
        n == 0 || self.size().is_ok_and(|size| size > 0 && offset + n as u64 >= size)
    }
}

fn end(tag: u32, result: Result<usize, Errno>, eof: bool) -> Completion {
    let (status, bytes) = match result {
        Ok(bytes) => (Status::Complete, bytes),
        Err(errno) => (Status::Os(errno), 0),
    };
    Completion { tag, status, bytes, eof }
}
