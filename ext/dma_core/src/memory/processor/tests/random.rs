//! Random programs, beside memory that is nothing but memory.

use proptest::prelude::*;

use super::*;

const SIZE: usize = 640;

/// One thing that a program or a device does to `[offset, offset + len)`.
#[derive(Debug, Clone)]
enum Step {
    Read(usize, usize),
    Write(usize, usize, u8),
    DeviceReads(usize, usize),
    DeviceWrites(usize, usize, u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = (0..SIZE).prop_flat_map(|offset| (Just(offset), 1..=SIZE - offset));
    let step = prop_oneof![
        range.clone().prop_map(|(offset, len)| Step::Read(offset, len)),
        (range.clone(), any::<u8>()).prop_map(|((offset, len), byte)| Step::Write(offset, len, byte)),
        range.clone().prop_map(|(offset, len)| Step::DeviceReads(offset, len)),
        (range, any::<u8>()).prop_map(|((offset, len), byte)| Step::DeviceWrites(offset, len, byte)),
        (0..400u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

/// Runs the steps, with syncs before and after each of a device's if it is told to; whether all saw what memory would show, and it has
/// that in the end.
fn agrees(options: ProcessorOptions, coherent: bool, syncs: bool, steps: &[Step]) -> bool {
    let (processor, region, mut flat) = (Processor::new(options, Arc::default()), region(SIZE, 1), vec![1; SIZE]);
    let attached = attach(&processor, &region, Access::Both, coherent);
    let (mut now, mut agrees) = (0, true);
    // The lines beside a range are the program's, and a device's bytes in them are taken over with it.
    let sync = |for_device| {
        if syncs {
            attached.sync(0, SIZE, for_device)
        }
    };
    for step in steps {
        match *step {
            Step::Read(offset, len) => agrees &= cpu_reads(&region, offset, len) == flat[offset..offset + len],
            Step::Write(offset, len, byte) => {
                region.fill(offset, len, byte).unwrap();
                flat[offset..offset + len].fill(byte);
            }
            Step::DeviceReads(offset, len) => {
                sync(true);
                agrees &= device_reads(&processor, &region, offset, len) == flat[offset..offset + len];
            }
            Step::DeviceWrites(offset, len, byte) => {
                sync(true);
                device_writes(&processor, &region, offset, &vec![byte; len]);
                flat[offset..offset + len].fill(byte);
                sync(false);
            }
            Step::Wait(time) => {
                now += time;
                processor.clock.store(now, Relaxed);
            }
        }
    }
    sync(true);
    drop(attached);
    agrees && bytes(&region) == flat
}

proptest! {
    #[test]
    fn with_its_syncs_a_program_sees_memory_whatever_the_cache(steps in steps(), lines in 1..12usize, seed: u64, weak: bool) {
        let options = ProcessorOptions { lines: Some(lines), seed, delay: weak.then_some(300), ..PLAIN };
        prop_assert!(agrees(options, false, true, &steps));
    }

    #[test]
    fn coherent_memory_needs_none(steps in steps(), lines in 1..12usize, seed: u64, injection: bool) {
        let options = ProcessorOptions { lines: Some(lines), seed, ..PLAIN };
        prop_assert!(agrees(options, true, false, &steps));
        for coherent in [false, true] {
            let options = ProcessorOptions { lines: Some(lines), injection, seed, ..COHERENT };
            prop_assert!(agrees(options, coherent, false, &steps));
        }
    }

    #[test]
    fn with_barriers_weak_order_is_memory(steps in steps(), lines in prop::option::of(1..12usize), injection: bool) {
        let options = ProcessorOptions { lines, injection, delay: Some(300), ..COHERENT };
        prop_assert!(agrees(options, true, true, &steps));
    }
}

#[test]
fn without_its_syncs_it_does_not() {
    let steps = [Step::Write(0, 640, 2), Step::DeviceReads(0, 640)];
    for delay in [None, Some(300)] {
        assert!(!agrees(ProcessorOptions { delay, ..PLAIN }, false, false, &steps));
        assert!(agrees(ProcessorOptions { delay, ..PLAIN }, false, true, &steps));
    }
    let weak = ProcessorOptions { lines: None, delay: Some(300), ..COHERENT };
    assert!(!agrees(weak, true, false, &steps));
}
