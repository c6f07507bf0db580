//! Simulated devices at paths: whoever opens the path gets the device.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Device;

static PATHS: Mutex<Option<HashMap<PathBuf, Arc<Device>>>> = Mutex::new(None);

fn paths() -> MutexGuard<'static, Option<HashMap<PathBuf, Arc<Device>>>> {
    // Nothing that panics runs under the lock.
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts `device` at `path`, in the place of what was there; [`Device::open`] finds it.
pub fn attach(path: &Path, device: Arc<Device>) {
    paths().get_or_insert_default().insert(path.to_owned(), device);
}

/// Takes away what is at `path`; false where nothing is. Who has the device open keeps it.
pub fn detach(path: &Path) -> bool {
    paths().as_mut().is_some_and(|paths| paths.remove(path).is_some())
}

/// The device at `path`.
pub(super) fn attached(path: &Path) -> Option<Arc<Device>> {
    paths().as_ref()?.get(path).cloned()
}
