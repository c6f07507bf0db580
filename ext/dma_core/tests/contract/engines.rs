//! The engines that the contract is run on, and how each is made to fail.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use dma_core::device::Device;
use dma_core::engine::file::Direct;
use dma_core::engine::sim::{self, Clock, DeviceOptions, Fault, Kind, Machine, MachineOptions, Trigger};
use dma_core::transfer::Status;
use dma_core::Errno;
use tempfile::TempDir;

use crate::support::{region, whole};

/// Bytes of every device.
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

/// What a case says of an engine.
pub type Verdict = Result<(), Skip>;

/// An engine of the contract.
pub trait Bench: Sync {
    /// What the table calls it.
    fn name(&self) -> &'static str;

    /// A new device of [`SIZE`] bytes.
    fn open(&self) -> Rig;

    /// One that can be read everywhere but where bytes at device address `at` are in it.
    fn open_broken(&self, at: u64) -> Result<Rig, Skip>;

    /// One of which a read at device address `at` does not end.
    fn open_hanging(&self, at: u64) -> Result<Rig, Skip>;
}

/// An open device, and what the harness knows of it.
pub struct Rig {
    pub device: Arc<Device>,
    pub sim: Option<Arc<sim::Device>>,
    /// How a read ends that a broken device stops.
    pub failure: Status,
    server: Option<Server>,
    _directory: Option<TempDir>,
}

impl Rig {
    /// Bytes that lie at `offset` before anybody wrote there, as others than the engine see them.
    pub fn original(&self, offset: u64, len: usize) -> Vec<u8> {
        self.server.as_ref().map_or_else(|| vec![0; len], |server| server.bytes[offset as usize..][..len].to_vec())
    }

    /// Whether whoever waits runs the machine.
    pub fn is_manual(&self) -> bool {
        self.device.engine().clock().is_some()
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
            let process = nix::unistd::Pid::from_raw(server.child.id() as i32);
            nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGUSR1).unwrap();
        }
    }
}

/// A simulated machine with one device.
pub struct Simulated {
    pub name: &'static str,
    pub clock: Clock,
    pub iommu: bool,
    pub device: DeviceOptions,
}

impl Simulated {
    fn open_with(&self, kind: Option<(Kind, u64)>) -> Rig {
        let machine = Machine::new(MachineOptions { clock: self.clock, iommu: self.iommu, seed: 1 }).unwrap();
        let sim = sim::Device::new(&machine, DeviceOptions { memory: SIZE, ..self.device }).unwrap();
        // A fault's address is one of the device or of the bus: from here on these are past those.
        drop(sim.map_ring(whole(&region(SIZE as usize, 0))).unwrap());
        if let Some((kind, at)) = kind {
            // What hangs does so once: the channel is to be of use again.
            let count = if kind == Kind::Hang { Some(1) } else { None };
            machine.inject(Fault { kind, trigger: Trigger::Address(at), device: None, channel: None, count });
        }
        let device = Device::of_sim(&sim, self.name);
        Rig { device, sim: Some(sim), failure: Status::BusWriteError, server: None, _directory: None }
    }
}

impl Bench for Simulated {
    fn name(&self) -> &'static str {
        self.name
    }

    fn open(&self) -> Rig {
        self.open_with(None)
    }

    fn open_broken(&self, at: u64) -> Result<Rig, Skip> {
        Ok(self.open_with(Some((Kind::BusError, at))))
    }

    fn open_hanging(&self, at: u64) -> Result<Rig, Skip> {
        Ok(self.open_with(Some((Kind::Hang, at))))
    }
}

/// A file, on whatever file system the temporary directory is; one that misbehaves is served by a FUSE server.
pub struct File {
    pub name: &'static str,
    pub direct: Direct,
}

impl Bench for File {
    fn name(&self) -> &'static str {
        self.name
    }

    fn open(&self) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![0; SIZE as usize]).unwrap();
        let device = Device::open(&path, self.direct).unwrap();
        Rig { device, sim: None, failure: Status::Os(Errno::EIO), server: None, _directory: Some(directory) }
    }

    fn open_broken(&self, at: u64) -> Result<Rig, Skip> {
        self.served(&format!("eio={at}"))
    }

    fn open_hanging(&self, at: u64) -> Result<Rig, Skip> {
        self.served(&format!("hang={at}"))
    }
}

impl File {
    fn served(&self, behaviour: &str) -> Result<Rig, Skip> {
        let server = Server::start(behaviour)?;
        let device = Device::open(&server.file(), self.direct).unwrap();
        Ok(Rig { device, sim: None, failure: Status::Os(Errno::EIO), server: Some(server), _directory: None })
    }
}

/// The file system of one file of spec/programs/fuse_server.rb, mounted until this is dropped.
struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    directory: TempDir,
    bytes: Vec<u8>,
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

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word, "the FUSE server says something else");
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

/// Every engine, in the order of the table's columns.
pub fn all() -> Vec<Box<dyn Bench>> {
    let sim = |name, clock, iommu, device| -> Box<dyn Bench> { Box::new(Simulated { name, clock, iommu, device }) };
    let usual = DeviceOptions::default();
    let strict = DeviceOptions { alignment: 64, max_segments: 4, ring_size: 8, ..usual };
    vec![
        sim("sim, free clock, IOMMU", Clock::Free, true, usual),
        sim("sim, free clock, physical addresses", Clock::Free, false, usual),
        sim("sim, manual clock, IOMMU", Clock::Manual, true, usual),
        sim("sim, manual clock, physical addresses", Clock::Manual, false, usual),
        sim("sim, strict, small ring", Clock::Free, true, strict),
        sim("sim, strict, small ring, physical addresses", Clock::Free, false, strict),
        Box::new(File { name: "file", direct: Direct::Auto }),
        Box::new(File { name: "file, page cache", direct: Direct::Never }),
    ]
}
