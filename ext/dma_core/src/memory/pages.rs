//! A mapping of pages: allocated, locked, guarded against fork, given back once.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use crate::error::{errno, Error, Result};
use crate::sys;

/// Whether memory is locked against swapping. Locking does not stop the kernel from moving a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Every page is brought in and locked now; past RLIMIT_MEMLOCK that is an error.
    Now,
    /// Every page is locked when it is first touched, if the limit allows; [`Pages::residency`] tells.
    Auto,
    /// Not locked.
    Never,
}

/// Whether memory lies in 2 MiB pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Huge {
    /// From 2 MiB up: aligned to 2 MiB and advised (MADV_HUGEPAGE); the kernel may still give small pages.
    Auto,
    /// From the reserved huge pages (MAP_HUGETLB), or an error.
    Require,
    /// Never advised.
    Never,
}

/// How an allocation is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes asked for; zero gives one page of which nothing is usable.
    pub size: usize,
    /// Alignment of the first byte: a power of two, raised to the page size where it is smaller.
    pub align: usize,
    /// Huge pages.
    pub huge: Huge,
}

impl Layout {
    /// `size` bytes, page-aligned, huge pages from 2 MiB up.
    pub fn new(size: usize) -> Self {
        Layout { size, align: sys::page_size(), huge: Huge::Auto }
    }
}

/// What is known of where memory is, never better than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// The kernel may swap it out and move it.
    Pageable,
    /// The kernel may move it but not swap it out (mlock2(2)).
    Locked,
    /// A device holds it where it is.
    Pinned,
}

/// Who holds pages where they are.
pub trait Hold: Send + Sync + fmt::Debug {
    /// Whether it holds every page of the range.
    fn holds(&self, start: usize, len: usize) -> bool;
    /// The memory goes, and nothing uses it: it is held no longer when this returns.
    fn let_go(&self, start: usize, len: usize);
}

/// Pages of private, zeroed memory, or memory of somebody else that is only looked after.
///
/// Nobody makes a Rust reference to these bytes: the kernel, a device and other threads write to them. They are reached by raw
/// copies only. A child of fork finds the pages wiped (MADV_WIPEONFORK) or gone (huge pages, MADV_DONTFORK), and is refused.
#[derive(Debug)]
pub struct Pages {
    storage: Storage,
    start: usize,
    len: usize,
    huge: bool,
    locked: AtomicBool,
    holds: Mutex<Vec<Weak<dyn Hold>>>,
    generation: u32,
}

#[derive(Debug)]
enum Storage {
    Mapped(ManuallyDrop<MmapRaw>),
    Foreign,
}

impl Pages {
    /// Maps zeroed pages.
    ///
    /// # Errors
    /// [`Error::Alignment`] where `align` is no power of two; [`Error::Argument`] where size and alignment pass the address
    /// space; [`Error::Os`] (ENOMEM) where the system has no such memory.
    pub fn allocate(layout: Layout) -> Result<Pages> {
        let Layout { size, align, huge } = layout;
        check_alignment(align)?;
        let advise = huge == Huge::Auto && size >= sys::HUGE_PAGE;
        let page = if huge == Huge::Require { sys::HUGE_PAGE } else { sys::page_size() };
        let align = align.max(if advise { sys::HUGE_PAGE } else { page });
        let too_big = || Error::Argument(format!("{size} bytes aligned to {align} do not fit the address space"));
        let len = size.max(1).checked_next_multiple_of(page).ok_or_else(too_big)?;
        // A mapping starts at a page: room for the first aligned address is mapped too, and never touched.
        let total = len.checked_add(align - page).filter(|n| *n <= isize::MAX as usize).ok_or_else(too_big)?;
        let mut options = MmapOptions::new();
        options.len(total);
        if huge == Huge::Require {
            options.huge(Some(21)); // log2 of 2 MiB
        }
        let map: MmapRaw = options.map_anon().map_err(|e| map_error(&e, layout))?.into();
        let first = map.as_mut_ptr() as usize;
        let start = first.next_multiple_of(align);
        // SAFETY: the range lies in the new mapping, and no advice given here changes what this process reads from it.
        let advice = |advice| unsafe { sys::madvise(start as *mut u8, len, advice) };
        if advise {
            sys::allow_advised_huge_pages();
            // EINVAL: a kernel without transparent huge pages, where :auto means small ones.
            let _ = advice(libc::MADV_HUGEPAGE);
        }
        let guard = if huge == Huge::Require { libc::MADV_DONTFORK } else { libc::MADV_WIPEONFORK };
        advice(guard).map_err(|errno| Error::os(errno, format!("cannot guard {len} bytes against fork")))?;
        Ok(Pages {
            storage: Storage::Mapped(ManuallyDrop::new(map)),
            start,
            len,
            huge: huge == Huge::Require,
            locked: AtomicBool::new(false),
            holds: Mutex::default(),
            generation: sys::fork_generation(),
        })
    }

