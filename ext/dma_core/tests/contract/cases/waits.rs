//! Transfers that do not end by themselves, and waiters that must not sleep on.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use dma_core::channel::{Role, Seat, Waiter};
use dma_core::{sys, Error};

use super::*;
use crate::engines::{Bench, Skip, Verdict};
use crate::rig::Rig;

/// Where reads hang.
const HANGS: usize = 2;
const KEPT: Skip = Skip::Lacking("an abort: a read that the kernel has begun ends when it ends");
const NOBODY_SLEEPS: Skip = Skip::Lacking("sleep: whoever waits runs the machine");

/// A device of which one read hangs already; the program has run on.
fn hang(bench: &dyn Bench) -> Result<(Rig, Arc<Ticket>, Arc<Region>), Skip> {
    let mut rig = bench.open_hanging(HANGS)?;
    let target = region(rig.block(), 0xee);
    let request = Request::new(read(rig.at(HANGS), &target, 0, rig.block()));
    let ticket = rig.channel().submit(request, true).unwrap();
    rig.await_hang();
    assert_eq!(ticket.status(), Status::Pending);
    assert!(target.in_flight() > 0);
    rig.check_works(&rig.device.channel(1).unwrap());
    assert_eq!(ticket.status(), Status::Pending);
    Ok((rig, ticket, target))
}

/// How long a transfer that hangs may take to end once it is given up.
fn patience(rig: &Rig) -> Duration {
    if rig.aborts {
        GRACE
    } else {
        Duration::ZERO
    }
}

/// After the transfer that hung was given up: it has ended so where the engine can, and the channel works.
fn check_given_up(rig: Rig, ticket: &Arc<Ticket>, target: &Arc<Region>, why: Status) -> Verdict {
    let channel = rig.channel();
    let ended = ticket.outcome();
    if rig.aborts {
        assert_eq!(ended.map(|outcome| (outcome.status, outcome.bytes)), Some((why, 0)));
        // A device that is stopped may have written already what it did not come to report.
        assert!(is_untouched(target) || rig.sim.is_none());
    } else {
        assert_eq!(ended, None, "the kernel still has the memory");
        assert!(target.in_flight() > 0);
        rig.let_go();
        assert_eq!(wait(&channel, ticket).status, Status::Complete);
    }
    assert_eq!(target.in_flight(), 0);
    rig.check_works(&channel);
    let verdict = if rig.aborts { Ok(()) } else { Err(KEPT) };
    rig.finish();
    verdict
}

pub fn a_transfer_that_hangs_is_cancelled(bench: &dyn Bench) -> Verdict {
    let (rig, ticket, target) = hang(bench)?;
    let channel = rig.channel();
    channel.cancel(&ticket, Status::Aborted);
    let ended = channel.settle(std::slice::from_ref(&ticket), patience(&rig));
    assert_eq!(ended, rig.aborts);
    check_given_up(rig, &ticket, &target, Status::Aborted)
}

pub fn a_transfer_that_hangs_times_out(bench: &dyn Bench) -> Verdict {
    let (rig, ticket, target) = hang(bench)?;
    let waited = rig.channel().wait_plain(&ticket, Some(Duration::from_millis(5)), patience(&rig));
    assert!(matches!(waited, Err(Error::TimedOut(_))), "{waited:?}");
    check_given_up(rig, &ticket, &target, Status::TimedOut)
}

pub fn what_waits_behind_a_hang_ends_too(bench: &dyn Bench) -> Verdict {
    let (rig, ticket, target) = hang(bench)?;
    let channel = rig.channel();
    let mut behind = Vec::new();
    for (_, mut request) in rig.reads(HANGS) {
        request.fence = true;
        behind.push(channel.submit(request, true).unwrap());
    }
    assert!(behind.iter().all(|ticket| ticket.status() == Status::Pending));
    channel.cancel(&behind[1], Status::Aborted);
    channel.cancel(&ticket, Status::Aborted);
    rig.let_go();
    let stopped = if rig.aborts { Status::NotAttempted } else { Status::Complete };
    assert_eq!(wait(&channel, &behind[0]).status, stopped);
    assert_eq!(wait(&channel, &behind[1]).status, Status::Aborted);
    assert!(ticket.outcome().is_some() && target.in_flight() == 0);
    rig.check_works(&channel);
    rig.finish();
    Ok(())
}

/// A waiter that does not look by itself: what nobody tells it of, it does not see. It watches in the engine where it leads, or waits
/// for the event.
struct Sleeper<'a> {
    channel: &'a Shared,
    seat: Arc<Seat>,
    watches: bool,
    asleep: &'a AtomicUsize,
}

impl Waiter for Sleeper<'_> {
    type Error = Error;

    fn block(&mut self, role: Role, _timeout: Duration) -> Result<(), Error> {
        self.asleep.fetch_add(1, SeqCst);
        let woken = match role {
            Role::Lead if self.watches => self.channel.watch(GRACE),
            Role::Lead => sys::wait_readable(self.channel.event(), GRACE),
            Role::Follow => sys::wait_readable(self.seat.event(), GRACE),
        };
        assert!(woken, "nobody woke a waiter whose transfer has ended");
        Ok(())
    }

    fn watches(&self) -> bool {
        self.watches
    }

    fn reaped(&mut self, _leave: &mut dyn FnMut()) -> Result<(), Error> {
        Ok(())
    }

    fn error(&mut self, error: Error) -> Error {
        error
    }
}

