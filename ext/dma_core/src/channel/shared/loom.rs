//! Every interleaving of those who wait on a channel, those who use it meanwhile, and its device. Times never run out here: a
//! waiter whom only [`SILENCE`] would wake is found as one who waits for ever.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use ::loom::sync::Condvar;
use ::loom::thread;

use super::*;
use crate::channel::table::Bell;
use crate::engine::{Engine, Limits, Manner, Queue, Rejected, Stats, Watch, Watcher};
use crate::sync::Event;
use crate::transfer::{Completion, Op, Status};

/// A device that is one thread, as its queue and the tests see it.
#[derive(Debug)]
struct Device {
    line: Mutex<Line>,
    work: Condvar,
    event: Event,
    posted: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    pushed: Vec<u32>,
    kicked: Vec<u32>,
    done: Vec<Completion>,
    /// Completions and calls so far, and how many of these were reaped.
    posted: usize,
    reaped: usize,
    calls: usize,
    watcher: Watcher,
}

impl Device {
    /// Carries `count` operations out, the newest first.
    fn start(self: &Arc<Self>, count: usize) -> thread::JoinHandle<()> {
        let device = Arc::clone(self);
        thread::spawn(move || {
            for _ in 0..count {
                let mut line = lock(&device.line);
                let tag = loop {
                    match line.kicked.pop() {
                        Some(tag) => break tag,
                        None => line = device.work.wait(line).unwrap(),
                    }
                };
                line.done.push(completion(tag, Status::Complete));
                device.post(&mut line);
                drop(line);
                device.event.signal();
            }
        })
    }

    fn post(&self, line: &mut Line) {
        line.posted += 1;
        self.posted.notify_all();
    }

    fn call(&self, line: &mut Line) {
        line.calls += 1;
        self.post(line);
    }
}

impl Watch for Device {
    fn wait(&self, _timeout: Duration) -> bool {
        let mut line = lock(&self.line);
        let reaped = line.reaped;
        while line.posted == reaped {
            line = self.posted.wait(line).unwrap();
        }
        true
    }
}

fn completion(tag: u32, status: Status) -> Completion {
    Completion { tag, status, bytes: 0, eof: false }
}

#[derive(Debug)]
struct Handle(Arc<Device>);

impl Engine for Handle {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn limits(&self) -> Limits {
        Limits { ordered: true, flushes: true, ..Limits::ANY }
    }

    fn stats(&self) -> Arc<Stats> {
        Arc::default()
    }

    fn queue(&self, _index: u16, _depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(Handle(Arc::clone(&self.0))))
    }
}

impl Queue for Handle {
    fn push(&mut self, tag: u32, _op: Op, _manner: Manner) -> Result<(), Rejected> {
        lock(&self.0.line).pushed.push(tag);
        Ok(())
    }

    fn kick(&mut self) {
        let mut line = lock(&self.0.line);
        let pushed = std::mem::take(&mut line.pushed);
        line.kicked.extend(pushed);
        self.0.work.notify_one();
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        let line = &mut *lock(&self.0.line);
        out.append(&mut line.done);
        line.reaped = line.posted;
        if std::mem::take(&mut line.calls) > 0 && line.watcher.call_again() {
            self.0.call(line);
        }
    }

    fn acknowledge(&mut self) {
        self.0.event.clear();
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    fn stop(&mut self) -> bool {
        false
    }

    fn cancel(&mut self, tag: u32) {
        let mut line = lock(&self.0.line);
        let before = line.kicked.len();
        line.kicked.retain(|other| *other != tag);
        if line.kicked.len() < before {
            line.done.push(completion(tag, Status::Aborted));
            self.0.post(&mut line);
            self.0.event.signal();
        }
    }

    fn watch(&mut self) -> Option<Arc<dyn Watch>> {
        lock(&self.0.line).watcher.lie_down();
        Some(Arc::clone(&self.0) as Arc<dyn Watch>)
    }

    fn rouse(&mut self) {
        let line = &mut *lock(&self.0.line);
        if line.watcher.call() {
            self.0.call(line);
        }
    }

    fn up(&mut self) {
        lock(&self.0.line).watcher.get_up();
    }
}

/// A channel with its device.
struct Model {
    device: Arc<Device>,
    shared: Shared,
    nudge: Arc<Bell>,
    leaders: AtomicU32,
    /// Whoever leads watches in the device, or waits for its event.
    watches: bool,
}

impl Model {
    fn new(watches: bool) -> Arc<Model> {
        let (line, work, event) = (Mutex::default(), Condvar::new(), Event::new().unwrap());
        let device = Arc::new(Device { line, work, event, posted: Condvar::new() });
        let channel = Channel::of_device(Arc::new(Handle(Arc::clone(&device))), 0, 2).unwrap();
        let shared = Shared::new(channel, 0).unwrap();
        let nudge = Arc::clone(lock(&shared.state).table.nudge());
        Arc::new(Model { device, shared, nudge, leaders: AtomicU32::new(0), watches })
    }

