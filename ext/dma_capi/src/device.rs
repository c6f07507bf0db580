//! Which device transfers go to.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dma_core::channel::Shared;
use dma_core::device::{Device, Kind};
use dma_core::engine::file::{self, Direct};
use dma_core::engine::sim;
use dma_core::{Error, Result};

/// How long a device may take to let go of what is given up.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// A device as long as somebody here uses it: the process for what comes, a transfer until it is over.
#[derive(Debug)]
pub(crate) struct Use(Arc<Device>);

impl Use {
    fn of(device: Arc<Device>) -> Arc<Use> {
        device.enter();
        Arc::new(Use(device))
    }

    /// The channel of all transfers: one, so that they are carried out in the order of their submission.
    pub(crate) fn channel(&self) -> Result<Arc<Shared>> {
        self.0.channel(0)
    }

    /// Bytes of the device.
    pub(crate) fn size(&self) -> Result<u64> {
        self.0.check()?;
        match self.0.kind() {
            Kind::Sim(_) | Kind::Pci(_) => Ok(self.0.engine().limits().size),
            Kind::File(handle) if handle.is_character() => Err(Error::Unsupported(format!(
                "{} is a character device, which does not say its size; its manual does",
                self.0.name()
            ))),
            Kind::File(handle) => {
                handle.size().map_err(|errno| Error::os(errno, format!("cannot ask the size of {}", self.0.name())))
            }
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.leave(GRACE);
    }
}

/// The choice of the process.
#[derive(Debug)]
pub(crate) struct Choice(Mutex<State>);

#[derive(Debug)]
struct State {
    simulated: Option<Arc<Use>>,
    chosen: Option<Arc<Use>>,
    /// A choice, or what was written to the simulated device, is the parent's: going on with another device would read
    /// and write in the wrong place without a word.
    inherited: bool,
}

impl Choice {
    pub(crate) fn new(inherited: bool) -> Choice {
        Choice(Mutex::new(State { simulated: None, chosen: None, inherited }))
    }

    /// The device of what is submitted now.
    pub(crate) fn current(&self) -> Result<Arc<Use>> {
        let mut state = self.state();
        if state.inherited {
            return Err(Error::Closed(
                "the device belongs to the parent process; choose one with dma_open_device after fork".into(),
            ));
        }
        if let Some(device) = state.chosen.as_ref().or(state.simulated.as_ref()) {
            return Ok(Arc::clone(device));
        }
        Ok(Arc::clone(state.simulated.insert(simulated()?)))
    }

    /// Chooses what is at `path`; `None`: the simulated device.
    pub(crate) fn choose(&self, path: Option<&Path>) -> Result<()> {
        let chosen = match path {
            Some(path) => {
                let device = Device::open(path, Direct::Auto, file::Choice::Auto)?;
                device.check()?;
                Some(Use::of(device))
            }
            None => None,
        };
        let mut state = self.state();
        state.inherited = false;
        let before = std::mem::replace(&mut state.chosen, chosen);
        drop(state);
        // After the lock: the last user of a device waits for what others left under way there.
        drop(before);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn simulated() -> Result<Arc<Use>> {
    let options = sim::MachineOptions::default();
    let device = sim::Device::new(&sim::Machine::new(options)?, sim::DeviceOptions::default())?;
    Ok(Use::of(Device::of_sim(&device, "the simulated device")))
}