    /// Looks after memory that exists already. It is never locked and never given back from here.
    ///
    /// # Safety
    /// `[address, address + len)` must stay valid for reading and writing until the value is dropped.
    pub unsafe fn foreign(address: usize, len: usize) -> Result<Pages> {
        if address == 0 || address.checked_add(len).is_none() {
            return Err(Error::Argument(format!("{len} bytes at address {address:#x} are no memory")));
        }
        let generation = sys::fork_generation();
        Ok(Pages {
            storage: Storage::Foreign,
            start: address,
            len,
            huge: false,
            locked: AtomicBool::new(false),
            holds: Mutex::default(),
            generation,
        })
    }

    /// Locks the pages as `lock` says.
    ///
    /// # Errors
    /// With [`Lock::Now`] only: [`Error::LockLimit`] past RLIMIT_MEMLOCK, [`Error::Os`] otherwise.
    pub fn lock(&self, lock: Lock) -> Result<()> {
        if lock == Lock::Never {
            return Ok(());
        }
        // SAFETY: the range is this mapping.
        match unsafe { sys::mlock(self.start as *const u8, self.len, lock == Lock::Auto) } {
            Ok(()) => self.locked.store(true, Ordering::Relaxed),
            Err(errno) if lock == Lock::Now => return Err(lock_error(errno, self.len as u64, false)),
            Err(_) => {}
        }
        Ok(())
    }

    /// Gives the memory back while its addresses stay: whoever still reaches them meets fresh zeros. False where it could not.
    pub fn discard(&self) -> bool {
        if matches!(self.storage, Storage::Foreign) || self.check().is_err() {
            return false;
        }
        // A device would go on with the old pages.
        self.let_go();
        // SAFETY: the range is this mapping, whose bytes nobody wants any more.
        let given = unsafe {
            let _ = sys::munlock(self.start as *const u8, self.len);
            sys::madvise(self.start as *mut u8, self.len, libc::MADV_DONTNEED)
        };
        self.locked.store(false, Ordering::Relaxed);
        given.is_ok()
    }

    /// What keeps `[start, start + len)`, by address, in memory.
    pub fn residency(&self, start: usize, len: usize) -> Residency {
        // One of them may be the last of its kind, which is not dropped under the lock.
        let holds: Vec<_> = self.holds().iter().filter_map(Weak::upgrade).collect();
        if holds.iter().any(|hold| hold.holds(start, len)) {
            Residency::Pinned
        } else if self.locked.load(Ordering::Relaxed) {
            Residency::Locked
        } else {
            Residency::Pageable
        }
    }

    /// Whether the memory was allocated here.
    pub fn is_ours(&self) -> bool {
        !matches!(self.storage, Storage::Foreign)
    }

