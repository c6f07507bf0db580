//! The C interface, as `include/dma.h` declares it: numbers and pointers for [`dma_core`]'s buffers, devices and
//! transfers.
//!
//! It is libdma.so for programs without Ruby, and part of Ruby's extension, where it knows the memory of every
//! `DMA::Buffer`. What belongs to the process is here; what a call does is in the core.

mod device;
mod error;
mod transfers;

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void, CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dma_core::channel::Request;
use dma_core::memory::{find, Layout, Lock, Region, Span};
use dma_core::sys::PerProcess;
use dma_core::transfer::{flags, Op, Status};
use dma_core::Error;

use device::{Choice, GRACE};
pub use error::Code;
use error::{guard, guard_int, remember, Failure};
use transfers::{Transfer, Transfers, Way};

/// `DmaDescriptor` of dma.h: one transfer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaDescriptor {
    /// A pointer into a buffer, or an address of the device.
    pub source_addr: u64,
    /// The same.
    pub dest_addr: u64,
    /// Bytes.
    pub byte_count: u32,
    /// [`TO_DEVICE`], [`FROM_DEVICE`] or both.
    pub flags: u32,
}

/// Flag: from memory to the device.
pub const TO_DEVICE: u32 = flags::TO_DEVICE;
/// Flag: from the device to memory. With [`TO_DEVICE`]: within the device.
pub const FROM_DEVICE: u32 = flags::FROM_DEVICE;
const WITHIN_DEVICE: u32 = TO_DEVICE | FROM_DEVICE;

/// What C callers of one process share. The child of a fork begins with nothing.
#[derive(Debug)]
struct Library {
    choice: Choice,
    transfers: Transfers,
    /// What dma_alloc_buffer gave out, by address.
    buffers: Mutex<HashMap<usize, Arc<Region>>>,
}

impl Library {
    fn of_this_process() -> &'static Library {
        static LIBRARY: PerProcess<Library> = PerProcess::new();
        LIBRARY.get(|inherited| Library {
            choice: Choice::new(inherited),
            transfers: Transfers::default(),
            buffers: Mutex::default(),
        })
    }

    fn buffers(&self) -> MutexGuard<'_, HashMap<usize, Arc<Region>>> {
        // Nothing that panics runs under the lock.
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Zeroed memory at the start of a page; NULL where there is none.
#[no_mangle]
pub extern "C" fn dma_alloc_buffer(size: usize) -> *mut c_void {
    guard(
        |_| ptr::null_mut(),
        || {
            let region = Region::allocate(Layout::new(size), Lock::Auto)?;
            let address = region.address();
            Library::of_this_process().buffers().insert(address, region);
            Ok(address as *mut c_void)
        },
    )
}

/// Takes back what [`dma_alloc_buffer`] returned; NULL is no error, another pointer is left alone.
#[no_mangle]
pub extern "C" fn dma_free_buffer(buffer: *mut c_void) {
    guard(drop, || {
        let address = buffer as usize;
        if address == 0 {
            return Ok(());
        }
        let region = Library::of_this_process().buffers().remove(&address);
        let Some(region) = region else {
            return Err(Failure::new(Code::Memory, not_to_be_freed(address)));
        };
        region.unlist();
        Ok(())
    });
}

fn not_to_be_freed(address: usize) -> String {
    match find(address) {
        None => {
            format!("{address:#x} is no buffer: it was freed, or dma_alloc_buffer of this process did not return it")
        }
        Some((_, 0)) => format!("{address:#x} is a buffer of Ruby's, which frees it itself"),
        Some((region, offset)) => {
            let start = region.address();
            format!("{address:#x} is not the start of a buffer, but {offset} bytes into the one at {start:#x}")
        }
    }
}

