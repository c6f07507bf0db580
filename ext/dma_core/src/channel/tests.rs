//! The channel over an engine that does everything an engine may: short transfers, failures, completions in any order, late ones.

use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use proptest::prelude::*;

use super::*;
use crate::engine::{Manner, Rejected, Stats};
use crate::memory::testing::{bytes, region};
use crate::memory::Span;
use crate::transfer::{Direction, Op};

/// A device of bytes, and how it misbehaves.
#[derive(Debug)]
struct Fake {
    limits: Limits,
    stats: Arc<Stats>,
    device: Arc<Mutex<Device>>,
}

#[derive(Debug)]
struct Device {
    bytes: Vec<u8>,
    /// One number for each operation: it decides on length and order.
    script: Vec<u8>,
    /// Operations that touch this address fail.
    broken: Option<u64>,
    /// Completions are held back while set.
    stuck: bool,
    /// It never says where it ends: only a read of nothing does.
    vague: bool,
    served: usize,
    longest: usize,
    event: Arc<EventFd>,
}

#[derive(Debug)]
struct FakeQueue {
    limits: Limits,
    device: Arc<Mutex<Device>>,
    pushed: Vec<(u32, Op)>,
    event: Arc<EventFd>,
    cancelled: Vec<u32>,
}

impl Fake {
    fn new(bytes: Vec<u8>, limits: Limits, script: Vec<u8>, broken: Option<u64>) -> Arc<Fake> {
        let device = Device {
            bytes,
            script,
            broken,
            stuck: false,
            vague: false,
            served: 0,
            longest: 0,
            event: Arc::new(sys::eventfd().unwrap()),
        };
        Arc::new(Fake { limits, stats: Arc::default(), device: Arc::new(Mutex::new(device)) })
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap()
    }
}

impl Engine for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    fn queue(&self, _index: u16, _depth: u32) -> Result<Box<dyn Queue>> {
        let (event, device) = (Arc::clone(&self.device().event), Arc::clone(&self.device));
        Ok(Box::new(FakeQueue { limits: self.limits, device, pushed: Vec::new(), event, cancelled: Vec::new() }))
    }
}

impl Queue for FakeQueue {
    fn push(&mut self, tag: u32, op: Op, _manner: Manner) -> Result<(), Rejected> {
        let mut device = self.device.lock().unwrap();
        device.longest = device.longest.max(self.pushed.len() + 1);
        if let (Op::Read { offset, span }, false) = (&op, device.vague) {
            assert_eq!(offset % self.limits.granule, 0, "a read that is not aligned reached the engine");
            assert_eq!(span.len() as u64 % self.limits.granule, 0);
            assert_eq!(span.address() as usize % self.limits.memory, 0);
        }
        self.pushed.push((tag, op));
        Ok(())
    }

    fn kick(&mut self) {
        sys::signal(&self.event);
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        sys::clear(&self.event);
        let mut device = self.device.lock().unwrap();
        if device.stuck || self.pushed.is_empty() {
            return;
        }
        // One at a time, and not always the oldest.
        let next = device.next();
        let (tag, op) = self.pushed.swap_remove(next as usize % self.pushed.len());
        out.push(if self.cancelled.contains(&tag) {
            Completion::aborted(tag)
        } else {
            device.carry_out(tag, &op, self.limits.granule as usize)
        });
        sys::signal(&self.event);
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn acknowledge(&mut self) {}

    fn stop(&mut self) -> bool {
        false
    }

    fn cancel(&mut self, tag: u32) {
        self.cancelled.push(tag);
    }
}

impl Device {
    fn next(&mut self) -> u8 {
        self.served += 1;
        if self.script.is_empty() {
            0
        } else {
            self.script[self.served % self.script.len()]
        }
    }

