mod ordering;
mod random;

use std::thread;

use super::*;
use crate::error::Error;
use crate::memory::testing::{bytes, region};
use crate::memory::{Pages, Region, Span};

const PLAIN: ProcessorOptions =
    ProcessorOptions { coherent: false, lines: Some(64), injection: false, delay: None, miss: 100, seed: 1 };
const COHERENT: ProcessorOptions = ProcessorOptions { coherent: true, ..PLAIN };

fn attach(processor: &Arc<Processor>, region: &Arc<Region>, access: Access, coherent: bool) -> Attachment {
    Attachment::new(processor, &Span::new(region, 0, region.len()).unwrap(), access, coherent).unwrap()
}

/// What a device reads.
fn device_reads(processor: &Processor, region: &Region, offset: usize, len: usize) -> Vec<u8> {
    let from = region.address() + offset;
    processor.device(Access::Read, from, len, || {
        // SAFETY: the range lies in the region.
        (0..len).map(|n| unsafe { *((from + n) as *const u8) }).collect()
    })
}

/// Has a device write.
fn device_writes(processor: &Processor, region: &Region, offset: usize, bytes: &[u8]) {
    let to = region.address() + offset;
    // SAFETY: the range lies in the region.
    processor.device(Access::Write, to, bytes.len(), || unsafe {
        (to as *mut u8).copy_from(bytes.as_ptr(), bytes.len());
    });
}

fn cpu_reads(region: &Region, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: there are as many bytes.
    unsafe { region.read(offset, bytes.as_mut_ptr(), len) }.unwrap();
    bytes
}

fn cpu_writes(region: &Region, offset: usize, bytes: &[u8]) {
    // SAFETY: there are as many bytes.
    unsafe { region.write(offset, bytes.as_ptr(), bytes.len()) }.unwrap();
}

/// Valid and dirty of each line.
fn states(processor: &Processor, region: &Region) -> Vec<(bool, bool)> {
    processor.lines(region.address(), region.len()).into_iter().map(|(_, valid, dirty)| (valid, dirty)).collect()
}

#[test]
fn each_operation_leaves_lines_and_memory_as_it_says() {
    const CLEAN: (bool, bool) = (true, false);
    const DIRTY: (bool, bool) = (true, true);
    const NONE: (bool, bool) = (false, false);
    // The lines of the range afterwards, what memory has of the one that was written, and how often memory was written.
    let table = [
        (Operation::Flush, [NONE, NONE], 9, 2),
        (Operation::Invalidate, [NONE, NONE], 1, 0),
        (Operation::WriteBack, [CLEAN, CLEAN], 9, 2),
        (Operation::Clean, [CLEAN, CLEAN], 9, 1),
    ];
    for (operation, after, in_memory, write_backs) in table {
        let (processor, region) = (Processor::new(PLAIN, Arc::default()), region(256, 1));
        let _attached = attach(&processor, &region, Access::Both, false);
        // One that differs from memory, one that does not, one that is only read, and one that the operation is not about.
        cpu_writes(&region, 60, &[9; 4]);
        cpu_writes(&region, 64, &[1; 4]);
        cpu_reads(&region, 128, 1);
        cpu_writes(&region, 192, &[9; 4]);
        assert_eq!(states(&processor, &region), [DIRTY, DIRTY, CLEAN, DIRTY]);
        assert_eq!(device_reads(&processor, &region, 60, 4), [1; 4], "nothing was written yet");
        // From the last byte of the first line to the first one of the second.
        processor.operate(operation, region.address() + 63, 2);
        assert_eq!(states(&processor, &region), [after[0], after[1], CLEAN, DIRTY], "{operation:?}");
        assert_eq!(device_reads(&processor, &region, 60, 4), [in_memory; 4], "{operation:?}");
        assert_eq!(device_reads(&processor, &region, 192, 4), [1; 4], "{operation:?}");
        assert_eq!(processor.stats().unwrap().write_backs, write_backs, "{operation:?}");
        assert_eq!(cpu_reads(&region, 60, 4), [in_memory; 4], "{operation:?}");
    }
}

#[test]
fn a_cache_that_does_not_follow_devices_is_stale_both_ways_until_it_is_synced() {
    let (processor, region) = (Processor::new(PLAIN, Arc::default()), region(128, 1));
    let attached = attach(&processor, &region, Access::Both, false);
    cpu_writes(&region, 0, &[2]);
    assert_eq!(device_reads(&processor, &region, 0, 2), [1, 1]);
    attached.sync(0, 1, true);
    assert_eq!(device_reads(&processor, &region, 0, 2), [2, 1]);
    device_writes(&processor, &region, 0, &[3, 3]);
    assert_eq!(cpu_reads(&region, 0, 2), [2, 1]);
    attached.sync(64, 64, false);
    assert_eq!(cpu_reads(&region, 0, 2), [2, 1], "that was the other line");
    attached.sync(0, 1, false);
    assert_eq!(cpu_reads(&region, 0, 2), [3, 3]);
    let CacheStats { misses, dma_misses, .. } = processor.stats().unwrap();
    assert_eq!((misses, dma_misses), (2, 1));
}

