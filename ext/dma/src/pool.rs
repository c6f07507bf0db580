//! `DMA::Pool`: buffers that come back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dma_core::channel::progress_all;
use dma_core::memory::{Pool as CorePool, Region, Waiter};
use dma_core::sys;
use magnus::{function, gc, method, prelude::*, DataTypeFunctions, Error, RModule, Ruby, TypedData, Value};

use crate::buffer::{account, huge_from, lock_from, with_memory, Buffer, Size};
use crate::error::OrRaise;
use crate::event::{duration, scheduled, Event};

/// After how long a waiting checkout first looks for buffers that were dropped, which only the GC finds; then after twice as
/// long, and so on: where buffers come back without it, a GC would only cost.
const COLLECT: Duration = Duration::from_millis(10);
/// The first time under a Fiber scheduler: one that ends a wait by a timeout of its own could not be told from a pause that is
/// over at the same moment, so that the pauses must not be what people choose for timeouts.
const COLLECT_SCHEDULED: Duration = Duration::from_millis(1237);
const COLLECT_AT_LAST: Duration = Duration::from_secs(10);
/// How often to look for transfers that are over, where some are under way.
const LOOK: Duration = Duration::from_millis(53);
/// Whoever is in front and has not come for a free buffer in so long is a fiber that nobody resumes any more.
const PATIENCE: Duration = Duration::from_secs(1);
/// Waiters that are kept for the next use.
const IDLE_WAITERS: usize = 16;

#[derive(TypedData)]
#[magnus(class = "DMA::Pool", free_immediately, mark, size)]
pub struct Pool {
    pool: CorePool,
    align: usize,
    /// Waiters that nobody uses now, with the IO objects they are waited for on.
    idle: Mutex<Vec<(Waiter, Event)>>,
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<(Waiter, Event)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self, region: Arc<Region>) -> Buffer {
        let len = region.len();
        Buffer::over(region, 0, len, self.align)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the GC drops pools, with the GVL; Ruby's own xfree does the same.
        unsafe { rb_sys::rb_gc_adjust_memory_usage(-(self.pool.pages().len() as i64) as _) };
    }
}

impl DataTypeFunctions for Pool {
    fn mark(&self, marker: &gc::Marker) {
        self.idle().iter().for_each(|(_, event)| marker.mark(event.io()));
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.pool.pages().len()
    }
}

fn native_new(
    ruby: &Ruby,
    Size(count): Size,
    Size(size): Size,
    Size(align): Size,
    lock: Value,
    huge: Value,
) -> Result<Pool, Error> {
    let (lock, huge) = (lock_from(ruby, lock)?, huge_from(ruby, huge)?);
    let pool = with_memory(ruby, || CorePool::new(count, size, align, huge, lock))?;
    let align = align.max(sys::page_size());
    let pool = Pool { pool, align, idle: Mutex::new(Vec::new()) };
    account(ruby, pool.pool.pages().len())?;
    Ok(pool)
}

fn available(ruby: &Ruby, this: &Pool) -> Result<usize, Error> {
    this.pool.available().or_raise(ruby)
}

/// Takes a buffer; waits for one up to `timeout` seconds, or for ever with `nil`. `None`: there was none in time.
fn native_checkout(ruby: &Ruby, this: &Pool, timeout: Option<f64>) -> Result<Option<Buffer>, Error> {
    if let Some(region) = this.pool.checkout_spare().or_raise(ruby)? {
        return Ok(Some(this.buffer(region)));
    }
    let timeout = timeout.map(duration);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let idle = this.idle().pop();
    let (waiter, event) = match idle {
        Some(pair) => pair,
        None => {
            let waiter = Waiter::new().or_raise(ruby)?;
            let event = Event::new(ruby, waiter.event())?;
            (waiter, event)
        }
    };
    this.pool.enter(&waiter);
    // The IO object stays on the stack while it is waited for, and in the list after: the GC finds it.
    let result = wait(ruby, this, &waiter, event, deadline);
    this.pool.leave(&waiter);
    let mut idle = this.idle();
    if result.is_ok() && idle.len() < IDLE_WAITERS {
        idle.push((waiter, event));
    }
    drop(idle);
    result.map(|region| region.map(|region| this.buffer(region)))
}

fn wait(
    ruby: &Ruby,
    this: &Pool,
    waiter: &Waiter,
    event: Event,
    deadline: Option<Instant>,
) -> Result<Option<Arc<Region>>, Error> {
    let mut pause = if scheduled() { COLLECT_SCHEDULED } else { COLLECT };
    let mut rest = pause;
    loop {
        if let Some(region) = this.pool.checkout_in_turn(waiter).or_raise(ruby)? {
            return Ok(Some(region));
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(None);
        }
        // Transfers may be over with nobody to look, and their memory free.
        let turn = if progress_all() { rest.min(LOOK) } else { rest };
        if event.wait(ruby, Some(left.map_or(turn, |left| left.min(turn))))? {
            continue;
        }
        rest -= turn;
        if !rest.is_zero() {
            continue;
        }
        ruby.gc_start();
        if pause >= PATIENCE {
            if let Some(region) = this.pool.checkout().or_raise(ruby)? {
                return Ok(Some(region));
            }
        }
        pause = (pause * 2).min(COLLECT_AT_LAST);
        rest = pause;
    }
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Pool", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.singleton_class()?.define_private_method("native_new", function!(native_new, 5))?;
    class.define_method("count", method!(|this: &Pool| this.pool.count(), 0))?;
    class.define_method("size", method!(|this: &Pool| this.pool.size(), 0))?;
    class.define_method("available", method!(available, 0))?;
    class.define_private_method("native_checkout", method!(native_checkout, 1))?;
    Ok(())
}
