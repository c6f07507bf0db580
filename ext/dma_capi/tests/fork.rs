//! The child of a fork: none of the parent's buffers, transfers and devices, and none of its locks in the way.

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use support::*;

/// Runs `work` in a child; a panic or a hang there is a failure here.
fn in_child(work: impl FnOnce()) {
    // SAFETY: the child calls nothing but the library and leaves by _exit; malloc is safe after a fork with glibc.
    match unsafe { libc::fork() } {
        -1 => panic!("no fork"),
        0 => {
            // SAFETY: ends a child that hangs.
            unsafe { libc::alarm(30) };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
            // SAFETY: without the parent's handlers.
            unsafe { libc::_exit(i32::from(!done)) };
        }
        child => {
            let mut status = 0;
            // SAFETY: the child that was just made.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child failed");
        }
    }
}

#[test]
fn a_child_inherits_nothing_and_begins_anew() {
    let buffer = alloc(4096);
    let id = send(buffer, 0x1000, 4096);
    assert_eq!(wait(id), COMPLETE);
    in_child(|| {
        assert_refused(wait(id), Code::Id, "dma_submit_transfer of this process");
        assert_refused(send(buffer, 0, 16), Code::Memory, "is in no buffer");
        free(buffer);
        assert!(last_error().contains("is no buffer"), "{}", last_error());
        let own = alloc(4096);
        assert_refused(send(own, 0, 16), Code::Closed, "choose one with dma_open_device after fork");
        assert_eq!(size(), Err(Code::Closed as i32));
        assert_eq!(open_default(), 0);
        assert_eq!(wait(send(own, 0, 4096)), COMPLETE);
        free(own);
    });
    assert_eq!(wait(send(buffer, 0x1000, 4096)), COMPLETE);
    free(buffer);
}

/// Ends the threads, also where a child failed: who waits for them would do so for ever.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_fork_at_any_moment_leaves_no_lock_behind() {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(&end);
        for number in 0..3u64 {
            let end = &end;
            scope.spawn(move || {
                while !end.load(SeqCst) {
                    let buffer = alloc(64);
                    let id = send(buffer, number * 64, 64);
                    free(buffer);
                    assert_eq!(wait(id), COMPLETE);
                }
            });
        }
        for _ in 0..50 {
            in_child(|| {
                assert_eq!(open_default(), 0);
                let own = alloc(64);
                assert_eq!(wait(send(own, 0, 64)), COMPLETE);
                free(own);
            });
        }
    });
}
