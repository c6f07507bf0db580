//! Two devices behind an IOMMU, random mappings and random accesses, each of which is compared with a model: which bytes moved, where it
//! stopped and why. Strict, a device moves no byte outside of what is mapped for it now; lazy, none but those and what a model of its
//! IOTLB has of what was unmapped since the last flush.

use dma_core::engine::sim::{channel_offset, IommuFault, IommuStats, MemoryOptions, Reason};
use dma_core::engine::{Bank, Engine, Mapping, Registers};
use dma_core::memory::{Pages, Region, Span};
use dma_core::transfer::{flags, Access, Status};
use fastrand::Rng;

use super::*;
use crate::support::{bytes, region};

const ACCESSES: u64 = 100_000;
const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
/// Bytes of memory that is ours, and of memory that is somebody else's.
const OURS: usize = 7 << 20;
const FOREIGN: usize = 1 << 18;
const DEVICE: u64 = 4 << 20;
/// Cycles of 10 ms: a cycle is a nanosecond.
const DELAY: u64 = 10_000_000;
/// More cycles than an access takes.
const LONG: u64 = 2_000_000;
const QUEUE: usize = 256;

/// A mapping as the model knows it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    bus: u64,
    len: u64,
    access: Access,
    /// Which memory, where in it, and at which address of the process.
    memory: usize,
    offset: usize,
    host: u64,
}

impl Run {
    /// The page that an address is in, and its size.
    fn page(&self, address: u64) -> (u64, u64) {
        let (start, end) = (self.bus / PAGE * PAGE, (self.bus + self.len).next_multiple_of(PAGE));
        let large = address / LARGE * LARGE;
        match self.bus % LARGE == self.host % LARGE && large >= start && large + LARGE <= end {
            true => (large, LARGE),
            false => (address / PAGE * PAGE, PAGE),
        }
    }

    fn contains(&self, address: u64) -> bool {
        (self.bus..self.bus + self.len).contains(&address)
    }
}

/// A page in the IOTLB.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cached {
    start: u64,
    size: u64,
    run: Run,
}

/// What a device may reach.
#[derive(Default)]
struct Model {
    live: Vec<Run>,
    /// The sets of the IOTLB, and which place of each is taken next.
    sets: [[Option<Cached>; 4]; 16],
    turns: [usize; 16],
    waiting: usize,
    due: u64,
    stats: IommuStats,
    /// How often it was flushed because the queue was full, and because the time had come.
    full: u64,
    late: u64,
}

impl Model {
    /// What the device finds at an address, and where the page ends.
    fn look_up(&mut self, address: u64) -> Option<(Run, u64)> {
        for size in [PAGE, LARGE] {
            let (start, set) = (address / size * size, &self.sets[(address / size % 16) as usize]);
            if let Some(page) = set.iter().flatten().find(|page| (page.start, page.size) == (start, size)) {
                return page.run.contains(address).then_some((page.run, start + size));
            }
        }
        self.stats.misses += 1;
        let run = *self.live.iter().find(|run| run.contains(address))?;
        let (start, size) = run.page(address);
        let set = (address / size % 16) as usize;
        self.sets[set][self.turns[set] % 4] = Some(Cached { start, size, run });
        self.turns[set] += 1;
        Some((run, start + size))
    }

    fn flush(&mut self) {
        self.sets = Default::default();
        self.waiting = 0;
        self.stats.flushes += 1;
    }

    /// Flushes if the time has come.
    fn expire(&mut self, now: u64) {
        if self.waiting > 0 && now >= self.due {
            self.late += 1;
            self.flush();
        }
    }

    fn unmap(&mut self, run: Run, lazy: bool, now: u64) {
        self.live.retain(|other| *other != run);
        if !lazy || run.memory == 1 {
            for page in self.sets.as_flattened_mut() {
                *page = page.filter(|page| page.run != run);
            }
            self.stats.invalidations += 1;
            return;
        }
        if self.waiting == 0 {
            self.due = now + DELAY;
        }
        self.waiting += 1;
        if self.waiting == QUEUE {
            self.full += 1;
            self.flush();
        }
    }

    /// How many pages of each size are mapped.
    fn pages(&self) -> (u64, u64) {
        let mut count = (0, 0);
        for run in &self.live {
            let mut at = run.bus;
            while at < run.bus + run.len {
                let (start, size) = run.page(at);
                *(if size == LARGE { &mut count.1 } else { &mut count.0 }) += 1;
                at = start + size;
            }
        }
        count
    }
}

/// One of the two devices.
struct Side {
    sim: Arc<Device>,
    registers: Arc<dyn Registers>,
    mappings: Vec<(Run, Arc<dyn Mapping>)>,
    model: Model,
    /// Addresses that were mapped once.
    old: Vec<Run>,
}

struct World {
    random: Rng,
    machine: Arc<Machine>,
    lazy: bool,
    sides: [Side; 2],
    memories: [Arc<Region>; 2],
    /// What is in them.
    wanted: [Vec<u8>; 2],
    /// How many accesses found what was unmapped already.
    stale: u64,
    /// Whose memory the second one is.
    _foreign: Box<[u8]>,
}

