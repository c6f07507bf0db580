//! An open device as the cases use it: where they move bytes, how many, and how often.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use dma_core::channel::{Request, Shared};
use dma_core::device::Device;
use dma_core::engine::{sim, Limits};
use dma_core::memory::Region;
use dma_core::transfer::{Direction, Status};
use tempfile::TempDir;

use crate::cases::{carry_out, check_sums, filled, numbered, read, write, GRACE};
use crate::engines::{Server, SIZE};
use crate::support::{bytes, region, whole};

/// The most operations that all cases together ask of a device of [`Effort::Few`].
pub const BUDGET: u64 = 70;

/// Operations that such a device has carried out in this process.
pub static SPENT: AtomicU64 = AtomicU64::new(0);

/// How much the cases ask of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// One of so many rounds: 1 is all of them, more is for computers that are emulated.
    OneIn(usize),
    /// No more than it takes to say anything: a transfer lasts a tenth of a second.
    Few,
}

/// How many bytes of a device of `size` bytes the cases use, and how many of these are a block: what every large device reads
/// and writes without bouncing.
fn geometry(size: u64) -> (u64, u64) {
    let used = size.min(SIZE);
    (used, 4096.min(used / 16))
}

/// The device address of block `index`, of a device of `size` bytes: past what opening a file may read.
pub fn address(size: u64, index: usize) -> u64 {
    let (used, block) = geometry(size);
    used / 8 + index as u64 * block
}

/// An open device, and what the harness knows of it.
pub struct Rig {
    pub device: Arc<Device>,
    pub sim: Option<Arc<sim::Device>>,
    /// Mappings that a simulated device's driver keeps for each channel.
    pub mapped: usize,
    /// How a read ends that a broken device stops.
    pub failure: Status,
    /// Whether an operation that has begun can be ended. Otherwise it ends by itself, and has the memory until then.
    pub aborts: bool,
    pub effort: Effort,
    /// Whether others wrote to it before: no byte of it is known.
    pub is_used: bool,
    /// Who serves the file, where the kernel does not.
    pub server: Option<Server>,
    /// Where the file is.
    pub directory: Option<TempDir>,
    /// Operations before the case.
    before: u64,
}

impl Rig {
    /// A new device, on which the cases do all they can.
    pub fn new(device: Arc<Device>, failure: Status) -> Rig {
        let effort = Effort::OneIn(1);
        let (aborts, is_used) = (false, false);
        let mut rig = Rig {
            device,
            sim: None,
            mapped: 0,
            failure,
            aborts,
            effort,
            is_used,
            server: None,
            directory: None,
            before: 0,
        };
        rig.before = rig.operations();
        rig
    }

    /// Leaves bytes on the device that no case expects, and does not count the operation.
    pub fn use_up(&mut self) {
        self.device.enter();
        self.put(0, &vec![0x5a; self.size()]);
        self.device.leave(GRACE);
        (self.is_used, self.before) = (true, self.operations());
    }

    /// Channel 0.
    pub fn channel(&self) -> Arc<Shared> {
        self.device.channel(0).unwrap()
    }

    pub fn limits(&self) -> Limits {
        self.device.engine().limits()
    }

    /// How many bytes of it the cases use.
    pub fn size(&self) -> usize {
        geometry(self.limits().size).0 as usize
    }

    /// Bytes of a block.
    pub fn block(&self) -> usize {
        geometry(self.limits().size).1 as usize
    }

    /// The device address of block `index`.
    pub fn at(&self, index: usize) -> u64 {
        address(self.limits().size, index)
    }

    /// What offsets and lengths have to be a multiple of.
    pub fn grain(&self) -> u64 {
        let limits = self.limits();
        if limits.strict {
            limits.granule
        } else {
            1
        }
    }

    /// Whether only few transfers are to be made.
    pub fn is_slow(&self) -> bool {
        self.effort == Effort::Few
    }

    /// How many rounds a loop of `count` runs.
    pub fn rounds(&self, count: usize) -> usize {
        match self.effort {
            Effort::OneIn(rounds) => count.div_ceil(rounds),
            Effort::Few => 1,
        }
    }

