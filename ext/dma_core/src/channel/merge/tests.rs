//! Writes of parts of blocks, in each phase of which something may happen to them.

mod disk;
mod history;

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::channel::{enter, Channel, Outcome, Request, Shared};
use crate::memory::testing::{bytes, region};
use crate::transfer::{Direction, Status};
use disk::{Disk, End};

const BLOCK: usize = 512;

fn readable(channel: &Channel) -> bool {
    sys::wait_readable(channel.event(), Duration::ZERO)
}

fn write(channel: &mut Channel, offset: usize, len: usize, byte: u8) -> u64 {
    let span = Span::new(&region(len, byte), 0, len).unwrap();
    channel.submit(Request::new(Direction::ToDevice.op(offset as u64, span))).unwrap()
}

fn progress(channel: &mut Channel) -> Vec<(usize, Status)> {
    channel.progress().unwrap().iter().map(|outcome: &Outcome| (outcome.bytes, outcome.status)).collect()
}

/// Two channels of one disk, the first of which merges 0x11 into [0, 100) of block 1, which it has begun to read.
fn begun() -> (Arc<Disk>, Channel, Channel) {
    let disk = Disk::new(BLOCK);
    let (mut first, second) = (disk.channel(), disk.channel());
    write(&mut first, BLOCK, 100, 0x11);
    assert_eq!(progress(&mut first), []);
    assert_eq!(disk.pushed(0), [(false, 512, 512)]);
    (disk, first, second)
}

/// As [`begun`], the block has been read, and is being written.
fn half_done() -> (Arc<Disk>, Channel, Channel) {
    let (disk, mut first, second) = begun();
    disk.end(0, 0, End::Complete);
    assert_eq!(progress(&mut first), []);
    assert_eq!(disk.pushed(0), [(true, 512, 512)]);
    (disk, first, second)
}

/// The second channel, which takes one operation at a time, has read block 3 to merge 0x33 into it, and writes block 1 before it
/// can write that.
fn between() -> (Arc<Disk>, Channel, Channel) {
    let (disk, mut first, second) = begun();
    drop(second);
    let mut second = Channel::new(Arc::<Disk>::clone(&disk), 1).unwrap();
    write(&mut second, BLOCK, BLOCK, 0x22);
    write(&mut second, 3 * BLOCK + 10, 20, 0x33);
    assert_eq!(progress(&mut second), []);
    assert_eq!(disk.pushed(2), [(false, 1536, 512)], "the older write is kept from its block");
    for _ in 0..2 {
        disk.end(0, 0, End::Complete);
        progress(&mut first);
    }
    disk.end(2, 0, End::Complete);
    assert_eq!(progress(&mut second), []);
    assert_eq!(disk.pushed(2), [(true, 512, 512)]);
    (disk, first, second)
}

/// A write on `channel`, queue 1, of part of block 1 is not kept from it.
#[track_caller]
fn assert_free(disk: &Disk, channel: &mut Channel) {
    assert!(disk.edges.is_free(), "the block is occupied");
    write(channel, BLOCK + 200, 10, 0x22);
    assert_eq!(progress(channel), []);
    for _ in 0..2 {
        disk.end(1, 0, End::Complete);
        assert!(readable(channel));
        if progress(channel) == [(10, Status::Complete)] {
            return;
        }
    }
    panic!("the write does not end");
}

#[test]
fn merges_of_one_block_on_two_channels_lose_no_byte() {
    let (disk, mut first, mut second) = begun();
    write(&mut second, BLOCK + 90, 100, 0x22);
    assert_eq!(progress(&mut second), []);
    for phase in ["read", "written"] {
        assert_eq!(disk.pushed(1), [], "a merge into a block that is being {phase}");
        assert!(second.must_poll() && !readable(&second));
        disk.end(0, 0, End::Complete);
        progress(&mut first);
    }
    assert!(readable(&second), "the block is free");
    assert_eq!(progress(&mut second), []);
    assert!(!second.must_poll() && !readable(&second));
    assert_eq!(disk.pushed(1), [(false, 512, 512)]);
    disk.end(1, 0, End::Complete);
    assert_eq!(progress(&mut second), []);
    disk.end(1, 0, End::Complete);
    assert_eq!(progress(&mut second), [(100, Status::Complete)]);
    disk.assert_holds(&[(512, 100, 0x11), (602, 100, 0x22)]);
    assert!(disk.edges.is_free());
    assert_eq!(disk.stats.bounced_bytes.load(Relaxed), 200);
}

