//! The engines that the contract is run on, and how each is made to fail.

use std::env;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use dma_core::device::Device;
use dma_core::engine::file::{Choice, Direct};
use dma_core::engine::sim::{
    self, Arbitration, Clock, DeviceOptions, Fault, Kind, Machine, MachineOptions, Timing, Trigger,
};
use dma_core::transfer::Status;
use dma_core::Errno;
use tempfile::TempDir;

use crate::guest;
use crate::rig::{address, Effort, Rig};
use crate::support::{region, whole};

/// Bytes of every device on this computer, and the most that the cases use of another.
pub const SIZE: u64 = 1 << 20;

/// Why a case does not run on an engine. The table says the same.
#[derive(Debug, PartialEq, Eq)]
pub enum Skip {
    /// The engine refuses what the case is about, with this error, which the case has asserted.
    Refused(&'static str),
    /// What the case needs cannot be had of the engine.
    Lacking(&'static str),
    /// It could be had, but not on this computer.
    Missing(String),
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skip::Refused(error) => write!(f, "refused: {error}"),
            Skip::Lacking(what) => write!(f, "lacking: {what}"),
            Skip::Missing(what) => write!(f, "missing: {what}"),
        }
    }
}

/// Of devices that cannot be made to fail.
pub const NEVER_FAILS: Skip = Skip::Lacking("failures: it reports none");
pub const NEVER_HANGS: Skip = Skip::Lacking("hangs: every transfer ends by itself");

/// What a case says of an engine.
pub type Verdict = Result<(), Skip>;

/// An engine of the contract.
pub trait Bench: Sync {
    /// What the table calls it.
    fn name(&self) -> &'static str;

    /// A device, which is closed when the rig is dropped.
    fn open(&self) -> Rig;

    /// One that can be read everywhere but where bytes of block `block` are in it, and that nobody has written to.
    fn open_broken(&self, block: usize) -> Result<Rig, Skip>;

    /// One of which a read of block `block` does not end, and that nobody has written to; it has a second channel.
    fn open_hanging(&self, block: usize) -> Result<Rig, Skip>;
}

/// A simulated machine with one device.
pub struct Simulated {
    pub name: &'static str,
    pub machine: MachineOptions,
    pub device: DeviceOptions,
}

impl Simulated {
    fn open_with(&self, fault: Option<(Kind, usize)>) -> Rig {
        let machine = Machine::new(self.machine).unwrap();
        let sim = sim::Device::new(&machine, self.device).unwrap();
        // A fault's address is one of the device or of the bus: from here on these are past those.
        drop(sim.map_ring(whole(&region(SIZE as usize, 0))).unwrap());
        if let Some((kind, block)) = fault {
            // What hangs does so once: the channel is to be of use again.
            let count = if kind == Kind::Hang { Some(1) } else { None };
            let trigger = Trigger::Address(address(self.device.memory, block));
            machine.inject(Fault { kind, trigger, device: None, channel: None, count });
        }
        let mut rig = Rig::new(Device::of_sim(&sim, self.name), Status::BusWriteError);
        // A ring and its chains, or an area to bounce through.
        rig.mapped = if sim.is_isa() { 1 } else { 2 };
        (rig.sim, rig.aborts) = (Some(sim), true);
        rig
    }
}

impl Bench for Simulated {
    fn name(&self) -> &'static str {
        self.name
    }

    fn open(&self) -> Rig {
        self.open_with(None)
    }

    fn open_broken(&self, block: usize) -> Result<Rig, Skip> {
        Ok(self.open_with(Some((Kind::BusError, block))))
    }

    fn open_hanging(&self, block: usize) -> Result<Rig, Skip> {
        Ok(self.open_with(Some((Kind::Hang, block))))
    }
}

/// A simulated device like the smallest and slowest there are: memory of a page that was written to, one channel, no errors to
/// be had, and few transfers to be made.
pub struct Small(Simulated);

impl Bench for Small {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn open(&self) -> Rig {
        let mut rig = self.0.open();
        rig.effort = Effort::Few;
        rig.use_up();
        rig
    }

    fn open_broken(&self, _block: usize) -> Result<Rig, Skip> {
        Err(NEVER_FAILS)
    }

    fn open_hanging(&self, _block: usize) -> Result<Rig, Skip> {
        Err(NEVER_HANGS)
    }
}

/// A file, on whatever file system the temporary directory is; one that misbehaves is served by a FUSE server.
pub struct File {
    pub name: &'static str,
    pub direct: Direct,
    pub choice: Choice,
}

impl Bench for File {
    fn name(&self) -> &'static str {
        self.name
    }

    fn open(&self) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![0; SIZE as usize]).unwrap();
        let mut rig = self.rig(&path);
        rig.directory = Some(directory);
        rig
    }

    fn open_broken(&self, block: usize) -> Result<Rig, Skip> {
        self.served(&format!("eio={}", address(SIZE, block)))
    }

    fn open_hanging(&self, block: usize) -> Result<Rig, Skip> {
        self.served(&format!("hang={}", address(SIZE, block)))
    }
}

