//! Start, stop, reset, cancel, and many users at once.

use std::thread;

use dma_core::Error;

use super::*;
use crate::engines::{Bench, Verdict};
use crate::rig::Rig;

pub fn a_closed_channel_refuses_and_opens_again(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    for _ in 0..rig.rounds(3) {
        rig.device.enter();
        let channel = rig.channel();
        rig.check_works(&channel);
        let burst = rig.reads(4);
        let targets: Vec<_> = burst.iter().map(|(target, _)| Arc::clone(target)).collect();
        let held = burst.into_iter().map(|(_, request)| channel.submit(request, false).unwrap());
        let tickets: Vec<_> = held.collect();
        rig.device.leave(GRACE);
        for ticket in &tickets {
            assert_eq!(ticket.outcome().map(|outcome| (outcome.status, outcome.bytes)), Some((Status::Aborted, 0)));
        }
        assert!(targets.iter().all(|target| target.in_flight() == 0 && is_untouched(target)));
        assert!(channel.is_closed());
        for (_, request) in rig.reads(1) {
            assert!(matches!(channel.submit(request, true), Err(Error::Closed(_))));
        }
        assert!(matches!(channel.reset(GRACE), Err(Error::Closed(_))));
        check_sums(&channel, 0);
    }
    rig.check_works(&rig.channel());
    rig.finish();
    Ok(())
}

pub fn reset_ends_what_was_not_begun(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    let burst = rig.reads(5);
    let targets: Vec<_> = burst.iter().map(|(target, _)| Arc::clone(target)).collect();
    let tickets: Vec<_> = burst.into_iter().map(|(_, request)| channel.submit(request, false).unwrap()).collect();
    assert_eq!(rig.device.reset(GRACE), Ok(true));
    assert!(tickets.iter().all(|ticket| ticket.status() == Status::Aborted));
    assert!(targets.iter().all(|target| target.in_flight() == 0 && is_untouched(target)));
    assert_eq!(count(&channel, Status::Aborted), 5);
    rig.check_works(&channel);
    rig.finish();
    Ok(())
}

pub fn reset_ends_what_is_under_way(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    for _ in 0..rig.rounds(20) {
        let burst = rig.reads(rig.burst(6));
        let targets: Vec<_> = burst.iter().map(|(target, _)| Arc::clone(target)).collect();
        let tickets: Vec<_> = burst.into_iter().map(|(_, request)| channel.submit(request, true).unwrap()).collect();
        assert_eq!(rig.device.reset(GRACE), Ok(true));
        for (ticket, target) in tickets.iter().zip(&targets) {
            let status = ticket.status();
            assert!(matches!(status, Status::Complete | Status::Aborted), "{status:?}");
            assert_eq!(target.in_flight(), 0);
        }
        rig.check_works(&channel);
    }
    rig.finish();
    Ok(())
}

pub fn a_cancel_before_the_beginning_moves_nothing(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    let (count, len) = (rig.burst(5), rig.block());
    rig.clear(rig.at(0), count * len);
    let cases = [(Status::Aborted, 0), (Status::TimedOut, 2), (Status::Aborted, 4)];
    for (why, cancelled) in cases.into_iter().filter(|(_, cancelled)| *cancelled < count) {
        let burst = rig.reads(count);
        let targets: Vec<_> = burst.iter().map(|(target, _)| Arc::clone(target)).collect();
        let tickets: Vec<_> = burst.into_iter().map(|(_, request)| channel.submit(request, false).unwrap()).collect();
        channel.cancel(&tickets[cancelled], why);
        assert_eq!(tickets[cancelled].outcome().map(|outcome| (outcome.status, outcome.bytes)), Some((why, 0)));
        channel.kick().unwrap();
        for (index, (ticket, target)) in tickets.iter().zip(&targets).enumerate() {
            let (status, byte) = if index == cancelled { (why, 0xee) } else { (Status::Complete, 0) };
            assert_eq!(wait(&channel, ticket).status, status);
            assert_eq!(bytes(target), vec![byte; len]);
        }
    }
    rig.finish();
    Ok(())
}