fn sleep_until_it_ends(channel: &Shared, ticket: &Arc<Ticket>, watches: bool, asleep: &AtomicUsize) -> Status {
    let seat = Seat::new().unwrap();
    let mut waiter = Sleeper { channel, seat: Arc::clone(&seat), watches, asleep };
    channel.wait(ticket, &seat, None, &mut waiter).unwrap().expect("it waits without end").status
}

/// Lets a thread for each of `tickets` fall asleep, does `work`, and returns how the tickets ended.
fn while_they_sleep(channel: &Shared, tickets: &[Arc<Ticket>], watches: bool, work: impl FnOnce()) -> Vec<Status> {
    let asleep = AtomicUsize::new(0);
    thread::scope(|scope| {
        let wait = |ticket| {
            let asleep = &asleep;
            scope.spawn(move || sleep_until_it_ends(channel, ticket, watches, asleep))
        };
        let waiters: Vec<_> = tickets.iter().map(wait).collect();
        while asleep.load(SeqCst) < tickets.len() {
            thread::yield_now();
        }
        work();
        waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect()
    })
}

/// Transfers that wait for the doorbell, and so for ever.
fn held(rig: &Rig, channel: &Shared, count: usize) -> Vec<Arc<Ticket>> {
    rig.reads(count).into_iter().map(|(_, request)| channel.submit(request, false).unwrap()).collect()
}

pub fn a_cancel_wakes_who_waits(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    if rig.is_manual() {
        return Err(NOBODY_SLEEPS);
    }
    let channel = rig.channel();
    for (first, watches) in (0..6).map(|round| (round / 2, round % 2 == 0)) {
        let tickets = held(&rig, &channel, 3);
        let ended = while_they_sleep(&channel, &tickets, watches, || {
            (0..3).for_each(|step| channel.cancel(&tickets[(first + step) % 3], Status::Aborted));
        });
        assert_eq!(ended, [Status::Aborted; 3]);
    }
    rig.finish();
    Ok(())
}

pub fn a_close_wakes_all_who_wait(bench: &dyn Bench) -> Verdict {
    for round in 0..6 {
        let rig = bench.open();
        if rig.is_manual() {
            return Err(NOBODY_SLEEPS);
        }
        rig.device.enter();
        let channel = rig.channel();
        let tickets = held(&rig, &channel, 4);
        let ended = while_they_sleep(&channel, &tickets, round % 2 == 0, || rig.device.leave(GRACE));
        assert_eq!(ended, [Status::Aborted; 4]);
        check_sums(&channel, 0);
        rig.finish();
    }
    Ok(())
}

/// Another thread reaps for those who sleep, again and again.
pub fn an_end_found_by_another_wakes_who_waits(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    if rig.is_manual() {
        return Err(NOBODY_SLEEPS);
    }
    let channel = rig.channel();
    let burst = rig.burst(3);
    for round in 0..rig.rounds(100) {
        let tickets = held(&rig, &channel, burst);
        let ended = while_they_sleep(&channel, &tickets, round % 2 == 0, || {
            channel.kick().unwrap();
            while tickets.iter().any(|ticket| ticket.outcome().is_none()) {
                channel.progress().unwrap();
            }
        });
        assert_eq!(ended, vec![Status::Complete; burst]);
    }
    rig.finish();
    Ok(())
}

pub fn a_closed_channel_that_hangs_counts_what_it_gave_up(bench: &dyn Bench) -> Verdict {
    let (rig, ticket, target) = hang(bench)?;
    rig.device.enter();
    let channel = rig.channel();
    let behind = held(&rig, &channel, 2);
    rig.device.leave(patience(&rig));
    assert!(behind.iter().chain([&ticket]).all(|ticket| ticket.status() == Status::Aborted));
    check_sums(&channel, 0);
    assert_eq!(target.in_flight() == 0, rig.aborts);
    if !rig.aborts {
        rig.check_works(&rig.channel());
        let refused = rig.channel().submit(Request::new(read(rig.at(0), &target, 0, rig.block())), true);
        assert!(matches!(refused, Err(Error::Busy(_))), "a late byte would spoil it: {refused:?}");
        rig.let_go();
        while target.check_settled().is_err() {
            thread::yield_now();
        }
    }
    rig.check_works(&rig.channel());
    let verdict = if rig.aborts { Ok(()) } else { Err(KEPT) };
    rig.finish();
    verdict
}

/// Threads submit, wait and cancel while another resets the device.
pub fn reset_under_load(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let (channel, threads) = (rig.channel(), rig.burst(3));
    thread::scope(|scope| {
        let work = |seed| {
            let (rig, channel) = (&rig, &channel);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..rig.rounds(200) {
                    let (target, request) = rig.reads(1).remove(0);
                    let Ok(ticket) = channel.submit(request, true) else { continue };
                    if random.u8(..4) == 0 {
                        channel.cancel(&ticket, Status::Aborted);
                    }
                    let status = wait(channel, &ticket).status;
                    assert!(matches!(status, Status::Complete | Status::Aborted), "{status:?}");
                    assert_eq!(target.in_flight(), 0);
                }
            })
        };
        let workers: Vec<_> = (0..threads as u64).map(work).collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            assert_eq!(rig.device.reset(GRACE), Ok(true));
            thread::yield_now();
        }
    });
    rig.check_works(&channel);
    rig.finish();
    Ok(())
}
