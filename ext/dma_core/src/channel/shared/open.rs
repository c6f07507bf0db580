//! All channels of the process, for who waits for something that is over as soon as somebody looks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Shared;
use crate::sys::PerProcess;

/// Every channel of this process.
fn open_channels() -> MutexGuard<'static, Vec<Weak<Shared>>> {
    static OPEN: PerProcess<Mutex<Vec<Weak<Shared>>>> = PerProcess::new();
    // Nothing that panics runs under the lock.
    OPEN.get(|_| Mutex::default()).lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on [`progress_all`] looks at this channel.
pub(crate) fn enter(channel: &Arc<Shared>) {
    let mut open = open_channels();
    open.retain(|other| other.strong_count() > 0);
    open.push(Arc::downgrade(channel));
}

/// Looks for completions on all channels: for who needs memory that is in flight, or blocks that are being written, as far as anybody
/// has looked. True where something is under way still.
pub fn progress_all() -> bool {
    let channels: Vec<_> = open_channels().iter().filter_map(Weak::upgrade).collect();
    channels.into_iter().fold(false, |busy, channel| {
        // Not acknowledged: the events are for those who wait for them.
        let _ = channel.lock().and_then(|mut state| state.spin());
        busy | channel.room().is_ok_and(|room| room < channel.capacity())
    })
}
