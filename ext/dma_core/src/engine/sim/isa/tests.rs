//! The controllers on their machine: by their ports, and by the driver.

mod midrun;
mod ports;

use std::sync::Arc;
use std::time::Duration;

use super::board::Costs;
use crate::channel::{Outcome, Request, Shared};
use crate::device;
use crate::engine::sim::{
    Clock, Device, DeviceOptions, Fault, Kind, Machine, MachineOptions, Mode, Timing, Trigger, What,
};
use crate::engine::{Bank, Engine, Mapping, Registers};
use crate::memory::testing::{bytes, region};
use crate::memory::{Region, Span};
use crate::transfer::{Access, Direction, Status};
use crate::Error;

const GRACE: Duration = Duration::from_secs(60);
const MEMORY: u64 = 1 << 20;

/// A machine with such a device, and memory that is `len` bytes long.
struct Bench {
    machine: Arc<Machine>,
    sim: Arc<Device>,
    device: Arc<device::Device>,
    ports: Arc<dyn Registers>,
}

impl Bench {
    fn new(clock: Clock) -> Bench {
        let options = MachineOptions { clock, seed: 1, timing: Timing::ISA, ..MachineOptions::default() };
        let machine = Machine::new(options).unwrap();
        let sim = Device::new(&machine, DeviceOptions { memory: MEMORY, ..DeviceOptions::isa() }).unwrap();
        let device = device::Device::of_sim(&sim, "isa");
        let ports = sim.registers(Bank::Bar(0)).unwrap();
        Bench { machine, sim, device, ports }
    }

    fn map(&self, memory: &Arc<Region>) -> Arc<dyn Mapping> {
        self.sim.map(Span::new(memory, 0, memory.len()).unwrap(), Access::Both).unwrap()
    }

    fn costs(&self) -> Costs {
        self.sim.costs().unwrap()
    }

    fn inject(&self, kind: Kind, trigger: Trigger) {
        self.machine.inject(Fault { kind, trigger, device: None, channel: None, count: Some(1) });
    }

    fn carry_out(&self, channel: u16, direction: Direction, offset: u64, memory: &Arc<Region>) -> Outcome {
        let channel = self.device.channel(channel).unwrap();
        let ticket = channel.submit(request(direction, offset, memory), true).unwrap();
        channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap()
    }

    /// Writes bytes of the card's memory by channel 0, and reads them.
    fn put(&self, offset: u64, data: &[u8]) {
        let outcome = self.carry_out(0, Direction::ToDevice, offset, &filled(data));
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, data.len()));
    }

    fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let memory = region(len, 0xee);
        let outcome = self.carry_out(0, Direction::FromDevice, offset, &memory);
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len));
        bytes(&memory)
    }
}

fn request(direction: Direction, offset: u64, memory: &Arc<Region>) -> Request {
    Request::new(direction.op(offset, Span::new(memory, 0, memory.len()).unwrap()))
}

/// Bytes in which every place is told from its neighbours.
fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn filled(data: &[u8]) -> Arc<Region> {
    let memory = region(data.len(), 0);
    // SAFETY: both have the same length.
    unsafe { memory.write(0, data.as_ptr(), data.len()) }.unwrap();
    memory
}

#[test]
fn any_memory_goes_there_and_back_on_every_channel_in_pieces_of_a_page() {
    for clock in [Clock::Free, Clock::Manual] {
        let bench = Bench::new(clock);
        for (channel, pieces) in [(0, 5), (1, 5), (2, 5), (3, 5), (5, 3), (6, 3), (7, 3)] {
            let (len, before) = ((300 << 10) - 10, bench.costs());
            let (out, back) = (filled(&numbered(len)), region(len, 0xee));
            for (direction, memory) in [(Direction::ToDevice, &out), (Direction::FromDevice, &back)] {
                let outcome = bench.carry_out(channel, direction, 64, memory);
                assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len), "{channel} {clock:?}");
            }
            assert!(bytes(&back) == numbered(len));
            let costs = bench.costs();
            assert_eq!(costs.programmings - before.programmings, 2 * pieces);
            assert_eq!(costs.terminal_counts - before.terminal_counts, 2 * pieces);
            // To open the channel is one more, which masks it.
            assert_eq!(costs.port_writes - before.port_writes, 2 * pieces * 12 + 1);
            let (descriptors, moved, interrupts) = bench.sim.totals(channel);
            assert_eq!((descriptors, moved, interrupts), (2, 2 * len as u64, 2 * pieces));
        }
        assert_eq!(
            bench.sim.stats().bounced_bytes.load(std::sync::atomic::Ordering::Relaxed),
            7 * 2 * ((300 << 10) - 10)
        );
        assert_eq!(bench.sim.mappings(), 7, "an area for each channel");
    }
}

