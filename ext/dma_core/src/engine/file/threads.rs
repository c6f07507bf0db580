//! The file engine that works everywhere: pread(2) and pwrite(2) on worker threads.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::order::{Going, Order};
use super::Handle;
use crate::engine::{Engine, Limits, Manner, Queue, Rejected, Stats};
use crate::error::{Error, Result};
use crate::sync::Event;
use crate::sys::{self, PerProcess};
use crate::transfer::{Completion, Direction, Op, Path};

/// The most worker threads of the process that carry out what somebody waits for; more operations wait their turn. Threads
/// that a broken disk holds, with operations that were given up, come on top.
const MAX_WORKERS: usize = 128;
/// How long a worker without work stays.
const KEEP: Duration = Duration::from_secs(10);

/// An open file served by the process's worker threads.
#[derive(Debug)]
pub struct Threads {
    handle: Arc<Handle>,
}

impl Threads {
    /// Serves `handle`.
    pub fn new(handle: Arc<Handle>) -> Self {
        Threads { handle }
    }
}

impl Engine for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn limits(&self) -> Limits {
        self.handle.limits()
    }

    fn stats(&self) -> Arc<Stats> {
        self.handle.stats()
    }

    fn prepare(&self, op: &Op) -> Result<()> {
        match (self.handle.missing(), op) {
            (Some((Direction::FromDevice, why)), Op::Read { .. })
            | (Some((Direction::ToDevice, why)), Op::Write { .. }) => Err(Error::Unsupported(why.to_owned())),
            _ => Ok(()),
        }
    }

    /// Every queue is a channel of its own, whatever its number.
    fn queue(&self, _index: u16, depth: u32) -> Result<Box<dyn Queue>> {
        let event = Event::new().map_err(|errno| Error::os(errno, "cannot make a completion event"))?;
        let event = Arc::new(event);
        Ok(Box::new(ThreadQueue {
            order: Order::new(Arc::clone(&self.handle), Arc::clone(&event)),
            handle: Arc::clone(&self.handle),
            pushed: Vec::new(),
            in_flight: (0..depth).map(|_| None).collect(),
            done: Arc::new(Done { completions: Mutex::new(Vec::new()), event }),
        }))
    }
}

#[derive(Debug)]
struct ThreadQueue {
    handle: Arc<Handle>,
    order: Order,
    pushed: Vec<Job>,
    /// By tag, for what is begun or waits for a worker, and is not reaped: whether it was cancelled.
    in_flight: Vec<Option<Arc<AtomicBool>>>,
    done: Arc<Done>,
}

/// Where the workers put what they finished for one queue. The event is signalled while there is something.
#[derive(Debug)]
struct Done {
    completions: Mutex<Vec<Completion>>,
    event: Arc<Event>,
}

impl Done {
    fn add(&self, completion: Completion) {
        let mut completions = lock(&self.completions);
        completions.push(completion);
        if completions.len() == 1 {
            self.event.signal();
        }
    }
}

impl ThreadQueue {
    fn begin(&mut self, going: Going) {
        if let Some(cancelled) = &self.in_flight[going.tag as usize] {
            let (handle, done, cancelled) = (Arc::clone(&self.handle), Arc::clone(&self.done), Arc::clone(cancelled));
            self.pushed.push(Job { going, handle, done, cancelled });
        }
    }
}

impl Queue for ThreadQueue {
    fn push(&mut self, tag: u32, op: Op, manner: Manner) -> Result<(), Rejected> {
        self.in_flight[tag as usize] = Some(Arc::default());
        let path = self.handle.path(&op, manner.cache);
        if let Some(going) = self.order.admit(Going::new(tag, op, path)) {
            self.begin(going);
        }
        Ok(())
    }

    fn kick(&mut self) {
        if self.pushed.is_empty() {
            return;
        }
        Workers::of_this_process().add(self.pushed.drain(..));
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        let released = self.order.released();
        released.into_iter().for_each(|going| self.begin(going));
        self.kick();
        let completions = std::mem::take(&mut *lock(&self.done.completions));
        for completion in completions {
            let cancelled = self.in_flight[completion.tag as usize].take();
            if cancelled.is_some_and(|cancelled| cancelled.load(SeqCst)) {
                Workers::of_this_process().take_back();
            }
            out.push(completion);
        }
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.done.event.as_fd()
    }

