//! Work without the GVL, so that other Ruby threads run meanwhile.

use std::ffi::c_void;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::ptr;
use std::thread;

use magnus::rb_sys::protect;
use magnus::{Error, Ruby};
use rb_sys::VALUE;

/// Lets threads run that wait for the GVL, and raises what interrupts this one.
pub fn pass() -> Result<(), Error> {
    protect(|| {
        // SAFETY: called with the GVL; what it raises, `protect` catches.
        unsafe { rb_sys::rb_thread_schedule() };
        rb_sys::Qnil as VALUE
    })
    .map(drop)
}

/// Runs `work` without the GVL. It cannot be interrupted, so it must be short or of a bounded time; waits for the disk go
/// through [`crate::event`] or [`interruptible`]. `Send` keeps Ruby values out of it.
///
/// # Errors
/// What interrupted the thread before the work began.
pub fn without<T: Send>(ruby: &Ruby, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    until_done(ruby, work, None)
}

/// Runs `work`, which waits, without the GVL: a signal ends its system call (EINTR) where something is to interrupt the thread.
///
/// # Errors
/// What interrupted the thread, before or meanwhile.
pub fn interruptible<T: Send>(ruby: &Ruby, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    // SAFETY: RUBY_UBF_IO of ruby/thread.h, a value of this type that is never called: Ruby sends the thread a signal instead.
    let signal = unsafe { std::mem::transmute::<isize, rb_sys::rb_unblock_function_t>(-1) };
    let value = until_done(ruby, work, signal)?;
    ruby.thread_check_ints()?;
    Ok(value)
}

fn until_done<T: Send>(
    ruby: &Ruby,
    work: impl FnOnce() -> T + Send,
    unblock: rb_sys::rb_unblock_function_t,
) -> Result<T, Error> {
    let mut work = work;
    loop {
        match attempt(work, unblock) {
            Ok(value) => return Ok(value),
            Err(left) => work = left,
        }
        ruby.thread_check_ints()?;
    }
}

/// As [`without`], for work that must be done whatever interrupts the thread: with the GVL where an interrupt waits already, which
/// is raised later, by whoever looks for interrupts next.
pub fn without_if_possible<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    attempt(work, None).unwrap_or_else(|work| work())
}

/// Runs `work` without the GVL, or gives it back where an interrupt waits.
fn attempt<T: Send, W: FnOnce() -> T + Send>(work: W, unblock: rb_sys::rb_unblock_function_t) -> Result<T, W> {
    struct Call<W, T> {
        work: Option<W>,
        result: Option<thread::Result<T>>,
    }
    unsafe extern "C" fn run<W: FnOnce() -> T, T>(call: *mut c_void) -> *mut c_void {
        // SAFETY: `call` is the value below, which nobody else uses while this runs.
        let call = unsafe { &mut *call.cast::<Call<W, T>>() };
        if let Some(work) = call.work.take() {
            // A panic must not unwind through Ruby's frames.
            call.result = Some(catch_unwind(AssertUnwindSafe(work)));
        }
        ptr::null_mut()
    }
    let mut call = Call { work: Some(work), result: None };
    let data: *mut Call<W, T> = &mut call;
    let flags = rb_sys::RB_NOGVL_INTR_FAIL as i32;
    // SAFETY: with INTR_FAIL Ruby does not raise from here, and `call` outlives the call.
    unsafe { rb_sys::rb_nogvl(Some(run::<W, T>), data.cast(), unblock, ptr::null_mut(), flags) };
    match (call.result, call.work) {
        (Some(Ok(value)), _) => Ok(value),
        (Some(Err(panic)), _) => resume_unwind(panic),
        (None, work) => Err(work.expect("work that did not run is still there")),
    }
}
