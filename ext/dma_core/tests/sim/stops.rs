//! What a transfer costs that stops in the midst of a block, or goes on there in another piece of memory: the same, whoever looks.

use dma_core::engine::sim::{Mode, Timing};
use dma_core::engine::Mapping;
use dma_core::transfer::{flags, Direction, Status};
use proptest::prelude::*;

use super::registers::Driver;
use super::*;
use crate::support::{region, whole};

/// Who looks while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Nobody,
    Trace,
    Steps(u64),
}

/// Cycles by the end and of the channels, bytes, and the status if there is one.
type Cost = (u64, u64, u64, Option<Status>);

fn bench(timing: Timing, iommu: bool, mode: Mode) -> Bench {
    let options = MachineOptions { clock: Clock::Manual, iommu, seed: 1, timing, ..MachineOptions::default() };
    let machine = Machine::new(options).unwrap();
    let sim = Device::new(&machine, DeviceOptions { memory: MEMORY, ..DeviceOptions::default() }).unwrap();
    (0..4).for_each(|channel| sim.set_mode(channel, mode).unwrap());
    let device = device::Device::of_sim(&sim, "sim");
    Bench { machine, sim, device }
}

/// Lets everything happen that is to.
fn run(bench: &Bench, look: Look) {
    match look {
        Look::Nobody => {}
        Look::Trace => bench.machine.start_trace().unwrap(),
        // Longer than anything here takes.
        Look::Steps(cycles) => (0..400_000 / cycles).for_each(|_| bench.machine.step(cycles)),
    }
    bench.machine.run_until_idle();
}

/// What happens to a transfer with a fault, and when it is over.
fn faulty(bench: &Bench, fault: (Kind, Trigger), op: Op, look: Look) -> Cost {
    bench.inject(fault.0, fault.1, Some(1));
    let ticket = bench.submit(op);
    run(bench, look);
    let status = bench.channel().wait_plain(&ticket, Some(Duration::ZERO), GRACE).ok().map(|outcome| outcome.status);
    let stats = bench.machine.stats();
    (stats.cycles, stats.dma_cycles, bench.sim.totals(0).1, status)
}

/// What happens to a transfer by hand of more bytes than are mapped in one piece.
fn torn(bench: &Bench, (mapped, count): (usize, u64), direction: Direction, look: Look) -> Cost {
    let memory = region(mapped, 7);
    let mapping: Arc<dyn Mapping> = bench.sim.map_ring(whole(&memory)).unwrap();
    let (address, driver) = (mapping.segments()[0].0, Driver::new(bench));
    match direction {
        Direction::ToDevice => driver.begin(address, 512, count, flags::TO_DEVICE),
        Direction::FromDevice => driver.begin(512, address, count, flags::FROM_DEVICE),
    }
    run(bench, look);
    let stats = bench.machine.stats();
    (stats.cycles, stats.dma_cycles, bench.sim.totals(2).1, Some(driver.status().1))
}

/// Steps end where they end, so that of the time only what the channel took is compared.
fn alike(nobody: Cost, seen: Cost, look: Look) -> bool {
    (nobody.1, nobody.2, nobody.3) == (seen.1, seen.2, seen.3) && (nobody.0 == seen.0 || matches!(look, Look::Steps(_)))
}

#[test]
fn what_is_not_begun_when_a_transfer_fails_costs_nothing() {
    // A descriptor, bursts of three full transactions, and a status.
    let (fetch, len, burst, status) = (3 + 10, 3 * 116, 3 * (3 + 29), 3 + 1);
    for at in [None, Some(300), Some(70_000)] {
        for kind in [Kind::BusError, Kind::Poison, Kind::IommuFault, Kind::LinkDown, Kind::Hang] {
            let trigger = at.map_or(Trigger::Descriptor(0), |at| Trigger::Address(0x8_0000 + at));
            let bench = bench(Timing::PCI, true, Mode::Burst);
            let memory = region(200_000, 0);
            let op = Direction::ToDevice.op(0x8_0000, whole(&memory));
            let (cycles, _, moved, _) = faulty(&bench, (kind, trigger), op, Look::Nobody);
            let wanted = match (kind, at) {
                (Kind::Hang, None) => (fetch, 0),
                (Kind::Hang, Some(at)) => (fetch + (at / len + 1) * burst, at / len * len),
                // One more finds out that it cannot.
                (_, at) => (fetch + (at.unwrap_or(0).div_ceil(len) + 1) * burst + status, at.unwrap_or(0)),
            };
            assert_eq!((cycles, moved), wanted, "{kind:?} {trigger:?}");
        }
    }
}

fn a_bus() -> impl Strategy<Value = Timing> {
    let odd = Timing { width: 12, payload: 35, overhead: 5, beat: 2, setup: 7, ..Timing::IDEAL };
    let large = Timing { setup: 3, ..Timing::IDEAL };
    prop::sample::select(vec![Timing::IDEAL, Timing::PCI, Timing::PCIE, Timing::ISA, odd, large])
}

fn a_mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Burst, Mode::CycleStealing, Mode::Transparent])
}

fn a_direction() -> impl Strategy<Value = Direction> {
    prop::sample::select(vec![Direction::ToDevice, Direction::FromDevice])
}

fn a_fault() -> impl Strategy<Value = (Kind, Option<u64>)> {
    let kinds = [Kind::BusError, Kind::Poison, Kind::IommuFault, Kind::LinkDown, Kind::Hang, Kind::LostInterrupt];
    (prop::sample::select(kinds.to_vec()), prop::option::of(0_u64..150_000))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_transfer_that_fails_costs_the_same_whoever_looks(
        (timing, mode, iommu) in (a_bus(), a_mode(), any::<bool>()),
        (kind, at) in a_fault(),
        (direction, len, copies) in (a_direction(), 1_usize..150_000, any::<bool>()),
        steps in 50_u64..20_000,
    ) {
        let trigger = at.map_or(Trigger::Descriptor(0), |at| Trigger::Address(0x8_0000 + at));
        let cost = |look| {
            let memory = region(len, 3);
            let op = match copies {
                true => Op::Copy { from: 0, to: 0x8_0000, len: len as u64 },
                false => direction.op(0x8_0000, whole(&memory)),
            };
            faulty(&bench(timing, iommu, mode), (kind, trigger), op, look)
        };
        let nobody = cost(Look::Nobody);
        for look in [Look::Trace, Look::Steps(steps)] {
            let seen = cost(look);
            prop_assert!(alike(nobody, seen, look), "{:?}, and with {:?} {:?}", nobody, look, seen);
        }
    }

    #[test]
    fn a_transfer_beyond_its_piece_of_memory_costs_the_same_whoever_looks(
        (timing, mode, iommu) in (a_bus(), a_mode(), any::<bool>()),
        direction in a_direction(),
        mapped in 1_usize..100_000,
        count in 1_u64..150_000,
        steps in 50_u64..20_000,
    ) {
        let cost = |look| torn(&bench(timing, iommu, mode), (mapped, count), direction, look);
        let nobody = cost(Look::Nobody);
        prop_assert_eq!(nobody.2, count.min(mapped as u64));
        for look in [Look::Trace, Look::Steps(steps)] {
            let seen = cost(look);
            prop_assert!(alike(nobody, seen, look), "{:?}, and with {:?} {:?}", nobody, look, seen);
        }
    }
}
