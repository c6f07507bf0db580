//! What a file adds to a channel: opening, size, read-ahead.

mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::channel::Channel;
use crate::engine::file::threads::Threads;
use crate::engine::{Engine, Limits, Stats};
use crate::error::{Error, Result};
use crate::sys;

pub use crate::engine::file::{Direct, Handle, OPERATION};
pub use stream::{Chunk, Reader, Step, Stream};

/// An open file. All users of it share its descriptors; each transfers through a [`Channel`] of its own.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    handle: Arc<Handle>,
    engine: Arc<dyn Engine>,
}

impl File {
    /// See [`Handle::open`].
    pub fn open(path: &Path, flags: i32, perm: u32, direct: Direct) -> Result<File> {
        let handle = Arc::new(Handle::open(path, flags, perm, direct)?);
        let engine = Arc::new(Threads::new(Arc::clone(&handle)));
        Ok(File { path: path.to_owned(), handle, engine })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Descriptors, alignment and size.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Running totals of what was done, which outlive the file.
    pub fn stats(&self) -> Arc<Stats> {
        self.engine.stats()
    }

    /// A channel with up to `depth` operations in flight.
    pub fn channel(&self, depth: u32) -> Result<Channel> {
        self.handle.check()?;
        Channel::new(Arc::clone(&self.engine), depth)
    }

    /// The size in bytes now.
    pub fn size(&self) -> Result<u64> {
        self.handle.check()?;
        self.handle.size().map_err(|errno| self.error(errno, "find the size of"))
    }

    /// Cuts or extends the file to `size` bytes.
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.handle.check()?;
        sys::truncate(self.handle.descriptor(), size)
            .map_err(|errno| self.error(errno, &format!("truncate to {size} bytes")))
    }

    /// An operating system error that names this file: `what` is what could not be done to it.
    pub fn error(&self, errno: Errno, what: &str) -> Error {
        Error::os(errno, format!("cannot {what} {}", self.path.display()))
    }

    /// The alignment of direct I/O.
    pub fn limits(&self) -> Limits {
        self.engine.limits()
    }
}