    fn carry_out(&mut self, tag: u32, op: &Op, granule: usize) -> Completion {
        let (offset, span) = match op {
            Op::Read { offset, span } | Op::Write { offset, span } => (*offset, span),
            _ => return Completion { tag, status: Status::Complete, bytes: 0, eof: false },
        };
        let end = offset + span.len() as u64;
        if self.broken.is_some_and(|address| (offset..end).contains(&address)) {
            return Completion { tag, status: Status::Os(Errno::EIO), bytes: 0, eof: false };
        }
        let start = (offset as usize).min(self.bytes.len());
        let mut len = span.len();
        if self.next() % 3 == 0 && len > granule {
            len = (len / 2).next_multiple_of(granule).min(len);
        }
        if let Op::Write { .. } = op {
            let needed = offset as usize + len;
            if self.bytes.len() < needed {
                self.bytes.resize(needed, 0);
            }
            // SAFETY: the span has `len` bytes, and the vector has them from `offset` on.
            unsafe { std::ptr::copy_nonoverlapping(span.address(), self.bytes[offset as usize..].as_mut_ptr(), len) };
            return Completion { tag, status: Status::Complete, bytes: len, eof: false };
        }
        let n = len.min(self.bytes.len() - start);
        // SAFETY: the span has `n` bytes, and the vector has them from `start` on.
        unsafe { std::ptr::copy_nonoverlapping(self.bytes[start..].as_ptr(), span.address(), n) };
        Completion { tag, status: Status::Complete, bytes: n, eof: n < len && !self.vague }
    }
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn complete(channel: &mut Channel) -> Outcome {
    loop {
        if let Some(outcome) = channel.progress().unwrap().pop() {
            return outcome;
        }
        assert!(sys::wait_readable(channel.event(), Duration::from_secs(30)), "a completion was lost");
    }
}

fn request(direction: Direction, offset: u64, region: &Arc<Region>, start: usize, len: usize) -> Request {
    Request::new(direction.op(offset, Span::new(region, start, len).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_read_brings_the_bytes_asked_for_and_nothing_more(
        size in 0usize..20_000, offset in 0u64..20_000, len in 0usize..20_000, start in 0usize..5000,
        granule in 0u32..10, memory in 0u32..10, depth in 1u32..9, script in prop::collection::vec(any::<u8>(), 0..20),
        broken in prop::option::of(0u64..30_000),
    ) {
        let device = numbered(size);
        let limits = Limits { granule: 1 << granule, memory: 1 << memory, max_len: 1 << 20, ..Limits::ANY };
        let fake = Fake::new(device.clone(), limits, script, broken);
        let target = region(start + len + 100, 0xaa);
        let mut channel = Channel::new(fake.clone(), depth).unwrap();
        channel.submit(request(Direction::FromDevice, offset, &target, start, len)).unwrap();
        let outcome = complete(&mut channel);

        let from = (offset as usize).min(size);
        let there = &device[from..(from + len).min(size)];
        match outcome.errno() {
            None => prop_assert_eq!(outcome.bytes, there.len()),
            Some(errno) => {
                prop_assert_eq!(errno, Errno::EIO);
                prop_assert!(outcome.bytes <= there.len());
            }
        }
        let seen = bytes(&target);
        prop_assert_eq!(&seen[start..start + outcome.bytes], &there[..outcome.bytes]);
        prop_assert!(seen[..start].iter().all(|byte| *byte == 0xaa), "bytes before the range");
        prop_assert!(seen[start + len..].iter().all(|byte| *byte == 0xaa), "bytes behind the range");
        prop_assert_eq!(&fake.device().bytes, &device);
        prop_assert!(fake.device().longest <= depth as usize);
        prop_assert!(channel.is_idle());
        prop_assert_eq!(target.in_flight(), 0);
    }

    #[test]
    fn a_write_changes_the_bytes_asked_for_and_nothing_more(
        size in 0usize..20_000, offset in 0u64..20_000, len in 0usize..20_000, start in 0usize..5000,
        granule in 0u32..10, memory in 0u32..10, depth in 1u32..9, script in prop::collection::vec(any::<u8>(), 0..20),
        broken in prop::option::of(0u64..30_000), max_len in 1u64..8192, max_long in 0u64..30_000,
    ) {
        let before = numbered(size);
        let limits = Limits { granule: 1 << granule, memory: 1 << memory, max_len, max_long, ..Limits::ANY };
        let fake = Fake::new(before.clone(), limits, script, broken);
        let source = region(start + len + 1, 0x55);
        let mut channel = Channel::new(fake.clone(), depth).unwrap();
        channel.submit(request(Direction::ToDevice, offset, &source, start, len)).unwrap();
        let outcome = complete(&mut channel);

        let mut expected = before;
        if outcome.bytes > 0 {
            let end = offset as usize + outcome.bytes;
            expected.resize(expected.len().max(end), 0);
            expected[offset as usize..end].fill(0x55);
        }
        prop_assert_eq!(outcome.errno().is_none(), outcome.bytes == len);
        prop_assert_eq!(&fake.device().bytes, &expected, "a failed write leaves nothing behind the bytes it calls safe");
        prop_assert!(bytes(&source).iter().all(|byte| *byte == 0x55), "the source");
    }
}

#[test]
fn a_long_write_that_fails_is_tried_in_short_ones() {
    let limits = Limits { granule: 16, max_len: 64, max_long: 1024, ..Limits::ANY };
    let fake = Fake::new(vec![], limits, vec![1], Some(2000));
    let source = region(4096, 0x55);
    let mut channel = Channel::new(fake.clone(), 4).unwrap();
    channel.submit(request(Direction::ToDevice, 0, &source, 0, 4096)).unwrap();
    let outcome = complete(&mut channel);
    assert_eq!((outcome.errno(), outcome.bytes), (Some(Errno::EIO), 1984));
    assert_eq!(fake.device().bytes, vec![0x55; 1984]);
}

const BYTEWISE: Limits = Limits::ANY;

#[test]
fn memory_of_a_dropped_channel_stays_and_is_refused_until_the_engine_lets_go() {
    let fake = Fake::new(numbered(4096), BYTEWISE, vec![], None);
    fake.device().stuck = true;
    let target = region(4096, 0);
    let mut channel = Channel::new(fake.clone(), 2).unwrap();
    channel.submit(request(Direction::FromDevice, 0, &target, 0, 4096)).unwrap();
    assert_eq!(channel.progress(), Ok(vec![]));
    assert!(!channel.quiesce(Duration::from_millis(1)), "the engine holds an operation");
    drop(channel);
    assert!(target.in_flight() > 0);

    let mut other = Channel::new(Fake::new(vec![], BYTEWISE, vec![], None), 2).unwrap();
    let refused = other.submit(request(Direction::FromDevice, 0, &target, 0, 10));
    assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");

    fake.device().stuck = false;
    sys::signal(&fake.device().event);
    let deadline = Instant::now() + Duration::from_secs(30);
    while target.check_settled().is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(target.check_settled(), Ok(()));
}

#[test]
fn a_device_that_promises_more_than_it_gives_ends_where_nothing_comes() {
    let device = numbered(1500);
    let fake =
        Fake::new(device.clone(), Limits { granule: 512, memory: 512, max_len: 1 << 20, ..Limits::ANY }, vec![], None);
    fake.device().vague = true;
    for (offset, len, start) in
        [(0, 4096, 0), (1400, 3000, 7), (1499, 2, 0), (1500, 10, 0), (1536, 512, 0), (4000, 1, 3)]
    {
        let target = region(start + len, 0);
        let mut channel = Channel::new(fake.clone(), 2).unwrap();
        channel.submit(request(Direction::FromDevice, offset, &target, start, len)).unwrap();
        let there =
            &device[(offset as usize).min(1500)..(offset as usize + len).min(1500).max((offset as usize).min(1500))];
        let outcome = complete(&mut channel);
        assert_eq!((outcome.bytes, outcome.errno()), (there.len(), None), "{len} bytes at {offset}");
        assert_eq!(&bytes(&target)[start..start + there.len()], there);
    }
}

#[test]
fn quiesce_gives_up_what_was_not_begun() {
    let fake = Fake::new(numbered(100), BYTEWISE, vec![], None);
    let target = region(100, 7);
    let mut channel = Channel::new(fake, 1).unwrap();
    for offset in 0..5 {
        channel.submit(request(Direction::FromDevice, offset, &target, 0, 10)).unwrap();
    }
    assert!(channel.quiesce(Duration::from_secs(30)));
    assert!(channel.is_usable());
    assert_eq!(target.in_flight(), 0);
    assert_eq!(bytes(&target), [7; 100]);
}

#[test]
fn a_serial_engine_gets_one_read_and_one_write_at_a_time_in_order() {
    let limits = Limits { serial: true, ..BYTEWISE };
    // Of what it has at a time, the engine carries out any first.
    let fake = Fake::new(numbered(1000), limits, vec![1, 1, 4, 7], None);
    let memory = region(1000, 0);
    let part = |at: usize| Span::new(&memory, at, 10).unwrap();
    let mut channel = Channel::of_device(fake.clone(), 0, 32).unwrap();
    let list = (0..4).map(|n| Op::Read { offset: 100 * n, span: part(10 * n as usize) }).collect();
    let mut reads = vec![channel.submit(Request::list(list)).unwrap()];
    reads.extend((4..8).map(|n| channel.submit(request(Direction::FromDevice, 0, &memory, 10 * n, 10)).unwrap()));
    let writes: Vec<u64> = (0..5)
        .map(|n| {
            channel.submit(request(Direction::ToDevice, 500 + 20 * n, &memory, 500 + 20 * n as usize, 10)).unwrap()
        })
        .collect();
    let mut ended = Vec::new();
    while ended.len() < reads.len() + writes.len() {
        ended.push(complete(&mut channel).id);
    }
    let order = |of: &[u64]| ended.iter().copied().filter(|id| of.contains(id)).collect::<Vec<_>>();
    assert_eq!((order(&reads), order(&writes)), (reads.clone(), writes.clone()));
    assert_eq!(fake.device().longest, 2, "one of each at a time");
}

#[test]
fn requests_past_the_largest_offset_are_refused() {
    let fake = Fake::new(vec![], BYTEWISE, vec![], None);
    let mut channel = Channel::new(fake, 1).unwrap();
    let target = region(10, 0);
    for offset in [u64::MAX, i64::MAX as u64 - 9] {
        let refused = channel.submit(request(Direction::FromDevice, offset, &target, 0, 10));
        assert!(matches!(refused, Err(Error::Argument(_))), "{refused:?}");
    }
}

#[test]
fn many_requests_share_the_depth_and_all_end() {
    let device = numbered(50_000);
    let fake = Fake::new(
        device.clone(),
        Limits { granule: 512, memory: 512, max_len: 1 << 20, ..Limits::ANY },
        vec![1, 5, 2, 0, 7],
        None,
    );
    let target = region(50_000, 0);
    let mut channel = Channel::new(fake.clone(), 3).unwrap();
    let mut open: Vec<u64> = (0..50)
        .map(|n| channel.submit(request(Direction::FromDevice, n * 1000, &target, n as usize * 1000, 1000)).unwrap())
        .collect();
    open.push(channel.submit(Request::new(Op::Flush { data_only: true })).unwrap());
    while !open.is_empty() {
        for outcome in channel.progress().unwrap() {
            assert_eq!(outcome.errno(), None);
            open.retain(|id| *id != outcome.id);
        }
    }
    assert_eq!(bytes(&target), device);
    assert_eq!(fake.device().longest, 3);
}