    /// `hold` is told before the pages go.
    pub(crate) fn held_by(&self, hold: Weak<dyn Hold>) {
        let mut holds = self.holds();
        holds.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&hold));
        holds.push(hold);
    }

    /// Unlocks a range that is about to be pinned.
    pub(crate) fn unlock_for_pin(&self, start: usize, len: usize) {
        if self.locked.load(Ordering::Relaxed) {
            // SAFETY: whole pages of this mapping, since only those are ever locked.
            let _ = unsafe { sys::munlock(start as *const u8, len) };
        }
    }

    /// Locks a range again that was pinned meanwhile, or says that not all is locked any more.
    pub(crate) fn lock_again(&self, start: usize, len: usize) {
        if !self.locked.load(Ordering::Relaxed) || self.check().is_err() {
            return;
        }
        // SAFETY: as in `unlock_for_pin`.
        if unsafe { sys::mlock(start as *const u8, len, true) }.is_err() {
            self.locked.store(false, Ordering::Relaxed);
        }
    }

    /// What was pinned is not locked again when it is let go of: others need the room.
    pub(crate) fn stay_unlocked(&self) {
        self.locked.store(false, Ordering::Relaxed);
    }

    fn let_go(&self) {
        let holds = std::mem::take(&mut *self.holds());
        holds.iter().filter_map(Weak::upgrade).for_each(|hold| hold.let_go(self.start, self.len));
    }

    fn holds(&self) -> MutexGuard<'_, Vec<Weak<dyn Hold>>> {
        // Nothing that panics runs under the lock.
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Address of the first byte.
    pub fn address(&self) -> usize {
        self.start
    }

    /// Length in bytes, a multiple of the page size for memory of our own.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: even an allocation of zero bytes has a page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of `[offset, offset + len)` that huge pages back at this moment.
    pub fn huge_bytes(&self, offset: usize, len: usize) -> usize {
        sys::huge_bytes(self.start + offset, len)
    }

    /// The physical segments behind `[offset, offset + len)` as (address, length), neighbours merged. Pages that were never
    /// touched are brought in first. A frame may move at any time unless a device or the kernel holds it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without CAP_SYS_ADMIN, or for memory that is not ours; [`Error::Os`] otherwise.
    pub fn segments(&self, offset: usize, len: usize) -> Result<Vec<(u64, u64)>> {
        self.check()?;
        if matches!(self.storage, Storage::Foreign) {
            return Err(Error::Unsupported("physical segments are known of memory allocated here only".into()));
        }
        if len == 0 {
            return Ok(Vec::new());
        }
        let page = sys::page_size();
        let first = (self.start + offset) / page * page;
        let last = (self.start + offset + len).next_multiple_of(page);
        // SAFETY: whole pages of this private, writable, anonymous mapping.
        let frames = unsafe { sys::page_frames(first as *mut u8, last - first) }.map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => Error::Unsupported(
                "physical addresses are shown to CAP_SYS_ADMIN only: run as root, or give the program that capability"
                    .into(),
            ),
            errno => Error::os(errno, format!("cannot read the page map of {len} bytes")),
        })?;
        let mut segments: Vec<(u64, u64)> = Vec::new();
        let (mut skip, mut left) = ((self.start + offset - first) as u64, len as u64);
        for frame in frames {
            let (address, bytes) = (frame * page as u64 + skip, (page as u64 - skip).min(left));
            match segments.last_mut() {
                Some(last) if last.0 + last.1 == address => last.1 += bytes,
                _ => segments.push((address, bytes)),
            }
            (skip, left) = (0, left - bytes);
        }
        Ok(segments)
    }

    /// Refuses the child of a fork, where the pages are wiped or gone.
    pub fn check(&self) -> Result<()> {
        if self.generation == sys::fork_generation() {
            return Ok(());
        }
        Err(Error::Closed("this memory belongs to the parent process; allocate anew after fork".into()))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // The child of a fork has none of the parent's devices, and may find their locks held.
        if self.check().is_ok() {
            self.let_go();
        }
        if let Storage::Mapped(map) = &mut self.storage {
            // In a child of fork the mapping may be gone (MADV_DONTFORK) and its addresses reused.
            if self.generation == sys::fork_generation() || !self.huge {
                // SAFETY: dropped here only, and never used after.
                unsafe { ManuallyDrop::drop(map) };
            }
        }
    }
}

/// Refuses an alignment that is no power of two.
pub(super) fn check_alignment(align: usize) -> Result<()> {
    if align.is_power_of_two() {
        return Ok(());
    }
    Err(Error::Alignment(format!("alignment {align} is not a power of two")))
}

fn map_error(error: &std::io::Error, Layout { size, align, huge }: Layout) -> Error {
    let what = format!("cannot map {size} bytes aligned to {align}");
    let hint = match huge {
        Huge::Require => " in reserved huge pages; reserve more (sysctl vm.nr_hugepages), or use huge: :auto",
        _ => "",
    };
    Error::os(errno(error), format!("{what}{hint}"))
}

/// What VFIO meant by ENOMEM: memory that is pinned counts as locked.
pub(crate) fn pin_error(needed: u64) -> Error {
    match lock_error(Errno::ENOMEM, needed, true) {
        Error::Os { errno, .. } => Error::os(errno, format!("cannot pin {needed} bytes for a device")),
        error => error,
    }
}

/// What mlock2(2) meant: the limit, where it was passed.
pub(super) fn lock_error(errno: Errno, needed: u64, for_device: bool) -> Error {
    let locked = sys::locked_bytes();
    match sys::memlock_limit() {
        // ENOMEM and EPERM (a limit of zero) are how mlock2(2) says it; EAGAIN is memory that could not be had.
        Some(limit) if errno != Errno::EAGAIN && needed.saturating_add(locked) > limit => {
            Error::LockLimit { needed, locked, limit, for_device }
        }
        _ => Error::os(errno, format!("cannot lock {needed} bytes")),
    }
}

#[cfg(test)]
mod tests;
