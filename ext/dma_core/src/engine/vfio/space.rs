//! Memory as a function reaches it: pinned, at bus addresses, whole allocations once and kept for the next transfer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::errno::Errno;

use super::container::Container;
use crate::engine::Mapping;
use crate::error::{Error, Result};
use crate::memory::{Hold, Pages, Span};
use crate::sys;
use crate::transfer::{Access, Op};

/// The bus addresses of one function.
#[derive(Debug)]
pub(super) struct Space {
    container: Arc<Container>,
    /// Addresses lie below this one.
    end: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// What transfers were given, by its first address; none lies in another one.
    kept: BTreeMap<usize, Arc<Pinned>>,
    /// What somebody mapped himself.
    own: Vec<Weak<Pinned>>,
}

impl Table {
    /// Takes out what transfers were given of a range; to be dropped when the table is not locked any more.
    fn take(&mut self, start: usize, len: usize) -> Vec<Arc<Pinned>> {
        let inside: Vec<_> = self.kept.range(start..start + len).map(|(at, _)| *at).collect();
        inside.iter().filter_map(|at| self.kept.remove(at)).collect()
    }
}

/// Whole pages that a function reaches; until it is dropped they stay where they are.
#[derive(Debug)]
pub(super) struct Pinned {
    container: Weak<Container>,
    pages: Weak<Pages>,
    start: usize,
    len: usize,
    iova: u64,
    access: Access,
}

impl Pinned {
    fn covers(&self, start: usize, len: usize, access: Access) -> bool {
        self.start <= start && start + len <= self.start + self.len && self.access.allows(access)
    }

    /// The bus address of memory in it.
    pub(super) fn address_of(&self, memory: *const u8) -> u64 {
        self.iova + (memory as usize - self.start) as u64
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Where the container is gone, the kernel has let go of everything with it.
        if let Some(container) = self.container.upgrade() {
            container.unmap(self.iova, self.len);
        }
        if let Some(pages) = self.pages.upgrade() {
            pages.lock_again(self.start, self.len);
        }
    }
}

impl Space {
    /// Addresses of `bits` bits.
    pub(super) fn new(container: Arc<Container>, bits: u32) -> Arc<Space> {
        let end = 1u64.checked_shl(bits).unwrap_or(u64::MAX);
        Arc::new(Space { container, end, table: Mutex::default() })
    }

    /// Memory for a transfer. The whole allocation that it lies in is mapped at once and stays so, if the limits allow; memory
    /// that is not ours is mapped for this transfer alone, since nobody tells when it goes.
    ///
    /// # Errors
    /// See [`Container::map`].
    pub(super) fn reach(self: &Arc<Self>, span: &Span, access: Access) -> Result<Arc<Pinned>> {
        let (at, len) = (span.address() as usize, span.len());
        if let Some(pinned) = self.find(at, len, access) {
            return Ok(pinned);
        }
        let pages = span.region().pages();
        if !pages.is_ours() {
            return self.pin(pages, at, len, access);
        }
        let whole = self.pin(pages, pages.address(), pages.len(), Access::Both);
        let pinned = match whole {
            // Another thread may have been first. Of what is larger than a limit, the part in hand may do, for as long as it is.
            Err(Error::LockLimit { .. } | Error::Os { errno: Errno::ENOSPC, .. }) => {
                return match self.find(at, len, access) {
                    Some(pinned) => Ok(pinned),
                    None => self.pin(pages, at, len, access),
                };
            }
            pinned => pinned?,
        };
        let mut table = self.table();
        let replaced = table.take(pinned.start, pinned.len);
        table.kept.insert(pinned.start, Arc::clone(&pinned));
        drop(table);
        drop(replaced);
        Ok(pinned)
    }

    /// Makes memory ready for a transfer, where it stays so: who submits the transfer learns what is in the way.
    pub(super) fn prepare(self: &Arc<Self>, op: &Op) -> Result<()> {
        let (span, access) = match op {
            Op::Read { span, .. } => (span, Access::Write),
            Op::Write { span, .. } => (span, Access::Read),
            _ => return Ok(()),
        };
        if span.is_empty() || !span.region().pages().is_ours() {
            return Ok(());
        }
        self.reach(span, access).map(drop)
    }

