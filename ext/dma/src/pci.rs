//! PCI functions: which there are, how one is opened, its interrupts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dma_core::device::{Device as CoreDevice, Kind};
use dma_core::engine::vfio::{nvme::Namespace, pci, Driven, Driver, Interrupt, InterruptKind, Options};
use magnus::typed_data::Obj;
use magnus::{Error, Integer, RArray, RHash, Ruby, Value};

use crate::buffer::{choice, with_memory};
use crate::device::Device;
use crate::error::{argument, raise, OrRaise};
use crate::event::{duration, Event};
use crate::gvl;

fn set(ruby: &Ruby, hash: RHash, name: &str, value: impl magnus::IntoValue) -> Result<(), Error> {
    hash.aset(ruby.to_symbol(name), value)
}

/// What sysfs says of each function, as hashes.
pub fn native_list(ruby: &Ruby) -> Result<RArray, Error> {
    let list = ruby.ary_new();
    for function in pci::list() {
        let hash = ruby.hash_new();
        set(ruby, hash, "address", function.address.as_str())?;
        set(ruby, hash, "vendor", function.vendor)?;
        set(ruby, hash, "device", function.device)?;
        set(ruby, hash, "class", function.class)?;
        set(ruby, hash, "driver", function.driver.as_deref())?;
        set(ruby, hash, "iommu_group", function.group)?;
        set(ruby, hash, "ready", function.obstacle.is_none())?;
        set(ruby, hash, "missing", function.obstacle.as_ref().map(|obstacle| obstacle.missing.as_str()))?;
        set(ruby, hash, "remedy", function.obstacle.as_ref().map(|obstacle| obstacle.remedy.as_str()))?;
        list.push(hash)?;
    }
    Ok(list)
}

/// Whether this is how a PCI function is written.
#[allow(clippy::needless_pass_by_value)] // magnus converts to a PathBuf, of any bytes
pub fn native_is_pci(path: PathBuf) -> bool {
    path.to_str().is_some_and(pci::is_address)
}

/// Opens a function.
#[allow(clippy::needless_pass_by_value)] // magnus converts to a String
pub fn native_open_pci(
    ruby: &Ruby,
    address: String,
    address_bits: Option<u64>,
    interrupts: Value,
    driver: Value,
    namespace: Option<u64>,
) -> Result<Device, Error> {
    let interrupts = match choice(interrupts).as_str() {
        "auto" => None,
        name => match InterruptKind::from_name(name) {
            Some(kind) => Some(kind),
            None => {
                let message = format!("interrupts: {interrupts:?} is none of :auto, :msix, :msi, :intx");
                return Err(argument(ruby, message));
            }
        },
    };
    let bare = match choice(driver).as_str() {
        "auto" => false,
        "false" => true,
        _ => return Err(argument(ruby, format!("driver: {driver:?} is none of :auto, false"))),
    };
    // What does not fit is past every limit, and refused as such.
    let fit = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let (address_bits, namespace) = (address_bits.map(fit), namespace.map(fit));
    let options = Options { address_bits, interrupts, bare, namespace };
    let core = with_memory(ruby, || CoreDevice::open_pci(&address, options))?;
    core.check().or_raise(ruby)?;
    Ok(Device::new(core))
}

