//! The ring against a queue that cannot be wrong, in memory with guard bytes on either side.

use std::collections::VecDeque;

use nix::errno::Errno;
use proptest::prelude::*;

use super::*;
use crate::memory::testing::bytes;
use crate::memory::{Layout, Lock};

const GUARD: u8 = 0xa5;

fn ring(offset: usize, size: u32) -> (Arc<Region>, Ring) {
    let region = Region::allocate(Layout::new(2 * offset + size as usize * Descriptor::SIZE), Lock::Never).unwrap();
    region.fill(0, region.len(), GUARD).unwrap();
    let ring = Ring::new(Memory::new(&region, offset, size).unwrap()).unwrap();
    (region, ring)
}

#[derive(Debug, Clone)]
enum Step {
    Add(Descriptor),
    /// Ends the slot so many after the head, as software or as the device.
    End(u32, Status, bool),
    Cancel(u32),
    Pop,
}

fn step() -> impl Strategy<Value = Step> {
    let descriptor =
        any::<(u64, u64, u32, u32, u64, u32)>().prop_map(|(source, destination, length, flags, next, status)| {
            Descriptor { source, destination, length, flags, next, status }
        });
    let status = prop_oneof![(1..15u32).prop_map(Status::from_code), Just(Status::Os(Errno::EIO))];
    prop_oneof![
        4 => descriptor.prop_map(Step::Add),
        4 => (0..9u32, status, any::<bool>()).prop_map(|(n, status, device)| Step::End(n, status, device)),
        1 => (0..9u32).prop_map(Step::Cancel),
        4 => Just(Step::Pop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_is_a_bounded_queue_whatever_the_order_of_completions(
        size in 2u32..9, offset in 1usize..9, steps in prop::collection::vec(step(), 0..100),
    ) {
        let offset = 8 * offset;
        let (region, mut ring) = ring(offset, size);
        let mut model = VecDeque::<(u32, Descriptor)>::new();
        let mut added = 0;
        for step in steps {
            let before = bytes(&region);
            match step {
                Step::Add(descriptor) if model.len() as u32 == size - 1 => {
                    prop_assert!(matches!(ring.add(descriptor), Err(Error::RingFull(_))));
                    prop_assert_eq!(&bytes(&region), &before);
                }
                Step::Add(descriptor) => {
                    let index = added % size;
                    prop_assert_eq!(ring.add(descriptor), Ok(index));
                    model.push_back((index, Descriptor { status: 0, ..descriptor }));
                    added += 1;
                }
                Step::End(n, status, device) => match model.get_mut(n as usize) {
                    Some((index, descriptor)) if descriptor.status == 0 => {
                        if device {
                            let at = (region.address() + offset + *index as usize * Descriptor::SIZE) as *mut u8;
                            // SAFETY: the slot is in the region, and aligned.
                            unsafe {
                                prop_assert_eq!(fetch(at), *descriptor);
                                write_back(at.add(Descriptor::STATUS), status);
                            }
                        } else {
                            prop_assert_eq!(ring.complete(*index, status), Ok(()));
                        }
                        descriptor.status = status.code();
                    }
                    ended => {
                        let index = ended.map_or(ring.tail(), |(index, _)| *index);
                        prop_assert!(matches!(ring.complete(index, status), Err(Error::Argument(_))));
                        prop_assert_eq!(&bytes(&region), &before);
                    }
                },
                Step::Cancel(n) => match model.get_mut(n as usize) {
                    Some((index, descriptor)) => {
                        ring.cancel(*index);
                        descriptor.flags |= flags::CANCEL | flags::INTERRUPT;
                    }
                    None => {
                        ring.cancel(ring.tail());
                        prop_assert_eq!(&bytes(&region), &before);
                    }
                },
                Step::Pop => {
                    let ended = model.front().is_some_and(|(_, descriptor)| descriptor.status != 0);
                    let expected = if ended { model.pop_front() } else { None };
                    prop_assert_eq!(ring.pop(), expected);
                    prop_assert_eq!(&bytes(&region), &before);
                }
            }
            let pending = model.len() as u32;
            prop_assert_eq!((ring.pending(), ring.room(), ring.capacity()), (pending, size - 1 - pending, size - 1));
            prop_assert_eq!((ring.head(), ring.tail()), ((added - pending) % size, added % size));
            for (index, descriptor) in &model {
                prop_assert_eq!(ring.slot(*index), Ok(*descriptor));
            }
            let after = bytes(&region);
            prop_assert!(after[..offset].iter().chain(&after[after.len() - offset..]).all(|byte| *byte == GUARD));
        }
    }
}

#[test]
fn each_field_lies_where_the_wire_format_has_it() {
    let (region, mut ring) = ring(8, 3);
    let descriptor =
        Descriptor { source: 0x0102, destination: 0x0304, length: 0x0506, flags: 0x0708, next: 0x090a, status: 7 };
    ring.add(Descriptor::default()).unwrap();
    ring.add(descriptor).unwrap();
    ring.complete(1, Status::BadLength).unwrap();
    let slot = &bytes(&region)[8 + 40..][..40];
    let mut expected = [0; 40];
    for (at, value) in [(0, 0x0102u16), (8, 0x0304), (16, 0x0506), (20, 0x0708), (24, 0x090a), (32, 7)] {
        expected[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    expected[36..].fill(GUARD);
    assert_eq!(slot, expected);
}

#[test]
fn a_full_ring_says_what_it_holds_and_what_to_do() {
    let (_, mut ring) = ring(8, 8);
    (0..7).for_each(|index| assert_eq!(ring.add(Descriptor::default()), Ok(index)));
    assert_eq!(
        ring.add(Descriptor::default()).unwrap_err().to_string(),
        "Descriptor ring full: 1 more does not fit, 7 of 7 are taken (a ring of 8 holds 7); reap completions first, or \
         use a larger ring"
    );
}

#[test]
fn descriptors_must_fit_be_aligned_and_be_two() {
    let region = Region::allocate(Layout::new(100), Lock::Never).unwrap();
    assert!(matches!(Memory::new(&region, 0, 3), Err(Error::Argument(_))), "not in the slack of the page");
    assert!(matches!(Memory::new(&region, 0, u32::MAX), Err(Error::Argument(_))));
    assert!(matches!(Memory::new(&region, usize::MAX, 2), Err(Error::Argument(_))));
    assert!(matches!(Memory::new(&region, 4, 2), Err(Error::Alignment(_))));
    for count in [0, 1] {
        assert!(matches!(Ring::new(Memory::new(&region, 0, count).unwrap()), Err(Error::Argument(_))));
    }
    assert_eq!(Ring::new(Memory::new(&region, 16, 2).unwrap()).unwrap().slots().span().len(), 80);
}

#[test]
fn the_region_is_in_flight_while_the_ring_lives() {
    let (region, ring) = ring(8, 2);
    assert_eq!(region.in_flight(), 1);
    drop(ring);
    assert_eq!(region.in_flight(), 0);
}

#[test]
fn no_slot_outside_is_touched_and_none_ends_as_pending() {
    let (region, mut ring) = ring(8, 3);
    ring.add(Descriptor::default()).unwrap();
    let before = bytes(&region);
    for index in [3, u32::MAX] {
        ring.cancel(index);
        assert!(matches!(ring.slot(index), Err(Error::Argument(_))));
        assert!(matches!(ring.complete(index, Status::Complete), Err(Error::Argument(_))));
    }
    assert!(matches!(ring.complete(0, Status::Pending), Err(Error::Argument(_))));
    assert_eq!(bytes(&region), before);
}

#[test]
fn the_doorbell_tells_the_last_tail() {
    let doorbell = Doorbell::new();
    assert_eq!(doorbell.tail(), 0);
    doorbell.ring(5);
    assert_eq!(doorbell.tail(), 5);
}