#[test]
fn a_merge_and_a_write_of_its_whole_block_exclude_each_other_and_nothing_else_does() {
    let (disk, mut first, mut second) = begun();
    write(&mut second, BLOCK, BLOCK, 0x22);
    write(&mut second, 2 * BLOCK, 2 * BLOCK, 0x33);
    write(&mut second, 5, 5, 0x44);
    progress(&mut second);
    assert_eq!(disk.pushed(1), [(true, 1024, 1024), (false, 0, 512)], "what is not in the way of the merge");
    for _ in 0..2 {
        disk.end(0, 0, End::Complete);
        progress(&mut first);
    }
    progress(&mut second);
    assert_eq!(disk.pushed(1).last(), Some(&(true, 512, 512)));
    write(&mut first, BLOCK, BLOCK, 0x55);
    write(&mut first, 3 * BLOCK + 1, 1, 0x66);
    progress(&mut first);
    assert_eq!(disk.pushed(0), [(true, 512, 512)], "two writes of one whole block, and no merge into one");
    while disk.end(1, 0, End::Complete) {
        progress(&mut second);
    }
    while disk.end(0, 0, End::Complete) {
        progress(&mut first);
    }
    assert!(first.is_idle() && second.is_idle() && disk.edges.is_free());
    disk.assert_holds(&[(512, 512, 0x55), (1024, 1024, 0x33), (5, 5, 0x44), (1537, 1, 0x66)]);
}

#[test]
fn elements_of_a_list_that_share_a_block_are_all_merged_into_it() {
    let (disk, mut first, mut second) = begun();
    let element =
        |direction: Direction, offset, byte| direction.op(offset, Span::new(&region(100, byte), 0, 100).unwrap());
    let back = region(100, 0);
    let read = Op::Read { offset: 20, span: Span::new(&back, 0, 100).unwrap() };
    let write = |offset, byte| element(Direction::ToDevice, offset, byte);
    second.submit(Request::list(vec![write(0, 0x22), write(100, 0x33), read, write(460, 0x44)])).unwrap();
    for step in [(false, 0, 512), (true, 0, 512), (false, 0, 512), (true, 0, 512), (false, 0, 512), (false, 0, 512)] {
        assert_eq!(progress(&mut second), []);
        assert_eq!(disk.pushed(1), [step]);
        disk.end(1, 0, End::Complete);
    }
    assert_eq!(progress(&mut second), []);
    disk.end(1, 0, End::Complete);
    assert_eq!(progress(&mut second), []);
    assert_eq!(disk.pushed(1), [], "the rest of the last element lies in a block that another channel merges into");
    for _ in 0..2 {
        disk.end(0, 0, End::Complete);
        progress(&mut first);
    }
    progress(&mut second);
    while disk.end(1, 0, End::Complete) {
        progress(&mut second);
    }
    assert!(second.is_idle());
    disk.assert_holds(&[(0, 100, 0x22), (100, 100, 0x33), (460, 100, 0x44), (560, 52, 0x11)]);
    assert_eq!(bytes(&back), [[0x22; 80].as_slice(), &[0x33; 20]].concat());
}

#[test]
fn a_failure_of_either_half_leaves_the_block_to_others_and_says_what_is_safe() {
    for (how, status) in [
        (End::Fail(0), Status::Os(Errno::EREMOTEIO)),
        (End::Fail(512), Status::Os(Errno::EREMOTEIO)),
        (End::Cut(511), Status::Os(Errno::EIO)),
        (End::Cut(0), Status::Os(Errno::EIO)),
        (End::Abort, Status::Aborted),
    ] {
        let (disk, mut first, mut second) = begun();
        disk.end(0, 0, how);
        assert_eq!(progress(&mut first), [(0, status)], "reading: {how:?}");
        assert!(first.is_idle());
        assert_free(&disk, &mut second);
        disk.assert_holds(&[(712, 10, 0x22)]);
    }
    for (how, status, safe) in [
        (End::Fail(0), Status::Os(Errno::EREMOTEIO), 0),
        (End::Fail(60), Status::Os(Errno::EREMOTEIO), 60),
        (End::Cut(0), Status::Os(Errno::EIO), 0),
        (End::Abort, Status::Aborted, 0),
    ] {
        let (disk, mut first, mut second) = half_done();
        disk.end(0, 0, how);
        assert_eq!(progress(&mut first), [(safe, status)], "writing: {how:?}");
        assert!(first.is_idle());
        assert_free(&disk, &mut second);
        disk.assert_holds(&[(512, safe, 0x11), (712, 10, 0x22)]);
    }
}

