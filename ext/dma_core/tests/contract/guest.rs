//! The engines of the laboratory in spec/guest: the functions that its README lists.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use dma_core::device::Device;
use dma_core::engine::vfio::Options;
use dma_core::engine::{Cache, Manner};
use dma_core::transfer::Status;

use crate::cases::{read, write, GRACE};
use crate::engines::{is_guest, Bench, Skip, NEVER_FAILS, NEVER_HANGS};
use crate::rig::{Effort, Rig};
use crate::support::region;

static EDU: Function = Function::new("0000:00:06.0");
static DISK: Function = Function::new("0000:00:07.0");
static OTHER_DISK: Function = Function::new("0000:00:09.0");

/// A PCI function, taken from whoever has it. It stays open for the cases that follow: the kernel
/// resets it when it is opened and when it is closed, which takes longer than a case.
struct Function {
    address: &'static str,
    open: Mutex<Option<(Options, Arc<Device>)>>,
}

impl Function {
    const fn new(address: &'static str) -> Function {
        Function { address, open: Mutex::new(None) }
    }

    fn open(&self, options: Options) -> Arc<Device> {
        let mut open = self.open.lock().unwrap();
        if let Some((_, device)) = open.as_ref().filter(|(others, _)| *others == options) {
            // Its channels begin anew.
            device.enter();
            device.leave(GRACE);
            return Arc::clone(device);
        }
        *open = None;
        self.bind();
        let device = Device::open_pci(self.address, options).unwrap();
        Arc::clone(&open.insert((options, device)).1)
    }

    fn bind(&self) {
        let (address, bus) = (self.address, Path::new("/sys/bus/pci"));
        let function = bus.join("devices").join(address);
        let driver = fs::read_link(function.join("driver"));
        if driver.as_ref().is_ok_and(|driver| driver.ends_with("vfio-pci")) {
            return;
        }
        if driver.is_ok() {
            fs::write(function.join("driver/unbind"), address).unwrap();
        }
        fs::write(function.join("driver_override"), "vfio-pci").unwrap();
        fs::write(bus.join("drivers_probe"), address).unwrap();
    }
}

/// QEMU's educational device.
struct Edu;

impl Bench for Edu {
    fn name(&self) -> &'static str {
        "edu"
    }

    fn open(&self) -> Rig {
        let mut rig = Rig::new(EDU.open(Options::default()), Status::Complete);
        (rig.effort, rig.is_used) = (Effort::Few, true);
        rig
    }

    fn open_broken(&self, _block: usize) -> Result<Rig, Skip> {
        Err(NEVER_FAILS)
    }

    fn open_hanging(&self, _block: usize) -> Result<Rig, Skip> {
        Err(NEVER_HANGS)
    }
}

/// A namespace of an NVMe disk. Others of the same controller may fail to be read at one place, or take their time there.
struct Nvme {
    name: &'static str,
    function: &'static Function,
    namespace: u32,
    has_failing: bool,
}

/// The first of the namespaces of which one block cannot be read, in the order of the blocks.
const UNREADABLE: u32 = 3;
/// The namespace of which block 2 takes longer than an abort.
const SLOW: u32 = 11;

impl Nvme {
    fn open_namespace(&self, namespace: u32) -> Rig {
        let options = Options { namespace: Some(namespace), ..Options::default() };
        let mut rig = Rig::new(self.function.open(options), Status::MediumError);
        (rig.effort, rig.aborts) = (Effort::OneIn(5), true);
        rig
    }

    fn open_failing(&self, namespace: u32) -> Result<Rig, Skip> {
        match self.has_failing {
            true => Ok(self.open_namespace(namespace)),
            false => Err(Skip::Lacking("a namespace that fails: the laboratory's have blocks of 512 bytes")),
        }
    }
}

impl Bench for Nvme {
    fn name(&self) -> &'static str {
        self.name
    }

    fn open(&self) -> Rig {
        let mut rig = self.open_namespace(self.namespace);
        rig.is_used = true;
        rig
    }

    fn open_broken(&self, block: usize) -> Result<Rig, Skip> {
        self.open_failing(UNREADABLE + block as u32)
    }

    fn open_hanging(&self, _block: usize) -> Result<Rig, Skip> {
        self.open_failing(SLOW)
    }
}

/// The engines, in the order of `guest_table.txt`.
pub fn engines() -> Vec<Box<dyn Bench>> {
    let nvme = |name, function, namespace, has_failing| Nvme { name, function, namespace, has_failing };
    vec![
        Box::new(Edu),
        Box::new(nvme("nvme, blocks of 512 bytes", &DISK, 1, true)),
        Box::new(nvme("nvme, blocks of 4096 bytes", &OTHER_DISK, 2, false)),
    ]
}

/// What the channel refuses before, the disk refuses as well.
#[test]
fn a_block_past_the_end_is_the_disks_to_refuse() {
    if !is_guest() {
        eprintln!("left out: this computer is no guest of the laboratory");
        return;
    }
    let device = DISK.open(Options { namespace: Some(1), ..Options::default() });
    let (engine, memory) = (device.engine(), region(4096, 0xee));
    let (mut queue, size) = (engine.queue(1, 8).unwrap(), engine.limits().size);
    let operations = [
        (read(size, &memory, 0, 512), Status::BadSource),
        (write(size, &memory, 0, 512), Status::BadDestination),
        (read(size - 512, &memory, 0, 512), Status::Complete),
    ];
    for (tag, (op, status)) in (0..).zip(operations) {
        queue.push(tag, op, Manner { cache: Cache::Past, interrupt: true, linked: false }).unwrap();
        queue.kick();
        let mut ended = Vec::new();
        while ended.is_empty() {
            queue.reap(&mut ended);
        }
        assert_eq!((ended[0].tag, ended[0].status), (tag, status));
    }
}
