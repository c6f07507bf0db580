//! The PCI functions of this computer as sysfs shows them, and what is in the way of driving one
//! (kernel: Documentation/ABI/testing/sysfs-bus-pci, driver-api/vfio.rst).

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::container::DIRECTORY;
use crate::error::{Error, Result};
use crate::sys;

/// Where sysfs and the device files are.
const ROOT: &str = "/";
/// Bridges stay with the kernel whatever becomes of the group (pcieport, shpchp).
const BRIDGE: u32 = 0x06;

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Domain, bus, device and function: `0000:01:00.0`.
    pub address: String,
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Class, subclass and programming interface, in 24 bits.
    pub class: u32,
    /// The driver that is bound to it.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// What has to be done before it can be driven from here; `None` where nothing is in the way.
    pub obstacle: Option<Obstacle>,
}

/// What is in the way of driving a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What is missing.
    pub missing: String,
    /// What mends it: a line of the shell, for root, or a sentence.
    pub remedy: String,
    /// Whether it is a line of the shell.
    pub is_command: bool,
    /// Only rights are missing.
    pub is_denied: bool,
}

impl Obstacle {
    fn new(missing: impl Into<String>, remedy: impl Into<String>) -> Obstacle {
        Obstacle { missing: missing.into(), remedy: remedy.into(), is_command: false, is_denied: false }
    }

    fn command(missing: impl Into<String>, remedy: impl Into<String>) -> Obstacle {
        Obstacle { is_command: true, ..Obstacle::new(missing, remedy) }
    }

    /// The same as an error of opening `address`.
    pub(super) fn error(&self, address: &str) -> Error {
        let Obstacle { missing, remedy, is_command, is_denied } = self;
        let root = if *is_command { "as root: " } else { "" };
        let message = format!("cannot drive {address}: {missing}; {root}{remedy}");
        match is_denied {
            true => Error::os(Errno::EACCES, message),
            false => Error::Unsupported(message),
        }
    }
}

/// Whether this is how a PCI function is written: `0000:01:00.0`, the domain may be left out.
pub fn is_address(text: &str) -> bool {
    full_address(text).is_some()
}

/// The address with its domain, as sysfs writes it.
fn full_address(text: &str) -> Option<String> {
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
    let (domain, rest) = match text.matches(':').count() {
        1 => ("0000", text),
        _ => text.split_once(':')?,
    };
    let (bus, place) = rest.split_once(':')?;
    let (device, function) = place.split_once('.')?;
    let digits = domain.len();
    let fits = (4..=8).contains(&digits) && hex(domain, digits) && hex(bus, 2) && hex(device, 2) && hex(function, 1);
    fits.then(|| format!("{domain}:{rest}").to_ascii_lowercase())
}

/// Every PCI function, by address. On a computer without PCI there is none.
pub fn list() -> Vec<Listed> {
    list_in(Path::new(ROOT))
}

/// One function.
///
/// # Errors
/// [`Error::Os`] ENODEV where there is none with this address.
pub fn find(address: &str) -> Result<Listed> {
    let full = full_address(address).unwrap_or_else(|| address.to_owned());
    read(Path::new(ROOT), &full).ok_or_else(|| {
        let message =
            format!("cannot find the PCI function {address}; DMA::Device.list names those there are (lspci -D)");
        Error::os(Errno::ENODEV, message)
    })
}

fn devices(root: &Path) -> PathBuf {
    root.join("sys/bus/pci/devices")
}

fn list_in(root: &Path) -> Vec<Listed> {
    let mut names: Vec<_> = names_in(&devices(root)).collect();
    names.sort();
    names.iter().filter_map(|name| read(root, name)).collect()
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}