impl File {
    fn served(&self, behaviour: &str) -> Result<Rig, Skip> {
        let server = Server::start(behaviour)?;
        let mut rig = self.rig(&server.file());
        rig.server = Some(server);
        Ok(rig)
    }

    fn rig(&self, path: &Path) -> Rig {
        Rig::new(Device::open(path, self.direct, self.choice).unwrap(), Status::Os(Errno::EIO))
    }
}

/// The file system of one file of spec/programs/fuse_server.rb, mounted until this is dropped.
pub struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    directory: TempDir,
    /// What the file has.
    pub bytes: Vec<u8>,
}

impl Server {
    fn start(behaviour: &str) -> Result<Server, Skip> {
        let missing = |what: &str| Err(Skip::Missing(what.into()));
        if !Path::new("/dev/fuse").exists() {
            return missing("/dev/fuse");
        }
        // SAFETY: it only reads the user of the process.
        if unsafe { libc::geteuid() } != 0 {
            return missing("root, who may mount");
        }
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/programs/fuse_server.rb");
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("ruby");
        command.arg(program).arg(directory.path()).arg(SIZE.to_string()).arg(behaviour).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else { return missing("ruby") };
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut server = Server { child, output, directory, bytes: Vec::new() };
        server.expect("ready");
        server.bytes = sample();
        Ok(server)
    }

    /// Waits for its next word, which is to be this one.
    pub fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word, "the FUSE server says something else");
    }

    /// Answers the reads that hang.
    pub fn let_go(&self) {
        let process = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGUSR1).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("file")
    }
}

/// The bytes that the FUSE server's file has.
fn sample() -> Vec<u8> {
    let program = format!("$stdout.binmode.write(Random.new(42).bytes({SIZE}))");
    let mut child = Command::new("ruby").arg("-e").arg(program).stdout(Stdio::piped()).spawn().unwrap();
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    bytes
}

impl Drop for Server {
    fn drop(&mut self) {
        // Reads that hang end with their server.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
    }
}

/// The engines of this computer, in the order of `table.txt`.
fn host() -> Vec<Box<dyn Bench>> {
    let ideal = |clock, iommu| MachineOptions { clock, iommu, seed: 1, ..MachineOptions::default() };
    let simulated = |name, machine, device| -> Box<dyn Bench> { Box::new(Simulated { name, machine, device }) };
    let sim = |name, clock, iommu, device| simulated(name, ideal(clock, iommu), device);
    let file = |name, direct, choice| -> Box<dyn Bench> { Box::new(File { name, direct, choice }) };
    let usual = DeviceOptions { memory: SIZE, ..DeviceOptions::default() };
    let strict = DeviceOptions { alignment: 64, max_segments: 4, ring_size: 8, ..usual };
    let small = DeviceOptions { memory: 4096, channels: 1, ring_size: 8, ..usual };
    let isa = DeviceOptions { memory: SIZE, ..DeviceOptions::isa() };
    vec![
        sim("sim, free clock, IOMMU", Clock::Free, true, usual),
        sim("sim, free clock, physical addresses", Clock::Free, false, usual),
        sim("sim, manual clock, IOMMU", Clock::Manual, true, usual),
        sim("sim, manual clock, physical addresses", Clock::Manual, false, usual),
        sim("sim, strict, small ring", Clock::Free, true, strict),
        sim("sim, strict, small ring, physical addresses", Clock::Free, false, strict),
        Box::new(Small(Simulated { name: "sim, small and slow", machine: ideal(Clock::Free, true), device: small })),
        sim("sim, 8237", Clock::Free, true, isa),
        sim("sim, 8237, manual clock", Clock::Manual, false, isa),
        simulated(
            "sim, PCI",
            MachineOptions {
                timing: Timing::PCI,
                cpu_load: 0.3,
                arbitration: Arbitration::RoundRobin { latency: 32 },
                ..ideal(Clock::Manual, false)
            },
            DeviceOptions { address_bits: 32, channels: 2, ..usual },
        ),
        simulated(
            "sim, PCI Express",
            MachineOptions { timing: Timing::PCIE, cpu_load: 0.3, ..ideal(Clock::Free, true) },
            DeviceOptions { prefetch: 8, ..usual },
        ),
        file("file, io_uring", Direct::Auto, Choice::Uring),
        file("file, io_uring, page cache", Direct::Never, Choice::Uring),
        file("file, threads", Direct::Auto, Choice::Threads),
        file("file, threads, page cache", Direct::Never, Choice::Threads),
    ]
}

/// Whether this computer is such a guest.
pub fn is_guest() -> bool {
    env::var_os("DMA_GUEST").is_some()
}

/// Every engine that the contract is to be run on.
pub fn all() -> Vec<Box<dyn Bench>> {
    if is_guest() {
        guest::engines()
    } else {
        host()
    }
}
