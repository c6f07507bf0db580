//! Files through each engine, on whatever file system the temporary directory is.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dma_core::channel::{Channel, Outcome, Request, Shared, Ticket};
use dma_core::engine::file::uring;
use dma_core::file::{Choice, Direct, Extent, File, Many, Regions, Step, Stream};
use dma_core::memory::{Layout, Lock, Region, Span};
use dma_core::transfer::{Direction, Op, Status};
use dma_core::{sys, Errno, Error};
use tempfile::TempDir;

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect()
}

fn scratch(bytes: &[u8]) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Each engine that this computer has, with direct I/O and without.
fn ways() -> impl Iterator<Item = (Direct, Choice)> {
    let choices = match uring::available() {
        Ok(()) => vec![Choice::Uring, Choice::Threads],
        Err(why) => {
            println!("without io_uring: {why}");
            vec![Choice::Threads]
        }
    };
    choices.into_iter().flat_map(|choice| [Direct::Always, Direct::Never].map(|direct| (direct, choice)))
}

fn open(path: &Path, flags: i32, (direct, choice): (Direct, Choice)) -> Arc<File> {
    // Where the temporary directory has no direct I/O there is none to be tried.
    let file = File::open(path, flags, 0o600, direct, choice);
    let file = file.or_else(|_| File::open(path, flags, 0o600, Direct::Auto, choice));
    Arc::new(file.unwrap())
}

fn region(len: usize) -> Arc<Region> {
    Region::allocate(Layout::new(len), Lock::Never).unwrap()
}

fn bytes(region: &Region, from: usize, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    // SAFETY: `out` has `len` bytes.
    unsafe { region.read(from, out.as_mut_ptr(), len) }.unwrap();
    out
}

fn wait(channel: &mut Channel) -> Outcome {
    loop {
        if let Some(outcome) = channel.progress().unwrap().pop() {
            return outcome;
        }
        assert!(sys::wait_readable(channel.event(), Duration::from_secs(60)), "a completion was lost");
    }
}

/// Until the first of these has ended.
fn wait_any(channel: &Shared, tickets: &[Arc<Ticket>]) {
    while !Ticket::any_ended(tickets) {
        assert!(sys::wait_readable(channel.event(), Duration::from_secs(60)), "a completion was lost");
        channel.progress().unwrap();
    }
}

fn transfer(file: &File, direction: Direction, offset: u64, region: &Arc<Region>, start: usize, len: usize) -> Outcome {
    let mut channel = file.channel(4).unwrap();
    let span = Span::new(region, start, len).unwrap();
    channel.submit(Request::new(direction.op(offset, span))).unwrap();
    wait(&mut channel)
}

#[test]
fn any_range_is_read_directly_and_buffered() {
    let data = numbered(3_000_001);
    let (_dir, path) = scratch(&data);
    for way in ways() {
        let file = open(&path, libc::O_RDONLY, way);
        for (offset, len, start) in [
            (0, 3_000_001, 0),
            (1, 10, 3),
            (511, 2, 0),
            (512, 512, 512),
            (4095, 1_100_000, 1),
            (2_999_999, 100, 7),
            (5_000_000, 10, 0),
        ] {
            let target = region(start + len);
            let outcome = transfer(&file, Direction::FromDevice, offset as u64, &target, start, len);
            let there = &data[offset.min(data.len())..(offset + len).min(data.len())];
            assert_eq!((outcome.bytes, outcome.errno()), (there.len(), None), "{way:?} {offset} {len}");
            assert_eq!(bytes(&target, start, there.len()), there);
        }
        let stats = file.stats();
        if file.handle().is_direct() {
            assert_eq!(stats.buffered_requests.load(Relaxed), 0);
            assert!(stats.bounced_bytes.load(Relaxed) > 0);
        } else {
            assert_eq!(stats.direct_requests.load(Relaxed), 0);
        }
    }
}