/// Begins a transfer. Its id, or a negative [`Code`].
///
/// # Safety
/// `descriptor` must be NULL, or lie in memory that can be read.
#[no_mangle]
pub unsafe extern "C" fn dma_submit_transfer(descriptor: *const DmaDescriptor) -> c_int {
    guard_int(|| {
        check_pointer(descriptor, "the descriptor")?;
        // SAFETY: neither NULL nor misaligned; the caller vouches for the rest.
        let op = operation(unsafe { descriptor.read() })?;
        let library = Library::of_this_process();
        let device = library.choice.current()?;
        let channel = device.channel()?;
        let ticket = channel.submit(Request::new(op), true)?;
        Ok(library.transfers.add(Transfer { ticket, way: Some(Way { channel, _device: device }) }))
    })
}

/// Refuses a pointer to which nothing can be read or written.
fn check_pointer<T>(pointer: *const T, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::new(Code::Argument, format!("{what} is NULL")));
    }
    if !pointer.is_aligned() {
        let align = align_of::<T>();
        return Err(Failure::new(
            Code::Alignment,
            format!("{what} is at {pointer:p}, which is no multiple of {align}; copy it to a variable of its type"),
        ));
    }
    Ok(())
}

fn operation(descriptor: DmaDescriptor) -> Result<Op, Failure> {
    let DmaDescriptor { source_addr, dest_addr, byte_count, flags } = descriptor;
    match flags {
        TO_DEVICE => Ok(Op::Write { offset: dest_addr, span: span(source_addr, byte_count, "source_addr")? }),
        FROM_DEVICE => Ok(Op::Read { offset: source_addr, span: span(dest_addr, byte_count, "dest_addr")? }),
        WITHIN_DEVICE => Ok(Op::Copy { from: source_addr, to: dest_addr, len: u64::from(byte_count) }),
        flags => Err(Failure::new(
            Code::Argument,
            format!("flags {flags:#x} are none of 0x1 (to the device), 0x2 (from the device), 0x3 (within the device)"),
        )),
    }
}

/// The memory behind a pointer.
fn span(address: u64, len: u32, field: &str) -> Result<Span, Failure> {
    let (start, len) = (address as usize, len as usize);
    let Some((region, offset)) = find(start) else {
        return Err(Failure::new(
            Code::Memory,
            format!(
                "{field} {address:#x} is in no buffer: it was freed, or it came neither from dma_alloc_buffer nor from \
                 a DMA::Buffer that owns its memory"
            ),
        ));
    };
    let left = region.len() - offset;
    if len > left {
        let size = region.len();
        return Err(Failure::new(
            Code::Memory,
            format!("{len} bytes at {field} {address:#x}: only {left} are left there in a buffer of {size} bytes"),
        ));
    }
    Ok(Span::new(&region, offset, len)?)
}

/// Waits until a transfer is over.
#[no_mangle]
pub extern "C" fn dma_wait_completion(id: c_int) {
    guard_int(|| wait(id, None));
}

/// Waits no longer than `nanoseconds`, then gives the transfer up; for ever where they are negative. How it ended, or a
/// negative [`Code`].
#[no_mangle]
pub extern "C" fn dma_wait_completion_timeout(id: c_int, nanoseconds: i64) -> c_int {
    guard_int(|| wait(id, u64::try_from(nanoseconds).ok().map(Duration::from_nanos)))
}

fn wait(id: c_int, timeout: Option<Duration>) -> Result<c_int, Failure> {
    let library = Library::of_this_process();
    let (transfer, status) = library.transfers.look(id)?;
    if let (Status::Pending, Some(way)) = (status, &transfer.way) {
        let waited = way.channel.wait_plain(&transfer.ticket, timeout, GRACE);
        let status = library.transfers.look(id).map_or_else(|_| transfer.ticket.status(), |(_, status)| status);
        match waited {
            Err(Error::TimedOut(_)) => return Err(timed_out(id, &transfer, timeout)),
            // A channel that is closed under a waiter has ended its transfers first.
            Err(error) if status == Status::Pending => return Err(error.into()),
            _ => {}
        }
    }
    Ok(tell(id, &transfer))
}

fn timed_out(id: c_int, transfer: &Transfer, timeout: Option<Duration>) -> Failure {
    let len = transfer.ticket.len();
    let text = match timeout {
        Some(timeout) => {
            format!(
                "transfer {id} of {len} bytes took longer than {} s and was given up; wait longer",
                timeout.as_secs_f64()
            )
        }
        None => {
            format!("transfer {id} of {len} bytes will never end: the machine has nothing left to do; it was given up")
        }
    };
    Failure::new(Code::TimedOut, text)
}