#[test]
fn a_write_that_stops_inside_a_block_goes_on_with_a_merge() {
    let (disk, mut first, _second) = half_done();
    disk.end(0, 0, End::Cut(60));
    assert_eq!(progress(&mut first), []);
    assert_eq!(disk.pushed(0), [(false, 512, 512)]);
    disk.end(0, 0, End::Complete);
    assert_eq!(progress(&mut first), []);
    disk.end(0, 0, End::Complete);
    assert_eq!(progress(&mut first), [(100, Status::Complete)]);
    disk.assert_holds(&[(512, 100, 0x11)]);

    write(&mut first, 1024 + 300, 10, 0x33);
    progress(&mut first);
    disk.end(0, 0, End::Complete);
    progress(&mut first);
    disk.end(0, 0, End::Cut(300));
    assert_eq!(progress(&mut first), [(0, Status::Os(Errno::EIO))], "none of the bytes in question");
    disk.assert_holds(&[(512, 100, 0x11)]);
}

#[test]
fn a_read_of_which_only_the_start_of_a_block_comes_fails() {
    let disk = Disk::new(BLOCK);
    let mut channel = disk.channel();
    let target = region(50, 0xaa);
    channel.submit(Request::new(Op::Read { offset: 100, span: Span::new(&target, 0, 50).unwrap() })).unwrap();
    progress(&mut channel);
    disk.end(0, 0, End::Cut(100));
    assert_eq!(progress(&mut channel), [(0, Status::Os(Errno::EIO))]);
    assert_eq!(bytes(&target), [0xaa; 50]);
}

#[test]
fn a_merge_that_is_cancelled_before_its_block_is_written_leaves_it_as_it_was() {
    for how in [End::Abort, End::Complete, End::Cut(1), End::Fail(0)] {
        let (disk, mut first, mut second) = begun();
        assert!(first.cancel(1, Status::TimedOut));
        assert_eq!(disk.inside().lines[0].cancelled, [0]);
        disk.end(0, 0, how);
        let status = if let End::Fail(_) = how { Status::Os(Errno::EREMOTEIO) } else { Status::TimedOut };
        assert_eq!(progress(&mut first), [(0, status)], "{how:?}");
        assert!(first.is_idle());
        assert_free(&disk, &mut second);
        disk.assert_holds(&[(712, 10, 0x22)]);
    }

    let (disk, mut first, mut second) = between();
    assert!(second.cancel(2, Status::Aborted));
    disk.end(2, 0, End::Complete);
    assert_eq!(progress(&mut second), [(0, Status::Aborted), (512, Status::Complete)]);
    assert!(second.is_idle() && disk.edges.is_free());
    write(&mut first, 3 * BLOCK, 1, 0x44);
    progress(&mut first);
    assert_eq!(disk.pushed(0), [(false, 1536, 512)]);
    disk.assert_holds(&[(512, 512, 0x22)]);
}

#[test]
fn a_merge_that_is_cancelled_while_its_block_is_written_ends_as_that_does() {
    for (how, bytes, status) in [(End::Complete, 100, Status::Complete), (End::Abort, 0, Status::TimedOut)] {
        let (disk, mut first, mut second) = half_done();
        assert!(first.cancel(1, Status::TimedOut));
        disk.end(0, 0, how);
        assert_eq!(progress(&mut first), [(bytes, status)], "{how:?}");
        assert_free(&disk, &mut second);
        disk.assert_holds(&[(512, bytes, 0x11), (712, 10, 0x22)]);
    }
}

#[test]
fn who_waits_for_a_block_is_cancelled_at_once_and_a_failure_lets_the_next_one_in() {
    let (disk, mut first, mut second) = begun();
    let waiting = write(&mut second, BLOCK, 1, 0x22);
    write(&mut second, BLOCK, 2, 0x33);
    progress(&mut second);
    assert!(second.cancel(waiting, Status::TimedOut));
    assert_eq!(progress(&mut second), [(0, Status::TimedOut)]);
    assert_eq!(disk.pushed(1), []);
    disk.end(0, 0, End::Fail(0));
    progress(&mut first);
    assert!(readable(&second));
    progress(&mut second);
    assert_eq!(disk.pushed(1), [(false, 512, 512)]);
    assert!(!second.quiesce(Duration::ZERO), "the device reads the block");
    disk.end(1, 0, End::Abort);
    assert!(second.quiesce(Duration::ZERO) && disk.edges.is_free());
}