#[test]
fn unaligned_writes_keep_their_neighbours_and_the_length() {
    let mut data = numbered(100_000);
    let (_dir, path) = scratch(&data);
    for way in ways() {
        let file = open(&path, libc::O_RDWR, way);
        for (offset, len, start) in
            [(1usize, 3usize, 0usize), (500, 20_000, 5), (512, 1024, 0), (99_990, 5000, 3), (0, 4096, 0)]
        {
            let source = region(start + len);
            source.fill(0, start + len, offset as u8 | 1).unwrap();
            let outcome = transfer(&file, Direction::ToDevice, offset as u64, &source, start, len);
            assert_eq!((outcome.bytes, outcome.errno()), (len, None));
            data.resize(data.len().max(offset + len), 0);
            data[offset..offset + len].fill(offset as u8 | 1);
            assert_eq!(fs::read(&path).unwrap(), data, "{way:?} {offset} {len}");
        }
    }
}

#[test]
fn threads_that_write_next_to_each_other_lose_no_byte() {
    for way in ways() {
        let (_dir, path) = scratch(&[]);
        let file = open(&path, libc::O_RDWR, way);
        let threads: Vec<_> = (0..8u8)
            .map(|id| {
                let file = Arc::clone(&file);
                thread::spawn(move || {
                    let source = region(777);
                    source.fill(0, 777, id + 1).unwrap();
                    for round in 0..40 {
                        let outcome =
                            transfer(&file, Direction::ToDevice, (round * 8 + u64::from(id)) * 777, &source, 0, 777);
                        assert_eq!((outcome.bytes, outcome.errno()), (777, None));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let written = fs::read(&path).unwrap();
        assert_eq!(written.len(), 8 * 40 * 777);
        for (index, piece) in written.chunks(777).enumerate() {
            assert!(piece.iter().all(|byte| usize::from(*byte) == index % 8 + 1), "piece {index}");
        }
    }
}

fn chunks(file: &Arc<File>, range: (u64, u64), chunk: usize, depth: usize, keep: bool) -> Vec<u8> {
    let channel = file.shared(depth as u32).unwrap();
    let regions = Regions::default();
    let mut stream = Stream::new(Arc::clone(file), Arc::clone(&channel), regions, range, chunk, depth, false).unwrap();
    let (mut all, mut kept, mut next) = (Vec::new(), Vec::new(), range.0);
    loop {
        match stream.advance().unwrap() {
            Step::Chunk(chunk) => {
                assert_eq!(chunk.offset, next);
                next += chunk.len as u64;
                all.extend(bytes(&chunk.region, chunk.skip, chunk.len));
                if keep {
                    kept.push((bytes(&chunk.region, chunk.skip, chunk.len), chunk));
                }
            }
            Step::Wait(tickets) => wait_any(&channel, &tickets),
            Step::End => break,
        }
    }
    for (expected, chunk) in kept {
        assert_eq!(bytes(&chunk.region, chunk.skip, chunk.len), expected, "memory of a kept chunk was used again");
    }
    all
}

#[test]
fn streams_deliver_every_byte_in_order() {
    let data = numbered(1_000_003);
    let (_dir, path) = scratch(&data);
    for way in ways() {
        let file = open(&path, libc::O_RDONLY, way);
        for (range, chunk, depth, keep) in [
            ((0, u64::MAX), 65_536, 8, false),
            ((0, u64::MAX), 65_536, 3, true),
            ((777, 500_000), 10_000, 4, false),
            ((1, 1), 1 << 20, 8, false),
            ((0, 1_000_003), 2_000_000, 2, false),
            ((2_000_000, 10), 4096, 2, false),
            ((5, 3000), 7, 16, true),
        ] {
            let (from, len): (u64, u64) = range;
            let end = from.saturating_add(len).min(data.len() as u64) as usize;
            let expected = &data[(from as usize).min(end)..end];
            assert!(chunks(&file, range, chunk, depth, keep) == expected, "{way:?} {range:?} {chunk} {depth}");
        }
    }
}

#[test]
fn a_stream_of_aligned_chunks_costs_one_request_each() {
    for way in ways() {
        let (_dir, path) = scratch(&numbered(1 << 20));
        let file = open(&path, libc::O_RDONLY, way);
        chunks(&file, (0, u64::MAX), 1 << 16, 4, false);
        let stats = file.stats();
        let (direct, buffered) = (stats.direct_requests.load(Relaxed), stats.buffered_requests.load(Relaxed));
        assert_eq!((direct + buffered, stats.bounced_bytes.load(Relaxed)), (16, 0));
    }
}

#[test]
fn a_file_that_shrinks_or_grows_under_a_stream_ends_where_it_ends() {
    for way in ways() {
        let data = numbered(400_000);
        let (_dir, path) = scratch(&data);
        let file = open(&path, libc::O_RDONLY, way);
        let other = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for (size, expected) in [(150_000u64, 150_000usize), (450_000, 450_000)] {
            other.set_len(0).unwrap();
            other.write_all_at(&data, 0).unwrap();
            let channel = file.shared(1).unwrap();
            let (own, regions) = (Arc::clone(&channel), Regions::default());
            let mut stream = Stream::new(Arc::clone(&file), own, regions, (0, u64::MAX), 100_000, 1, false).unwrap();
            let (mut total, mut first) = (0, true);
            loop {
                match stream.advance().unwrap() {
                    Step::Chunk(chunk) => {
                        total += chunk.len;
                        if std::mem::take(&mut first) {
                            other.set_len(size).unwrap();
                        }
                    }
                    Step::Wait(tickets) => wait_any(&channel, &tickets),
                    Step::End => break,
                }
            }
            // Up to two chunks were read before the size changed.
            assert!(total == expected || (size < 400_000 && total <= 200_000), "{total} of {expected}");
        }
    }
}

#[test]
fn what_is_no_file_is_refused_without_a_wait() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = File::open(&fifo, libc::O_RDONLY, 0, Direct::Auto, Choice::Auto);
    assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
    let refused = File::open(dir.path(), libc::O_RDONLY, 0, Direct::Auto, Choice::Auto);
    assert!(matches!(refused, Err(Error::Os { errno: Errno::EISDIR, .. })), "{refused:?}");
    let refused = File::open(&dir.path().join("none"), libc::O_RDONLY, 0, Direct::Auto, Choice::Auto);
    assert!(matches!(refused, Err(Error::Os { errno: Errno::ENOENT, .. })), "{refused:?}");
}

#[test]
fn a_failed_write_says_how_much_is_safe() {
    for way in ways() {
        let (_dir, path) = scratch(b"0123456789");
        let file = open(&path, libc::O_RDONLY, way);
        let source = region(100);
        let outcome = transfer(&file, Direction::ToDevice, 0, &source, 0, 100);
        assert_eq!(outcome, Outcome { id: outcome.id, bytes: 0, status: Status::Os(Errno::EBADF) });
        assert_eq!(fs::read(&path).unwrap(), b"0123456789");
    }
}

#[test]
fn flush_and_truncate_reach_the_file() {
    for way in ways() {
        let (_dir, path) = scratch(b"0123456789");
        let file = open(&path, libc::O_RDWR, way);
        file.truncate(3).unwrap();
        let mut channel = file.channel(1).unwrap();
        for data_only in [true, false] {
            let id = channel.submit(Request::new(Op::Flush { data_only })).unwrap();
            assert_eq!(wait(&mut channel), Outcome { id, bytes: 1, status: Status::Complete });
        }
        assert_eq!(fs::read(&path).unwrap(), b"012");
        assert_eq!(file.size(), Ok(3));
    }
}

fn delivered(file: &Arc<File>, extents: &[(u64, u64)], depth: usize, keep: bool) -> (Vec<(u64, Vec<u8>)>, Vec<Error>) {
    let extents = extents.iter().map(|&(offset, len)| Extent { offset, len }).collect();
    let channel = file.shared(depth as u32).unwrap();
    let mut many = Many::new(Arc::clone(file), Arc::clone(&channel), Regions::default(), extents, depth).unwrap();
    let (mut all, mut errors, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match many.advance() {
            Ok(Step::Chunk(chunk)) => {
                all.push((chunk.offset, bytes(&chunk.region, chunk.skip, chunk.len)));
                if keep {
                    kept.push((all.len() - 1, chunk));
                }
            }
            Ok(Step::Wait(tickets)) => wait_any(&channel, &tickets),
            Ok(Step::End) => break,
            Err(error) => errors.push(error),
        }
    }
    for (index, chunk) in kept {
        assert_eq!(bytes(&chunk.region, chunk.skip, chunk.len), all[index].1, "memory of a kept chunk was used again");
    }
    assert_eq!(channel.room().unwrap(), channel.capacity());
    all.sort();
    (all, errors)
}

fn expected(data: &[u8], extents: &[(u64, u64)]) -> Vec<(u64, Vec<u8>)> {
    let part = |&(offset, len): &(u64, u64)| {
        let from = (offset as usize).min(data.len());
        (offset, data[from..(offset.saturating_add(len) as usize).min(data.len())].to_vec())
    };
    let mut all: Vec<_> = extents.iter().map(part).collect();
    all.sort();
    all
}

#[test]
fn many_extents_come_once_each_whatever_their_order_and_overlap() {
    let data = numbered(3_000_003);
    let (_dir, path) = scratch(&data);
    let pages: Vec<_> = (0..300u64).map(|n| (n * 37 % 300 * 8192, 4096)).collect();
    let neighbours: Vec<_> = (0..700u64).map(|n| (n * 4096 + 1, 4096)).collect();
    let odd =
        vec![(2_999_999, 100), (5, 0), (0, 3_000_003), (7, 9), (7, 9), (5_000_000, 10), (1000, 2_500_000), (1, 1)];
    for way in ways() {
        let file = open(&path, libc::O_RDONLY, way);
        for (extents, depth, keep) in [
            (&pages, 8, false),
            (&pages, 1, false),
            (&pages, 40, true),
            (&neighbours, 2, true),
            (&odd, 3, false),
            (&odd, 2, true),
            (&vec![], 4, false),
            (&vec![(i64::MAX as u64, 0), (i64::MAX as u64 - 10, 10), (10, i64::MAX as u64 - 10)], 4, false),
        ] {
            let (all, errors) = delivered(&file, extents, depth, keep);
            assert!(all == expected(&data, extents) && errors.is_empty(), "{way:?} {depth} {keep} {errors:?}");
        }
    }
}

#[test]
fn neighbouring_extents_cost_one_request_for_each_mebibyte_and_no_copy() {
    let (_dir, path) = scratch(&numbered(4 << 20));
    let file = open(&path, libc::O_RDONLY, (Direct::Auto, Choice::Auto));
    let extents: Vec<_> = (0..1024u64).rev().map(|n| (n * 4096, 4096)).collect();
    delivered(&file, &extents, 4, false);
    let stats = file.stats();
    let (direct, buffered) = (stats.direct_requests.load(Relaxed), stats.buffered_requests.load(Relaxed));
    assert_eq!((direct + buffered, stats.bounced_bytes.load(Relaxed)), (4, 0));
}

#[test]
fn what_cannot_be_read_is_told_once_after_the_rest() {
    let (_dir, path) = scratch(&numbered(100_000));
    let file = open(&path, libc::O_WRONLY, (Direct::Never, Choice::Auto));
    let (all, errors) = delivered(&file, &[(300, 5), (70_000, 4096), (100, 5), (50, 0), (105, 10)], 2, false);
    assert_eq!(all, [(50, vec![])]);
    let shown = path.display();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].to_string(),
        format!("cannot read 5 bytes at offset 100 (and 3 more ranges) of {shown}: Bad file number")
    );
}
