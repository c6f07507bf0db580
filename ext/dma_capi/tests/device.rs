//! The choice of a device, which is the process's: the tests take turns.

mod support;

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_core::device::{attach, detach, Device};
use dma_core::engine::sim;
use dma_core::memory::find;
use support::*;

static TURN: Mutex<()> = Mutex::new(());

/// The turn; what follows begins with the simulated device.
fn turn() -> MutexGuard<'static, ()> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(open_default(), 0);
    turn
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// A machine with a device at `path`.
fn machine(path: &str, memory: u64) -> Arc<sim::Machine> {
    let options = sim::MachineOptions { seed: 1, ..sim::MachineOptions::default() };
    let machine = sim::Machine::new(options).unwrap();
    let device = sim::Device::new(&machine, sim::DeviceOptions { memory, ..Default::default() }).unwrap();
    attach(Path::new(path), Device::of_sim(&device, path));
    machine
}

/// The next descriptor fails or hangs.
fn inject(machine: &sim::Machine, kind: sim::Kind) {
    let trigger = sim::Trigger::Descriptor(0);
    machine.inject(sim::Fault { kind, trigger, device: None, channel: None, count: Some(1) });
}

#[test]
fn a_file_is_a_device_whose_addresses_are_its_offsets() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, [0u8; 8192]).unwrap();
    assert_eq!(open(&c_path(&path)), 0, "{}", last_error());
    assert_eq!(size(), Ok(8192));
    let buffer = alloc(4096);
    write(buffer, &[7; 4096]);
    assert_eq!(wait(send(buffer, 4096, 4096)), COMPLETE);
    assert_eq!(fs::read(&path).unwrap(), [[0; 4096], [7; 4096]].concat());
    assert_refused(submit(0, 4096, 16, TO_DEVICE | FROM_DEVICE), Code::Unsupported, "between memory and itself");
    free(buffer);
}

#[test]
fn the_simulated_device_keeps_its_bytes_while_another_is_used() {
    let _turn = turn();
    let (buffer, back) = (alloc(16), alloc(16));
    write(buffer, b"remember this ok");
    assert_eq!(wait(send(buffer, 0x1000, 16)), COMPLETE);
    machine("/dma/other", 4096);
    assert_eq!((open(c"/dma/other"), size()), (0, Ok(4096)));
    assert_refused(fetch(0x1000, back, 16), Code::Argument, "outside the device's 4096 bytes");
    assert_eq!((open_default(), size()), (0, Ok(64 << 20)));
    assert_eq!(wait(fetch(0x1000, back, 16)), COMPLETE);
    assert_eq!(read(back, 16), b"remember this ok");
    assert!(detach(Path::new("/dma/other")));
    free(buffer);
    free(back);
}

#[test]
fn what_cannot_be_opened_changes_nothing() {
    let _turn = turn();
    machine("/dma/small", 4096);
    assert_eq!(open(c"/dma/small"), 0);
    assert_refused(open(c"/nonexistent/dma"), Code::Os, "cannot open /nonexistent/dma: No such file or directory");
    assert_refused(open(c"/dev/ptmx"), Code::Unsupported, "/dev/ptmx has no addresses");
    assert_refused(open(c""), Code::Os, "No such file");
    assert_eq!(size(), Ok(4096));
    detach(Path::new("/dma/small"));
}

#[test]
fn a_character_device_gives_bytes_and_no_size() {
    let _turn = turn();
    assert_eq!(open(c"/dev/zero"), 0);
    assert_refused(
        size().unwrap_err(),
        Code::Unsupported,
        "/dev/zero is a character device, which does not say its size",
    );
    let buffer = alloc(4096);
    write(buffer, &[0xFF; 4096]);
    assert_eq!(wait(fetch(0x1000, buffer, 4000)), COMPLETE);
    assert_eq!(read(buffer, 4096), [[0; 4000].as_slice(), &[0xFF; 96]].concat());
    free(buffer);
}

