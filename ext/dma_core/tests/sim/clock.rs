//! Simulated time: who waits lets it pass, and it passes the same whatever the steps.

use dma_core::transfer::{Direction, Status};
use dma_core::Error;

use super::*;
use crate::support::{region, whole};

/// A fetch of 40 bytes, 16 bursts of 256 bytes, and the status, eight bytes a cycle.
const CYCLES: u64 = 5 + 16 * 32 + 1;

#[test]
fn nothing_happens_but_what_is_stepped() {
    for iommu in [true, false] {
        let bench = Bench::new(Clock::Manual, iommu);
        let (channel, target) = (bench.channel(), region(4096, 0));
        let ticket = bench.submit(Direction::FromDevice.op(0, whole(&target)));
        for step in [0, 1, 4, 100, 411, 1] {
            bench.machine.step(step);
            channel.progress().unwrap();
            assert_eq!(ticket.status(), Status::Pending, "after {}", bench.machine.cycles());
        }
        assert_eq!(bench.machine.cycles(), CYCLES - 1);
        bench.machine.step(1);
        channel.progress().unwrap();
        assert_eq!(ticket.status(), Status::Complete);
        bench.machine.step(1_000_000);
        assert_eq!(bench.machine.cycles(), CYCLES + 1_000_000, "time passes also where nothing happens");
    }
}

#[test]
fn a_wait_lets_as_much_time_pass_as_it_takes() {
    let bench = Bench::new(Clock::Manual, true);
    let target = region(4096, 0);
    assert_eq!(bench.carry_out(Direction::FromDevice.op(0, whole(&target))).status, Status::Complete);
    assert_eq!(bench.machine.cycles(), CYCLES);
    bench.submit(Direction::FromDevice.op(0, whole(&target)));
    assert_eq!((bench.machine.run_until_idle(), bench.machine.run_until_idle()), (CYCLES, 0));
}

#[test]
fn a_timeout_is_simulated_time() {
    let bench = Bench::new(Clock::Manual, true);
    let (channel, target) = (bench.channel(), region(4096, 0));
    let ticket = bench.submit(Direction::FromDevice.op(0, whole(&target)));
    let waited = channel.wait_plain(&ticket, Some(Duration::from_nanos(CYCLES - 2)), GRACE);
    assert!(matches!(waited, Err(Error::TimedOut(_))), "{waited:?}");
    assert_eq!(ticket.status(), Status::TimedOut);
    assert_eq!((bench.machine.cycles(), target.in_flight()), (CYCLES - 2, 0));
    let ticket = bench.submit(Direction::FromDevice.op(0, whole(&target)));
    let waited = channel.wait_plain(&ticket, Some(Duration::from_nanos(CYCLES)), GRACE);
    assert_eq!(waited.map(|outcome| outcome.status), Ok(Status::Complete));
}

#[test]
fn a_wait_for_what_never_ends_ends() {
    let bench = Bench::new(Clock::Manual, true);
    let (channel, target) = (bench.channel(), region(4096, 0));
    bench.inject(Kind::Hang, Trigger::Descriptor(0), Some(1));
    let ticket = bench.submit(Direction::FromDevice.op(0, whole(&target)));
    let waited = channel.wait_plain(&ticket, None, GRACE);
    assert!(matches!(waited, Err(Error::TimedOut(_))), "{waited:?}");
    assert_eq!((ticket.status(), target.in_flight()), (Status::TimedOut, 0));
    assert_eq!(bench.carry_out(Direction::FromDevice.op(0, whole(&target))).status, Status::Complete);
}

#[test]
fn who_gives_up_lets_the_machine_see_it() {
    // Without end, so that only the machine's own steps end it.
    let grace = Duration::from_secs(1 << 20);
    let bench = Bench::new(Clock::Manual, true);
    let (channel, target) = (bench.channel(), region(4096, 0));
    let submit = || (0..5).map(|_| bench.submit(Direction::FromDevice.op(0, whole(&target)))).collect::<Vec<_>>();
    let tickets = submit();
    assert_eq!(channel.reset(grace), Ok(true));
    assert!(tickets.iter().all(|ticket| ticket.status() == Status::Aborted));
    let tickets = submit();
    channel.cancel(&tickets[4], Status::Aborted);
    assert!(channel.settle(&tickets[4..5], grace));
    channel.close(grace);
    assert!(tickets.iter().all(|ticket| ticket.outcome().is_some()));
    assert_eq!(target.in_flight(), 0);
    assert_eq!(bench.carry_out(Direction::FromDevice.op(0, whole(&target))).status, Status::Complete);
}

#[test]
fn threads_that_wait_share_the_clock() {
    for iommu in [true, false] {
        let bench = Bench::new(Clock::Manual, iommu);
        let channel = bench.channel();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for index in 0..500 {
                        let target = region(4096, 1);
                        let mut request = Request::new(Direction::FromDevice.op(0, whole(&target)));
                        request.fence = index % 2 == 0;
                        let ticket = channel.submit(request, true).unwrap();
                        let outcome = channel.wait_plain(&ticket, None, GRACE).unwrap();
                        assert_eq!(outcome.status, Status::Complete, "another's step is not the machine's end");
                    }
                });
            }
        });
    }
}
