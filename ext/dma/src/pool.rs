//! `DMA::Pool`: buffers that come back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dma_core::memory::{Pool as CorePool, Waiter};
use magnus::{function, gc, method, prelude::*, DataTypeFunctions, Error, RModule, Ruby, TypedData, Value};

use crate::buffer::{account, huge_from, lock_from, with_memory, Buffer};
use crate::error::OrRaise;
use crate::port::Event;

/// How often a waiting checkout looks for buffers that were dropped: only the GC can tell.
const COLLECT: Duration = Duration::from_secs(1);

#[derive(TypedData)]
#[magnus(class = "DMA::Pool", free_immediately, mark, size)]
struct Pool {
    pool: CorePool,
    align: usize,
    /// Waiters that nobody uses now, with the IO objects they are waited for on.
    idle: Mutex<Vec<(Waiter, Event)>>,
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<(Waiter, Event)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, ruby: &Ruby) -> Result<Option<Buffer>, Error> {
        let region = self.pool.checkout().or_raise(ruby)?;
        Ok(region.map(|region| {
            let len = region.len();
            Buffer::over(region, 0, len, self.align)
        }))
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

fn native_new(ruby: &Ruby, count: usize, size: usize, align: usize, lock: Value, huge: Value) -> Result<Pool, Error> {
    let (lock, huge) = (lock_from(ruby, lock)?, huge_from(ruby, huge)?);
    let pool = with_memory(ruby, || CorePool::new(count, size, align, huge, lock))?;
    account(ruby, pool.pages().len())?;
    let align = align.max(dma_core::sys::page_size());
    Ok(Pool { pool, align, idle: Mutex::new(Vec::new()) })
}

/// Takes a buffer; waits for one up to `timeout` seconds, or for ever with `nil`. `None`: there was none in time.
fn native_checkout(ruby: &Ruby, this: &Pool, timeout: Option<f64>) -> Result<Option<Buffer>, Error> {
    if let Some(buffer) = this.take(ruby)? {
        return Ok(Some(buffer));
    }
    // Buffers that were dropped without being freed are garbage, which nothing else may collect soon.
    ruby.gc_start();
    let timeout = timeout.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
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
    let result = wait(ruby, this, &waiter, event, deadline);
    this.pool.leave(&waiter);
    this.idle().push((waiter, event));
    result
}

fn wait(
    ruby: &Ruby,
    this: &Pool,
    waiter: &Waiter,
    event: Event,
    deadline: Option<Instant>,
) -> Result<Option<Buffer>, Error> {
    loop {
        this.pool.enter(waiter);
        if let Some(buffer) = this.take(ruby)? {
            return Ok(Some(buffer));
        }
        let left = deadline.map_or(COLLECT, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Ok(None);
        }
        if !event.wait(ruby, Some(left.min(COLLECT)))? {
            ruby.gc_start();
        }
    }
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let class = dma.define_class("Pool", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.singleton_class()?.define_private_method("native_new", function!(native_new, 5))?;
    class.define_method("count", method!(|this: &Pool| this.pool.count(), 0))?;
    class.define_method("size", method!(|this: &Pool| this.pool.size(), 0))?;
    class.define_method("available", method!(|this: &Pool| this.pool.available(), 0))?;
    class.define_private_method("native_checkout", method!(native_checkout, 1))?;
    Ok(())
}