#[test]
fn a_hung_transfer_keeps_its_memory_and_is_given_up_by_a_timed_wait() {
    let _turn = turn();
    let machine = machine("/dma/hung", 1 << 20);
    assert_eq!(open(c"/dma/hung"), 0);
    inject(&machine, sim::Kind::Hang);
    let buffer = alloc(4096);
    let id = send(buffer, 0, 4096);
    assert_eq!(dma_transfer_status(id), PENDING);
    let (region, _) = find(buffer as usize).unwrap();
    assert!(matches!(region.check_idle(), Err(dma_core::Error::Busy(_))), "as a buffer's free raises BusyError");
    free(buffer);
    write(buffer, &[1; 4096]);
    assert_refused(send(buffer, 0, 1), Code::Memory, "it was freed");
    assert_refused(dma_wait_completion_timeout(id, 10_000_000), Code::TimedOut, "took longer than 0.01 s");
    assert_eq!((dma_transfer_status(id), wait(id)), (3, 3));
    assert_eq!(last_error(), format!("transfer {id} ended after 0 of 4096 bytes: timed out"));
    assert_eq!(region.check_idle(), Ok(()));
    detach(Path::new("/dma/hung"));
}

#[test]
fn transfers_go_on_when_another_device_is_chosen_and_a_fault_is_a_status() {
    let _turn = turn();
    let machine = machine("/dma/first", 1 << 20);
    assert_eq!(open(c"/dma/first"), 0);
    detach(Path::new("/dma/first"));
    let buffer = alloc(4096);
    inject(&machine, sim::Kind::Hang);
    let hung = send(buffer, 0, 4096);
    let behind = send(buffer, 4096, 4096);
    assert_eq!(open_default(), 0);
    assert_eq!([dma_transfer_status(hung), dma_transfer_status(behind)], [PENDING; 2]);
    assert_eq!(wait(send(buffer, 0, 4096)), COMPLETE, "the other device has its own");
    assert_refused(dma_wait_completion_timeout(hung, 0), Code::TimedOut, "was given up");
    assert_eq!(wait(behind), COMPLETE);
    free(buffer);
}

#[test]
fn a_fault_is_a_status_with_its_text() {
    let _turn = turn();
    let machine = machine("/dma/faulty", 1 << 20);
    assert_eq!(open(c"/dma/faulty"), 0);
    inject(&machine, sim::Kind::IommuFault);
    let buffer = alloc(4096);
    let id = send(buffer, 0, 4096);
    assert_eq!((wait(id), dma_transfer_status(id)), (8, 8));
    assert!(last_error().contains("IOMMU fault: no read access at bus address"), "{}", last_error());
    detach(Path::new("/dma/faulty"));
    free(buffer);
}

#[test]
fn a_full_ring_says_so_and_takes_more_once_there_is_room() {
    let _turn = turn();
    let machine = machine("/dma/full", 1 << 20);
    assert_eq!(open(c"/dma/full"), 0);
    inject(&machine, sim::Kind::Hang);
    let buffer = alloc(4096);
    let ids: Vec<_> = (0..255).map(|_| send(buffer, 0, 16)).collect();
    assert!(ids.iter().all(|id| *id > 0), "{}", last_error());
    assert_refused(send(buffer, 0, 16), Code::RingFull, "255 of 255 are taken");
    assert_refused(dma_wait_completion_timeout(ids[0], 0), Code::TimedOut, "was given up");
    assert_eq!(wait(ids[254]), COMPLETE);
    assert_eq!(wait(send(buffer, 0, 16)), COMPLETE);
    detach(Path::new("/dma/full"));
    free(buffer);
}

#[test]
fn devices_are_let_go_of_when_their_last_transfer_is_over() {
    let _turn = turn();
    let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, [0u8; 4096]).unwrap();
    let buffer = alloc(4096);
    assert_eq!(wait(send(buffer, 0, 16)), COMPLETE);
    let before = open_files();
    for _ in 0..20 {
        assert_eq!(open(&c_path(&path)), 0);
        assert_eq!(wait(fetch(0, buffer, 4096)), COMPLETE);
    }
    assert_eq!(open_default(), 0);
    assert!(open_files() <= before, "{} {before}", open_files());
    free(buffer);
}

#[test]
fn the_oldest_transfers_that_ended_are_forgotten() {
    let _turn = turn();
    let buffer = alloc(1);
    let first = send(buffer, 0x30_0000, 1);
    assert_eq!(wait(first), COMPLETE);
    let mut last = first;
    for _ in 0..66_000 {
        last = send(buffer, 0x30_0000, 0);
        assert!(last > 0, "{}", last_error());
    }
    assert_eq!(wait(last), COMPLETE);
    assert_refused(dma_transfer_status(first), Code::Id, "65536 transfers were begun since");
    free(buffer);
}
