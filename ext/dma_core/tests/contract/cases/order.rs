//! What comes before what, and what a failure does to that which comes behind it.

use dma_core::channel::Channel;
use dma_core::sys;

use super::*;
use crate::engines::{Bench, Verdict};
use crate::rig::Rig;

/// As many as the smallest ring takes.
const BURST: usize = 6;

pub fn a_fence_ends_after_all_before_it(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    // A channel of its own, for it tells in which order requests end.
    let mut channel = Channel::of_device(Arc::clone(rig.device.engine()), 0, BURST as u32).unwrap();
    let burst = rig.burst(BURST);
    for every in (1..=burst).rev().take(rig.rounds(burst)) {
        let mut requests = Vec::new();
        for (index, (_, mut request)) in rig.reads(burst).into_iter().enumerate() {
            request.fence = index % every == every - 1;
            requests.push((request.fence, channel.enqueue(request).unwrap()));
        }
        channel.kick();
        let mut ended = Vec::new();
        while ended.len() < burst {
            for outcome in channel.progress().unwrap() {
                assert_eq!(outcome.status, Status::Complete);
                ended.push(outcome.id);
            }
            if !rig.device.engine().clock().is_some_and(|clock| clock.step_until(None)) {
                sys::wait_readable(channel.event(), Duration::from_millis(100));
            }
        }
        for (place, id) in ended.iter().enumerate() {
            if requests.contains(&(true, *id)) {
                assert!(requests.iter().all(|(_, other)| other >= id || ended[..place].contains(other)));
                // What comes behind may overtake it only where there is no order anyway.
                let before = requests.iter().filter(|(_, other)| other < id).count();
                assert!(before == place || !rig.limits().ordered, "{id} in {ended:?}");
            }
        }
    }
    drop(channel);
    rig.finish();
    Ok(())
}

/// Each transfer uses what the one before wrote, on the device or in memory, and none is waited for.
pub fn conflicting_transfers_keep_their_order(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    let len = rig.block();
    for round in 0..rig.rounds(50) {
        let (ours, theirs) = (filled(&numbered(len, round)), region(len, 0xee));
        let ops = [
            write(rig.at(0), &ours, 0, len),
            read(rig.at(0), &theirs, 0, len),
            write(rig.at(1), &theirs, 0, len),
            read(rig.at(1) + 64, &theirs, 0, len - 64),
            write(rig.at(1), &theirs, 0, 64),
            read(rig.at(1), &ours, 0, len),
        ];
        let tickets: Vec<_> = ops.map(|op| channel.submit(Request::new(op), true).unwrap()).into();
        assert!(tickets.iter().all(|ticket| wait(&channel, ticket).status == Status::Complete));
        let mut expected = numbered(len, round);
        expected.copy_within(64..128, 0);
        assert!(bytes(&ours) == expected, "round {round}");
    }
    rig.finish();
    Ok(())
}

/// A burst in which transfer `broken` fails, with fences as the bits of `fences` say.
fn check_burst(rig: &Rig, broken: usize, fences: usize) {
    let channel = rig.channel();
    let before = [Status::Complete, rig.failure, Status::NotAttempted].map(|status| count(&channel, status));
    let mut burst = Vec::new();
    for (index, (target, mut request)) in rig.reads(BURST).into_iter().enumerate() {
        request.fence = fences >> index & 1 == 1;
        burst.push((target, channel.submit(request, false).unwrap()));
    }
    channel.kick().unwrap();
    let mut expected = [0; 3];
    for (index, (target, ticket)) in burst.iter().enumerate() {
        let outcome = wait(&channel, ticket);
        let stopped = index > broken && fences >> index & 1 == 1;
        let kind = if index == broken { 1 } else { 2 * usize::from(stopped) };
        expected[kind] += 1;
        let status = [Status::Complete, rig.failure, Status::NotAttempted][kind];
        let moved = if kind == 0 { rig.block() } else { 0 };
        assert_eq!((outcome.status, outcome.bytes), (status, moved), "{index} of {broken}, {fences:b}");
        let there = if kind == 0 { rig.original(rig.at(index), rig.block()) } else { vec![0xee; rig.block()] };
        assert!(bytes(target) == there, "the memory of {index} of {broken}, {fences:b}");
        assert_eq!(target.in_flight(), 0);
    }
    let after = [Status::Complete, rig.failure, Status::NotAttempted].map(|status| count(&channel, status));
    assert_eq!([0, 1, 2].map(|kind| after[kind] - before[kind]), expected);
    check_sums(&channel, 0);
}

pub fn a_failure_anywhere_in_a_burst(bench: &dyn Bench) -> Verdict {
    for broken in 0..BURST {
        let rig = bench.open_broken(broken)?;
        let patterns = 1 << BURST;
        // In an order whose beginning has fences everywhere.
        for fences in (0..rig.rounds(patterns)).map(|round| 27 * round % patterns) {
            check_burst(&rig, broken, fences);
        }
        rig.finish();
    }
    Ok(())
}

pub fn a_fence_does_not_look_back(bench: &dyn Bench) -> Verdict {
    let rig = bench.open_broken(0)?;
    let channel = rig.channel();
    for _ in 0..rig.rounds(20) {
        let mut burst = rig.reads(2);
        burst[1].1.fence = true;
        for ((_, request), status) in burst.into_iter().zip([rig.failure, Status::Complete]) {
            assert_eq!(wait(&channel, &channel.submit(request, true).unwrap()).status, status);
        }
    }
    rig.finish();
    Ok(())
}

/// Bytes before the failure are there, bytes of the failed element are not.
pub fn a_failure_in_a_list(bench: &dyn Bench) -> Verdict {
    for broken in 0..4 {
        let rig = bench.open_broken(broken)?;
        let len = rig.block();
        let (channel, target) = (rig.channel(), region(4 * len, 0xee));
        let list = (0..4).map(|index| read(rig.at(index), &target, index * len, len)).collect();
        let outcome = wait(&channel, &channel.submit(Request::list(list), true).unwrap());
        assert_eq!((outcome.status, outcome.bytes), (rig.failure, broken * len));
        let seen = bytes(&target);
        assert!(seen[..broken * len] == rig.original(rig.at(0), broken * len));
        // Where nothing overtakes, what comes behind is not attempted; elsewhere it may be under way already.
        let untouched = if rig.limits().ordered { 4 - broken } else { 1 };
        assert!(seen[broken * len..][..untouched * len].iter().all(|byte| *byte == 0xee));
        rig.finish();
    }
    Ok(())
}
