//! A channel of an engine without an order of its own: what conflicts is carried out as if one after the other.

use std::fs;
use std::sync::Arc;

use dma_core::channel::Request;
use dma_core::device::Device;
use dma_core::engine::file::{Choice, Direct};
use dma_core::memory::{Region, Span};
use dma_core::transfer::{Direction, Status};
use proptest::prelude::*;

use crate::cases::{filled, numbered, wait};
use crate::support::bytes;

const DEVICE: usize = 24_000;
const MEMORY: usize = 12_000;

/// A transfer: its direction, where on the device, where in memory, how many bytes, whether with a fence.
type Step = (bool, usize, usize, usize, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![1usize..100, 1usize..8000, Just(4096), Just(512)];
    let place = prop_oneof![0usize..16_000, (0usize..31).prop_map(|n| n * 512)];
    prop::collection::vec((any::<bool>(), place, 0usize..4000, len, prop::bool::weighted(0.1)), 1..32)
}

/// Carries all steps out at once, on a file and memory that both are shared by all of them.
fn all_at_once(steps: &[Step], direct: Direct, choice: Choice) -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, numbered(DEVICE, 1)).unwrap();
    let device = Device::open(&path, direct, choice).unwrap();
    let (channel, memory): (_, Arc<Region>) = (device.channel(0).unwrap(), filled(&numbered(MEMORY, 2)));
    let mut tickets = Vec::new();
    for (to_device, offset, start, len, fence) in steps {
        let direction = if *to_device { Direction::ToDevice } else { Direction::FromDevice };
        let mut request = Request::new(direction.op(*offset as u64, Span::new(&memory, *start, *len).unwrap()));
        request.fence = *fence;
        tickets.push(channel.submit(request, true).unwrap());
    }
    for ticket in &tickets {
        let outcome = wait(&channel, ticket);
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, ticket.len()));
    }
    (fs::read(&path).unwrap(), bytes(&memory))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn transfers_that_nobody_waits_for_end_as_if_one_after_the_other(
        steps in steps(), direct in any::<bool>(), choice in prop_oneof![Just(Choice::Auto), Just(Choice::Threads)],
    ) {
        let (mut device, mut memory) = (numbered(DEVICE, 1), numbered(MEMORY, 2));
        for (to_device, offset, start, len, _) in &steps {
            let (there, here) = (&mut device[*offset..offset + len], &mut memory[*start..start + len]);
            if *to_device {
                there.copy_from_slice(here);
            } else {
                here.copy_from_slice(there);
            }
        }
        let direct = if direct { Direct::Auto } else { Direct::Never };
        let (file, seen) = all_at_once(&steps, direct, choice);
        prop_assert!(file == device, "the device");
        prop_assert!(seen == memory, "memory");
    }
}
