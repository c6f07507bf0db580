//! Software that writes anything to any register: the machine stays whole, goes on, and touches no memory that is not mapped.

use dma_core::engine::sim::{channel_offset, Mode, Timing};
use dma_core::engine::{Bank, Engine, Mapping, Registers};
use dma_core::memory::{Region, Span};
use dma_core::transfer::{Access, Direction, Status};
use fastrand::Rng;

use super::*;
use crate::support::{bytes, region, whole};

const WRITES: usize = 100_000;
const UNTOUCHED: u8 = 0xee;

/// A machine with a device, whose memory is mapped between pages that are not.
struct Rig {
    machine: Arc<Machine>,
    sim: Arc<Device>,
    device: Arc<device::Device>,
    memory: Arc<Region>,
    mapping: Arc<dyn Mapping>,
}

impl Rig {
    fn new(timing: Timing, iommu: bool, options: DeviceOptions) -> Rig {
        let options = DeviceOptions { memory: MEMORY, ..options };
        let machine =
            MachineOptions { clock: Clock::Manual, iommu, seed: 1, timing, cpu_load: 0.5, ..MachineOptions::default() };
        let machine = Machine::new(machine).unwrap();
        let sim = Device::new(&machine, options).unwrap();
        let device = device::Device::of_sim(&sim, "hostile");
        let memory = region(3 << 16, UNTOUCHED);
        let mapping = sim.map(Span::new(&memory, 1 << 16, 1 << 16).unwrap(), Access::Both).unwrap();
        Rig { machine, sim, device, memory, mapping }
    }

    fn address(&self) -> u64 {
        self.mapping.segments()[0].0
    }

    /// Memory beside what is mapped is as it was, and after a reset the device works as it did.
    fn check(&self) {
        let all = bytes(&self.memory);
        assert!(all[..1 << 16].iter().chain(&all[2 << 16..]).all(|byte| *byte == UNTOUCHED));
        assert!(all[1 << 16..2 << 16].iter().any(|byte| *byte != UNTOUCHED), "nothing was moved at all");
        self.device.reset(GRACE).unwrap();
        let channel = self.device.channel(0).unwrap();
        let (out, back) = (region(70_000, 7), region(70_000, 0));
        for (direction, memory) in [(Direction::ToDevice, &out), (Direction::FromDevice, &back)] {
            let ticket = channel.submit(Request::new(direction.op(1, whole(memory))), true).unwrap();
            let outcome = channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap();
            assert_eq!((outcome.status, outcome.bytes), (Status::Complete, 70_000));
        }
        assert_eq!(bytes(&back), bytes(&out));
    }
}

/// Writes a register, or reads it now and then.
fn access(registers: &dyn Registers, random: &mut Rng, (at, width): (u64, u8), value: u64) {
    let at = at & !(u64::from(width) - 1);
    match random.u8(..8) {
        0 => _ = registers.read(at, width),
        _ => registers.write(at, width, value),
    }
}

/// A transfer on a channel, whoever has programmed it meanwhile.
fn disturb(rig: &Rig, random: &mut Rng) {
    let Ok(channel) = rig.device.channel(random.u16(..8)) else { return };
    let memory = region(2 * random.usize(1..40_000), 1);
    let direction = if random.bool() { Direction::ToDevice } else { Direction::FromDevice };
    let Ok(ticket) = channel.submit(Request::new(direction.op(0, whole(&memory))), true) else { return };
    match random.u8(..3) {
        0 => channel.cancel(&ticket, Status::Aborted),
        1 => _ = channel.wait_plain(&ticket, Some(Duration::from_micros(random.u64(..3000))), GRACE),
        _ => _ = channel.reset(GRACE),
    }
}

#[test]
fn anything_in_any_port_of_8237s_moves_nothing_outside_of_mapped_memory() {
    for (seed, timing) in [Timing::ISA, Timing::IDEAL, Timing::PCIE].into_iter().enumerate() {
        let rig = Rig::new(timing, true, DeviceOptions::isa());
        let (ports, mut random) = (rig.sim.registers(Bank::Bar(0)).unwrap(), Rng::with_seed(seed as u64));
        let page = rig.address() >> 16;
        for write in 0..WRITES {
            let value = match random.u8(..4) {
                0 => page,
                1 => random.u64(..),
                _ => random.u64(..256),
            };
            let at = match random.u8(..4) {
                0 => 0x300 + random.u64(..0x80),
                1 => random.u64(..0x10),
                2 => 0x80 + random.u64(..0x60),
                _ => random.u64(..0x400),
            };
            let width = [1, 2, 4, 8][random.usize(..4)];
            access(&*ports, &mut random, (at, width), value);
            rig.machine.step(random.u64(..400));
            if write % 1000 == 999 {
                disturb(&rig, &mut random);
            }
        }
        rig.check();
    }
}

#[test]
fn anything_in_any_register_and_any_descriptor_moves_nothing_outside_of_mapped_memory() {
    for (seed, timing) in [Timing::IDEAL, Timing::PCI, Timing::PCIE].into_iter().enumerate() {
        let options = DeviceOptions { prefetch: 8, channels: 3, ..DeviceOptions::default() };
        let rig = Rig::new(timing, seed != 1, options);
        rig.sim.set_mode(1, Mode::CycleStealing).unwrap();
        rig.sim.set_mode(2, Mode::Transparent).unwrap();
        let (registers, mut random) = (rig.sim.registers(Bank::Bar(0)).unwrap(), Rng::with_seed(seed as u64));
        let near = |random: &mut Rng| rig.address().wrapping_add(random.u64(..4096)).wrapping_sub(64);
        for write in 0..WRITES {
            // Descriptors are memory as any other, which the device writes to as well.
            let place = 65_536 + random.usize(..4096) / 40 * 40;
            rig.memory.fill(place + random.usize(..40), 1, random.u8(..)).unwrap();
            if random.bool() {
                (0..40).for_each(|n| rig.memory.fill(place + n, 1, 0).unwrap());
                for at in [0, 8, 24] {
                    let address = near(&mut random).to_le_bytes();
                    (0..8).for_each(|n| rig.memory.fill(place + at + n, 1, address[n]).unwrap());
                }
                rig.memory.fill(place + 16 + random.usize(..2), 1, random.u8(..)).unwrap();
            }
            let width = [1, 2, 4, 8][random.usize(..4)];
            let at = match random.u8(..8) {
                0 => random.u64(..0x100),
                _ => channel_offset(random.u16(..3)) + random.u64(..0x40),
            };
            let value = match random.u8(..4) {
                0 => near(&mut random) & !7,
                1 => random.u64(..),
                2 => random.u64(..16),
                _ => 0x100 | random.u64(..16),
            };
            access(&*registers, &mut random, (at, width), value);
            rig.machine.step(random.u64(..100));
            if write % 1000 == 999 {
                disturb(&rig, &mut random);
                rig.sim.reset();
            }
        }
        rig.check();
    }
}
