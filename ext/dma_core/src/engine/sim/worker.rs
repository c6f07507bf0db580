//! A thread that works on what others look at and change meanwhile, and sleeps while there is nothing to do.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::{can_spin, lock, yield_now, AtomicU32, Condvar, Mutex, MutexGuard};

/// How long the thread looks for work before it sleeps: about as long as waking it would take.
const LINGER: Duration = Duration::from_micros(50);
/// Steps before it looks whether anybody told of more.
const TURN: usize = 256;

/// Nothing was told since the thread last looked.
const IDLE: u32 = 0;
/// Something may be to do.
const TOLD: u32 = 1;
/// The thread sleeps.
const ASLEEP: u32 = 2;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Done,
    /// There was nothing to do.
    Nothing,
    /// The thread is to end.
    Stop,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Worker<C> {
    core: Mutex<C>,
    wake: Condvar,
    /// Always swapped: whoever takes a value away sees what was written before it.
    state: AtomicU32,
    /// How many want the core while the thread has it.
    wanted: AtomicU32,
}

impl<C> Worker<C> {
    pub(super) fn new(core: C) -> Worker<C> {
        let (wake, state, wanted) = (Condvar::new(), AtomicU32::new(IDLE), AtomicU32::new(0));
        Worker { core: Mutex::new(core), wake, state, wanted }
    }

    /// Works on the core between two steps of the thread. What that gives it to do, it has to be told.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut C) -> T) -> T {
        self.wanted.fetch_add(1, Relaxed);
        let mut core = lock(&self.core);
        self.wanted.fetch_sub(1, Relaxed);
        work(&mut core)
    }

    /// Tells the thread that something may be to do.
    pub(super) fn tell(&self) {
        if self.state.swap(TOLD, AcqRel) == ASLEEP {
            // Under the lock, so that the thread either sees the state or hears this.
            let _core = lock(&self.core);
            self.wake.notify_one();
        }
    }

    /// The thread: takes one step after the other.
    pub(super) fn serve(&self, step: impl Fn(&mut C) -> Step) {
        let mut core = lock(&self.core);
        loop {
            self.state.swap(IDLE, AcqRel);
            let mut last = Step::Done;
            for _ in 0..TURN {
                last = step(&mut core);
                if last != Step::Done || self.is_wanted() {
                    break;
                }
            }
            match last {
                Step::Stop => return,
                Step::Done if self.is_wanted() => {
                    drop(core);
                    // A lock that is free for a moment only goes to the thread that runs.
                    while self.is_wanted() {
                        yield_now();
                    }
                    core = lock(&self.core);
                }
                Step::Done => {}
                Step::Nothing => {
                    drop(core);
                    let idle = Instant::now();
                    while can_spin() && self.state.load(Relaxed) == IDLE && idle.elapsed() < LINGER {
                        std::hint::spin_loop();
                    }
                    core = self.sleep(lock(&self.core));
                }
            }
        }
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed) > 0
    }

    /// Sleeps until told, unless that has happened.
    fn sleep<'a>(&self, mut core: MutexGuard<'a, C>) -> MutexGuard<'a, C> {
        if self.state.compare_exchange(IDLE, ASLEEP, AcqRel, Acquire).is_ok() {
            while self.state.load(Acquire) == ASLEEP {
                core = self.wake.wait(core).unwrap_or_else(PoisonError::into_inner);
            }
        }
        core
    }
}

#[cfg(all(test, loom))]
mod loom {
    use ::loom::sync::Arc;
    use ::loom::thread;

    use super::*;
    use crate::ring::Doorbell;

    #[derive(Debug, Default)]
    struct Core {
        served: u32,
        stopped: bool,
    }

    /// A thread that serves what a doorbell announces, and ends when it is stopped or has served `last`.
    fn serve(worker: &Arc<Worker<Core>>, doorbell: &Arc<Doorbell>, last: u32) -> thread::JoinHandle<()> {
        let (worker, doorbell) = (Arc::clone(worker), Arc::clone(doorbell));
        thread::spawn(move || {
            worker.serve(|core| match doorbell.tail() {
                _ if core.stopped || core.served == last => Step::Stop,
                tail if core.served < tail => {
                    core.served += 1;
                    Step::Done
                }
                _ => Step::Nothing,
            });
        })
    }

    fn pair() -> (Arc<Worker<Core>>, Arc<Doorbell>) {
        (Arc::new(Worker::new(Core::default())), Arc::new(Doorbell::new()))
    }

    // A doorbell that is lost leaves the thread asleep and this one waiting for its end, which loom calls a deadlock.

    #[test]
    fn no_doorbell_is_lost() {
        ::loom::model(|| {
            let (worker, doorbell) = pair();
            let thread = serve(&worker, &doorbell, 2);
            for tail in 1..=2 {
                doorbell.ring(tail);
                worker.tell();
            }
            thread.join().unwrap();
            assert_eq!(worker.with(|core| core.served), 2);
        });
    }

    #[test]
    fn of_two_who_tell_both_are_heard_and_whoever_wants_the_core_gets_it() {
        let mut model = ::loom::model::Builder::new();
        // All interleavings of three threads are too many.
        model.preemption_bound = Some(2);
        model.check(|| {
            let (worker, doorbell) = pair();
            let thread = serve(&worker, &doorbell, !0);
            let other = {
                let (worker, doorbell) = (Arc::clone(&worker), Arc::clone(&doorbell));
                thread::spawn(move || {
                    doorbell.ring(1);
                    worker.tell();
                })
            };
            worker.with(|core| core.stopped = true);
            worker.tell();
            other.join().unwrap();
            thread.join().unwrap();
        });
    }
}