    /// Maps memory for somebody who ends it himself: with these rights, and at addresses of its own.
    pub(super) fn map(self: &Arc<Self>, span: Span, access: Access) -> Result<Arc<dyn Mapping>> {
        if span.is_empty() {
            return Err(Error::Argument("0 bytes of memory cannot be mapped".into()));
        }
        let pinned = self.pin(span.region().pages(), span.address() as usize, span.len(), access)?;
        let mut table = self.table();
        table.own.retain(|own| own.strong_count() > 0);
        table.own.push(Arc::downgrade(&pinned));
        drop(table);
        let segments = [(pinned.address_of(span.address()), span.len() as u64)];
        Ok(Arc::new(Own { segments, _pinned: pinned, _span: span }))
    }

    /// How many mappings there are.
    pub(super) fn mappings(&self) -> usize {
        let table = self.table();
        table.kept.len() + table.own.iter().filter(|own| own.strong_count() > 0).count()
    }

    fn find(&self, at: usize, len: usize, access: Access) -> Option<Arc<Pinned>> {
        let table = self.table();
        let kept = table.kept.range(..=at).next_back().map(|(_, pinned)| pinned);
        if let Some(pinned) = kept.filter(|pinned| pinned.covers(at, len, access)) {
            return Some(Arc::clone(pinned));
        }
        let own: Vec<_> = table.own.iter().filter_map(Weak::upgrade).collect();
        // One of them may be the last: it must not be dropped under the lock.
        drop(table);
        own.into_iter().find(|pinned| pinned.covers(at, len, access))
    }

    /// Maps the pages around `[at, at + len)`. Where limits stand in the way, what is kept and not in use makes room.
    fn pin(self: &Arc<Self>, pages: &Arc<Pages>, at: usize, len: usize, access: Access) -> Result<Arc<Pinned>> {
        let page = sys::page_size();
        let start = at - at % page;
        let len = (at + len).next_multiple_of(page) - start;
        // Locked pages would count twice against the limit.
        pages.unlock_for_pin(start, len);
        let mapped = loop {
            // SAFETY: the span that asks keeps the pages mapped as long as it is in use. Pages of ours tell `let_go` before they are
            // given back; others are not kept for longer than a span of theirs lives.
            match unsafe { self.container.map(start, len, access, self.end) } {
                Err(Error::LockLimit { .. } | Error::Os { errno: Errno::ENOSPC, .. }) if self.evict() => {}
                mapped => break mapped,
            }
        };
        let iova = mapped.inspect_err(|_| pages.lock_again(start, len))?;
        let hold: Weak<Space> = Arc::downgrade(self);
        pages.held_by(hold);
        let container = Arc::downgrade(&self.container);
        Ok(Arc::new(Pinned { container, pages: Arc::downgrade(pages), start, len, iova, access }))
    }

    /// Lets go of one allocation that no transfer uses; false where there is none.
    fn evict(&self) -> bool {
        let mut table = self.table();
        let idle = table.kept.iter().find(|(_, pinned)| Arc::strong_count(pinned) == 1).map(|(at, _)| *at);
        let evicted = idle.and_then(|at| table.kept.remove(&at));
        drop(table);
        if let Some(pages) = evicted.as_ref().and_then(|pinned| pinned.pages.upgrade()) {
            pages.stay_unlocked();
        }
        evicted.is_some()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that panics runs under the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold for Space {
    fn holds(&self, start: usize, len: usize) -> bool {
        self.find(start, len, Access::Read).is_some() || self.find(start, len, Access::Write).is_some()
    }

    fn let_go(&self, start: usize, len: usize) {
        let gone = self.table().take(start, len);
        drop(gone);
    }
}

/// What [`Space::map`] gave.
#[derive(Debug)]
struct Own {
    segments: [(u64, u64); 1],
    // Unmapped before the memory is let go of.
    _pinned: Arc<Pinned>,
    _span: Span,
}

impl Mapping for Own {
    fn segments(&self) -> &[(u64, u64)] {
        &self.segments
    }
}
