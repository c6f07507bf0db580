//! 1 GiB in descriptors of 4 KiB through a simulated machine whose time is counted to the cycle, in burst mode, beside memcpy of the
//! same blocks. Prints rounds of both in seconds, taking turns, and the cycles. Used by benchmark/machine.rb.

use std::time::Instant;

use dma_core::engine::sim::{channel_offset, Clock, Device, DeviceOptions, Machine, MachineOptions, Timing};
use dma_core::engine::{Bank, Engine, Registers};
use dma_core::memory::{Layout, Lock, Region, Span};
use dma_core::ring::{Memory, Ring};
use dma_core::transfer::{flags, Access, Descriptor, Status};

const BLOCK: usize = 4096;
const BLOCKS: u64 = (1 << 30) / BLOCK as u64;
const SLOTS: u32 = 1 << 16;
const ROUNDS: usize = 9;

fn main() -> dma_core::Result<()> {
    let memory = BLOCKS * BLOCK as u64;
    let [source, destination] = [(), ()].map(|()| Region::allocate(Layout::new(memory as usize), Lock::Never));
    let (source, destination) = (source?, destination?);
    for name in std::env::args().skip(1) {
        let timing = Timing::from_name(&name).unwrap_or(Timing::IDEAL);
        let machine = Machine::new(MachineOptions { clock: Clock::Manual, timing, ..MachineOptions::default() })?;
        let device = Device::new(&machine, DeviceOptions { memory, ..DeviceOptions::default() })?;
        let slots = Region::allocate(Layout::new(SLOTS as usize * Descriptor::SIZE), Lock::Never)?;
        let mapped = device.map_ring(Span::new(&slots, 0, slots.len())?)?;
        let mut ring = Ring::new(Memory::new(&slots, 0, SLOTS)?)?;
        let registers = device.registers(Bank::Bar(0))?;
        registers.write(channel_offset(0) + 0x20, 8, mapped.segments()[0].0);
        registers.write(channel_offset(0) + 0x28, 4, SLOTS.into());
        let mapping = device.map(Span::new(&source, 0, source.len())?, Access::Read)?;
        let from = mapping.segments()[0].0;
        // The first round is for the memory, which is there from then on.
        for round in 0..=ROUNDS {
            let cycles = machine.cycles();
            let started = Instant::now();
            simulate(&machine, &*registers, &mut ring, from)?;
            let simulated = started.elapsed().as_secs_f64();
            let started = Instant::now();
            copy(&source, &destination);
            let copied = started.elapsed().as_secs_f64();
            if round > 0 {
                println!("{name} {simulated:.4} {copied:.4} {}", machine.cycles() - cycles);
            }
        }
    }
    Ok(())
}

/// Puts descriptors into the ring until it is full, tells the channel of them, and lets it come to its end; and so on.
fn simulate(machine: &Machine, registers: &dyn Registers, ring: &mut Ring, from: u64) -> dma_core::Result<()> {
    let mut next = 0;
    while next < BLOCKS {
        let end = BLOCKS.min(next + u64::from(ring.room()));
        for block in next..end {
            let (source, destination) = (from + block * BLOCK as u64, block * BLOCK as u64);
            let length = BLOCK as u32;
            ring.add(Descriptor { source, destination, length, flags: flags::TO_DEVICE, ..Descriptor::default() })?;
        }
        next = end;
        registers.write(channel_offset(0) + 0x2c, 4, ring.tail().into());
        machine.run_until_idle();
        while let Some((_, descriptor)) = ring.pop() {
            assert_eq!(Status::from_code(descriptor.status), Status::Complete);
        }
    }
    Ok(())
}

fn copy(source: &Region, destination: &Region) {
    for block in (0..BLOCKS).map(|block| block as usize * BLOCK) {
        let (from, to) = (source.address() + block, destination.address() + block);
        // SAFETY: both regions have the block, and nobody else uses them.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, BLOCK) };
    }
    std::hint::black_box(destination.address());
}