impl World {
    fn new(seed: u64, lazy: bool) -> World {
        let memory = MemoryOptions { lazy, ..MemoryOptions::default() };
        let machine = MachineOptions { clock: Clock::Manual, iommu: true, memory, ..MachineOptions::default() };
        let machine = Machine::new(machine).unwrap();
        let side = || {
            let sim = Device::new(&machine, DeviceOptions { memory: DEVICE, ..DeviceOptions::default() }).unwrap();
            let registers = sim.registers(Bank::Bar(0)).unwrap();
            Side { sim, registers, mappings: Vec::new(), model: Model::default(), old: Vec::new() }
        };
        let sides = [side(), side()];
        let mut foreign = vec![0x55; FOREIGN].into_boxed_slice();
        // SAFETY: the bytes stay as long as all that uses them, and nobody else looks at them.
        let pages = unsafe { Pages::foreign(foreign.as_mut_ptr() as usize, FOREIGN) }.unwrap();
        World {
            random: Rng::with_seed(seed),
            machine,
            lazy,
            sides,
            memories: [region(OURS, 0xaa), Region::of(pages)],
            wanted: [vec![0xaa; OURS], vec![0x55; FOREIGN]],
            stale: 0,
            _foreign: foreign,
        }
    }

    fn map(&mut self, index: usize) {
        let memory = usize::from(self.random.u8(..8) == 0);
        let size = self.memories[memory].len();
        let len = match self.random.u8(..16) {
            0 if memory == 0 => LARGE as usize + self.random.usize(..LARGE as usize),
            1..=4 => 1 + self.random.usize(..80_000),
            _ => 1 + self.random.usize(..9000),
        };
        let offset = self.random.usize(..=size - len);
        let access = [Access::Read, Access::Write, Access::Both][self.random.usize(..3)];
        let side = &mut self.sides[index];
        side.model.expire(self.machine.cycles());
        let mapping = side.sim.map(Span::new(&self.memories[memory], offset, len).unwrap(), access).unwrap();
        let bus = mapping.segments()[0].0;
        assert_eq!(mapping.segments(), [(bus, len as u64)], "one run, whatever its pages");
        let host = (self.memories[memory].address() + offset) as u64;
        assert!(len < LARGE as usize || bus % LARGE == host % LARGE);
        let run = Run { bus, len: len as u64, access, memory, offset, host };
        side.model.live.push(run);
        side.mappings.push((run, mapping));
    }

    fn unmap(&mut self, index: usize) {
        let now = self.machine.cycles();
        let side = &mut self.sides[index];
        if side.mappings.is_empty() {
            return;
        }
        let (run, mapping) = side.mappings.swap_remove(self.random.usize(..side.mappings.len()));
        drop(mapping);
        side.model.expire(now);
        side.model.unmap(run, self.lazy, now);
        side.old.push(run);
        if side.old.len() > 20 {
            side.old.remove(0);
        }
    }

    /// An address at or around what is mapped, was, or is for the other device.
    fn address(&mut self, index: usize) -> u64 {
        let random = &mut self.random;
        let pick = |random: &mut Rng, runs: &[Run]| runs.get(random.usize(..runs.len().max(1))).copied();
        let run = match random.u8(..16) {
            0..=8 => pick(random, &self.sides[index].model.live),
            9..=13 => pick(random, &self.sides[index].old),
            14 => pick(random, &self.sides[1 - index].model.live),
            _ => None,
        };
        let Some(run) = run else { return random.u64(..0x1000_0000) };
        match random.u8(..4) {
            0 => run.bus.saturating_sub(random.u64(..40)),
            1 => run.bus + run.len - random.u64(..run.len.min(40)),
            _ => run.bus + random.u64(..run.len),
        }
    }