/// What is known of an open function beside its engine's limits.
pub fn capabilities(ruby: &Ruby, driven: &Driven, size: u64, hash: RHash) -> Result<(), Error> {
    let (function, listed) = (&driven.function, driven.function.listed());
    set(ruby, hash, "driver", driven.driver.name().map(|name| ruby.to_symbol(name)))?;
    set(ruby, hash, "size", Some(size).filter(|_| driven.driver.name().is_some()))?;
    set(ruby, hash, "vendor", listed.vendor)?;
    set(ruby, hash, "device", listed.device)?;
    set(ruby, hash, "class", listed.class)?;
    set(ruby, hash, "iommu_group", listed.group)?;
    set(ruby, hash, "bars", ruby.ary_from_iter(function.bar_sizes()))?;
    set(ruby, hash, "interrupts", function.interrupt_kind().map(|kind| ruby.to_symbol(kind.name())))?;
    set(ruby, hash, "vectors", function.vector_count())?;
    let Driver::Nvme(nvme) = &driven.driver else { return Ok(()) };
    let identity = nvme.identity();
    set(ruby, hash, "model", identity.model.as_str())?;
    set(ruby, hash, "serial", identity.serial.as_str())?;
    set(ruby, hash, "firmware", identity.firmware.as_str())?;
    set(ruby, hash, "namespace", nvme.namespace().id)?;
    set(ruby, hash, "block_size", nvme.namespace().block_size)?;
    let describe = |namespace: &Namespace| {
        let hash = ruby.hash_new();
        set(ruby, hash, "id", namespace.id)?;
        set(ruby, hash, "size", namespace.size())?;
        set(ruby, hash, "block_size", namespace.block_size)?;
        Ok::<_, Error>(hash)
    };
    let namespaces = identity.namespaces.iter().map(describe).collect::<Result<Vec<_>, _>>()?;
    set(ruby, hash, "namespaces", ruby.ary_from_iter(namespaces))
}

/// A PCI function; of other devices `why` says what they lack.
fn driven<'a>(ruby: &Ruby, core: &'a CoreDevice, why: &str) -> Result<&'a Driven, Error> {
    match core.kind() {
        Kind::Pci(driven) => Ok(driven),
        _ => Err(raise(ruby, &dma_core::Error::Unsupported(format!("{} {why}", core.name())))),
    }
}

const NO_MASTER: &str = "is no PCI function, and no bus master that could be switched";

/// Whether a function may begin transactions.
pub fn native_bus_master(ruby: &Ruby, this: &Device) -> Result<bool, Error> {
    let core = this.open(ruby)?;
    Ok(driven(ruby, &core, NO_MASTER)?.function.is_bus_master())
}

/// Lets a function begin transactions, or waits until it does not.
pub fn native_set_bus_master(ruby: &Ruby, this: &Device, on: bool) -> Result<(), Error> {
    let core = this.open(ruby)?;
    let function = &driven(ruby, &core, NO_MASTER)?.function;
    gvl::without(ruby, || if on { function.start_mastering() } else { function.stop_mastering() })
}

/// Which interrupt `which` is: a number, `:error` or `:removal`.
fn interrupt(ruby: &Ruby, which: Value) -> Result<Interrupt, Error> {
    if let Some(index) = Integer::from_value(which) {
        let refused = |_| argument(ruby, format!("interrupt vector {index}: vectors are numbered from 0 on"));
        return index.to_usize().map(Interrupt::Vector).map_err(refused);
    }
    match choice(which).as_str() {
        "error" => Ok(Interrupt::Error),
        "removal" => Ok(Interrupt::Removal),
        _ => Err(argument(ruby, format!("interrupt {which:?} is neither a vector's number nor :error nor :removal"))),
    }
}

/// Waits for an interrupt: how often it came since it was last waited for; nil after `timeout` seconds.
pub fn native_wait_interrupt(
    ruby: &Ruby,
    this: Obj<Device>,
    which: Value,
    timeout: Option<f64>,
) -> Result<Option<u64>, Error> {
    let which = interrupt(ruby, which)?;
    let core = this.open(ruby)?;
    let driven = driven(ruby, &core, "has no interrupts to wait for; those of its channels are waited for by them")?;
    if let (Interrupt::Vector(_), Some(name)) = (which, driven.driver.name()) {
        let message = format!(
            "the vectors of {} are its driver's ({name}); open it with driver: false to drive it yourself",
            core.name()
        );
        return Err(raise(ruby, &dma_core::Error::Unsupported(message)));
    }
    let vector = driven.function.interrupt(which).or_raise(ruby)?;
    // Whoever waits must not keep the device from being closed.
    drop(core);
    let event = Event::new(ruby, vector.event())?;
    let deadline = timeout.and_then(|seconds| Instant::now().checked_add(duration(seconds)));
    let mut masked = true;
    loop {
        let count = vector.take();
        this.open(ruby)?;
        if count > 0 {
            return Ok(Some(count));
        }
        // What was taken before was dealt with by now.
        if std::mem::take(&mut masked) {
            vector.unmask();
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
        event.wait(ruby, left)?;
    }
}
