//! Every interleaving of one software thread and one device thread over a ring. Bodies of descriptors and the data they are
//! about lie in cells that loom watches: a read that is not ordered after the write fails the test.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use ::loom::cell::UnsafeCell;
use ::loom::sync::atomic::AtomicU32;
use ::loom::sync::Arc;
use ::loom::thread;

use super::*;

/// Stands in for [`Memory`], with its orderings.
#[derive(Debug, Clone)]
struct Cells(Arc<Vec<Slot>>);

#[derive(Debug)]
struct Slot {
    body: UnsafeCell<Descriptor>,
    flags: AtomicU32,
    status: AtomicU32,
}

// SAFETY: loom fails the test where two threads use the body at the same time and one of them writes.
unsafe impl Sync for Slot {}

impl Cells {
    fn new(count: usize) -> Cells {
        let slot = |_| Slot { body: UnsafeCell::default(), flags: AtomicU32::new(!0), status: AtomicU32::new(!0) };
        Cells(Arc::new((0..count).map(slot).collect()))
    }
}

impl Slots for Cells {
    fn count(&self) -> u32 {
        self.0.len() as u32
    }

    fn put(&self, index: u32, descriptor: &Descriptor) {
        let slot = &self.0[index as usize];
        // SAFETY: loom watches.
        slot.body.with_mut(|body| unsafe { *body = *descriptor });
        slot.flags.store(descriptor.flags, Relaxed);
        slot.status.store(descriptor.status, Relaxed);
    }

    fn get(&self, index: u32) -> Descriptor {
        let slot = &self.0[index as usize];
        let status = slot.status.load(TAKE);
        // SAFETY: loom watches.
        let body = slot.body.with(|body| unsafe { *body });
        Descriptor { status, flags: slot.flags.load(Relaxed), ..body }
    }

    fn status(&self, index: u32) -> u32 {
        self.0[index as usize].status.load(TAKE)
    }

    fn set_status(&self, index: u32, code: u32) {
        self.0[index as usize].status.store(code, HAND_OVER);
    }

    fn add_flags(&self, index: u32, flags: u32) {
        self.0[index as usize].flags.fetch_or(flags, Relaxed);
    }
}

/// What descriptors are about: bytes that no atomic guards.
#[derive(Debug, Default)]
struct Data(UnsafeCell<u64>);

// SAFETY: as for `Slot`.
unsafe impl Sync for Data {}

impl Data {
    fn get(&self) -> u64 {
        // SAFETY: loom watches.
        self.0.with(|data| unsafe { *data })
    }

    fn set(&self, value: u64) {
        // SAFETY: loom watches.
        self.0.with_mut(|data| unsafe { *data = value });
    }
}

/// Both sides of a ring: what they share.
#[derive(Debug)]
struct Both {
    cells: Cells,
    doorbell: Doorbell,
    /// Two for each descriptor: where it reads, and where it writes.
    data: Vec<Data>,
}

impl Both {
    fn new(slots: usize, descriptors: usize) -> Arc<Both> {
        let data = (0..2 * descriptors).map(|_| Data::default()).collect();
        Arc::new(Both { cells: Cells::new(slots), doorbell: Doorbell::new(), data })
    }

    /// A device that copies the data of `count` descriptors, or skips them where asked in time.
    fn device(this: &Arc<Both>, count: u64) -> thread::JoinHandle<Vec<Status>> {
        let both = Arc::clone(this);
        let one = move |n: u64| {
            let index = n as u32 % both.cells.count();
            while both.doorbell.tail() == index {
                thread::yield_now();
            }
            let fetched = both.cells.get(index);
            assert_eq!(Descriptor { flags: fetched.flags & !flags::CANCEL, ..fetched }, descriptor(n));
            let status = if fetched.flags & flags::CANCEL == 0 {
                let value = both.data[fetched.source as usize].get();
                both.data[fetched.destination as usize].set(!value);
                Status::Complete
            } else {
                Status::Aborted
            };
            both.cells.set_status(index, status.code());
            status
        };
        thread::spawn(move || (0..count).map(one).collect())
    }

    fn add(&self, ring: &mut Ring<Cells>, n: u64) -> u32 {
        self.data[2 * n as usize].set(100 + n);
        let index = ring.add(descriptor(n)).unwrap();
        self.doorbell.ring(ring.tail());
        index
    }

    /// Waits for descriptor `n` and looks at what the device made of it.
    fn pop(&self, ring: &mut Ring<Cells>, n: u64) -> Descriptor {
        let (index, ended) = loop {
            match ring.pop() {
                Some(popped) => break popped,
                None => thread::yield_now(),
            }
        };
        assert_eq!(index, n as u32 % ring.size());
        let sent = descriptor(n);
        assert_eq!(Descriptor { flags: sent.flags, status: 0, ..ended }, sent);
        let written = self.data[ended.destination as usize].get();
        match Status::from_code(ended.status) {
            Status::Complete => assert_eq!(written, !(100 + n)),
            status => assert_eq!((status, written), (Status::Aborted, 0)),
        }
        ended
    }
}

fn descriptor(n: u64) -> Descriptor {
    let length = 8 + n as u32;
    Descriptor { source: 2 * n, destination: 2 * n + 1, length, flags: flags::INTERRUPT, next: !n, status: 0 }
}

fn three_through_a_ring_of(slots: usize) {
    ::loom::model(move || {
        let both = Both::new(slots, 3);
        let device = Both::device(&both, 3);
        let mut ring = Ring::new(both.cells.clone()).unwrap();
        let mut popped = 0;
        for n in 0..3 {
            if ring.room() == 0 {
                assert_eq!(both.pop(&mut ring, popped).status, Status::Complete.code());
                popped += 1;
            }
            both.add(&mut ring, n);
        }
        for n in popped..3 {
            assert_eq!(both.pop(&mut ring, n).status, Status::Complete.code());
        }
        assert_eq!((ring.pop(), ring.pending()), (None, 0));
        assert_eq!(device.join().unwrap(), [Status::Complete; 3]);
    });
}

#[test]
fn descriptors_and_data_go_over_and_come_back_whole_one_at_a_time() {
    three_through_a_ring_of(2);
}

#[test]
fn descriptors_and_data_go_over_and_come_back_whole_two_at_a_time() {
    three_through_a_ring_of(3);
}

#[test]
fn a_cancel_comes_in_time_or_too_late_and_is_never_lost_nor_passed_on_to_the_next_in_its_slot() {
    static IN_TIME: AtomicBool = AtomicBool::new(false);
    static TOO_LATE: AtomicBool = AtomicBool::new(false);
    ::loom::model(|| {
        let both = Both::new(2, 3);
        let device = Both::device(&both, 3);
        let mut ring = Ring::new(both.cells.clone()).unwrap();
        both.add(&mut ring, 0);
        both.pop(&mut ring, 0);
        let index = both.add(&mut ring, 1);
        ring.cancel(index);
        let cancelled = both.pop(&mut ring, 1);
        assert_eq!(cancelled.flags, descriptor(1).flags | (flags::CANCEL | flags::INTERRUPT));
        both.add(&mut ring, 2);
        let next = both.pop(&mut ring, 2);
        assert_eq!((next.flags, next.status), (descriptor(2).flags, Status::Complete.code()));
        let statuses = device.join().unwrap();
        assert_eq!(statuses[1].code(), cancelled.status);
        if statuses[1] == Status::Aborted { &IN_TIME } else { &TOO_LATE }.store(true, SeqCst);
    });
    assert!(IN_TIME.load(SeqCst) && TOO_LATE.load(SeqCst));
}