#[test]
fn a_line_that_both_write_loses_what_either_wrote() {
    for (operation, survives) in [(Operation::Invalidate, [1, 5]), (Operation::WriteBack, [2, 1])] {
        let (processor, region) = (Processor::new(PLAIN, Arc::default()), region(64, 1));
        let _attached = attach(&processor, &region, Access::Both, false);
        cpu_writes(&region, 0, &[2]);
        device_writes(&processor, &region, 63, &[5]);
        processor.operate(operation, region.address() + 63, 1);
        let last = device_reads(&processor, &region, 0, 64);
        assert_eq!([last[0], last[63]], survives, "{operation:?}");
    }
}

#[test]
fn coherent_memory_is_not_cached_and_what_was_is_written_first() {
    let (processor, region) = (Processor::new(PLAIN, Arc::default()), region(256, 1));
    let streaming = attach(&processor, &region, Access::Both, false);
    cpu_writes(&region, 0, &[2; 256]);
    let area = Span::new(&region, 70, 10).unwrap();
    let coherent = Attachment::new(&processor, &area, Access::Both, true).unwrap();
    assert_eq!(states(&processor, &region), [(true, true), (false, false), (true, true), (true, true)]);
    assert_eq!(device_reads(&processor, &region, 64, 64), [2; 64]);
    cpu_writes(&region, 64, &[3]);
    assert_eq!(device_reads(&processor, &region, 64, 2), [3, 2]);
    device_writes(&processor, &region, 64, &[4]);
    assert_eq!(cpu_reads(&region, 64, 2), [4, 2]);
    assert_eq!(processor.stats().unwrap().uncached, 2);
    assert!(region.check_shown(64, 64).is_ok() && region.check_shown(63, 2).is_err());
    drop(coherent);
    cpu_writes(&region, 64, &[5]);
    assert_eq!(device_reads(&processor, &region, 64, 1), [4], "it is cached again");
    drop(streaming);
}

#[test]
fn when_the_last_mapping_goes_memory_has_all_that_the_cache_had_but_what_is_the_devices() {
    let (processor, region) = (Processor::new(PLAIN, Arc::default()), region(192, 1));
    let all = attach(&processor, &region, Access::Read, false);
    let span = Span::new(&region, 64, 64).unwrap();
    let middle = Attachment::new(&processor, &span, Access::Write, false).unwrap();
    cpu_writes(&region, 0, &[2; 192]);
    drop(all);
    assert_eq!(device_reads(&processor, &region, 0, 64), [1; 64]);
    assert!(region.processor().is_some());
    drop(middle);
    assert!(region.processor().is_none() && region.check_shown(0, 192).is_ok());
    let expected = [vec![2; 64], vec![1; 64], vec![2; 64]].concat();
    assert_eq!(bytes(&region), expected);
    assert_eq!(states(&processor, &region), [(false, false); 3]);
    assert!(processor.state().path.cache.as_ref().unwrap().is_empty());
}

#[test]
fn lines_end_where_their_memory_does() {
    let mut memory = vec![7u8; 300];
    let start = memory.as_mut_ptr() as usize;
    let first = start.next_multiple_of(LINE) + 10;
    // SAFETY: the array outlives the region.
    let region = Region::of(unsafe { Pages::foreign(first, 100) }.unwrap());
    let processor = Processor::new(PLAIN, Arc::default());
    let attached = attach(&processor, &region, Access::Read, false);
    region.fill(0, 100, 1).unwrap();
    let lines = processor.lines(first, 100);
    assert_eq!(lines, [(first, true, true), (first + 54, true, true)]);
    // The program's own bytes beside it, in the same line.
    // SAFETY: inside the array, which nobody else uses.
    unsafe { *((first - 1) as *mut u8) = 8 };
    drop(attached);
    let low = first - start;
    assert!(memory[low..low + 100].iter().all(|byte| *byte == 1));
    assert_eq!((memory[low - 2], memory[low - 1], memory[low + 100]), (7, 8, 7));
    assert_eq!(memory.iter().filter(|byte| **byte == 7).count(), 300 - 101);
}