    fn submit(&self) -> Arc<Ticket> {
        self.shared.submit(Request::new(Op::Flush { data_only: false }), true).unwrap()
    }

    /// Waits until the transfer ends, or until there is nothing to do for the `patience + 1`st time.
    fn wait(&self, ticket: &Arc<Ticket>, patience: Option<u32>) -> Option<Status> {
        let seat = Seat::new().unwrap();
        let mut waiter = Sleeper { model: self, tickets: slice::from_ref(ticket), seat: Arc::clone(&seat), patience };
        let waited = self.shared.wait(ticket, &seat, None, &mut waiter);
        waited.ok().map(|outcome| outcome.expect("no timeout was given").status)
    }

    fn waiting(self: &Arc<Self>, ticket: &Arc<Ticket>, patience: Option<u32>) -> thread::JoinHandle<Option<Status>> {
        let (model, ticket) = (Arc::clone(self), Arc::clone(ticket));
        thread::spawn(move || model.wait(&ticket, patience))
    }

    /// All tickets ended, as was told once of each.
    fn check(&self, tickets: &[&Arc<Ticket>]) {
        assert_eq!(self.shared.told(), tickets.len() as u64);
        assert!(tickets.iter().all(|ticket| ticket.outcome().is_some()));
    }
}

struct Sleeper<'a> {
    model: &'a Model,
    tickets: &'a [Arc<Ticket>],
    seat: Arc<Seat>,
    patience: Option<u32>,
}

impl Waiter for Sleeper<'_> {
    type Error = ();

    fn block(&mut self, role: Role, _timeout: Duration) -> Result<(), ()> {
        if let Some(patience) = &mut self.patience {
            *patience = patience.checked_sub(1).ok_or(())?;
        }
        let Model { device, shared, nudge, leaders, watches } = self.model;
        match role {
            Role::Lead => {
                assert_eq!(leaders.fetch_add(1, SeqCst), 0, "two wait for the channel's event");
                match watches {
                    true => shared.serve(self.tickets, Duration::MAX),
                    false => Event::wait(&[&device.event, nudge.event()]),
                }
                leaders.fetch_sub(1, SeqCst);
            }
            Role::Follow => Event::wait(&[self.seat.signal.event()]),
        }
        Ok(())
    }

    fn reaped(&mut self, _leave: &mut dyn FnMut()) -> Result<(), ()> {
        Ok(())
    }

    fn watches(&self) -> bool {
        self.model.watches
    }

    fn error(&mut self, error: Error) {
        panic!("{error}");
    }
}

/// Tells of another transfer, without which the device does not carry out its own.
struct Teller<'a> {
    sleeper: Sleeper<'a>,
    other: Option<Arc<Ticket>>,
    device: Option<thread::JoinHandle<()>>,
}

impl Waiter for Teller<'_> {
    type Error = ();

    fn block(&mut self, role: Role, timeout: Duration) -> Result<(), ()> {
        self.sleeper.block(role, timeout)
    }

    fn reaped(&mut self, _leave: &mut dyn FnMut()) -> Result<(), ()> {
        if self.other.take_if(|other| other.outcome().is_some()).is_some() {
            self.device = Some(self.sleeper.model.device.start(1));
        }
        Ok(())
    }

    fn tells(&self) -> bool {
        true
    }

    fn error(&mut self, error: Error) {
        panic!("{error}");
    }
}

fn check(test: impl Fn(Arc<Model>) + Sync + Send + 'static) {
    let test = Arc::new(test);
    for watches in [false, true] {
        let test = Arc::clone(&test);
        explore(watches, move |model| test(model));
    }
}

fn explore(watches: bool, test: impl Fn(Arc<Model>) + Sync + Send + 'static) {
    let mut model = ::loom::model::Builder::new();
    // All interleavings of three threads are too many.
    model.preemption_bound = Some(2);
    model.check(move || test(Model::new(watches)));
}

#[test]
fn two_waiters_of_which_one_leads_both_hear_of_their_own() {
    check(|model| {
        let (first, second) = (model.submit(), model.submit());
        let device = model.device.start(2);
        let other = model.waiting(&first, None);
        assert_eq!(model.wait(&second, None), Some(Status::Complete));
        assert_eq!(other.join().unwrap(), Some(Status::Complete));
        device.join().unwrap();
        model.check(&[&first, &second]);
    });
}

#[test]
fn one_who_tells_others_hears_of_theirs_whoever_reaps_it() {
    // Who tells others waits for events.
    explore(false, |model| {
        let (first, second) = (model.submit(), model.submit());
        let device = model.device.start(1);
        let passer = Arc::clone(&model);
        let passer = thread::spawn(move || passer.shared.progress().unwrap());
        let seat = Seat::new().unwrap();
        let tickets = slice::from_ref(&first);
        let sleeper = Sleeper { model: &model, tickets, seat: Arc::clone(&seat), patience: None };
        let mut teller = Teller { sleeper, other: Some(Arc::clone(&second)), device: None };
        assert!(model.shared.wait(&first, &seat, None, &mut teller).is_ok_and(|outcome| outcome.is_some()));
        device.join().unwrap();
        teller.device.expect("it was told of the other").join().unwrap();
        passer.join().unwrap();
        model.check(&[&first, &second]);
    });
}

