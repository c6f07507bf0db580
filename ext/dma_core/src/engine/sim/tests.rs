//! The machine seen from a channel: bytes, faults, aborts, the clock.

use std::thread;
use std::time::Duration;

use super::*;
use crate::channel::{Request, Shared};
use crate::device;
use crate::memory::testing::{bytes, region};
use crate::memory::{Region, Span};
use crate::transfer::{Direction, Status};
use std::sync::Arc;

const GRACE: Duration = Duration::from_secs(5);

fn machine(clock: Clock, iommu: bool) -> Arc<Machine> {
    Machine::new(MachineOptions { clock, iommu, seed: 1, ..MachineOptions::default() }).unwrap()
}

fn open(machine: &Arc<Machine>) -> (Arc<Device>, Arc<Shared>) {
    let device = Device::new(machine, DeviceOptions::default()).unwrap();
    let core = device::Device::of_sim(&device, "sim");
    (device, core.channel(0).unwrap())
}

fn request(direction: Direction, offset: u64, region: &Arc<Region>) -> Request {
    Request::new(direction.op(offset, Span::new(region, 0, region.len()).unwrap()))
}

#[test]
fn bytes_go_there_and_back_on_every_machine() {
    for clock in [Clock::Free, Clock::Manual] {
        for iommu in [true, false] {
            let (device, channel) = open(&machine(clock, iommu));
            let (out, back) = (region(1 << 20, 7), region(1 << 20, 0));
            for (direction, region) in [(Direction::ToDevice, &out), (Direction::FromDevice, &back)] {
                let ticket = channel.submit(request(direction, 4096, region), true).unwrap();
                let outcome = channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap();
                assert_eq!((outcome.status, outcome.bytes), (Status::Complete, 1 << 20), "{clock:?} {iommu}");
            }
            assert_eq!(bytes(&back), bytes(&out));
            assert_eq!(device.mappings(), 2, "only ring and chains stay mapped");
            assert_eq!(out.in_flight(), 0);
        }
    }
}

#[test]
fn many_threads_submit_wait_cancel_and_give_up_on_one_channel() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 40;
    let (_device, channel) = open(&machine(Clock::Free, true));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let channel = &channel;
            scope.spawn(move || {
                let memory = region(4096, thread as u8 + 1);
                for round in 0..ROUNDS {
                    let ticket = channel.submit(request(Direction::ToDevice, thread * 4096, &memory), true).unwrap();
                    let timeout = if round % 4 == thread { Duration::from_micros(round) } else { GRACE };
                    if round % 8 == thread {
                        channel.cancel(&ticket, Status::Aborted);
                    }
                    match channel.wait_plain(&ticket, Some(timeout), GRACE) {
                        Ok(outcome) => assert!(matches!(outcome.status, Status::Complete | Status::Aborted)),
                        Err(error) => assert!(timeout < GRACE, "{error}"),
                    }
                }
                let back = region(4096, 0);
                let ticket = channel.submit(request(Direction::FromDevice, thread * 4096, &back), true).unwrap();
                assert_eq!(channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap().status, Status::Complete);
                assert_eq!(bytes(&back), bytes(&memory));
            });
        }
    });
    assert!(channel.pending().unwrap().is_empty());
}
