//! Transfers, and whatever may be wrong with one, on the device that is there by itself.

mod support;

use std::ffi::c_int;
use std::ptr;
use std::thread;

use support::*;

#[test]
fn what_was_sent_comes_back() {
    let (out, back) = (alloc(4096), alloc(4096));
    let bytes: Vec<u8> = (0..4096).map(|n| (n * 7 % 251) as u8).collect();
    write(out, &bytes);
    let sent = send(out, 0x1000, 4096);
    let fetched = fetch(0x1000, back, 4096);
    assert!(sent > 0 && fetched > 0 && sent != fetched);
    dma_wait_completion(fetched);
    assert_eq!([dma_transfer_status(sent), dma_transfer_status(fetched)], [COMPLETE; 2]);
    assert_eq!(read(back, 4096), bytes);
    free(out);
    free(back);
}

#[test]
fn pointers_may_lead_into_a_buffer_and_bytes_stay_in_their_place() {
    let buffer = alloc(10_000);
    write(buffer, b"one two three");
    // SAFETY: inside of the buffer.
    let (two, end) = unsafe { (buffer.add(4), buffer.add(9_997)) };
    assert_eq!(wait(send(two, 0x10_0003, 3)), COMPLETE);
    assert_eq!(wait(submit(0x10_0003, 0x10_1000, 3, TO_DEVICE | FROM_DEVICE)), COMPLETE);
    assert_eq!(wait(fetch(0x10_1000, end, 3)), COMPLETE);
    assert_eq!((read(end, 3), read(buffer, 13)), (b"two".to_vec(), b"one two three".to_vec()));
    assert_refused(send(end, 0, 4), Code::Memory, "only 3 are left there in a buffer of 10000 bytes");
    assert_eq!(wait(send(end, 0x10_0000, 0)), COMPLETE);
    free(buffer);
}

#[test]
fn memory_is_zeroed_at_a_page_and_may_be_none_at_all() {
    let (buffer, empty) = (alloc(5000), alloc(0));
    assert_eq!((buffer as usize % 4096, read(buffer, 5000)), (0, vec![0; 5000]));
    assert_eq!(wait(send(empty, 0, 0)), COMPLETE);
    assert_refused(send(empty, 0, 1), Code::Memory, "only 0 are left");
    free(buffer);
    free(empty);
    assert_eq!(dma_alloc_buffer(usize::MAX), ptr::null_mut());
    assert!(last_error().contains(&usize::MAX.to_string()), "{}", last_error());
}

#[test]
fn null_freed_foreign_and_misaligned_pointers_are_refused() {
    // SAFETY: never read.
    assert_refused(unsafe { dma_submit_transfer(ptr::null()) }, Code::Argument, "NULL");
    let space = [0u64; 4];
    // SAFETY: never read.
    let odd = unsafe { dma_submit_transfer(space.as_ptr().cast::<u8>().add(1).cast()) };
    assert_refused(odd, Code::Alignment, "no multiple of 8");
    assert_refused(send(ptr::null_mut(), 0, 16), Code::Memory, "source_addr 0x0 is in no buffer");
    assert_refused(fetch(0, ptr::null_mut(), 16), Code::Memory, "dest_addr 0x0 is in no buffer");
    assert_refused(send(space.as_ptr() as *mut u8, 0, 16), Code::Memory, "is in no buffer");
    assert_refused(fetch(0, usize::MAX as *mut u8, 16), Code::Memory, "is in no buffer");
    let buffer = alloc(4096);
    free(buffer);
    assert_refused(send(buffer, 0, 16), Code::Memory, "it was freed");
    // SAFETY: never written.
    assert_refused(unsafe { dma_device_size(ptr::null_mut()) }, Code::Argument, "NULL");
}

#[test]
fn only_what_was_allocated_is_freed_and_once() {
    dma_free_buffer(ptr::null_mut());
    assert_eq!(last_error(), "");
    let buffer = alloc(4096);
    free(buffer.wrapping_add(64));
    assert!(last_error().contains("but 64 bytes into the one at"), "{}", last_error());
    let mut local = 0u8;
    free(&mut local);
    assert!(last_error().contains("is no buffer"), "{}", last_error());
    assert_eq!(wait(send(buffer, 0x20_0000, 4096)), COMPLETE);
    free(buffer);
    free(buffer);
    assert!(last_error().contains("it was freed"), "{}", last_error());
}

#[test]
fn flags_and_device_addresses_are_checked() {
    let buffer = alloc(4096);
    for flags in [0, 4, 9, u32::MAX] {
        assert_refused(submit(buffer as u64, 0, 16, flags), Code::Argument, &format!("{flags:#x} are none of"));
    }
    let end = size().unwrap();
    assert_eq!(end, 64 << 20);
    assert_eq!(wait(send(buffer, end - 16, 16)), COMPLETE);
    assert_refused(send(buffer, end - 16, 17), Code::Argument, "outside the device's 67108864 bytes");
    assert_refused(fetch(u64::MAX, buffer, 16), Code::Argument, "outside the device's");
    assert_refused(submit(0, end, 1, TO_DEVICE | FROM_DEVICE), Code::Argument, "outside the device's");
    free(buffer);
}

#[test]
fn ids_of_no_transfer_are_refused() {
    for id in [0, -1, c_int::MIN] {
        assert_refused(wait(id), Code::Id, "they are positive");
        assert_refused(dma_transfer_status(id), Code::Id, "they are positive");
    }
    assert_refused(dma_wait_completion_timeout(c_int::MAX, 0), Code::Id, "no transfer has the id 2147483647");
    dma_wait_completion(c_int::MAX);
    assert!(last_error().contains("no transfer has the id"), "{}", last_error());
}

#[test]
fn the_last_error_is_each_threads_own() {
    dma_wait_completion(-5);
    thread::spawn(|| {
        assert_eq!(last_error(), "");
        dma_wait_completion(-6);
        assert!(last_error().starts_with("-6 is"));
    })
    .join()
    .unwrap();
    assert!(last_error().starts_with("-5 is"));
}

#[test]
fn threads_submit_wait_and_free_at_once() {
    let threads: Vec<_> = (1..=8u8)
        .map(|number| {
            thread::spawn(move || {
                let mut last = 0;
                for round in 0..200u32 {
                    let (out, back) = (alloc(4096), alloc(4096));
                    let place = 0x80_0000 + u64::from(number) * 4096;
                    write(out, &[number ^ round as u8; 4096]);
                    let sent = send(out, place, 4096);
                    // The transfer keeps the memory.
                    free(out);
                    let fetched = fetch(place, back, 4096);
                    assert!(sent > last && fetched > sent, "{sent} {fetched} {}", last_error());
                    last = fetched;
                    assert_eq!(wait(fetched), COMPLETE);
                    assert_eq!(read(back, 4096), [number ^ round as u8; 4096]);
                    assert_eq!(dma_transfer_status(sent), COMPLETE);
                    free(back);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn several_threads_wait_for_one_transfer() {
    let buffer = alloc(1 << 20);
    let id = send(buffer, 0x200_0000, 1 << 20);
    let waits: Vec<_> = (0..4).map(|_| thread::spawn(move || wait(id))).collect();
    assert!(waits.into_iter().all(|thread| thread.join().unwrap() == COMPLETE));
    free(buffer);
}