#[test]
fn a_block_stays_occupied_while_its_write_waits_for_room() {
    let (disk, mut first, mut second) = between();
    write(&mut first, 3 * BLOCK, 1, 0x44);
    assert_eq!(progress(&mut first), []);
    assert_eq!(disk.pushed(0), []);
    disk.end(2, 0, End::Complete);
    assert_eq!(progress(&mut second), [(512, Status::Complete)]);
    assert_eq!(disk.pushed(2), [(true, 1536, 512)]);
    disk.end(2, 0, End::Complete);
    assert_eq!(progress(&mut second), [(20, Status::Complete)]);
    progress(&mut first);
    assert_eq!(disk.pushed(0), [(false, 1536, 512)]);
    disk.assert_holds(&[(512, 512, 0x22), (1546, 20, 0x33)]);
}

#[test]
fn a_write_that_is_not_taken_between_the_halves_begins_anew() {
    let (disk, mut first, mut second) = begun();
    disk.inside().lines[0].full = true;
    disk.end(0, 0, End::Complete);
    assert_eq!(progress(&mut first), []);
    assert_eq!(disk.pushed(0), []);
    assert_free(&disk, &mut second);
    disk.inside().lines[0].full = false;
    assert_eq!(progress(&mut first), []);
    assert_eq!(disk.pushed(0), [(false, 512, 512)], "the block may be another now");
    disk.end(0, 0, End::Complete);
    progress(&mut first);
    disk.end(0, 0, End::Complete);
    assert_eq!(progress(&mut first), [(100, Status::Complete)]);
    disk.assert_holds(&[(512, 100, 0x11), (712, 10, 0x22)]);
}

#[test]
fn a_dropped_channel_occupies_its_blocks_until_the_device_lets_go_of_them() {
    for (make, writes) in [(begun as fn() -> _, false), (half_done, true)] {
        let (disk, first, mut second) = make();
        drop(first);
        assert!(!disk.edges.is_free());
        write(&mut second, BLOCK + 200, 10, 0x22);
        assert_eq!(progress(&mut second), []);
        assert_eq!(disk.pushed(1), []);
        disk.end(0, 0, End::Complete);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !readable(&second) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..2 {
            progress(&mut second);
            disk.end(1, 0, End::Complete);
        }
        assert_eq!(progress(&mut second), [(10, Status::Complete)]);
        let merged = if writes { 100 } else { 0 };
        disk.assert_holds(&[(512, merged, 0x11), (712, 10, 0x22)]);
        assert!(disk.edges.is_free());
    }
}

#[test]
fn a_channel_dropped_between_the_halves_or_while_it_waits_occupies_nothing() {
    let (disk, mut first, second) = between();
    drop(second);
    write(&mut first, 3 * BLOCK, 1, 0x44);
    write(&mut first, BLOCK, 1, 0x55);
    progress(&mut first);
    assert_eq!(disk.pushed(0), [(false, 1536, 512)], "the device still writes block 1");

    let (disk, mut first, mut second) = begun();
    write(&mut second, BLOCK, 1, 0x22);
    progress(&mut second);
    drop(second);
    for _ in 0..2 {
        disk.end(0, 0, End::Complete);
        progress(&mut first);
    }
    assert!(disk.edges.is_free());
    disk.assert_holds(&[(512, 100, 0x11)]);
}

#[test]
fn whole_operations_of_any_length_are_refused() {
    let disk = Disk::new(BLOCK);
    let span = Span::new(&region(10, 0), 0, 10).unwrap();
    let request = Request { whole: true, ..Request::new(Op::Write { offset: 0, span }) };
    let refused = disk.channel().submit(request);
    assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
}

#[test]
fn who_waits_for_a_block_does_so_until_it_is_free_though_nobody_looks_at_the_channel_that_has_it() {
    let disk = Disk::new(BLOCK);
    let [first, second] = [0, 1].map(|index| Arc::new(Shared::new(disk.channel(), index).unwrap()));
    enter(&first);
    enter(&second);
    disk.inside().quick = true;
    let request = |offset, byte| Request::new(Op::Write { offset, span: Span::new(&region(10, byte), 0, 10).unwrap() });
    let left = first.submit(request(0, 0x11), true).unwrap();
    assert!(!disk.edges.is_free() && left.outcome().is_none(), "the block was read, and nobody has looked");
    let waited = second.submit(request(10, 0x22), true).unwrap();
    let outcome = second.wait_plain(&waited, Some(Duration::from_secs(30)), Duration::ZERO).unwrap();
    assert_eq!((outcome.bytes, outcome.status), (10, Status::Complete));
    assert_eq!(left.status(), Status::Complete);
    disk.assert_holds(&[(0, 10, 0x11), (10, 10, 0x22)]);
}
