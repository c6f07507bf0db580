//! What only a simulated machine has: faults at an address, an IOMMU, registers, a clock that is stepped, traces.

mod bus;
mod clock;
mod faults;
mod hostile;
mod iommu;
mod isolation;
mod million;
mod random;
mod registers;
mod ring;
mod stops;
#[path = "../support/mod.rs"]
mod support;
mod traces;

use std::sync::Arc;
use std::time::Duration;

use dma_core::channel::{Outcome, Request, Shared, Ticket};
use dma_core::device;
use dma_core::engine::sim::{Clock, Device, DeviceOptions, Fault, Kind, Machine, MachineOptions, Trigger};
use dma_core::transfer::Op;

/// A limit for tests that hang; nothing comes near it.
const GRACE: Duration = Duration::from_secs(60);
const MEMORY: u64 = 1 << 20;

/// A machine with one device.
struct Bench {
    machine: Arc<Machine>,
    sim: Arc<Device>,
    device: Arc<device::Device>,
}

impl Bench {
    fn new(clock: Clock, iommu: bool) -> Bench {
        Bench::with(clock, iommu, DeviceOptions::default())
    }

    fn with(clock: Clock, iommu: bool, options: DeviceOptions) -> Bench {
        let machine = Machine::new(MachineOptions { clock, iommu, seed: 1, ..MachineOptions::default() }).unwrap();
        let sim = Device::new(&machine, DeviceOptions { memory: MEMORY, ..options }).unwrap();
        let device = device::Device::of_sim(&sim, "sim");
        Bench { machine, sim, device }
    }

    fn channel(&self) -> Arc<Shared> {
        self.device.channel(0).unwrap()
    }

    fn inject(&self, kind: Kind, trigger: Trigger, count: Option<u64>) {
        self.machine.inject(Fault { kind, trigger, device: None, channel: None, count });
    }

    fn submit(&self, op: Op) -> Arc<Ticket> {
        self.channel().submit(Request::new(op), true).unwrap()
    }

    fn carry_out(&self, op: Op) -> Outcome {
        let ticket = self.submit(op);
        self.channel().wait_plain(&ticket, Some(GRACE), GRACE).unwrap()
    }
}

/// Every kind of machine.
fn machines() -> [Bench; 4] {
    [(Clock::Free, true), (Clock::Free, false), (Clock::Manual, true), (Clock::Manual, false)]
        .map(|(clock, iommu)| Bench::new(clock, iommu))
}
