//! Memory that the kernel has been told of beforehand (io_uring_register(2), IORING_REGISTER_BUFFERS2): its pages are found and held
//! in place once, instead of with every operation.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::{Arc, Weak};

use nix::errno::Errno;

use super::ring::{memlock, Ring};
use crate::engine::Stats;
use crate::error::errno;
use crate::memory::{Hold, Span};
use crate::sync::{lock, Mutex};

/// How many parts of pools one ring holds, of 2 MiB or a region each.
const PARTS: u16 = 4096;

/// The memory that is registered with one ring: parts of pools, each from the first operation on it until its pages go.
///
/// Other memory is not: it is mostly used once, where finding its pages for that is cheaper.
#[derive(Debug)]
pub(super) struct Arena {
    ring: Arc<Ring>,
    table: Mutex<Table>,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Table {
    /// By address, the length of each part and its number in the kernel's table.
    parts: BTreeMap<usize, (usize, u16)>,
    /// Numbers that were used before.
    free: Vec<u16>,
    /// How many were ever used.
    used: u16,
    /// The kernel took one part not, and will not take the next.
    refused: bool,
}

impl Arena {
    pub fn new(ring: Arc<Ring>, stats: Arc<Stats>) -> Arc<Arena> {
        Arc::new(Arena { ring, table: Mutex::default(), stats })
    }

    /// The number of the registered part that has all of `span`; `None` where there is none, and none can be made.
    pub fn find(self: &Arc<Self>, span: &Span) -> Option<u16> {
        let (start, len) = span.region().held_with()?;
        let mut table = lock(&self.table);
        if let Some((_, index)) = table.parts.get(&start) {
            return Some(*index);
        }
        if table.refused {
            return None;
        }
        match self.register(&mut table, start, len) {
            Ok(index) => {
                let hold: Weak<Arena> = Arc::downgrade(self);
                span.region().pages().held_by(hold);
                Some(index)
            }
            Err(why) => {
                table.refused = true;
                let _ = self.stats.registration_error.set(why);
                None
            }
        }
    }

    fn register(&self, table: &mut Table, start: usize, len: usize) -> Result<u16, String> {
        if table.used == 0 {
            let made = self.ring.submitter().register_buffers_sparse(PARTS.into());
            made.map_err(|error| format!("cannot register memory with io_uring: {error}; Linux 5.19 or newer can"))?;
        }
        let index = match table.free.pop() {
            Some(index) => index,
            None if table.used < PARTS => table.used,
            None => {
                return Err(format!("{PARTS} parts of pools are registered with one io_uring already; use fewer pools"))
            }
        };
        table.used = table.used.max(index + 1);
        self.update(index, start as *mut libc::c_void, len).map_err(|errno| refusal(errno, len))?;
        table.parts.insert(start, (len, index));
        Ok(index)
    }

    fn update(&self, index: u16, start: *mut libc::c_void, len: usize) -> Result<(), Errno> {
        let part = libc::iovec { iov_base: start, iov_len: len };
        // SAFETY: the part is of live pages, which tell of it before they go; or it is none, which ends the one there was.
        let done = unsafe { self.ring.submitter().register_buffers_update(index.into(), &[part], None) };
        done.map_err(|error| errno(&error))
    }
}

impl Hold for Arena {
    fn holds(&self, start: usize, len: usize) -> bool {
        let table = lock(&self.table);
        let mut at = start;
        // Parts of one pool follow each other.
        while let Some((first, (size, _))) = table.parts.range(..=at).next_back() {
            if first + size <= at {
                return false;
            }
            at = first + size;
            if at >= start + len {
                return true;
            }
        }
        false
    }

    fn let_go(&self, start: usize, len: usize) {
        let mut table = lock(&self.table);
        let gone: Vec<_> = table.parts.range(start..start + len).map(|(first, (_, index))| (*first, *index)).collect();
        for (first, index) in gone {
            table.parts.remove(&first);
            // What cannot be taken back is not used for anything else.
            if self.update(index, ptr::null_mut(), 0).is_ok() {
                table.free.push(index);
            }
        }
    }
}

fn refusal(errno: Errno, len: usize) -> String {
    format!(
        "cannot register {len} bytes more with io_uring: {}; {}; until then every operation finds its memory anew, which costs some \
         CPU",
        errno.desc(),
        memlock()
    )
}