/// The code of how a transfer ended; the text of a failure is remembered.
fn tell(id: c_int, transfer: &Transfer) -> c_int {
    let Some(outcome) = transfer.ticket.outcome() else { return Status::Pending.code() as c_int };
    if outcome.status.is_failure() {
        let (bytes, len, status) = (outcome.bytes, transfer.ticket.len(), outcome.status);
        remember(&format!("transfer {id} ended after {bytes} of {len} bytes: {status}"));
    }
    outcome.status.code() as c_int
}

/// How a transfer ended, 0 if it has not, or a negative [`Code`].
#[no_mangle]
pub extern "C" fn dma_transfer_status(id: c_int) -> c_int {
    guard_int(|| {
        let (transfer, _) = Library::of_this_process().transfers.look(id)?;
        Ok(tell(id, &transfer))
    })
}

/// The name of a status or of an error.
#[no_mangle]
pub extern "C" fn dma_status_name(code: c_int) -> *const c_char {
    name(code).as_ptr()
}

fn name(code: c_int) -> &'static CStr {
    let Ok(status) = u32::try_from(code) else {
        return Code::ALL.iter().find(|(other, _)| *other as c_int == code).map_or(c"unknown", |(_, name)| name);
    };
    match Status::from_code(status) {
        status if status.code() != code as u32 => c"unknown",
        Status::Pending => c"pending",
        Status::Complete => c"complete",
        Status::Aborted => c"aborted",
        Status::TimedOut => c"timed_out",
        Status::NotAttempted => c"not_attempted",
        Status::BadSource => c"bad_source",
        Status::BadDestination => c"bad_destination",
        Status::BadLength => c"bad_length",
        Status::IommuFault { .. } => c"iommu_fault",
        Status::BusReadError => c"bus_read_error",
        Status::BusWriteError => c"bus_write_error",
        Status::DataPoison => c"data_poison",
        Status::DescriptorError => c"descriptor_error",
        Status::LinkDown => c"link_down",
        Status::RingFull => c"ring_full",
        Status::MediumError => c"medium_error",
        Status::DeviceError { .. } => c"device_error",
        Status::Os(_) => c"os_error",
    }
}

/// What went wrong in the last call of this thread that failed; empty if none.
#[no_mangle]
pub extern "C" fn dma_last_error() -> *const c_char {
    error::last()
}

/// Chooses the device of all later transfers: what is at `path`, or the simulated one for NULL. 0, or a negative
/// [`Code`].
///
/// # Safety
/// `path` must be NULL or a C string.
#[no_mangle]
pub unsafe extern "C" fn dma_open_device(path: *const c_char) -> c_int {
    guard_int(|| {
        let path = match path.is_null() {
            true => None,
            // SAFETY: the caller vouches for it.
            false => Some(Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))),
        };
        let library = Library::of_this_process();
        library.choice.choose(path)?;
        library.transfers.sweep();
        Ok(0)
    })
}

/// Stores how many bytes the device has. 0, or a negative [`Code`].
///
/// # Safety
/// `size` must be NULL, or lie in memory that can be written.
#[no_mangle]
pub unsafe extern "C" fn dma_device_size(size: *mut u64) -> c_int {
    guard_int(|| {
        check_pointer(size, "the place for the size")?;
        let bytes = Library::of_this_process().choice.current()?.size()?;
        // SAFETY: neither NULL nor misaligned; the caller vouches for the rest.
        unsafe { size.write(bytes) };
        Ok(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_core_and_of_the_header() {
        let os = Status::Os(dma_core::Errno::EIO).code() as c_int;
        for code in (0..17).chain([os]) {
            assert_eq!(name(code).to_str(), Ok(Status::from_code(code as u32).name()));
        }
        assert_eq!(name(Code::RingFull as c_int), c"error_ring_full");
        assert_eq!([name(17), name(-99), name(c_int::MIN), name(c_int::MAX)], [c"unknown"; 4]);
    }
}
