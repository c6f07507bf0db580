//! A PCI function that this process drives.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use vfio_bindings::bindings::vfio::*;

use super::bar::Bar;
use super::config::Config;
use super::container::Container;
use super::interrupts::{Interrupts, Kind, Vector};
use super::pci::Listed;
use super::space::{Pinned, Space};
use crate::engine::{Bank, Mapping, Registers};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::sys::{self, vfio, PerProcess};
use crate::transfer::{Access, Op};

/// How a function is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Bits of a bus address that the device can say; `None`: what its driver knows, or 64.
    pub address_bits: Option<u32>,
    /// The kind of interrupts; `None`: the best there is.
    pub interrupts: Option<Kind>,
    /// No driver of this crate: whoever opens it drives it.
    pub bare: bool,
    /// The namespace of an NVMe controller; `None`: the first.
    pub namespace: Option<u32>,
}

/// What interrupts a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// A vector of the device.
    Vector(usize),
    /// An error on the bus.
    Error,
    /// Somebody asks to have the device back.
    Removal,
}

/// A function, from when it is opened until it is dropped: then it is quiet before any memory is unmapped.
#[derive(Debug)]
pub struct Function {
    listed: Listed,
    interrupts: Interrupts,
    config: Arc<Config>,
    bars: Mutex<[Option<Arc<Bar>>; 6]>,
    device: Arc<OwnedFd>,
    space: Arc<Space>,
    generation: u32,
    _taken: Taken,
}

/// The functions that this process has open, by address. VFIO would open one twice, and two drivers of one device spoil it.
fn open_functions() -> &'static Mutex<Vec<String>> {
    static OPEN: PerProcess<Mutex<Vec<String>>> = PerProcess::new();
    OPEN.get(|_| Mutex::default())
}

impl Function {
    /// Takes the function that `listed` is, with its registers enabled and bus mastering off, bus addresses of `bits` bits, and up to `vectors`
    /// interrupts as eventfds.
    pub(super) fn open(listed: Listed, bits: u32, interrupts: Option<Kind>, vectors: u32) -> Result<Function> {
        if let Some(obstacle) = &listed.obstacle {
            return Err(obstacle.error(&listed.address));
        }
        let taken = Taken::new(&listed.address)?;
        let group = listed.group.expect("nothing is in the way, so that it has a group");
        let container = Container::of_group(group)?;
        let device = Arc::new(container.device(&listed.address)?);
        let config = vfio::region(device.as_fd(), VFIO_PCI_CONFIG_REGION_INDEX)
            .map_err(|errno| Error::os(errno, format!("cannot find the registers of {}", listed.address)))?;
        let config = Config::new(Bar::new(&device, &config)?);
        let function = Function {
            interrupts: Interrupts::enable(&device, interrupts, vectors)?,
            config: Arc::new(config),
            bars: Mutex::default(),
            space: Space::new(container, bits),
            device,
            listed,
            generation: sys::fork_generation(),
            _taken: taken,
        };
        // What somebody else began may still go on in the device: it reaches no memory before its driver knows better.
        function.config.begin();
        Ok(function)
    }

    /// What sysfs says of it.
    pub fn listed(&self) -> &Listed {
        &self.listed
    }

    /// How it interrupts.
    pub fn interrupt_kind(&self) -> Option<Kind> {
        self.interrupts.kind
    }

    /// How many vectors it has.
    pub fn vector_count(&self) -> usize {
        self.interrupts.vectors.len()
    }

    /// One of its interrupts.
    ///
    /// # Errors
    /// [`Error::Argument`] where it has no such vector.
    pub fn interrupt(&self, which: Interrupt) -> Result<Arc<Vector>> {
        let vectors = &self.interrupts.vectors;
        match which {
            Interrupt::Error => Ok(Arc::clone(&self.interrupts.error)),
            Interrupt::Removal => Ok(Arc::clone(&self.interrupts.removal)),
            Interrupt::Vector(index) => vectors.get(index).cloned().ok_or_else(|| {
                let (address, count) = (&self.listed.address, vectors.len());
                Error::Argument(format!("interrupt vector {index}: {address} has {count}, from 0 on"))
            }),
        }
    }

    /// Wakes whoever waits for one of its vectors, to look at what has become of the device.
    pub(super) fn wake(&self) {
        self.interrupts.wake();
    }

    /// Whether somebody asks to have the device back, or the bus reported an error that it will not recover from by itself; as far as
    /// anybody has looked.
    pub(super) fn is_leaving(&self) -> bool {
        self.interrupts.removal.has_come() || self.interrupts.error.has_come()
    }

    /// Looks whether it is, which takes system calls.
    pub(super) fn look(&self) {
        self.interrupts.removal.look();
        self.interrupts.error.look();
    }