    fn access(&mut self, index: usize, number: u64) {
        let address = self.address(index);
        let len = match self.random.u16(..600) {
            0 => 1 + self.random.u64(..DEVICE - 1),
            1..=60 => 1 + self.random.u64(..20_000),
            _ => 1 + self.random.u64(..100),
        };
        let access = if self.random.bool() { Access::Read } else { Access::Write };
        let at = self.random.u64(..=DEVICE - len);
        let (before, faults) = (self.machine.cycles(), self.machine.iommu_faults());
        let ours: Vec<u8> = (0..len).map(|byte| (byte ^ number ^ byte >> 7) as u8).collect();
        let side = &mut self.sides[index];
        side.sim.pio_write(at, &ours, 8).unwrap();
        let (source, destination, control) = match access {
            Access::Read => (address, at, flags::TO_DEVICE),
            _ => (at, address, flags::FROM_DEVICE),
        };
        for (register, width, value) in [(0x00, 8, source), (0x08, 8, destination), (0x10, 4, len)] {
            side.registers.write(channel_offset(0) + register, width, value);
        }
        side.registers.write(channel_offset(0) + 0x14, 2, u64::from(control) | 0x100);
        let begin = self.machine.cycles();
        self.machine.run_until_idle();
        assert!(self.machine.cycles() - before < LONG);

        // What the model says of it.
        side.model.expire(begin);
        let (mut position, mut fault) = (0, None);
        let mut read = ours.clone();
        while position < len && fault.is_none() {
            match side.model.look_up(address + position) {
                Some((run, end)) if run.access.allows(access) => {
                    let there = (address + position - run.bus) as usize;
                    let count = (end.min(run.bus + run.len) - address - position).min(len - position) as usize;
                    let (place, from) = (run.offset + there, position as usize);
                    let memory = &mut self.wanted[run.memory][place..place + count];
                    match access {
                        Access::Read => read[from..from + count].copy_from_slice(memory),
                        _ => memory.copy_from_slice(&ours[from..from + count]),
                    }
                    self.stale += u64::from(!side.model.live.contains(&run));
                    position += count as u64;
                }
                Some(_) if access == Access::Read => fault = Some(Reason::NoRead),
                Some(_) => fault = Some(Reason::NoWrite),
                None => fault = Some(Reason::NotMapped),
            }
        }

        let status = side.registers.read(channel_offset(0) + 0x16, 2) >> 8;
        let wanted = match fault {
            Some(_) => Status::IommuFault { address: address + position, access },
            None => Status::Complete,
        };
        let what = format!("access {number}: device {index}, {len} bytes at {address:#x}, {access:?}");
        assert_eq!(Status::from_code(status as u32).name(), wanted.name(), "{what}");
        assert_eq!(side.registers.read(channel_offset(0) + 0x18, 4), position, "{what}");
        let cycle = self.machine.iommu_faults().last().map_or(0, |fault| fault.cycle);
        let fault = fault.map(|reason| {
            let (master, address) = ((index as u32, 0), address + position);
            IommuFault { master, address, access, reason, cycle }
        });
        let last = self.machine.iommu_faults().last().copied().filter(|_| self.machine.iommu_faults() != faults);
        assert_eq!(last, fault, "{what}");
        if access == Access::Read {
            assert!(side.sim.pio_read(at, len as usize, 8).unwrap() == read, "{what}: other bytes came");
        }
    }

    /// Time passes, somebody flushes, or many mappings come and go.
    fn pass(&mut self, index: usize) {
        match self.random.u8(..8) {
            0 => {
                self.machine.flush_iotlb();
                self.sides.iter_mut().for_each(|side| side.model.flush());
            }
            1 => {
                for _ in 0..QUEUE {
                    self.map(index);
                    self.unmap(index);
                }
            }
            2..=4 => self.machine.step(self.random.u64(..DELAY / 2)),
            _ => {}
        }
    }

    fn check(&mut self) {
        for (memory, wanted) in self.memories.iter().zip(&self.wanted) {
            assert!(bytes(memory) == *wanted, "a byte that is none of a device's business has changed");
        }
        let now = self.machine.cycles();
        for side in &mut self.sides {
            side.model.expire(now);
            let stats = side.sim.iommu_stats().unwrap();
            let (small, large) = side.model.pages();
            let queued = side.model.waiting as u64;
            assert_eq!(stats, IommuStats { small, large, queued, hits: stats.hits, ..side.model.stats });
            assert_eq!(side.sim.mappings(), side.mappings.len());
        }
    }

    fn run(mut self) -> World {
        for number in 0..ACCESSES {
            let index = self.random.usize(..2);
            match self.random.u8(..16) {
                0 | 1 if self.sides[index].mappings.len() < 12 => self.map(index),
                2 | 3 => self.unmap(index),
                4 if self.random.u8(..16) == 0 => self.pass(index),
                _ => {}
            }
            self.pass_if_due();
            self.access(index, number);
            if number % 500 == 499 {
                self.check();
            }
        }
        self.sides.iter_mut().for_each(|side| side.mappings.clear());
        self
    }

    /// No access is to be in the midst of it when the time comes.
    fn pass_if_due(&mut self) {
        let now = self.machine.cycles();
        let due = self.sides.iter().filter(|side| side.model.waiting > 0).map(|side| side.model.due);
        if let Some(due) = due.filter(|due| (now..now + LONG).contains(due)).max() {
            self.machine.step(due - now);
        }
    }
}

#[test]
fn strictly_no_byte_is_reached_that_is_not_mapped_for_the_device_now() {
    let world = World::new(1, false).run();
    assert_eq!(world.stale, 0);
    assert!(world.sides.iter().all(|side| side.model.stats.invalidations > 1000));
}

#[test]
fn lazily_those_are_reached_besides_that_are_in_the_iotlb_until_it_is_flushed() {
    let world = World::new(2, true).run();
    assert!(world.stale > 1000, "only {} accesses found what was unmapped", world.stale);
    for Model { full, late, stats, .. } in world.sides.map(|side| side.model) {
        assert!(full > 0 && late > 0 && stats.flushes > full + late, "{full} full, {late} late, {stats:?}");
        assert!(stats.invalidations > 100, "of what is somebody else's");
    }
}
