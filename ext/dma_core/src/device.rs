//! A device: an engine, and its channels as they are shared by whoever has the device open.

mod attached;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::channel::{enter, Channel, Shared};
use crate::engine::file::{serve, Choice, Direct, Handle};
use crate::engine::vfio::{pci, Driven, Options};
use crate::engine::{sim, Engine};
use crate::error::{Error, Result};

use attached::attached;
pub use attached::{attach, detach};

/// Channels of a file, each with a queue of its own, and how many operations each holds.
const FILE_CHANNELS: u16 = 4;
const FILE_DEPTH: u32 = 32;

/// What carries a device's transfers out.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A simulated device.
    Sim(Arc<sim::Device>),
    /// A file, a block device or a character device.
    File(Arc<Handle>),
    /// A PCI function.
    Pci(Arc<Driven>),
}

/// A device, open until it is closed or dropped.
#[derive(Debug)]
pub struct Device {
    name: String,
    kind: Kind,
    engine: Arc<dyn Engine>,
    channels: Mutex<Vec<Option<Arc<Shared>>>>,
    count: usize,
    /// Held while a channel begins to work, which may take a device long; whoever looks at those there are does not wait for it.
    beginning: Mutex<()>,
    depth: u32,
    users: AtomicUsize,
}

impl Device {
    /// A simulated device.
    pub fn of_sim(device: &Arc<sim::Device>, name: &str) -> Arc<Device> {
        let options = device.options();
        let engine: Arc<dyn Engine> = Arc::<sim::Device>::clone(device);
        let kind = Kind::Sim(Arc::clone(device));
        Arc::new(Device::new(name, kind, engine, options.channels, options.ring_size - 1))
    }

    /// What is at `path`: a simulated device that was attached there, whose channels all share who have it open, a regular file, a
    /// block device or a character device, as [`Handle::of_device`] opens them.
    ///
    /// # Errors
    /// [`Error::Os`] where there is none or it may not be opened; [`Error::Unsupported`] for what this cannot drive.
    pub fn open(path: &Path, direct: Direct, choice: Choice) -> Result<Arc<Device>> {
        if let Some(device) = attached(path) {
            return Ok(device);
        }
        if let Some(address) = path.to_str().filter(|text| pci::is_address(text)) {
            return Device::open_pci(address, Options::default());
        }
        let handle = Arc::new(Handle::of_device(path, direct)?);
        let engine = serve(Arc::clone(&handle), choice)?;
        let name = path.display().to_string();
        Ok(Arc::new(Device::new(&name, Kind::File(handle), engine, FILE_CHANNELS, FILE_DEPTH)))
    }

    /// The PCI function at `address`, as [`crate::engine::vfio::pci::is_address`] knows it.
    ///
    /// # Errors
    /// [`Error::Os`] where there is none (ENODEV), another process has it (EBUSY), or rights are missing (EACCES); [`Error::Busy`]
    /// where this process has it; [`Error::Unsupported`] for whatever else is in the way, with the line that mends it;
    /// [`Error::Argument`] for options that are not the device's.
    pub fn open_pci(address: &str, options: Options) -> Result<Arc<Device>> {
        let (driven, engine, channels, depth) = Driven::open(address, options)?;
        let name = driven.function.listed().address.clone();
        Ok(Arc::new(Device::new(&name, Kind::Pci(Arc::new(driven)), engine, channels, depth)))
    }

    fn new(name: &str, kind: Kind, engine: Arc<dyn Engine>, channels: u16, depth: u32) -> Device {
        let (count, channels) = (channels.into(), Mutex::new((0..channels).map(|_| None).collect()));
        let (beginning, users) = (Mutex::default(), AtomicUsize::new(0));
        Device { name: name.to_owned(), kind, engine, channels, count, beginning, depth, users }
    }

    /// What it was opened as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What carries its transfers out.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Its engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// How many elements of requests a channel holds.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// How many channels there are.
    pub fn channel_count(&self) -> usize {
        self.count
    }

    /// Channel `index`, which begins to work when it is first asked for, and again after the device was closed.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is no such channel; see [`Channel::of_device`].
    pub fn channel(&self, index: u16) -> Result<Arc<Shared>> {
        self.check()?;
        let count = self.count;
        if count == 0 {
            self.engine.queue(index, self.depth)?;
        }
        if usize::from(index) >= count {
            return Err(Error::Argument(format!("channel {index}: {} has {count}, numbered from 0 on", self.name)));
        }
        // Nothing that panics runs under the lock.
        let _beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.channels()[usize::from(index)].clone();
        if let Some(channel) = there.filter(|channel| !channel.is_closed()) {
            return Ok(channel);
        }
        let channel = Channel::of_device(Arc::clone(&self.engine), index, self.depth)?;
        let channel = Arc::new(Shared::new(channel, index)?);
        self.channels()[usize::from(index)] = Some(Arc::clone(&channel));
        enter(&channel);
        Ok(channel)
    }

    /// The channels that work.
    pub fn open_channels(&self) -> Vec<Arc<Shared>> {
        self.channels().iter().flatten().cloned().collect()
    }

    /// Counts one more user.
    pub fn enter(&self) {
        self.users.fetch_add(1, SeqCst);
    }

    /// Counts one user less. With the last one, what is in flight on the channels is given up; `grace` for each is how long that
    /// may take.
    pub fn leave(&self, grace: Duration) {
        if self.users.fetch_sub(1, SeqCst) > 1 || self.check().is_err() {
            return;
        }
        let channels: Vec<_> = self.channels().iter_mut().filter_map(Option::take).collect();
        channels.iter().for_each(|channel| channel.close(grace));
    }

    /// Aborts what is in flight on every channel, and resets the device where it can be. True when all is idle.
    pub fn reset(&self, grace: Duration) -> Result<bool> {
        self.check()?;
        let settle = || self.open_channels().iter().try_fold(true, |idle, channel| Ok(channel.reset(grace)? && idle));
        let idle = settle()?;
        self.engine.reset()?;
        // What did not let go before does now.
        Ok(idle || settle()?)
    }

    /// Refuses the child of a fork.
    pub fn check(&self) -> Result<()> {
        match &self.kind {
            Kind::Sim(device) => device.machine().check(),
            Kind::File(handle) => handle.check(),
            Kind::Pci(driven) => driven.function.check(),
        }
    }

    fn channels(&self) -> MutexGuard<'_, Vec<Option<Arc<Shared>>>> {
        // Nothing that panics runs under the lock.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