    /// A BAR, or the configuration space.
    ///
    /// # Errors
    /// [`Error::Argument`] for a BAR that it has not; [`Error::Os`] where it cannot be mapped.
    pub fn registers(&self, bank: Bank) -> Result<Arc<dyn Registers>> {
        match bank {
            Bank::Config => Ok(Arc::<Config>::clone(&self.config)),
            Bank::Bar(index) => Ok(self.bar(index)?),
        }
    }

    pub(super) fn bar(&self, index: u8) -> Result<Arc<Bar>> {
        let address = &self.listed.address;
        // Nothing that panics runs under the lock.
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = bars.get_mut(usize::from(index)) else {
            return Err(Error::Argument(format!("BAR {index}: a PCI function has BARs 0 to 5")));
        };
        if let Some(bar) = slot {
            return Ok(Arc::clone(bar));
        }
        let region = vfio::region(self.device.as_fd(), u32::from(index))
            .map_err(|errno| Error::os(errno, format!("cannot find BAR {index} of {address}")))?;
        if region.size == 0 {
            return Err(Error::Argument(format!(
                "BAR {index}: {address} has none; its configuration space says which it has"
            )));
        }
        let bar = Arc::new(Bar::new(&self.device, &region)?);
        *slot = Some(Arc::clone(&bar));
        Ok(bar)
    }

    /// Bytes of each BAR; zero where it has none.
    pub fn bar_sizes(&self) -> [u64; 6] {
        std::array::from_fn(|index| vfio::region(self.device.as_fd(), index as u32).map_or(0, |region| region.size))
    }

    /// Gives memory bus addresses for a transfer: see [`Space::reach`].
    pub(super) fn reach(&self, span: &Span, access: Access) -> Result<Arc<Pinned>> {
        self.space.reach(span, access)
    }

    /// Makes an operation's memory ready: see [`Space::prepare`].
    pub(super) fn prepare(&self, op: &Op) -> Result<()> {
        self.space.prepare(op)
    }

    /// Gives memory bus addresses until the mapping is dropped, for no other access than this.
    ///
    /// # Errors
    /// [`Error::LockLimit`] past RLIMIT_MEMLOCK; [`Error::Os`] where no addresses are left.
    pub fn map(&self, span: Span, access: Access) -> Result<Arc<dyn Mapping>> {
        self.space.map(span, access)
    }

    /// How many mappings there are.
    pub fn mappings(&self) -> usize {
        self.space.mappings()
    }

    /// Whether it may begin transactions.
    pub fn is_bus_master(&self) -> bool {
        self.config.is_bus_master()
    }

    /// Lets it begin transactions.
    pub fn start_mastering(&self) {
        self.config.start_mastering();
    }

    /// It begins no transaction from now on, interrupts of the message kinds included, and has ended those it had begun.
    pub fn stop_mastering(&self) {
        self.config.stop_mastering();
    }

    /// Resets the function, and it alone. Its configuration stays.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a device that has no reset of its own.
    pub fn reset(&self) -> Result<()> {
        let address = &self.listed.address;
        let context = |errno| Error::os(errno, format!("cannot reset {address}"));
        if !vfio::can_reset(self.device.as_fd()).map_err(context)? {
            return Err(Error::Unsupported(format!(
                "{address} has no reset of its own (neither FLR nor power management nor a bus to itself)"
            )));
        }
        vfio::reset(self.device.as_fd()).map_err(|errno| match errno {
            // How a kernel says the same that did not know it before.
            Errno::EINVAL | Errno::ENOTTY => Error::Unsupported(format!("{address} refuses to be reset")),
            errno => context(errno),
        })
    }

    /// Refuses the child of a fork.
    pub fn check(&self) -> Result<()> {
        if self.generation == sys::fork_generation() {
            return Ok(());
        }
        Err(Error::Closed("this device belongs to the parent process; open it anew after fork".into()))
    }
}

impl Drop for Function {
    /// Quiet first; the fields take the mappings away after it.
    fn drop(&mut self) {
        if self.check().is_err() {
            return;
        }
        self.stop_mastering();
        self.interrupts.disable(self.device.as_fd());
        self.interrupts.wake_all();
    }
}

/// An address in [`open_functions`] until it is dropped.
#[derive(Debug)]
struct Taken(String);

impl Taken {
    fn new(address: &str) -> Result<Taken> {
        // Nothing that panics runs under the lock.
        let mut open = open_functions().lock().unwrap_or_else(PoisonError::into_inner);
        if open.iter().any(|other| other == address) {
            return Err(Error::Busy(format!(
                "this process has {address} open already; share that DMA::Device, or close it"
            )));
        }
        open.push(address.to_owned());
        Ok(Taken(address.to_owned()))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut open = open_functions().lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| *other != self.0);
    }
}
