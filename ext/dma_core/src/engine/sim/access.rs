//! How the machine reaches memory: by bus address, for as long as a mapping lasts, and its devices' own by offset.

use std::ptr;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::Arc;
use std::thread;

use super::port::Common;
use super::space::{IommuStats, Placed, Reason, Space, Want};
use crate::error::Result;
use crate::memory::processor::Processor;
use crate::memory::{Region, Span};
use crate::ring;
use crate::sync::{lock, Mutex, MutexGuard};
use crate::transfer::{Access, Descriptor, Status};

/// The bus addresses of a device, or of all devices of a machine. Drivers map and unmap while the machine moves bytes: it does not
/// keep the table locked meanwhile, but says which mapping it is using.
#[derive(Debug)]
pub(super) struct Addresses {
    space: Mutex<Space>,
    /// The mapping that bytes are moved through at this moment; 0: none. One at a time, for a machine has one bus.
    used: AtomicU64,
    /// What the CPU has of the memory.
    processor: Option<Arc<Processor>>,
    /// See [`Space::own`].
    own: Option<Arc<Region>>,
    /// Words that the CPU copied to and from bounce buffers.
    words: AtomicU64,
}

/// Bytes that the CPU copies at once.
const WORD: u64 = 8;

impl Addresses {
    pub(super) fn new(space: Space, processor: Option<Arc<Processor>>) -> Addresses {
        let own = space.own();
        Addresses { space: Mutex::new(space), used: AtomicU64::new(0), processor, own, words: AtomicU64::new(0) }
    }

    /// See [`Space::map_as`].
    pub(super) fn map_as(&self, span: Span, access: Access, bits: u32, want: Want) -> Result<Placed> {
        self.change(|space| space.map_as(span, access, bits, want))
    }

    /// See [`Space::map_again`].
    pub(super) fn map_again(&self, span: &Span, access: Access, bits: u32) -> Option<(u64, Vec<(u64, u64)>)> {
        self.lock().map_again(span, access, bits)
    }

    /// Takes a mapping away, once a burst through it is over.
    pub(super) fn unmap(&self, id: u64) {
        let gone = self.change(|space| {
            // The burst needs the table no more, and what it writes is there when its memory goes.
            self.wait_while(|used| used == id);
            space.unmap(id)
        });
        drop(gone);
    }

    /// See [`Space::flush`].
    pub(super) fn flush(&self) {
        self.change(Space::flush);
    }

    /// See [`Space::iommu_stats`].
    pub(super) fn iommu_stats(&self) -> Option<IommuStats> {
        self.change(Space::iommu_stats)
    }

    /// See [`Space::reason`].
    pub(super) fn reason(&self, address: u64, access: Access) -> Reason {
        self.lock().reason(address, access)
    }

    /// Changes the table. Memory that it forgets by that goes once a burst through it is over.
    fn change<T>(&self, work: impl FnOnce(&mut Space) -> T) -> T {
        let mut space = self.lock();
        let result = work(&mut space);
        let forgotten = space.forgotten();
        drop(space);
        self.wait_while(|used| forgotten.iter().any(|one| one.id == used));
        result
    }

    fn wait_while(&self, is_meant: impl Fn(u64) -> bool) {
        while is_meant(self.used.load(Acquire)) {
            thread::yield_now();
        }
    }

    /// See [`Space::migrate`].
    pub(super) fn migrate(&self, most: usize) -> usize {
        self.change(|space| {
            // The bytes of a burst that is under way are where they were.
            self.wait_while(|used| used != 0);
            space.migrate(most)
        })
    }

    /// Memory of the machine's own, see [`Space::own`].
    pub(super) fn own(&self) -> Option<&Arc<Region>> {
        self.own.as_ref()
    }

    /// The CPU has copied so many bytes of it.
    pub(super) fn copied(&self, bytes: u64) {
        self.words.fetch_add(bytes.div_ceil(WORD), Relaxed);
    }

    /// Words that the CPU has copied.
    pub(super) fn words(&self) -> u64 {
        self.words.load(Relaxed)
    }

    /// How many mappings there are.
    pub(super) fn mappings(&self) -> usize {
        self.lock().mappings()
    }

    /// Runs `work` on the host address of up to `len` bytes at bus address `address`; how many bytes it was given.
    fn with(&self, address: u64, len: u64, access: Access, work: impl FnOnce(*mut u8, usize)) -> Result<u64, Status> {
        let mut space = self.lock();
        let (host, len, id) = space.translate(address, len, access)?;
        // Whoever takes the mapping away after this sees that it is used. Who sees this instead of the 0 of the burst before sees
        // as well that that one is over.
        self.used.store(id, Release);
        drop(space);
        self.touch(access, host, len as usize, || work(host, len as usize));
        self.used.store(0, Release);
        Ok(len)
    }

