//! How much a channel takes.

use dma_core::Error;

use super::*;
use crate::engines::{Bench, Skip, Verdict};

pub fn a_full_ring_refuses_and_recovers(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let (channel, depth) = (rig.channel(), rig.device.depth() as usize);
    let memory = region(64, 0);
    let request = || Request::new(write(0, &memory, 0, 64));
    for _ in 0..rig.rounds(3) {
        let tickets: Vec<_> = (0..depth).map(|_| channel.submit(request(), false).unwrap()).collect();
        assert_eq!(channel.room(), Ok(0));
        for _ in 0..2 {
            let refused = channel.submit(request(), false);
            assert!(matches!(refused, Err(Error::RingFull(_))), "{refused:?}");
        }
        channel.kick().unwrap();
        assert!(tickets.iter().all(|ticket| wait(&channel, ticket).status == Status::Complete));
        assert_eq!(channel.room(), Ok(depth));
    }
    assert_eq!(memory.in_flight(), 0, "what was refused holds no memory");
    rig.finish();
    Ok(())
}

pub fn a_list_takes_as_many_elements_as_the_device(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let (channel, depth, segments) = (rig.channel(), rig.device.depth() as usize, rig.limits().max_segments);
    let (most, memory) = (depth.min(segments), region(64, 7));
    let list = |count| Request::list((0..count).map(|index| write(64 * index as u64, &memory, 0, 64)).collect());
    match channel.submit(list(most + 1), true) {
        Err(Error::Argument(_)) => assert_eq!(most, segments),
        Err(Error::RingFull(_)) => assert_eq!(most, depth),
        other => panic!("{other:?}"),
    }
    if !rig.is_slow() {
        rig.clear(64 * most as u64, 64);
    }
    let ticket = channel.submit(list(most), false).unwrap();
    if rig.is_slow() {
        // Shorter lists say that all of one is moved.
        channel.cancel(&ticket, Status::Aborted);
        assert_eq!(ticket.status(), Status::Aborted);
    } else {
        channel.kick().unwrap();
        let outcome = wait(&channel, &ticket);
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, 64 * most));
        let seen = rig.get(0, 64 * most + 64);
        assert!(seen[..64 * most].iter().all(|byte| *byte == 7));
        assert!(seen[64 * most..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(channel.room(), Ok(depth));
    rig.finish();
    Ok(())
}

pub fn the_ring_wraps_in_the_midst_of_bursts(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    if rig.is_slow() {
        return Err(Skip::Lacking("time: it takes many transfers to go round the ring"));
    }
    let (channel, depth) = (rig.channel(), rig.device.depth() as usize);
    // Bursts of a length that has no divisor in common with the ring's begin at each of its slots, if there are enough.
    let burst = depth - 2;
    for round in 0..rig.rounds(depth + 3) {
        let sources: Vec<_> = (0..burst).map(|index| filled(&numbered(64, round + index))).collect();
        let submit = |(index, source)| {
            channel.submit(Request::new(write(64 * index as u64, source, 0, 64)), index % 3 == 0).unwrap()
        };
        let tickets: Vec<_> = sources.iter().enumerate().map(submit).collect();
        channel.kick().unwrap();
        assert!(tickets.iter().all(|ticket| wait(&channel, ticket).status == Status::Complete));
        let seen = rig.get(0, 64 * burst);
        assert!(sources.iter().enumerate().all(|(index, source)| bytes(source) == seen[64 * index..][..64]));
    }
    rig.finish();
    Ok(())
}

pub fn what_was_enqueued_waits_for_the_doorbell(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    let (held, later) = (rig.reads(rig.burst(4)), rig.reads(1));
    let tickets: Vec<_> = held.into_iter().map(|(_, request)| channel.submit(request, false).unwrap()).collect();
    for _ in 0..10 {
        channel.progress().unwrap();
    }
    assert!(tickets.iter().all(|ticket| ticket.status() == Status::Pending));
    let last: Vec<_> = later.into_iter().map(|(_, request)| channel.submit(request, true).unwrap()).collect();
    for ticket in tickets.iter().chain(&last) {
        assert_eq!(wait(&channel, ticket).status, Status::Complete, "one doorbell is for all before it");
    }
    rig.finish();
    Ok(())
}
