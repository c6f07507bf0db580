//! The one error type. Every message says what was asked, what the limit is and what to do about it.

use nix::errno::Errno;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, one variant for each kind a caller may want to tell apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument that no state of the system would make valid.
    #[error("{0}")]
    Argument(String),
    /// Memory or an offset that is not aligned as asked.
    #[error("{0}")]
    Alignment(String),
    /// The object is in use by a transfer; it can be had later.
    #[error("{0}")]
    Busy(String),
    /// The object was freed or closed, or belongs to the parent of this process.
    #[error("{0}")]
    Closed(String),
    /// `mlock` would pass RLIMIT_MEMLOCK; figures in bytes.
    #[error(
        "cannot lock {needed} bytes: {locked} bytes are locked already and RLIMIT_MEMLOCK is {limit}; raise the limit \
         (ulimit -l, limits.conf, LimitMEMLOCK= of systemd, --ulimit memlock= of containers), free other buffers, or use \
         smaller ones; {}",
        without_locking(.for_device)
    )]
    LockLimit {
        /// Bytes this call wanted to lock.
        needed: u64,
        /// Bytes the process has locked already (VmLck).
        locked: u64,
        /// The soft limit.
        limit: u64,
        /// Whether a device is to use the memory, for which it cannot stay pageable.
        for_device: bool,
    },
    /// It took longer than somebody would wait.
    #[error("{0}")]
    TimedOut(String),
    /// No room in a descriptor ring before something completes.
    #[error("{0}")]
    RingFull(String),
    /// The system cannot do what was asked, whatever the arguments.
    #[error("{0}")]
    Unsupported(String),
    /// The operating system refused; `context` says what was being done.
    #[error("{context}: {}", errno.desc())]
    Os {
        /// The error number.
        errno: Errno,
        /// What was being done, with path, offset and length where there are any.
        context: String,
    },
}

fn without_locking(for_device: &bool) -> &'static str {
    match for_device {
        true => "a device uses locked memory only",
        false => "a buffer that no device needs can do with lock: :auto",
    }
}

/// The error number of an `io::Error`; EIO where it has none.
pub fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Error {
    /// An operating system error with what was being done.
    pub fn os(errno: Errno, context: impl Into<String>) -> Self {
        Error::Os { errno, context: context.into() }
    }
}