#[test]
fn memory_that_is_mapped_is_not_bounced_and_is_split_where_a_page_ends() {
    let bench = Bench::new(Clock::Manual);
    let memory = filled(&numbered(200_000));
    let mapping = bench.map(&memory);
    assert_eq!(mapping.segments()[0].0 % 65_536, memory.address() as u64 % 4096);
    assert_eq!(bench.carry_out(3, Direction::ToDevice, 0, &memory).bytes, 200_000);
    assert_eq!(bench.costs().programmings, 4);
    memory.fill(0, 200_000, 0).unwrap();
    assert_eq!(bench.carry_out(3, Direction::FromDevice, 0, &memory).bytes, 200_000);
    assert!(bytes(&memory) == numbered(200_000));
    assert_eq!(bench.sim.stats().bounced_bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(bench.sim.mappings(), 2, "the area of the channel, and this one");
}

#[test]
fn words_want_even_addresses_and_lengths() {
    let bench = Bench::new(Clock::Manual);
    let (words, odd) = (bench.device.channel(5).unwrap(), region(7, 0));
    for refused in [request(Direction::ToDevice, 0, &odd), request(Direction::ToDevice, 1, &region(8, 0))] {
        assert!(matches!(words.submit(refused, true), Err(Error::Alignment(_))));
    }
    assert_eq!(bench.carry_out(0, Direction::ToDevice, 1, &odd).status, Status::Complete);
}

#[test]
fn the_cascade_is_refused_with_what_there_is() {
    let bench = Bench::new(Clock::Manual);
    let Err(Error::Argument(refusal)) = bench.device.channel(4) else { panic!("channel 4 moves nothing") };
    assert!(refusal.contains("cascade") && refusal.contains("5 to 7"), "{refusal}");
    assert!(bench.device.channel(8).is_err());
}

#[test]
fn what_an_8237_has_not_is_refused() {
    let machine = Machine::new(MachineOptions::default()).unwrap();
    let usual = DeviceOptions::isa();
    for options in [
        DeviceOptions { channels: 4, ..usual },
        DeviceOptions { address_bits: 32, ..usual },
        DeviceOptions { alignment: 2, ..usual },
        DeviceOptions { max_segments: 3, ..usual },
        DeviceOptions { prefetch: 2, ..usual },
        DeviceOptions { memory: (1 << 32) + 1, ..usual },
        DeviceOptions { ring_size: 1, ..usual },
    ] {
        assert!(matches!(Device::new(&machine, options), Err(Error::Argument(_))), "{options:?}");
    }
    let device = Device::new(&machine, usual).unwrap();
    assert!(matches!(device.set_mode(0, Mode::Transparent), Err(Error::Argument(_))));
}

/// Bus cycles of a write of `len` bytes by a channel, in a mode.
fn cycles(channel: u16, mode: Mode, len: usize) -> u64 {
    let bench = Bench::new(Clock::Manual);
    bench.sim.set_mode(channel, mode).unwrap();
    let before = bench.machine.cycles();
    assert_eq!(bench.carry_out(channel, Direction::ToDevice, 0, &region(len, 7)).bytes, len);
    bench.machine.cycles() - before
}

#[test]
fn a_transfer_takes_four_clocks_and_three_where_a8_to_a15_stay() {
    // Two cycles of the bus are a clock. Pieces begin where a page does.
    assert_eq!(cycles(1, Mode::CycleStealing, 1000), 2 * 4 * 1000);
    assert_eq!(cycles(5, Mode::CycleStealing, 1000), 2 * 4 * 500);
    assert_eq!(cycles(1, Mode::Burst, 1000), 2 * (3 * 1000 + 4));
    assert_eq!(cycles(5, Mode::Burst, 1000), 2 * (3 * 500 + 2));
    assert_eq!(cycles(1, Mode::Burst, 100_000), 2 * (3 * 100_000 + 391));
}

#[test]
fn demand_stalls_the_cpu_and_single_transfers_do_not_for_long() {
    for (mode, stalls) in [(Mode::Burst, 20_000..30_000), (Mode::CycleStealing, 0..4000)] {
        let options =
            MachineOptions { clock: Clock::Manual, timing: Timing::ISA, cpu_load: 0.5, ..MachineOptions::default() };
        let machine = Machine::new(options).unwrap();
        let sim = Device::new(&machine, DeviceOptions::isa()).unwrap();
        sim.set_mode(1, mode).unwrap();
        let channel = device::Device::of_sim(&sim, "isa").channel(1).unwrap();
        let ticket = channel.submit(request(Direction::ToDevice, 0, &region(4096, 7)), true).unwrap();
        channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap();
        // It is over for the CPU when its access comes.
        machine.step(1);
        let seen = machine.stats().cpu.stalls;
        assert!(stalls.contains(&seen), "{mode:?}: {seen}");
    }
}

#[test]
fn what_lies_before_a_fault_is_moved_and_what_is_linked_behind_is_not_attempted() {
    for (kind, status) in [
        (Kind::BusError, Status::BusWriteError),
        (Kind::Poison, Status::DataPoison),
        (Kind::LinkDown, Status::LinkDown),
    ] {
        let bench = Bench::new(Clock::Manual);
        bench.put(0, &numbered(100_000));
        bench.inject(kind, Trigger::Address(0x1_8000));
        let memory = region(100_000, 0xee);
        let channel = bench.device.channel(1).unwrap();
        let part = |start: u64, len| Direction::FromDevice.op(start, Span::new(&memory, start as usize, len).unwrap());
        let ticket = channel.submit(Request::list(vec![part(0, 99_000), part(99_000, 1000)]), true).unwrap();
        let outcome = channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap();
        assert_eq!((outcome.status, outcome.bytes), (status, 0x1_8000));
        assert_eq!(bytes(&memory)[..0x1_8000], numbered(100_000)[..0x1_8000]);
        assert!(bytes(&memory)[0x1_8000..].iter().all(|byte| *byte == 0xee));
        assert_eq!(bench.device.reset(GRACE), Ok(true));
        assert_eq!(bench.get(0, 100_000), numbered(100_000), "it works again");
    }
}

#[test]
fn a_fault_at_a_transfer_moves_nothing_of_it() {
    let bench = Bench::new(Clock::Manual);
    bench.inject(Kind::IommuFault, Trigger::Descriptor(1));
    bench.put(0, &numbered(64));
    let outcome = bench.carry_out(0, Direction::ToDevice, 0, &region(64, 1));
    assert!(matches!(outcome, Outcome { status: Status::IommuFault { access: Access::Read, .. }, bytes: 0, .. }));
    assert_eq!((bench.get(0, 64), bench.sim.iommu_faults().0), (numbered(64), 1));
}

#[test]
fn a_lost_interrupt_leaves_the_transfer_to_be_found() {
    let bench = Bench::new(Clock::Manual);
    bench.inject(Kind::LostInterrupt, Trigger::Descriptor(0));
    bench.machine.start_trace().unwrap();
    bench.put(0, &numbered(64));
    let events = bench.machine.take_trace().events;
    assert_eq!(events.last().map(|event| event.what), Some(What::LostInterrupt));
    assert_eq!(bench.get(0, 64), numbered(64));
}

#[test]
fn one_that_is_cancelled_ends_where_it_is_and_the_next_begins() {
    for hangs in [false, true] {
        let bench = Bench::new(Clock::Manual);
        let (long, short) = (region(200_000, 7), filled(&numbered(64)));
        let channel = bench.device.channel(1).unwrap();
        if hangs {
            bench.inject(Kind::Hang, Trigger::Address(100_000));
        }
        let submit = |offset, memory| channel.submit(request(Direction::ToDevice, offset, memory), true).unwrap();
        let (first, second) = (submit(0, &long), submit(500_000, &short));
        bench.machine.step(if hangs { 10_000_000 } else { 6 * 100_000 });
        assert_eq!((first.status(), second.status()), (Status::Pending, Status::Pending));
        channel.cancel(&first, Status::Aborted);
        assert_eq!(channel.wait_plain(&second, Some(GRACE), GRACE).unwrap().status, Status::Complete);
        let ended = first.outcome().unwrap();
        assert_eq!((ended.status, ended.bytes), (Status::Aborted, 65_536), "whole pieces");
        assert_eq!((bench.get(500_000, 64), long.in_flight()), (numbered(64), 0));
    }
}

#[test]
fn channels_go_on_beside_each_other_and_the_next_piece_is_begun_by_the_machine() {
    let bench = Bench::new(Clock::Manual);
    let memories: Vec<_> = (0..4).map(|seed| region(150_000, seed + 1)).collect();
    let channels: Vec<Arc<Shared>> = [1, 2, 5, 7].iter().map(|index| bench.device.channel(*index).unwrap()).collect();
    let tickets: Vec<_> = channels
        .iter()
        .zip(&memories)
        .enumerate()
        .map(|(place, (channel, memory))| {
            channel.submit(request(Direction::ToDevice, place as u64 * 150_000, memory), true).unwrap()
        })
        .collect();
    // Nobody looks at a channel meanwhile.
    bench.machine.run_until_idle();
    for (channel, ticket) in channels.iter().zip(&tickets) {
        assert_eq!(channel.wait_plain(ticket, Some(GRACE), GRACE).unwrap().status, Status::Complete);
    }
    for (place, seed) in [1, 2, 3, 4].into_iter().enumerate() {
        assert!(bench.get(place as u64 * 150_000, 150_000).iter().all(|byte| *byte == seed));
    }
}

#[test]
fn a_trace_tells_runs_terminal_counts_and_interrupts() {
    let bench = Bench::new(Clock::Manual);
    let channel = bench.device.channel(2).unwrap();
    bench.machine.start_trace().unwrap();
    let ticket = channel.submit(request(Direction::ToDevice, 0, &region(300, 7)), true).unwrap();
    channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap();
    let seen: Vec<_> =
        bench.machine.take_trace().events.iter().map(|event| (event.channel, event.what, event.len)).collect();
    let expected = [(What::ToDevice, 256), (What::ToDevice, 44), (What::TerminalCount, 0), (What::Interrupt, 0)];
    assert_eq!(seen, expected.map(|(what, len)| (2, what, len)));
}
