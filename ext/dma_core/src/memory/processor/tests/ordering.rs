//! What passes what without barriers, and what barriers do.

use super::*;

const WEAK: ProcessorOptions = ProcessorOptions { lines: None, delay: Some(1000), ..COHERENT };

fn weak(options: ProcessorOptions) -> (Arc<Processor>, Arc<Region>, Attachment) {
    let (processor, region) = (Processor::new(options, Arc::default()), region(64 * 32, 1));
    let attached = attach(&processor, &region, Access::Both, true);
    (processor, region, attached)
}

/// The first byte of each line, as a device sees it.
fn seen(processor: &Processor, region: &Region, lines: usize) -> Vec<u8> {
    (0..lines).map(|line| device_reads(processor, region, line * LINE, 1)[0]).collect()
}

#[test]
fn a_device_sees_the_line_that_was_written_last_and_the_others_after_a_write_barrier() {
    // Uncached memory of a cache that does not follow devices is no other.
    for options in [WEAK, ProcessorOptions { coherent: false, lines: Some(8), ..WEAK }] {
        let (processor, region, _attached) = weak(options);
        (0..3).for_each(|line| cpu_writes(&region, line * LINE, &[2; LINE]));
        assert_eq!(cpu_reads(&region, 0, 192), [2; 192], "the CPU sees its own stores");
        assert_eq!(seen(&processor, &region, 3), [1, 1, 2]);
        assert_eq!(seen(&processor, &region, 3), [1, 1, 2], "looking makes no difference");
        processor.read_barrier();
        assert_eq!(seen(&processor, &region, 3), [1, 1, 2], "nor does the other barrier");
        processor.write_barrier();
        assert_eq!(seen(&processor, &region, 3), [2, 2, 2]);
    }
}

#[test]
fn the_cpu_sees_the_line_that_a_device_wrote_last_and_the_others_after_a_read_barrier() {
    for options in [WEAK, ProcessorOptions { coherent: false, lines: Some(8), ..WEAK }] {
        let (processor, region, _attached) = weak(options);
        let look = || [0, 64, 128].map(|at| cpu_reads(&region, at, 1)[0]);
        device_writes(&processor, &region, 0, &[2; 128]);
        assert_eq!(cpu_reads(&region, 128, 1), [1], "whoever waits for a status looks before it is there");
        device_writes(&processor, &region, 128, &[2; 4]);
        assert_eq!(look(), [1, 1, 2]);
        processor.write_barrier();
        assert_eq!(look(), [1, 1, 2], "that is the other one");
        processor.read_barrier();
        assert_eq!(look(), [2, 2, 2]);
    }
}

#[test]
fn what_has_waited_for_long_enough_waits_no_more() {
    let (processor, region, _attached) = weak(WEAK);
    processor.clock.store(10, Relaxed);
    cpu_writes(&region, 0, &[2]);
    device_writes(&processor, &region, 256, &[2]);
    processor.clock.store(500, Relaxed);
    cpu_writes(&region, 64, &[2]);
    cpu_writes(&region, 128, &[2]);
    device_writes(&processor, &region, 320, &[2]);
    device_writes(&processor, &region, 384, &[2]);
    let look = || [256, 320].map(|at| cpu_reads(&region, at, 1)[0]);
    for (now, device, cpu) in [(1009, [1, 1], [1, 1]), (1010, [2, 1], [2, 1]), (1500, [2, 2], [2, 2])] {
        processor.clock.store(now, Relaxed);
        assert_eq!((seen(&processor, &region, 2), look()), (device.to_vec(), cpu), "{now}");
    }
}

#[test]
fn what_there_is_no_room_for_is_seen_oldest_first() {
    let (processor, region, _attached) = weak(WEAK);
    (0..18).for_each(|line| cpu_writes(&region, line * LINE, &[2]));
    let expected = [vec![2; 2], vec![1; 15], vec![2]].concat();
    assert_eq!(seen(&processor, &region, 18), expected);

    let (processor, region) = (Processor::new(WEAK, Arc::default()), self::region(64 * 1026, 1));
    let _attached = attach(&processor, &region, Access::Both, true);
    device_writes(&processor, &region, 0, &[2; 64 * 1026]);
    let look: Vec<u8> = (0..1026).map(|line| cpu_reads(&region, line * LINE, 1)[0]).collect();
    assert_eq!(look, [vec![2; 2], vec![1; 1023], vec![2]].concat());
}

#[test]
fn stores_to_a_line_are_one_and_the_cpu_sees_its_own_over_what_a_device_wrote() {
    let (processor, region, _attached) = weak(WEAK);
    cpu_writes(&region, 0, &[2, 2]);
    cpu_writes(&region, 64, &[2]);
    cpu_writes(&region, 1, &[3]);
    assert_eq!(seen(&processor, &region, 2), [2, 1], "the first is the newest again");
    assert_eq!(device_reads(&processor, &region, 0, 3), [2, 3, 1]);
    device_writes(&processor, &region, 128, &[5; 3]);
    device_writes(&processor, &region, 256, &[5]);
    cpu_writes(&region, 129, &[6]);
    assert_eq!(cpu_reads(&region, 128, 4), [5, 6, 5, 1]);
    processor.barrier();
    assert_eq!(device_reads(&processor, &region, 128, 4), [5, 6, 5, 1]);
}

#[test]
fn a_store_that_waits_reaches_memory_when_its_mapping_goes() {
    let (processor, region, attached) = weak(WEAK);
    cpu_writes(&region, 0, &[2; 200]);
    assert!(region.check_shown(0, 1).is_err());
    drop(attached);
    assert_eq!(bytes(&region)[..201], [vec![2; 200], vec![1]].concat());
    assert_eq!(seen(&processor, &region, 1), [2]);
}

#[test]
fn behind_a_cache_that_does_not_follow_devices_a_barrier_alone_does_not_help() {
    let (processor, region) =
        (Processor::new(ProcessorOptions { delay: Some(1000), ..PLAIN }, Arc::default()), region(128, 1));
    let attached = attach(&processor, &region, Access::Both, false);
    cpu_writes(&region, 0, &[2]);
    processor.write_barrier();
    assert_eq!((seen(&processor, &region, 1), states(&processor, &region)[0]), (vec![1], (true, true)));
    attached.sync(0, 128, true);
    assert_eq!(seen(&processor, &region, 1), [2]);
}
