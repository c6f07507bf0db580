use proptest::prelude::*;

use super::*;
use crate::engine::sim::trace::Record;
use crate::engine::sim::Timing;

/// A machine whose bus an access of the CPU takes for 8 cycles, and a word for one.
fn options(load: f64) -> MachineOptions {
    MachineOptions { cpu_load: load, ..MachineOptions::default() }
}

fn memory() -> Memory {
    Memory::new(None, &Timing::IDEAL)
}

fn cpu(load: f64) -> Cpu {
    Cpu::new(&options(load), &memory()).unwrap()
}

fn block(len: u64) -> Block {
    Block::new(len, &options(0.0), &memory(), 0)
}

/// Cycles of `words`, and stalls, with a CPU that wants the bus for `load` of the time.
fn run(mode: Mode, load: f64, words: u64) -> Option<(u64, u64)> {
    let (mut cpu, block) = (cpu(load), block(words * 8));
    if mode == Mode::Transparent && !cpu.leaves_room(&block) {
        return None;
    }
    // Begins when the CPU has just finished an access.
    let end = cpu.give(mode, 1, block, None);
    cpu.run_until(end, None);
    Some((end - 8, cpu.stalls))
}

#[test]
fn a_burst_stalls_the_cpu_for_as_long_as_it_takes() {
    // The CPU wants the bus 24 cycles after its access.
    assert_eq!(run(Mode::Burst, 0.25, 1000), Some((1000, 1000 - 24)));
    assert_eq!(run(Mode::Burst, 0.25, 24), Some((24, 0)));
}

#[test]
fn cycle_stealing_gives_the_cpu_the_bus_after_each_word() {
    // 24 words, an access, 24 words, and so on: nobody waits.
    assert_eq!(run(Mode::CycleStealing, 0.25, 240), Some((240 + 9 * 8, 0)));
    // A CPU that computes nothing waits a cycle for each word.
    assert_eq!(run(Mode::CycleStealing, 1.0, 100), Some((100 + 99 * 8, 100)));
}

#[test]
fn transparent_transfers_take_what_the_cpu_leaves() {
    assert_eq!(run(Mode::Transparent, 0.25, 240), Some((240 + 9 * 8, 0)));
    assert_eq!(run(Mode::Transparent, 1.0, 1), None, "there is no room, ever");
    let slow = MachineOptions { timing: Timing { beat: 7, ..Timing::IDEAL }, ..options(0.5) };
    let mut cpu = Cpu::new(&slow, &memory()).unwrap();
    // Eight words of seven cycles fit into a gap of 56.
    let end = cpu.give(Mode::Transparent, 1, Block::new(16 * 8, &slow, &memory(), 0), None);
    assert_eq!((end, cpu.stalls), (56 + 56 + 56 + 56, 0));
}

#[test]
fn a_block_that_goes_on_keeps_the_bus() {
    let mut cpu = cpu(0.25);
    let end = cpu.give(Mode::Burst, 0, block(800), None);
    assert_eq!(cpu.give(Mode::Burst, end, Block { goes_on: true, ..block(800) }, None), end + 100);
    // Another block waits for the CPU, which waited for both.
    assert_eq!(cpu.give(Mode::Burst, end + 100, block(800), None), end + 100 + 8 + 100);
    assert_eq!(cpu.stalls, 200 - 24);
}

#[test]
fn the_load_is_what_was_asked_for() {
    assert!(Cpu::new(&options(0.0), &memory()).is_none());
    for load in [0.1, 0.25, 0.5, 0.8, 1.0] {
        let mut cpu = cpu(load);
        assert!((cpu.load() - load).abs() < 0.01, "{load}: {}", cpu.load());
        cpu.run_until(1_000_000, None);
        let stats = cpu.stats();
        assert!((stats.cycles as f64 / 1e6 - load).abs() < 0.01, "{load}: {stats:?}");
        assert_eq!(stats.stalls, 0);
    }
}

/// The same, a step at a time.
fn step_by_step(mode: Mode, access: u64, gap: u64, unit: u64, units: u64) -> Option<(u64, u64)> {
    if mode == Mode::Transparent && gap < unit {
        return None;
    }
    let (mut now, mut next, mut stalls, mut left) = (0, 0, 0, units);
    // After the CPU had the bus, it is the channel's turn for a word at least.
    let mut turn = false;
    while left > 0 {
        let steals = mode == Mode::CycleStealing && (turn || now < next);
        if steals || (mode == Mode::Transparent && now + unit <= next) {
            (now, left, turn) = (now + unit, left - 1, false);
        } else if now < next {
            now += 1;
        } else {
            stalls += now - next;
            now += access;
            (next, turn) = (now + gap, true);
        }
    }
    Some((now, stalls))
}

proptest! {
    #[test]
    fn closed_formulas_agree_with_a_machine_that_goes_cycle_by_cycle(
        mode in prop_oneof![Just(Mode::CycleStealing), Just(Mode::Transparent)],
        gap in 0u64..40, unit in 1u64..9, units in 1u64..100,
    ) {
        let mut cpu = Cpu { access: 8, gap, next: 0, held: 0, busy: 0, accesses: 0, stalls: 0 };
        let block = Block { cycles: unit * units, units, unit, goes_on: false };
        let mut runs = Vec::new();
        let end = (mode != Mode::Transparent || cpu.leaves_room(&block))
            .then(|| cpu.give(mode, 0, block, Some(((0, 0), &mut runs))));
        prop_assert_eq!(end.map(|end| (end, cpu.stalls)), step_by_step(mode, 8, gap, unit, units));
        // What is written down of it: nobody has the bus beside another, the channel for its words, the CPU for its accesses.
        let record = Record { runs, ..Record::default() };
        let tenures = record.tenures(0, u64::MAX);
        prop_assert!(tenures.windows(2).all(|two| two[0].end <= two[1].begin));
        let of = |master| tenures.iter().filter(|tenure| tenure.master == master).map(|tenure| tenure.end - tenure.begin).sum::<u64>();
        prop_assert_eq!(of(Some((0, 0))), if end.is_some() { units * unit } else { 0 });
        prop_assert_eq!(of(None), cpu.stats().cycles);
    }
}
