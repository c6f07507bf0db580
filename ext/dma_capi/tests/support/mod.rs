//! The functions as a C program calls them.

#![allow(dead_code)] // No test needs all of it.

use std::ffi::{c_int, c_void, CStr};

pub use dma::*;

pub const PENDING: c_int = 0;
pub const COMPLETE: c_int = 1;

/// Memory from dma_alloc_buffer.
pub fn alloc(size: usize) -> *mut u8 {
    let buffer = dma_alloc_buffer(size).cast();
    assert_ne!(buffer, std::ptr::null_mut(), "{}", last_error());
    buffer
}

pub fn free(buffer: *mut u8) {
    dma_free_buffer(buffer.cast::<c_void>());
}

pub fn write(buffer: *mut u8, bytes: &[u8]) {
    // SAFETY: the tests stay inside their buffers, and use them when no transfer does.
    unsafe { buffer.copy_from(bytes.as_ptr(), bytes.len()) };
}

pub fn read(buffer: *mut u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: as above.
    unsafe { buffer.copy_to(bytes.as_mut_ptr(), len) };
    bytes
}

pub fn submit(source_addr: u64, dest_addr: u64, byte_count: u32, flags: u32) -> c_int {
    let descriptor = DmaDescriptor { source_addr, dest_addr, byte_count, flags };
    // SAFETY: a descriptor.
    unsafe { dma_submit_transfer(&descriptor) }
}

pub fn send(buffer: *mut u8, to: u64, len: u32) -> c_int {
    submit(buffer as u64, to, len, TO_DEVICE)
}

pub fn fetch(from: u64, buffer: *mut u8, len: u32) -> c_int {
    submit(from, buffer as u64, len, FROM_DEVICE)
}

/// Waits as long as it takes; how it ended.
pub fn wait(id: c_int) -> c_int {
    dma_wait_completion_timeout(id, -1)
}

pub fn last_error() -> String {
    // SAFETY: a C string until this thread's next failure.
    unsafe { CStr::from_ptr(dma_last_error()) }.to_str().unwrap().to_owned()
}

pub fn open(path: &CStr) -> c_int {
    // SAFETY: a C string.
    unsafe { dma_open_device(path.as_ptr()) }
}

pub fn open_default() -> c_int {
    // SAFETY: NULL is the default device.
    unsafe { dma_open_device(std::ptr::null()) }
}

pub fn size() -> Result<u64, c_int> {
    let mut size = 0;
    // SAFETY: a place for it.
    match unsafe { dma_device_size(&mut size) } {
        0 => Ok(size),
        code => Err(code),
    }
}

/// Refused with `code`, and with a text that has `word` in it.
#[track_caller]
pub fn assert_refused(result: c_int, code: Code, word: &str) {
    let text = last_error();
    assert!(result == code as c_int && text.contains(word), "{result} instead of {code:?}: {text}");
}
