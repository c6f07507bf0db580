//! A million descriptors, whose every cycle is known before.

use dma_core::engine::sim::{channel_offset, Arbitration, Machine, MachineStats, Mode, Timing};
use dma_core::engine::{Bank, Engine};
use dma_core::memory::{Layout, Lock, Region, Span};
use dma_core::ring::{Memory, Ring};
use dma_core::transfer::{flags, Access, Descriptor, Status};

use super::*;

const COUNT: u64 = 1_000_000;
const SLOTS: u32 = 1 << 16;
const LEN: u32 = 64;

/// Lets a channel of a machine with a manual clock move a block `count` times; `step` lets time pass until the ring is empty.
fn run(count: u64, options: MachineOptions, mode: Mode, step: impl Fn(&Machine)) -> MachineStats {
    let machine = Machine::new(MachineOptions { clock: Clock::Manual, ..options }).unwrap();
    let device = Device::new(&machine, DeviceOptions { memory: 4096, ..DeviceOptions::default() }).unwrap();
    device.set_mode(0, mode).unwrap();
    let slots = Region::allocate(Layout::new(SLOTS as usize * Descriptor::SIZE), Lock::Never).unwrap();
    let mapped = device.map_ring(Span::new(&slots, 0, slots.len()).unwrap()).unwrap();
    let mut ring = Ring::new(Memory::new(&slots, 0, SLOTS).unwrap()).unwrap();
    let block = Region::allocate(Layout::new(4096), Lock::Never).unwrap();
    let mapping = device.map(Span::new(&block, 0, 4096).unwrap(), Access::Read).unwrap();
    let registers = device.registers(Bank::Bar(0)).unwrap();
    let set = |at: u64, width: u8, value: u64| registers.write(channel_offset(0) + at, width, value);
    set(0x20, 8, mapped.segments()[0].0);
    set(0x28, 4, SLOTS.into());
    let source = mapping.segments()[0].0;
    let descriptor = Descriptor { source, length: LEN, flags: flags::TO_DEVICE, ..Descriptor::default() };
    let mut left = count;
    while left > 0 {
        let batch = left.min(ring.room().into());
        (0..batch).for_each(|_| _ = ring.add(descriptor).unwrap());
        set(0x2c, 4, ring.tail().into());
        step(&machine);
        for _ in 0..batch {
            assert_eq!(Status::from_code(ring.pop().unwrap().1.status), Status::Complete);
        }
        left -= batch;
    }
    machine.stats()
}

fn all(machine: &Machine) {
    machine.run_until_idle();
}

#[test]
fn a_million_descriptors_take_the_cycles_that_the_bus_says() {
    for (timing, each) in [(Timing::IDEAL, 5 + 8 + 1), (Timing::PCI, 13 + 19 + 4)] {
        let stats = run(COUNT, MachineOptions { timing, ..MachineOptions::default() }, Mode::Burst, all);
        assert_eq!((stats.cycles, stats.dma_cycles), (COUNT * each, COUNT * each));
        assert_eq!(stats.masters[0].1.grants, 3 * COUNT);
    }
}

#[test]
fn beside_a_cpu_a_tenth_of_them_takes_the_same_cycles_each_time_in_whatever_steps() {
    let options = MachineOptions {
        timing: Timing::PCI,
        cpu_load: 0.37,
        arbitration: Arbitration::RoundRobin { latency: 32 },
        ..MachineOptions::default()
    };
    for mode in [Mode::Burst, Mode::CycleStealing, Mode::Transparent] {
        let runs = [(); 2].map(|()| run(COUNT / 10, options, mode, all));
        assert_eq!(runs[0], runs[1]);
        let stepped =
            run(COUNT / 10, options, mode, |machine| while machine.transact(Some(machine.cycles() + 1_000_003)) {});
        assert_eq!(stepped.dma_cycles, runs[0].dma_cycles);
        assert_eq!(stepped.masters[0].1.cycles, runs[0].masters[0].1.cycles);
    }
}