    /// Has a device do something to host memory, as the CPU's caches let it.
    fn touch<T>(&self, access: Access, host: *mut u8, len: usize, work: impl FnOnce() -> T) -> T {
        match &self.processor {
            None => work(),
            Some(processor) => processor.device(access, host as usize, len, work),
        }
    }

    /// See [`Space::lie_together`].
    pub(super) fn lie_together(&self, address: u64, len: u64, access: Access) -> bool {
        self.lock().lie_together(address, len, access)
    }

    fn lock(&self) -> MutexGuard<'_, Space> {
        lock(&self.space)
    }
}

/// What a channel does to memory. The caller checked ranges of the device against its size; no one else reaches its memory.
impl Common {
    /// A place in the device's memory.
    pub(super) fn device(&self, offset: u64) -> *mut u8 {
        (self.memory.address() as u64 + offset) as *mut u8
    }

    /// Moves up to `len` bytes from bus address `from`: as many as lie together in host memory.
    pub(super) fn copy_in(&self, from: u64, to: u64, len: u64) -> Result<u64, Status> {
        self.addresses.with(from, len, Access::Read, |host, len| {
            // SAFETY: the address space says that `len` bytes are there, and they stay while the mapping is used.
            unsafe { ptr::copy_nonoverlapping(host, self.device(to), len) };
        })
    }

    /// Moves up to `len` bytes to bus address `to`: as many as lie together in host memory.
    pub(super) fn copy_out(&self, from: u64, to: u64, len: u64) -> Result<u64, Status> {
        self.addresses.with(to, len, Access::Write, |host, len| {
            // SAFETY: the address space says that `len` bytes are there, and they stay while the mapping is used.
            unsafe { ptr::copy_nonoverlapping(self.device(from), host, len) };
        })
    }

    /// Writes the same byte up to `len` times from bus address `to` on: what a bus brings that nobody drives.
    pub(super) fn fill(&self, to: u64, len: u64, byte: u8) -> Result<u64, Status> {
        self.addresses.with(to, len, Access::Write, |host, len| {
            // SAFETY: the address space says that `len` bytes are there, and they stay while the mapping is used.
            unsafe { ptr::write_bytes(host, byte, len) };
        })
    }

    /// The byte at bus address `from`.
    pub(super) fn peek(&self, from: u64) -> Result<u8, Status> {
        let mut byte = 0;
        self.addresses.with(from, 1, Access::Read, |host, _| {
            // SAFETY: the address space says that a byte is there, and it stays while the mapping is used.
            byte = unsafe { ptr::read(host) };
        })?;
        Ok(byte)
    }

    /// Moves `len` bytes inside the device, as if they had been held in between.
    pub(super) fn within(&self, from: u64, to: u64, len: u64) {
        // SAFETY: both ranges lie in the device's memory.
        unsafe { ptr::copy(self.device(from), self.device(to), len as usize) };
    }

    /// Reads the descriptor at bus address `at`.
    pub(super) fn fetch(&self, at: u64) -> Result<Descriptor, Status> {
        let (mut space, size) = (self.addresses.lock(), Descriptor::SIZE as u64);
        let (host, len, _) = space.translate(at, size, Access::Read)?;
        let whole = len == size || {
            // It may lie across a page; a ring's pages lie together in host memory.
            let (rest, more, _) = space.translate(at + len, size - len, Access::Read)?;
            more == size - len && rest as u64 == host as u64 + len
        };
        if !whole || host as usize % align_of::<Descriptor>() != 0 {
            return Err(Status::DescriptorError);
        }
        // SAFETY: the address space says that the bytes are there, and they stay while it is locked.
        Ok(self.addresses.touch(Access::Read, host, Descriptor::SIZE, || unsafe { ring::fetch(host) }))
    }

    /// Writes the status of the descriptor at bus address `at` back.
    pub(super) fn write_back(&self, at: u64, status: Status) -> Result<(), Status> {
        let mut space = self.addresses.lock();
        match space.translate(at + Descriptor::STATUS as u64, 4, Access::Write)? {
            // SAFETY: the address space says that the four bytes are there, aligned as when they were fetched, and they stay
            // while it is locked.
            (host, 4, _) => self.addresses.touch(Access::Write, host, 4, || unsafe { ring::write_back(host, status) }),
            _ => return Err(Status::DescriptorError),
        }
        Ok(())
    }
}