    /// How many transfers or threads there are where `count` are wanted at once.
    pub fn burst(&self, count: usize) -> usize {
        if self.is_slow() {
            2
        } else {
            count
        }
    }

    /// Whether whoever waits runs the machine.
    pub fn is_manual(&self) -> bool {
        self.device.engine().clock().is_some()
    }

    /// Bytes that lie at `offset` before a case wrote there, as others than the engine see them; of a device that was used
    /// before only where [`Rig::clear`] made them so.
    pub fn original(&self, offset: u64, len: usize) -> Vec<u8> {
        self.server.as_ref().map_or_else(|| vec![0; len], |server| server.bytes[offset as usize..][..len].to_vec())
    }

    /// Makes bytes zero, unless they are so because nobody ever wrote to the device.
    pub fn clear(&self, offset: u64, len: usize) {
        if self.is_used {
            self.put(offset, &vec![0; len]);
        }
    }

    /// Writes `data` at `offset`.
    pub fn put(&self, offset: u64, data: &[u8]) {
        let source = filled(data);
        let outcome = carry_out(&self.channel(), write(offset, &source, 0, data.len()));
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, data.len()));
        assert_eq!(bytes(&source), data, "the source");
    }

    /// The bytes at `offset`.
    pub fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let target = region(len, 0);
        let outcome = carry_out(&self.channel(), Direction::FromDevice.op(offset, whole(&target)));
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len));
        bytes(&target)
    }

    /// Reads of a block each from `count` blocks, and the memory they go to.
    pub fn reads(&self, count: usize) -> Vec<(Arc<Region>, Request)> {
        let read_block = |index| {
            let target = region(self.block(), 0xee);
            let request = Request::new(read(self.at(index), &target, 0, self.block()));
            (target, request)
        };
        (0..count).map(read_block).collect()
    }

    /// Checks that a channel of the device does its work.
    pub fn check_works(&self, channel: &Shared) {
        // Farther from all others than a file is read ahead. Where transfers are few the write alone says it.
        let (len, spare) = (self.block(), self.at(40).min((self.size() - self.block()) as u64));
        let data = if self.is_used { numbered(len, 9) } else { self.original(spare, len) };
        if self.is_used {
            let outcome = carry_out(channel, write(spare, &filled(&data), 0, len));
            assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len));
        }
        if !self.is_slow() {
            let target = region(len, 0xee);
            let outcome = carry_out(channel, read(spare, &target, 0, len));
            assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len));
            assert_eq!(bytes(&target), data);
        }
    }

    /// Returns when a read hangs that was begun before.
    pub fn await_hang(&mut self) {
        if let Some(server) = &mut self.server {
            server.expect("held");
        }
    }

    /// Lets a read end that hangs, where an abort cannot.
    pub fn let_go(&self) {
        if let Some(server) = &self.server {
            server.let_go();
        }
    }

    /// Ends a case: nothing is under way, every transfer ended once, and nothing but rings is mapped.
    pub fn finish(self) {
        let channels = self.device.open_channels();
        for channel in &channels {
            assert_eq!(channel.pending().map(|pending| pending.len()), Ok(0), "a transfer was lost");
            check_sums(channel, 0);
            let moved = channel.counters().bytes.load(Relaxed);
            let seen = self.sim.as_ref().map_or(u64::MAX, |sim| sim.totals(channel.index()).1);
            assert!(moved <= seen, "the channel counts {moved} bytes, the device {seen}");
        }
        if let Some(sim) = &self.sim {
            assert_eq!(sim.mappings(), self.mapped * channels.len(), "what the driver of each channel keeps");
        }
    }

    /// How many operations the engine has carried out.
    fn operations(&self) -> u64 {
        let stats = self.device.engine().stats();
        stats.direct_requests.load(Relaxed) + stats.buffered_requests.load(Relaxed)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.is_slow() {
            SPENT.fetch_add(self.operations() - self.before, Relaxed);
        }
    }
}