    fn acknowledge(&mut self) {
        self.done.event.clear();
    }

    /// The kernel cannot be stopped in the middle of a pread(2).
    fn stop(&mut self) -> bool {
        false
    }

    fn cancel(&mut self, tag: u32) {
        let Some(cancelled) = &self.in_flight[tag as usize] else { return };
        if !cancelled.swap(true, SeqCst) {
            Workers::of_this_process().give_up();
        }
        if let Some(going) = self.order.remove(tag) {
            drop(going);
            self.done.add(Completion::aborted(tag));
        }
    }
}

#[derive(Debug)]
struct Job {
    going: Going,
    handle: Arc<Handle>,
    done: Arc<Done>,
    cancelled: Arc<AtomicBool>,
}

impl Job {
    fn run(self) {
        let Job { going, handle, done, cancelled } = self;
        let completion = if cancelled.load(SeqCst) { Completion::aborted(going.tag) } else { execute(&handle, &going) };
        // Memory and blocks are let go before anybody can learn that the operation is over.
        drop(going);
        done.add(completion);
    }
}

/// Carries an operation out; a second time, where it is refused one way and may go the other.
fn execute(handle: &Handle, going: &Going) -> Completion {
    let mut path = going.path;
    let mut result = call(handle, &going.op, path);
    if result.is_err_and(|errno| handle.may_fall_back(&going.op, path, errno)) {
        path = Path::Buffered;
        result = call(handle, &going.op, path);
    }
    handle.end(going.tag, &going.op, path, result)
}

fn call(handle: &Handle, op: &Op, path: Path) -> Result<usize, Errno> {
    let fd = handle.descriptor_for(op, path);
    match op {
        // SAFETY: the span's memory is valid and kept by it, and nobody makes references to it.
        Op::Read { offset, span } => unsafe { sys::pread(fd, span.address(), span.len(), *offset) },
        // SAFETY: the span's memory is valid and kept by it.
        Op::Write { offset, span } => unsafe { sys::pwrite(fd, span.address(), span.len(), *offset) },
        Op::Flush { data_only } => sys::sync(fd, *data_only).map(|()| 0),
        // The channel asks the limits first.
        Op::Copy { .. } | Op::List { .. } => Err(Errno::EOPNOTSUPP),
    }
}

/// The worker threads of this process. They start when there is work, leave when there is none, and do not survive a fork: the
/// child finds none of the parent's locks in its way, because it makes its own set.
#[derive(Debug)]
struct Workers {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// Operations that were cancelled and are not reaped yet: each may hold a thread.
    given_up: usize,
}

impl Workers {
    fn of_this_process() -> &'static Workers {
        static CURRENT: PerProcess<Workers> = PerProcess::new();
        CURRENT.get(|_| {
            let state = State { jobs: VecDeque::new(), threads: 0, idle: 0, given_up: 0 };
            Workers { state: Mutex::new(state), work: Condvar::new() }
        })
    }

    fn add(&'static self, jobs: impl Iterator<Item = Job>) {
        let mut state = lock(&self.state);
        state.jobs.extend(jobs);
        let wanted = state.jobs.len();
        for _ in 0..wanted.min(state.idle) {
            self.work.notify_one();
        }
        let more = wanted.saturating_sub(state.idle).min((MAX_WORKERS + state.given_up).saturating_sub(state.threads));
        for _ in 0..more {
            state.threads += 1;
            let started = thread::Builder::new().name("dma-worker".into()).spawn(|| self.serve());
            if started.is_err() {
                state.threads -= 1;
                break;
            }
        }
        // Where the system gives no thread at all, the caller does the work itself: late, but done.
        if state.threads == 0 {
            let jobs = std::mem::take(&mut state.jobs);
            drop(state);
            jobs.into_iter().for_each(Job::run);
        }
    }

    /// Makes room for what others wait for beside an operation that nobody waits for.
    fn give_up(&'static self) {
        lock(&self.state).given_up += 1;
        self.add(std::iter::empty());
    }

    fn take_back(&self) {
        lock(&self.state).given_up -= 1;
    }

    fn serve(&self) {
        sys::block_signals();
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job.run();
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let (next, wait) = self.work.wait_timeout(state, KEEP).unwrap_or_else(PoisonError::into_inner);
            state = next;
            state.idle -= 1;
            if wait.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that panics runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
