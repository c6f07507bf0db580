//! Files as engines: the device address is the offset in the file.

mod alignment;
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
use crate::transfer::{Completion, Op, Path, Status};

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
#[derive(Debug)]
pub struct Handle {
    buffered: OwnedFd,
    direct: Option<OwnedFd>,
    limits: Limits,
    required: bool,
    is_device: bool,
    /// Edges of writes exclude direct writes: block devices have no lock of their own for the two in one page.
    edges: RwLock<()>,
    stats: Arc<Stats>,
    generation: u32,
}

impl Handle {
    /// Opens `path` with the flags of open(2); `perm` is the mode of a file that is created.
    ///
    /// # Errors
    /// [`Error::Os`] where open(2) refuses; [`Error::Unsupported`] for what is neither file nor block device, and with
    /// [`Direct::Always`] where the file system has no direct I/O.
    pub fn open(path: &FilePath, flags: i32, perm: u32, direct: Direct) -> Result<Handle> {
        let shown = path.display();
        let context = |errno| Error::os(errno, format!("cannot open {shown}"));
        // Without O_NONBLOCK, opening a FIFO would wait for its other end.
        let buffered = sys::open(path, flags | libc::O_NONBLOCK, perm).map_err(context)?;
        let stat = sys::stat(buffered.as_fd()).map_err(context)?;
        match stat.mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFBLK => {}
            libc::S_IFDIR => return Err(context(Errno::EISDIR)),
            _ => return Err(Error::Unsupported(format!("{shown} is neither a regular file nor a block device"))),
        }
        nix::fcntl::fcntl(&buffered, nix::fcntl::F_SETFL(nix::fcntl::OFlag::empty())).map_err(context)?;
        let stats = Arc::new(Stats::default());
        let (direct_fd, limits) = match direct {
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
            is_device: stat.mode & libc::S_IFMT == libc::S_IFBLK,
            edges: RwLock::new(()),
            stats,
            generation: sys::fork_generation(),
        })
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
        self.direct.is_some()
    }

    /// The descriptor through the page cache.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }

    /// The size in bytes now.
    pub fn size(&self) -> Result<u64, Errno> {
        if self.is_device {
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
        (Path::Buffered, call(self.buffered.as_fd()))
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