fn read(root: &Path, address: &str) -> Option<Listed> {
    let path = devices(root).join(address);
    let hex = |name: &str| {
        let text = fs::read_to_string(path.join(name)).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let mut function = Listed {
        address: address.to_owned(),
        vendor: hex("vendor")? as u16,
        device: hex("device")? as u16,
        class: hex("class")?,
        driver: link_name(&path.join("driver")),
        group: link_name(&path.join("iommu_group")).and_then(|name| name.parse().ok()),
        obstacle: None,
    };
    function.obstacle = obstacle(root, &function);
    Some(function)
}

/// Drivers that give a device to user space: vfio-pci, and those made of it for one device (mlx5_vfio_pci).
fn is_vfio(driver: &str) -> bool {
    driver.replace('_', "-").ends_with("vfio-pci")
}

fn is_bridge(root: &Path, address: &str) -> bool {
    let class = fs::read_to_string(devices(root).join(address).join("class")).unwrap_or_default();
    u32::from_str_radix(class.trim().trim_start_matches("0x"), 16).is_ok_and(|class| class >> 16 == BRIDGE)
}

/// The shell's line that gives a function to vfio-pci.
fn bind(address: &str, driver: Option<&str>) -> String {
    let unbind =
        driver.map_or(String::new(), |_| format!("echo {address} > /sys/bus/pci/devices/{address}/driver/unbind; "));
    format!(
        "echo vfio-pci > /sys/bus/pci/devices/{address}/driver_override; {unbind}\
         echo {address} > /sys/bus/pci/drivers_probe"
    )
}

/// The first thing that is in the way of driving a function.
fn obstacle(root: &Path, function: &Listed) -> Option<Obstacle> {
    let address = &function.address;
    if function.class >> 16 == BRIDGE {
        return Some(Obstacle::new("it is a bridge, which is the kernel's", "drive what is behind it"));
    }
    let any = fs::read_dir(root.join("sys/class/iommu")).is_ok_and(|mut entries| entries.next().is_some());
    if function.group.is_none() && !any {
        return Some(Obstacle::new(
            "no IOMMU is in use",
            "enable VT-d or AMD-Vi in the firmware, or give the virtual machine an IOMMU; add intel_iommu=on to the kernel's command \
             line, and boot anew",
        ));
    }
    if !root.join("sys/bus/pci/drivers/vfio-pci").exists() || !root.join("dev/vfio/vfio").exists() {
        return Some(Obstacle::command("the kernel's module vfio-pci is not loaded", "modprobe vfio-pci"));
    }
    let driver = function.driver.as_deref();
    if !driver.is_some_and(is_vfio) {
        let bound = driver.map_or("no driver".to_owned(), |driver| format!("the kernel's driver {driver}"));
        // What is mounted from it, or configured on it, is lost with the kernel's driver.
        let use_ends = if driver.is_some() { " (end what uses it first: mounts, swap, networks)" } else { "" };
        let missing = format!("it is bound to {bound}, not to vfio-pci{use_ends}");
        return Some(Obstacle::command(missing, bind(address, driver)));
    }
    // Some IOMMUs give a device its group only when a driver takes it.
    let Some(group) = function.group else {
        return Some(Obstacle::new("it has no IOMMU group, for the IOMMU does not cover it", "use another slot"));
    };
    in_group(root, address, group).or_else(|| of_file(root, group))
}

/// A device of the same group that is not VFIO's.
fn in_group(root: &Path, address: &str, group: u32) -> Option<Obstacle> {
    let others = root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
    let mut others: Vec<_> = names_in(&others).filter(|other| other != address && !is_bridge(root, other)).collect();
    others.sort();
    others.iter().find_map(|other| {
        let driver = link_name(&devices(root).join(other).join("driver"))?;
        if is_vfio(&driver) || driver == "pci-stub" {
            return None;
        }
        let missing = format!("{other} of the same IOMMU group {group} is bound to the kernel's driver {driver}");
        Some(Obstacle::command(missing, bind(other, Some(&driver))))
    })
}

/// A device file of the group that is not there, or not for this user.
fn of_file(root: &Path, group: u32) -> Option<Obstacle> {
    let file = format!("{DIRECTORY}/{group}");
    let path = root.join(file.trim_start_matches('/'));
    match sys::may_open(&path) {
        Ok(()) => None,
        Err(Errno::ENOENT) => Some(Obstacle::new(
            format!("{file} is missing, though the device is bound to vfio-pci"),
            "see to udev, or give /dev/vfio to the container that this runs in (--device)",
        )),
        Err(_) => Some(Obstacle {
            is_denied: true,
            ..Obstacle::command(
                format!("{file} may not be opened by this user"),
                format!("chown {} {file}", sys::user()),
            )
        }),
    }
}

#[cfg(test)]
mod tests;
