//! A simulated DMA machine: a bus, devices on it with memory and descriptor rings of their own, an IOMMU, and faults on demand.
//!
//! A transfer goes through it as through a PCIe device. The driver maps the memory, writes a descriptor into the
//! channel's ring and rings the doorbell; the controller fetches the descriptor by bus address, moves the bytes in
//! bursts, writes the status back and raises the channel's interrupt; the driver finds the status and unmaps. Each of these is a
//! transaction of the [machine](Machine)'s bus, and takes cycles of it.

mod access;
mod arbiter;
mod controller;
mod core;
mod cpu;
mod device;
mod driver;
mod fault_log;
mod faults;
mod handler;
mod interrupt;
mod isa;
mod machine;
mod mapped;
mod memory;
mod moderation;
mod options;
mod pio;
mod place;
mod port;
mod registers;
mod remapping;
mod requester;
mod signal;
mod space;
mod starvation;
mod timers;
mod timing;
mod trace;
mod vector;
mod waves;
mod work;
mod worker;

pub use arbiter::{Arbitration, MasterStats};
pub use cpu::{CpuStats, Mode};
pub use device::Device;
pub use fault_log::IommuFault;
pub use faults::{Fault, Kind, Trigger};
pub use handler::InterruptCost;
pub use isa::Costs;
pub use machine::{Machine, MachineStats};
pub use moderation::Coalesce;
pub use options::{Clock, DeviceOptions, MachineOptions, MemoryOptions};
pub use registers::channel_offset;
pub use space::{IommuStats, Reason};
pub use timing::Timing;
pub use trace::{Event, Master, Record, Tenure, What};
pub use waves::{Changes, Wave, Waves};

#[cfg(test)]
mod tests;
