//! Bus addresses that nobody gave the device, in descriptors that software wrote by itself.

use dma_core::engine::{Engine, Mapping};
use dma_core::memory::{Region, Span};
use dma_core::ring::{Memory, Ring};
use dma_core::transfer::{flags, Access, Descriptor, Status};

use super::*;
use crate::support::{bytes, region, whole};

/// A chain of descriptors in memory.
struct List {
    memory: Arc<Region>,
    ring: Ring,
    mapping: Arc<dyn Mapping>,
}

impl List {
    fn new(bench: &Bench) -> List {
        let memory = region(4096, 0);
        let mapping = bench.sim.map_ring(whole(&memory)).unwrap();
        let ring = Ring::new(Memory::new(&memory, 0, 16).unwrap()).unwrap();
        List { memory, ring, mapping }
    }

    fn first(&self) -> u64 {
        self.mapping.segments()[0].0
    }

    /// Adds a descriptor, which goes on with the next one where `more` come.
    fn add(&mut self, source: u64, destination: u64, length: u32, control: u32, more: bool) {
        let next = self.first() + (u64::from(self.ring.tail()) + 1) * Descriptor::SIZE as u64;
        let flags = control | if more { flags::CHAIN } else { 0 };
        self.ring.add(Descriptor { source, destination, length, flags, next, status: 0 }).unwrap();
    }

    fn run(&mut self, bench: &Bench, len: u64) -> (Outcome, Vec<Status>) {
        let ring = Span::new(&self.memory, 0, 640).unwrap();
        let outcome = bench.carry_out(Op::List { first: self.first(), len, ring });
        let mut statuses = Vec::new();
        while let Some((_, descriptor)) = self.ring.pop() {
            statuses.push(Status::from_code(descriptor.status));
        }
        (outcome, statuses)
    }
}

fn fault(address: u64, access: Access) -> Status {
    Status::IommuFault { address, access }
}

const NOWHERE: u64 = 0x7f_0000_0000;

#[test]
fn what_is_not_mapped_faults_and_the_rest_of_the_chain_is_not_attempted() {
    for clock in [Clock::Free, Clock::Manual] {
        for (control, access) in [(flags::TO_DEVICE, Access::Read), (flags::FROM_DEVICE, Access::Write)] {
            let bench = Bench::new(clock, true);
            let (ours, mut list) = (region(4096, 9), List::new(&bench));
            let mapped = bench.sim.map(whole(&ours), Access::Both).unwrap();
            let here = mapped.segments()[0].0;
            for (address, more) in [(here, true), (NOWHERE, true), (here + 512, false)] {
                let (source, destination) = if access == Access::Read { (address, 64) } else { (64, address) };
                list.add(source, destination, 256, control, more);
            }
            let (outcome, statuses) = list.run(&bench, 768);
            assert_eq!((outcome.status, outcome.bytes), (fault(NOWHERE, access), 256));
            let names: Vec<_> = statuses.iter().map(|status| status.name()).collect();
            assert_eq!(names, ["complete", "iommu_fault", "not_attempted"]);
            assert_eq!(bench.sim.iommu_faults(), (1, vec![fault(NOWHERE, access)]));
            let untouched = if access == Access::Write { &bytes(&ours)[256..] } else { &bytes(&ours)[..] };
            assert!(untouched.iter().all(|byte| *byte == 9));
        }
    }
}

#[test]
fn a_mapping_for_the_other_direction_faults() {
    let bench = Bench::new(Clock::Free, true);
    for (allowed, control, access) in
        [(Access::Read, flags::FROM_DEVICE, Access::Write), (Access::Write, flags::TO_DEVICE, Access::Read)]
    {
        let (ours, mut list) = (region(4096, 9), List::new(&bench));
        let mapped = bench.sim.map(whole(&ours), allowed).unwrap();
        let here = mapped.segments()[0].0;
        let (source, destination) = if access == Access::Read { (here, 0) } else { (0, here) };
        list.add(source, destination, 4096, control, false);
        let (outcome, _) = list.run(&bench, 4096);
        assert_eq!((outcome.status, outcome.bytes), (fault(here, access), 0));
        assert_eq!(bytes(&ours), [9; 4096]);
    }
    let target = region(4096, 1);
    let outcome = bench.carry_out(Op::Read { offset: 0, span: whole(&target) });
    assert_eq!(outcome.status, Status::Complete);
    assert_eq!(bytes(&target), [0; 4096], "nothing reached the device");
}

#[test]
fn a_transfer_past_the_end_of_a_mapping_stops_at_its_end() {
    for clock in [Clock::Free, Clock::Manual] {
        let bench = Bench::new(clock, true);
        let (ours, mut list) = (region(8192, 9), List::new(&bench));
        let mapped = bench.sim.map(Span::new(&ours, 0, 1000).unwrap(), Access::Write).unwrap();
        let here = mapped.segments()[0].0;
        list.add(0, here, 4096, flags::FROM_DEVICE, false);
        let (outcome, _) = list.run(&bench, 4096);
        assert_eq!((outcome.status, outcome.bytes), (fault(here + 1000, Access::Write), 1000));
        let seen = bytes(&ours);
        assert!(seen[..1000].iter().all(|byte| *byte == 0) && seen[1000..].iter().all(|byte| *byte == 9));
    }
}

#[test]
fn an_address_that_was_unmapped_faults() {
    let bench = Bench::new(Clock::Free, true);
    let (ours, mut list) = (region(4096, 9), List::new(&bench));
    let mapped = bench.sim.map(whole(&ours), Access::Both).unwrap();
    let here = mapped.segments()[0].0;
    drop(mapped);
    assert_eq!(ours.in_flight(), 0);
    list.add(0, here, 4096, flags::FROM_DEVICE, false);
    assert_eq!(list.run(&bench, 4096).0.status, fault(here, Access::Write));
    assert_eq!(bytes(&ours), [9; 4096]);
}

#[test]
fn without_an_iommu_the_bus_does_not_answer() {
    for clock in [Clock::Free, Clock::Manual] {
        let bench = Bench::new(clock, false);
        let mut list = List::new(&bench);
        list.add(NOWHERE, 0, 64, flags::TO_DEVICE, false);
        assert_eq!(list.run(&bench, 64).0.status, Status::BusReadError);
        let mut list = List::new(&bench);
        list.add(0, NOWHERE, 64, flags::FROM_DEVICE, false);
        assert_eq!(list.run(&bench, 64).0.status, Status::BusWriteError);
        assert_eq!(bench.sim.iommu_faults().0, 0);
    }
}

#[test]
fn a_chain_that_leads_nowhere_or_in_a_circle_ends() {
    for bench in machines() {
        let mut list = List::new(&bench);
        let first = list.first();
        list.ring.add(Descriptor { next: NOWHERE, flags: flags::CHAIN, ..Descriptor::default() }).unwrap();
        assert!(list.run(&bench, 64).0.status.is_failure());
        let mut list = List::new(&bench);
        list.ring.add(Descriptor { next: list.first(), flags: flags::CHAIN, ..Descriptor::default() }).unwrap();
        assert_ne!(list.first(), first);
        assert_eq!(list.run(&bench, 64).0.status, Status::DescriptorError);
    }
}
