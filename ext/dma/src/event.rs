//! Events as a Ruby thread or fiber waits for them: without the GVL, or through the Fiber scheduler.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use magnus::rb_sys::{protect, AsRawValue, FromRawValue};
use magnus::value::{InnerValue, Opaque};
use magnus::{kwargs, prelude::*, Error, ExceptionClass, Ruby, Value};

use crate::error::{exception, timed_out};

/// How long an interrupted call waits for the engine to let go of its memory. A disk in order needs a few milliseconds; what a
/// broken one keeps longer stays refused to other transfers until it is done.
pub const GRACE: Duration = Duration::from_millis(100);
/// How long it waits with the GVL first, which a disk in order seldom outlasts: while other threads run, one of them may raise into
/// a thread that is being killed, whereupon Ruby (3.1) forgets the kill. Timeout's does so.
pub const BRIEF: Duration = Duration::from_millis(2);

/// An IO object for a descriptor that somebody else closes.
#[derive(Clone, Copy)]
pub struct Event(Opaque<Value>);

impl Event {
    /// Wraps `fd`, which must stay open as long as the event is waited for.
    pub fn new(ruby: &Ruby, fd: BorrowedFd<'_>) -> Result<Event, Error> {
        // In one call: interrupted between two, the IO object would close the descriptor once more, whoever has it by then.
        let borrowed = kwargs!(ruby, "autoclose" => false);
        let io: Value = ruby.class_io().funcall("for_fd", (fd.as_raw_fd(), "r", borrowed))?;
        Ok(Event(io.into()))
    }

    /// For the GC.
    pub fn io(self) -> Opaque<Value> {
        self.0
    }

    /// Waits until the descriptor is readable; false after `timeout`. Under a Fiber scheduler other fibers run meanwhile,
    /// otherwise other threads. Whatever interrupts the thread comes out as the error; so does a scheduler that gives up
    /// early: see [`ended_by_scheduler`].
    pub fn wait(self, ruby: &Ruby, timeout: Option<Duration>) -> Result<bool, Error> {
        let started = Instant::now();
        let io = self.0.get_inner_with(ruby);
        let seconds = timeout.map(|timeout| ruby.float_from_f64(timeout.as_secs_f64()));
        let seconds = seconds.map_or_else(|| ruby.qnil().as_value(), |seconds| seconds.as_value());
        let readable = ruby.integer_from_i64(i64::from(rb_sys::RB_WAITFD_IN)).as_value();
        // SAFETY: valid values; the call may raise, which `protect` catches.
        let ready = protect(|| unsafe { rb_sys::rb_io_wait(io.as_raw(), readable.as_raw(), seconds.as_raw()) })?;
        // SAFETY: rb_io_wait returns a Ruby value.
        let ready = unsafe { Value::from_raw(ready) }.to_bool();
        // Clocks of schedulers need not agree with ours to the last bit.
        let early = timeout.is_none_or(|timeout| started.elapsed() + Duration::from_millis(2) < timeout);
        if !ready && early && scheduled() {
            return Err(ended_by_scheduler(ruby));
        }
        Ok(ready)
    }
}

/// What a program of this scheduler expects where its time is up. That of async 1 swallows its own TimeoutError in `io_wait`, and only
/// there, so that it has to be made anew: `with_timeout` is to end a read as it ends a `sleep`.
fn ended_by_scheduler(ruby: &Ruby) -> Error {
    const OF_ASYNC: &str =
        "Async::TimeoutError if defined?(Async::Scheduler) && Async::Scheduler === Fiber.current_scheduler";
    let message = "execution expired: the Fiber scheduler ended the wait before its time";
    match ruby.eval::<Option<ExceptionClass>>(OF_ASYNC) {
        Ok(Some(class)) => exception(class, message),
        Ok(None) => timed_out(ruby, message),
        Err(interrupt) => interrupt,
    }
}

/// Seconds of Ruby as a duration: negative ones are none, and more than there can be are for ever.
pub fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Whether a Fiber scheduler runs this fiber.
pub fn scheduled() -> bool {
    scheduler().is_some()
}

/// The Fiber scheduler that runs this fiber, if one does.
pub fn scheduler() -> Option<Value> {
    // SAFETY: called with the GVL, by a Ruby thread.
    let scheduler = unsafe { Value::from_raw(rb_sys::rb_fiber_scheduler_current()) };
    scheduler.to_bool().then_some(scheduler)
}
