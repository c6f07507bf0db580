//! The interrupts of a function, each an eventfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use vfio_bindings::bindings::vfio::*;

use crate::error::{Error, Result};
use crate::sys::{self, vfio};

/// How a device interrupts, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Messages from a table in the device: many vectors, each masked by itself.
    MsiX,
    /// Messages: one vector, on most devices.
    Msi,
    /// A line of the bus, masked by the kernel from when it comes until it is unmasked.
    Intx,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::MsiX, Kind::Msi, Kind::Intx];

    fn index(self) -> u32 {
        match self {
            Kind::MsiX => VFIO_PCI_MSIX_IRQ_INDEX,
            Kind::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Kind::Intx => VFIO_PCI_INTX_IRQ_INDEX,
        }
    }

    /// `msix`, `msi` or `intx`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::MsiX => "msix",
            Kind::Msi => "msi",
            Kind::Intx => "intx",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One interrupt.
#[derive(Debug)]
pub struct Vector {
    event: EventFd,
    came: AtomicBool,
    /// The device whose line is masked when it comes.
    masked: Option<Arc<OwnedFd>>,
}

impl Vector {
    fn new(masked: Option<&Arc<OwnedFd>>) -> Result<Arc<Vector>> {
        let event = sys::eventfd().map_err(|errno| Error::os(errno, "cannot make an event for an interrupt"))?;
        Ok(Arc::new(Vector { event, came: AtomicBool::new(false), masked: masked.cloned() }))
    }

    /// Readable when it has come.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// How often it came since it was last taken.
    pub fn take(&self) -> u64 {
        let count = self.event.read().unwrap_or(0);
        if count > 0 {
            self.came.store(true, SeqCst);
        }
        count
    }

    /// Lets it come again, where it is a line: after the device was told to take its request back, for else it comes at once.
    pub fn unmask(&self) {
        if let Some(device) = &self.masked {
            // EINVAL: the device has gone.
            let _ = vfio::unmask_irq(device.as_fd(), VFIO_PCI_INTX_IRQ_INDEX);
        }
    }

    /// Whether it has come at least once, as far as anybody has looked.
    pub fn has_come(&self) -> bool {
        self.came.load(SeqCst)
    }

    /// Looks whether it has come, and takes nothing.
    pub fn look(&self) {
        if sys::wait_readable(self.event(), Duration::ZERO) {
            self.came.store(true, SeqCst);
        }
    }
}

/// What a function interrupts with.
#[derive(Debug)]
pub(super) struct Interrupts {
    pub kind: Option<Kind>,
    pub vectors: Vec<Arc<Vector>>,
    /// An error that the bus reports of the device, where it can (PCIe AER).
    pub error: Arc<Vector>,
    /// Somebody asks to have the device back: it is unbound or unplugged.
    pub removal: Arc<Vector>,
}

impl Interrupts {
    /// Enables up to `most` interrupts of the best kind that there is, or of the one asked for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the device has none of that kind.
    pub(super) fn enable(device: &Arc<OwnedFd>, wanted: Option<Kind>, most: u32) -> Result<Interrupts> {
        let count = |kind: Kind| vfio::irq_count(device.as_fd(), kind.index()).min(most);
        let kind = match wanted {
            Some(kind) if count(kind) == 0 => {
                let kinds: Vec<_> = Kind::ALL.iter().filter(|kind| count(**kind) > 0).map(|kind| kind.name()).collect();
                let (name, kinds) = (kind.name(), kinds.join(", "));
                return Err(Error::Unsupported(format!(
                    "the device has no interrupts of the kind {name}, but {kinds}"
                )));
            }
            Some(kind) => Some(kind),
            None => Kind::ALL.into_iter().find(|kind| count(*kind) > 0),
        };
        let vectors = match kind {
            Some(kind) => Interrupts::route(device, kind, count(kind) as usize)?,
            None => Vec::new(),
        };
        let single = |index| -> Result<Arc<Vector>> {
            let vector = Vector::new(None)?;
            if vfio::irq_count(device.as_fd(), index) > 0 {
                vfio::route_irqs(device.as_fd(), index, &[vector.event()])
                    .map_err(|errno| Error::os(errno, "cannot enable the device's error or removal interrupt"))?;
            }
            Ok(vector)
        };
        let (error, removal) = (single(VFIO_PCI_ERR_IRQ_INDEX)?, single(VFIO_PCI_REQ_IRQ_INDEX)?);
        Ok(Interrupts { kind, vectors, error, removal })
    }

    fn route(device: &Arc<OwnedFd>, kind: Kind, count: usize) -> Result<Vec<Arc<Vector>>> {
        let masked = if kind == Kind::Intx { Some(device) } else { None };
        let mut vectors: Vec<_> = (0..count).map(|_| Vector::new(masked)).collect::<Result<_>>()?;
        loop {
            let events: Vec<_> = vectors.iter().map(|vector| vector.event()).collect();
            match vfio::route_irqs(device.as_fd(), kind.index(), &events) {
                Ok(0) => return Ok(vectors),
                // The system gives the device fewer messages than it has.
                Ok(fewer) if fewer < vectors.len() => vectors.truncate(fewer),
                Ok(_) | Err(Errno::ENOSPC) if vectors.len() > 1 => vectors.truncate(vectors.len() / 2),
                refused => {
                    let errno = refused.err().unwrap_or(Errno::ENOSPC);
                    return Err(Error::os(errno, format!("cannot enable {count} interrupts ({})", kind.name())));
                }
            }
        }
    }

    /// Wakes whoever waits for a vector, to look at what has become of the device.
    pub(super) fn wake(&self) {
        self.vectors.iter().for_each(|vector| sys::signal(&vector.event));
    }

    /// The same for whoever waits for anything of a device that is closed.
    pub(super) fn wake_all(&self) {
        self.wake();
        [&self.error, &self.removal].into_iter().for_each(|vector| sys::signal(&vector.event));
    }

    /// No interrupt comes any more.
    pub(super) fn disable(&self, device: BorrowedFd<'_>) {
        if let Some(kind) = self.kind {
            let _ = vfio::route_irqs(device, kind.index(), &[]);
        }
    }
}