#[test]
fn one_whose_transfer_ends_first_hears_of_it_though_another_leads() {
    check(|model| {
        let (first, second) = (model.submit(), model.submit());
        let device = model.device.start(1);
        let other = model.waiting(&first, None);
        assert_eq!(model.wait(&second, None), Some(Status::Complete));
        device.join().unwrap();
        model.device.start(1).join().unwrap();
        assert_eq!(other.join().unwrap(), Some(Status::Complete));
        model.check(&[&first, &second]);
    });
}

#[test]
fn one_who_waits_for_either_of_two_hears_of_the_first_though_another_leads() {
    check(|model| {
        let tickets = [model.submit(), model.submit()];
        let device = model.device.start(1);
        let other = model.waiting(&tickets[0], None);
        let seat = Seat::new().unwrap();
        let mut waiter = Sleeper { model: &model, tickets: &tickets, seat: Arc::clone(&seat), patience: None };
        model.shared.wait_any(&tickets, &seat, None, &mut waiter).unwrap();
        assert!(Ticket::any_ended(&tickets));
        device.join().unwrap();
        model.device.start(1).join().unwrap();
        assert_eq!(other.join().unwrap(), Some(Status::Complete));
    });
}

#[test]
fn one_who_leaves_early_leaves_nobody_behind_who_waits_for_ever() {
    for patience in 0..3 {
        check(move |model| {
            let (first, second) = (model.submit(), model.submit());
            let device = model.device.start(2);
            let other = model.waiting(&first, Some(patience));
            assert_eq!(model.wait(&second, None), Some(Status::Complete));
            let left = other.join().unwrap();
            assert!(left.is_none_or(|status| status == Status::Complete));
            assert_eq!(model.wait(&first, None), Some(Status::Complete));
            device.join().unwrap();
            model.check(&[&first, &second]);
        });
    }
}

#[test]
fn a_completion_that_a_passer_by_reaps_wakes_whoever_leads() {
    check(|model| {
        let ticket = model.submit();
        let device = model.device.start(1);
        let other = model.waiting(&ticket, None);
        model.shared.progress().unwrap();
        assert_eq!(other.join().unwrap(), Some(Status::Complete));
        device.join().unwrap();
        model.check(&[&ticket]);
        assert!(!model.nudge.event().is_readable(), "the channel's event would stay readable");
    });
}

#[test]
fn whoever_leads_rings_for_others_that_have_it_do_so() {
    check(|model| {
        let first = model.submit();
        let second = model.shared.submit(Request::new(Op::Flush { data_only: false }), false).unwrap();
        let device = model.device.start(2);
        let leader = model.waiting(&second, None);
        // Who waits for the event rings before it does so; here only who watches rings at all.
        if !model.watches || !model.shared.have_kicked() {
            model.shared.kick().unwrap();
        }
        assert_eq!(leader.join().unwrap(), Some(Status::Complete));
        device.join().unwrap();
        model.shared.progress().unwrap();
        model.check(&[&first, &second]);
    });
}

#[test]
fn a_cancel_comes_in_time_or_too_late_and_the_waiter_hears_which() {
    static IN_TIME: AtomicBool = AtomicBool::new(false);
    static TOO_LATE: AtomicBool = AtomicBool::new(false);
    check(|model| {
        let (first, second) = (model.submit(), model.submit());
        let device = model.device.start(1);
        let other = model.waiting(&second, None);
        model.shared.cancel(&second, Status::TimedOut);
        let status = other.join().unwrap().unwrap();
        // The device ends after one operation: the second, or the first where that was cancelled.
        if status == Status::Complete {
            TOO_LATE.store(true, SeqCst);
            model.shared.cancel(&first, Status::TimedOut);
        } else {
            assert_eq!(status, Status::TimedOut);
            IN_TIME.store(true, SeqCst);
            assert_eq!(model.wait(&first, None), Some(Status::Complete));
        }
        device.join().unwrap();
        model.check(&[&first, &second]);
    });
    assert!(IN_TIME.load(SeqCst) && TOO_LATE.load(SeqCst));
}

#[test]
fn a_channel_that_is_closed_under_waiters_tells_them() {
    check(|model| {
        let (first, second) = (model.submit(), model.submit());
        let others = [model.waiting(&first, None), model.waiting(&second, None)];
        model.shared.close(Duration::ZERO);
        for other in others {
            // Whoever comes too late to sit down finds a transfer that has ended.
            assert_eq!(other.join().unwrap(), Some(Status::Aborted));
        }
        model.check(&[&first, &second]);
    });
}