#[test]
fn memory_goes_through_one_processor_and_by_way_of_one_buffer() {
    let (one, other, region) =
        (Processor::new(PLAIN, Arc::default()), Processor::new(PLAIN, Arc::default()), region(4096, 1));
    let attached = attach(&one, &region, Access::Read, false);
    let span = |region: &Arc<Region>| Span::new(region, 0, 64).unwrap();
    let refused = Attachment::new(&other, &span(&region), Access::Both, false).unwrap_err();
    assert!(matches!(&refused, Error::Busy(why) if why.contains("another simulated machine")), "{refused}");
    // A pointer into the buffer goes the way that the buffer goes, in both hands.
    // SAFETY: the region outlives the part.
    let part = Region::of(unsafe { Pages::foreign(region.address() + 64, 64) }.unwrap());
    let pointer = attach(&one, &part, Access::Both, false);
    cpu_writes(&part, 0, &[5]);
    assert_eq!(cpu_reads(&region, 64, 1), [5]);
    drop(attached);
    assert_eq!(cpu_reads(&region, 64, 1), [5], "the pointer's mapping lasts");
    drop(pointer);
    assert!(Attachment::new(&other, &span(&region), Access::Both, false).is_ok());
    // Memory that is nobody's, twice.
    let memory = [1u8; 300];
    let foreign = |skip: usize| {
        // SAFETY: the array outlives the regions.
        Region::of(unsafe { Pages::foreign(memory.as_ptr() as usize + skip, 200) }.unwrap())
    };
    let (low, high) = (foreign(0), foreign(100));
    let _attached = attach(&one, &low, Access::Both, false);
    let refused = Attachment::new(&one, &span(&high), Access::Both, false).unwrap_err();
    assert!(matches!(&refused, Error::Busy(why) if why.contains("overlap")), "{refused}");
    assert!(high.processor().is_none());
}

#[test]
fn copies_between_spans_see_what_the_cpu_sees() {
    let (processor, from, to) = (Processor::new(PLAIN, Arc::default()), region(128, 1), region(128, 2));
    let _attached = [attach(&processor, &from, Access::Both, false), attach(&processor, &to, Access::Both, false)];
    cpu_writes(&from, 0, &[3; 128]);
    let span = |region: &Arc<Region>| Span::new(region, 0, 128).unwrap();
    span(&from).copy_to(28, &span(&to), 100);
    assert_eq!(cpu_reads(&to, 0, 128), [vec![3; 100], vec![2; 28]].concat());
    assert_eq!(device_reads(&processor, &to, 0, 128), [vec![3; 100], vec![2; 28]].concat());
    assert_eq!(device_reads(&processor, &from, 0, 128), [1; 128]);
    // SAFETY: there are 100 bytes.
    let order = unsafe { to.compare(0, [3u8; 100].as_ptr(), 100) };
    assert_eq!(order, Ok(std::cmp::Ordering::Equal));
}

#[test]
fn a_coherent_cache_follows_devices_and_counts_what_they_cost_the_cpu() {
    for (injection, expected) in [(false, (2, 4, 2)), (true, (4, 2, 0))] {
        let (processor, region) =
            (Processor::new(ProcessorOptions { injection, ..COHERENT }, Arc::default()), region(128, 1));
        let _attached = attach(&processor, &region, Access::Both, false);
        cpu_writes(&region, 0, &[2; 128]);
        assert_eq!(device_reads(&processor, &region, 0, 128), [2; 128]);
        cpu_writes(&region, 0, &[3; 100]);
        device_writes(&processor, &region, 50, &[4; 78]);
        assert_eq!(cpu_reads(&region, 0, 128), [vec![3; 50], vec![4; 78]].concat());
        let CacheStats { hits, misses, dma_misses, miss_cycles, .. } = processor.stats().unwrap();
        assert_eq!((hits, misses, dma_misses), expected, "injection: {injection}");
        assert_eq!(miss_cycles, misses * 100);
        // Others, as files, use memory itself.
        cpu_writes(&region, 0, &[6; 128]);
        // SAFETY: the region has that many bytes.
        assert!((0..128).all(|n| unsafe { *((region.address() + n) as *const u8) } == 6));
    }
}

#[test]
fn a_full_cache_writes_back_what_makes_room() {
    let (processor, region) =
        (Processor::new(ProcessorOptions { lines: Some(4), ..PLAIN }, Arc::default()), region(64 * 16, 1));
    let _attached = attach(&processor, &region, Access::Read, false);
    cpu_writes(&region, 0, &[2; 64 * 16]);
    let CacheStats { evictions, write_backs, .. } = processor.stats().unwrap();
    assert_eq!((evictions, write_backs), (12, 12));
    let states = states(&processor, &region);
    assert_eq!(states.iter().filter(|state| **state == (true, true)).count(), 4);
    for (line, state) in states.into_iter().enumerate() {
        let byte = if state.0 { 1 } else { 2 };
        assert_eq!(device_reads(&processor, &region, line * LINE, LINE), [byte; LINE]);
    }
}

#[test]
fn programs_and_devices_use_a_coherent_line_at_once_and_lose_nothing() {
    let processor = Processor::new(ProcessorOptions { delay: Some(10), ..COHERENT }, Arc::default());
    let region = region(128, 0);
    let attached = attach(&processor, &region, Access::Both, false);
    thread::scope(|scope| {
        scope.spawn(|| (1..=200u8).for_each(|n| (0..32).for_each(|at| cpu_writes(&region, 4 * at, &[n]))));
        scope.spawn(|| {
            (1..=200u8).for_each(|n| (0..32).for_each(|at| device_writes(&processor, &region, 4 * at + 1, &[n])))
        });
        scope.spawn(|| {
            (0..200).for_each(|_| drop((attach(&processor, &region, Access::Both, true), cpu_reads(&region, 0, 128))))
        });
    });
    drop(attached);
    assert_eq!(bytes(&region), [200, 200, 0, 0].repeat(32));
}
