//! What a file adds to a channel: opening, size, read-ahead.

mod copy;
mod many;
mod regions;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::channel::{enter, Channel, Shared};
use crate::engine::file::serve;
use crate::engine::{Engine, Limits, Stats};
use crate::error::{Error, Result};
use crate::sys;

pub use crate::engine::file::{Choice, Direct, Handle, OPERATION};
pub use copy::{Copy, Progress};
pub use many::{Extent, Many};
pub use regions::Regions;
pub use stream::{Chunk, Step, Stream};

/// Operations in flight of all who use a file at once: what keeps a disk busy, and no more than there are worker threads.
const DEPTH: u32 = 128;

/// An open file. All users of it share its descriptors, and mostly one channel ([`File::shared`]): their operations keep one queue
/// of the engine busy. A copy has a [`Channel`] of its own on either side.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    handle: Arc<Handle>,
    engine: Arc<dyn Engine>,
}

impl File {
    /// See [`Handle::open`] and [`serve`].
    pub fn open(path: &Path, flags: i32, perm: u32, direct: Direct, choice: Choice) -> Result<File> {
        let handle = Arc::new(Handle::open(path, flags, perm, direct)?);
        let engine = serve(Arc::clone(&handle), choice)?;
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

    /// What carries its operations out.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
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

    /// A channel for whoever transfers through this file, each with up to `share` operations in flight.
    ///
    /// # Errors
    /// See [`File::channel`].
    pub fn shared(&self, share: u32) -> Result<Arc<Shared>> {
        self.handle.check()?;
        let channel = Channel::of_many(Arc::clone(&self.engine), share.max(DEPTH), share)?;
        let shared = Arc::new(Shared::new(channel, 0)?);
        enter(&shared);
        Ok(shared)
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

    /// Gives `len` bytes from `offset` on their place on the disk, so that writing them cannot fail for want of it; the file is as
    /// long as that at least. What has no bytes yet reads as zeros.
    pub fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.handle.check()?;
        sys::allocate(self.handle.descriptor(), offset, len)
            .map_err(|errno| self.error(errno, &format!("allocate {len} bytes at offset {offset} of")))
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
