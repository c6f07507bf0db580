//! Who has the bus for how long, and what the statistics say of it.

use dma_core::engine::sim::{MachineStats, Mode, Timing};
use dma_core::transfer::{Direction, Status};
use dma_core::Error;

use super::*;
use crate::support::{region, whole};

const LEN: usize = 4096;

/// A machine whose device writes to it in a mode.
fn bench(options: MachineOptions, mode: Mode) -> Bench {
    let machine = Machine::new(MachineOptions { clock: Clock::Manual, seed: 1, ..options }).unwrap();
    let sim = Device::new(&machine, DeviceOptions { memory: MEMORY, ..DeviceOptions::default() }).unwrap();
    sim.set_mode(0, mode).unwrap();
    let device = device::Device::of_sim(&sim, "sim");
    Bench { machine, sim, device }
}

fn stats(options: MachineOptions, mode: Mode) -> MachineStats {
    let bench = bench(options, mode);
    assert_eq!(bench.carry_out(Direction::ToDevice.op(0, whole(&region(LEN, 1)))).status, Status::Complete);
    bench.machine.stats()
}

#[test]
fn a_channel_has_the_bus_for_no_more_cycles_than_pass() {
    for timing in [Timing::IDEAL, Timing::ISA, Timing::PCI, Timing::PCIE] {
        for mode in [Mode::Burst, Mode::CycleStealing, Mode::Transparent] {
            for cpu_load in [0.0, 0.3] {
                let options = MachineOptions { timing, cpu_load, ..MachineOptions::default() };
                let MachineStats { cycles, dma_cycles, masters, .. } = stats(options, mode);
                assert!(dma_cycles <= cycles, "{timing:?} {mode:?} {cpu_load}: {dma_cycles} of {cycles}");
                assert_eq!(masters.iter().map(|(_, master)| master.cycles).sum::<u64>(), dma_cycles);
                assert!(!timing.links || cpu_load > 0.0 || dma_cycles == cycles);
            }
        }
    }
}

#[test]
fn what_a_block_kept_the_cpu_waiting_is_known_when_it_is_over() {
    let options = MachineOptions { timing: Timing::PCI, cpu_load: 0.9, ..MachineOptions::default() };
    let bench = bench(options, Mode::Burst);
    bench.carry_out(Direction::ToDevice.op(0, whole(&region(LEN, 1))));
    let before = bench.machine.stats().cpu;
    assert!(before.stalls > Timing::PCI.cycles(LEN as u64) / 2, "{before:?}");
    bench.machine.step(1);
    assert_eq!(bench.machine.stats().cpu, before);
}

#[test]
fn words_that_fit_into_no_gap_of_the_cpu_because_of_their_address_wait() {
    // A word takes four cycles, and five at an address of more than 32 bits; the CPU leaves four.
    let options =
        MachineOptions { timing: Timing::PCI, cpu_load: 19.0 / 23.0, iommu: false, ..MachineOptions::default() };
    let bench = bench(options, Mode::Transparent);
    let (channel, memory) = (bench.channel(), region(LEN, 1));
    let ticket = bench.submit(Direction::ToDevice.op(0, whole(&memory)));
    let waited = channel.wait_plain(&ticket, None, GRACE);
    assert!(matches!(waited, Err(Error::TimedOut(_))), "{waited:?}");
    bench.sim.set_mode(0, Mode::CycleStealing).unwrap();
    assert_eq!(bench.carry_out(Direction::ToDevice.op(0, whole(&memory))).status, Status::Complete);
}
