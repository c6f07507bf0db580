//! A ring of its own for each queue, and whether there can be one at all.

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue, types, EnterFlags, IoUring, Probe, Submitter};
use nix::errno::Errno;

use crate::engine::Watch;
use crate::error::{errno, Error, Result};
use crate::sync::Event;
use crate::sys;

/// The kernel takes the time for a signed number.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// A ring. Its two sides are for one caller each at a time; memory is registered with it by anybody.
pub(super) struct Ring(IoUring);

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ring").field(&self.0.as_raw_fd()).finish()
    }
}

impl Ring {
    /// A ring for `depth` operations, each of which may be cancelled, that signals `event` whenever one completes. `files` are
    /// registered with it, which saves looking them up for each operation.
    pub fn new(depth: u32, event: &Event, files: [Option<BorrowedFd<'_>>; 2]) -> Result<Ring> {
        let entries = 2 * depth;
        let refused = |error: std::io::Error| {
            let errno = errno(&error);
            let limit = if errno == Errno::ENOMEM { format!("; {}", memlock()) } else { String::new() };
            Error::os(
                errno,
                format!("cannot set up an io_uring of {entries} entries (engine: :threads does without){limit}"),
            )
        };
        let ring = build(entries).map_err(refused)?;
        let submitter = ring.submitter();
        submitter.register_eventfd(event.as_fd().as_raw_fd()).map_err(refused)?;
        submitter.register_files(&files.map(|file| file.map_or(-1, |fd| fd.as_raw_fd()))).map_err(refused)?;
        Ok(Ring(ring))
    }

    /// What memory is registered through.
    pub fn submitter(&self) -> Submitter<'_> {
        self.0.submitter()
    }

    /// Lets go of the files at once: the kernel ends a ring some time after it was closed, and a file that was deleted would keep its
    /// room until then, its file system be busy.
    pub fn let_go(&self) {
        let _ = self.0.submitter().unregister_files();
    }

    /// Adds an entry.
    ///
    /// # Safety
    /// One caller at a time. Memory and files of the entry stay valid until its completion.
    pub unsafe fn put(&self, entry: &squeue::Entry) {
        // A ring has room for an operation and a cancellation of each tag; a call more finds it full where the kernel takes nothing.
        // SAFETY: the caller vouches for both.
        while unsafe { self.0.submission_shared().push(entry) }.is_err() {
            // SAFETY: the caller vouches for it.
            unsafe { self.submit() };
        }
    }

    /// The doorbell: hands all entries over to the kernel. False where some are left, because the kernel has no memory for them
    /// now, or wants completions to be taken first.
    ///
    /// # Safety
    /// One caller at a time.
    pub unsafe fn submit(&self) -> bool {
        // SAFETY: the caller vouches for it.
        while !unsafe { self.is_submitted() } {
            match self.0.submit().map_err(|error| errno(&error)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => {
                    thread::sleep(Duration::from_millis(1));
                    return false;
                }
            }
        }
        true
    }

    /// Whether the kernel has all entries.
    ///
    /// # Safety
    /// One caller at a time.
    pub unsafe fn is_submitted(&self) -> bool {
        // SAFETY: the caller vouches for it.
        unsafe { self.0.submission_shared() }.is_empty()
    }

    /// The next completion, if there is one.
    ///
    /// # Safety
    /// One caller at a time.
    pub unsafe fn next(&self) -> Option<cqueue::Entry> {
        // SAFETY: the caller vouches for it.
        unsafe { self.0.completion_shared() }.next()
    }
}

impl Watch for Ring {
    fn wait(&self, timeout: Duration) -> bool {
        let timeout = types::Timespec::from(timeout.min(LONGEST));
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: nothing is submitted, and the arguments outlive the call.
        let waited = unsafe { self.0.submitter().enter(0, 1, flags.bits(), Some(&arguments)) };
        waited.is_ok()
    }
}

/// The limit of memory that rings, and what is registered with them, count towards, and how to raise it.
pub(super) fn memlock() -> String {
    let limit = sys::memlock_limit().map_or("unlimited".into(), |limit| format!("{limit} bytes"));
    format!(
        "RLIMIT_MEMLOCK, which counts what all processes of the user have registered, is {limit}: raise it (ulimit -l, limits.conf, \
         LimitMEMLOCK= of systemd, --ulimit memlock= of containers)"
    )
}

fn build(entries: u32) -> std::io::Result<IoUring> {
    // The child of a fork has no use for the parent's ring.
    let mut builder = IoUring::builder();
    builder.dontfork();
    // Nobody's thread is stopped for a completion (IORING_SETUP_COOP_TASKRUN): it is told of when the thread enters the kernel next,
    // or the kernel interrupts it.
    let cooperative = builder.clone().setup_coop_taskrun().build(entries);
    match cooperative {
        // Linux before 5.19.
        Err(error) if errno(&error) == Errno::EINVAL => builder.build(entries),
        built => built,
    }
}

/// Whether this process may use io_uring, and the kernel's knows all that is needed; or why not. Asked once.
pub fn available() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    match ANSWER.get() {
        Some(answer) => answer.clone(),
        None => match build(4) {
            Ok(ring) => {
                let answer = check(&ring);
                ANSWER.get_or_init(|| answer).clone()
            }
            Err(error) => match errno(&error) {
                // Those are for good.
                errno @ (Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => {
                    ANSWER.get_or_init(|| Err(refusal(errno))).clone()
                }
                errno => Err(refusal(errno)),
            },
        },
    }
}

fn check(ring: &IoUring) -> Result<(), String> {
    let mut probe = Probe::new();
    let asked = ring.submitter().register_probe(&mut probe);
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::ReadFixed::CODE,
        opcode::WriteFixed::CODE,
        opcode::Fsync::CODE,
        opcode::AsyncCancel::CODE,
    ];
    let knows = asked.is_ok() && needed.iter().all(|code| probe.is_supported(*code));
    // Before 5.12 workers were kernel threads, which knew neither the limits nor the credentials of the process in full.
    if knows && ring.params().is_feature_nodrop() && ring.params().is_feature_native_workers() {
        return Ok(());
    }
    Err("the kernel's is too old; Linux 5.12 or newer has what it takes".into())
}

fn refusal(errno: Errno) -> String {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match (errno, disabled.trim()) {
        (Errno::EPERM, value @ ("1" | "2")) => format!(
            "the system forbids it (sysctl kernel.io_uring_disabled is {value}; 0 allows it to everybody, 1 to the group in \
             kernel.io_uring_group)"
        ),
        (Errno::EPERM | Errno::ENOSYS, _) => format!(
            "io_uring_setup(2) fails with {} ({errno:?}): the kernel was built without it, or a seccomp filter forbids it, as \
             the default profiles of containers do",
            errno.desc()
        ),
        _ => format!("io_uring_setup(2) fails with {} ({errno:?})", errno.desc()),
    }
}