pub fn a_cancel_after_the_end_changes_nothing(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    let reads = rig.reads(rig.rounds(6));
    let all = reads.len();
    for (_, request) in reads {
        let ticket = channel.submit(request, true).unwrap();
        wait(&channel, &ticket);
        channel.cancel(&ticket, Status::Aborted);
        channel.cancel(&ticket, Status::TimedOut);
        assert_eq!(ticket.status(), Status::Complete);
    }
    assert_eq!(count(&channel, Status::Complete), all as u64);
    rig.finish();
    Ok(())
}

/// Writes and reads a part of the device that nobody else uses, several transfers at a time.
fn work_on_a_part(rig: &Rig, channel: &Shared, start: u64, len: usize, seed: u64) {
    let (mut random, grain) = (fastrand::Rng::with_seed(seed), rig.grain() as usize);
    let mut device = vec![0; len];
    for _ in 0..rig.rounds(100) {
        let piece = random.usize(1..len.min(2000)).next_multiple_of(grain);
        let offset = random.usize(0..=len - piece) / grain * grain;
        let data = numbered(piece, random.usize(..1000));
        let (source, target) = (filled(&data), region(len, 0xee));
        let ops = [write(start + offset as u64, &source, 0, piece), read(start, &target, 0, len)];
        let mut tickets = Vec::new();
        for op in ops {
            tickets.push(submit_when_there_is_room(channel, op, &tickets));
        }
        device[offset..offset + piece].copy_from_slice(&data);
        assert!(tickets.iter().all(|ticket| wait(channel, ticket).status == Status::Complete));
        assert!(bytes(&target) == device, "what this thread wrote last");
        assert_eq!((source.in_flight(), target.in_flight()), (0, 0));
    }
}

fn submit_when_there_is_room(channel: &Shared, op: dma_core::transfer::Op, own: &[Arc<Ticket>]) -> Arc<Ticket> {
    let (offset, span, is_read) = match op {
        dma_core::transfer::Op::Read { offset, span } => (offset, span, true),
        dma_core::transfer::Op::Write { offset, span } => (offset, span, false),
        _ => unreachable!("only these two"),
    };
    let direction = if is_read { Direction::FromDevice } else { Direction::ToDevice };
    loop {
        match channel.submit(Request::new(direction.op(offset, span.part(0, span.len()))), true) {
            Ok(ticket) => return ticket,
            Err(Error::RingFull(_)) => match own.first() {
                Some(ticket) => drop(wait(channel, ticket)),
                None => thread::yield_now(),
            },
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn many_threads_share_a_channel(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let (channel, threads, part) = (rig.channel(), rig.burst(8), rig.size() / 8);
    rig.clear(0, threads * part);
    let before = count(&channel, Status::Complete);
    thread::scope(|scope| {
        for number in 0..threads {
            let (rig, channel, start) = (&rig, &channel, (number * part) as u64);
            scope.spawn(move || work_on_a_part(rig, channel, start, part.min(8192), number as u64));
        }
    });
    assert_eq!(count(&channel, Status::Complete) - before, (threads * 2 * rig.rounds(100)) as u64);
    rig.finish();
    Ok(())
}

pub fn transfers_without_interrupts_end(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    let burst = rig.burst(6);
    for mixed in [false, true].into_iter().take(rig.rounds(2)) {
        let mut tickets = Vec::new();
        for (index, (_, mut request)) in rig.reads(burst).into_iter().enumerate() {
            request.interrupt = mixed && index == burst / 2;
            tickets.push(channel.submit(request, true).unwrap());
        }
        assert!(tickets.iter().all(|ticket| wait(&channel, ticket).status == Status::Complete));
    }
    rig.finish();
    Ok(())
}

pub fn reset_ends_transfers_without_interrupts(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    for _ in 0..rig.rounds(5) {
        let mut tickets = Vec::new();
        for (_, mut request) in rig.reads(rig.burst(6)) {
            request.interrupt = false;
            tickets.push(channel.submit(request, true).unwrap());
        }
        // Without end, so that only what the channel sees by itself ends it.
        assert_eq!(channel.reset(Duration::from_secs(1 << 20)), Ok(true));
        assert!(tickets.iter().all(|ticket| ticket.outcome().is_some()));
    }
    rig.finish();
    Ok(())
}
