//! What is moved: the bytes asked for and nothing more, and the source stays as it is.

use dma_core::channel::Request;
use dma_core::memory::Span;
use dma_core::ring::{Memory, Ring};
use dma_core::transfer::{flags, Descriptor, Op, Status};
use dma_core::Error;

use super::*;
use crate::engines::{Bench, Skip, Verdict};
use crate::rig::Rig;

/// Longer than a burst, a page, and what one descriptor chain of a physical machine reaches.
const LONG: usize = 300_032;

pub fn bytes_go_to_the_device(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let len = LONG.min(rig.size() - 768);
    rig.clear(0, 128 + len + 640);
    let data = numbered(len, 0);
    rig.put(128, &data);
    let seen = rig.get(64, 64 + len + 640);
    assert!(seen[..64].iter().all(|byte| *byte == 0), "bytes before the range");
    assert_eq!(seen[64..64 + len], data);
    assert!(seen[64 + len..].iter().all(|byte| *byte == 0), "bytes behind the range");
    rig.finish();
    Ok(())
}

pub fn bytes_come_from_the_device(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let len = LONG.min(rig.size());
    let data = numbered(len, 0);
    rig.put(0, &data);
    let target = region(len, 0xee);
    let outcome = carry_out(&rig.channel(), read(128, &target, 64, len - 192));
    assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len - 192));
    let seen = bytes(&target);
    assert_eq!(seen[64..len - 128], data[128..len - 64]);
    assert!(seen[..64].iter().chain(&seen[len - 128..]).all(|byte| *byte == 0xee), "bytes around the range");
    assert_eq!(rig.get(0, len), data, "the device");
    rig.finish();
    Ok(())
}

fn copy(from: u64, to: u64, len: u64) -> Request {
    Request::new(Op::Copy { from, to, len })
}

pub fn bytes_move_within_the_device(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    if !rig.limits().copies {
        assert!(matches!(channel.submit(copy(0, 8192, 64), true), Err(Error::Unsupported(_))));
        return Err(Skip::Refused("Unsupported"));
    }
    let (len, to) = (rig.block() / 4, rig.size() / 4);
    let mut expected = numbered(to + 2 * len, 0);
    rig.put(0, &expected);
    let outcome = wait(&channel, &channel.submit(copy(64, to as u64, len as u64), true).unwrap());
    assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len));
    expected.copy_within(64..64 + len, to);
    assert!(rig.get(0, expected.len()) == expected, "source, target, and the bytes around them");
    rig.finish();
    Ok(())
}

pub fn overlapping_copies_are_as_if_held_in_between(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    if !rig.limits().copies {
        assert!(matches!(rig.channel().submit(copy(0, 64, 128), true), Err(Error::Unsupported(_))));
        return Err(Skip::Refused("Unsupported"));
    }
    // Longer than a burst of either clock, so that one that is cut in two spoils the bytes.
    let len = (100 * 1024).min(rig.size() / 2);
    let pairs = [(0, 64), (64, 0), (0, 0), (rig.block() as u64, 64), (0, len as u64 - 64)];
    for (from, to) in pairs.into_iter().take(rig.rounds(5)) {
        let mut expected = numbered(2 * len, 1);
        rig.put(0, &expected);
        let channel = rig.channel();
        let outcome = wait(&channel, &channel.submit(copy(from, to, len as u64), true).unwrap());
        assert_eq!(outcome.status, Status::Complete);
        expected.copy_within(from as usize..from as usize + len, to as usize);
        assert!(rig.get(0, 2 * len) == expected, "from {from} to {to}");
    }
    rig.finish();
    Ok(())
}

/// Writes a list, reads it back by another list, with guard bytes around every element.
fn check_lists(rig: &Rig, sizes: &[usize]) -> Result<(), Error> {
    let channel = rig.channel();
    let data = numbered(sizes.iter().sum(), 3);
    let (source, target) = (filled(&data), region(data.len() + 64 * sizes.len(), 0xee));
    let (mut device, mut from, mut to) = (0, 0, 0);
    let (mut writes, mut back) = (Vec::new(), Vec::new());
    for size in sizes {
        writes.push(write(device, &source, from, *size));
        back.push(read(device, &target, to, *size));
        (device, from, to) = (device + (*size as u64 + 512).next_multiple_of(512), from + size, to + size + 64);
    }
    for list in [writes, back] {
        let ticket = channel.submit(Request::list(list), true)?;
        let outcome = wait(&channel, &ticket);
        assert_eq!((outcome.status, outcome.bytes), (Status::Complete, data.len()));
        assert_eq!(ticket.len(), data.len());
    }
    let (seen, mut to, mut from) = (bytes(&target), 0, 0);
    for size in sizes {
        assert_eq!(seen[to..to + size], data[from..from + size]);
        assert!(seen[to + size..to + size + 64].iter().all(|byte| *byte == 0xee), "bytes between elements");
        (from, to) = (from + size, to + size + 64);
    }
    assert_eq!(bytes(&source), data, "the source");
    Ok(())
}

pub fn lists_of_odd_sizes(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let lists: &[&[usize]] = if rig.is_slow() { &[&[1, 511]] } else { &[&[1, 3, 4097, 511, 70_001, 2], &[1, 8191, 3]] };
    let mut verdict = Ok(());
    for sizes in lists {
        verdict = match check_lists(&rig, sizes) {
            Err(Error::Argument(_)) if rig.limits().max_segments < sizes.len() => Err(Skip::Refused("Argument")),
            Err(Error::Alignment(_)) if rig.grain() > 1 => Err(Skip::Refused("Alignment")),
            Err(error) => panic!("{error}"),
            Ok(()) => Ok(()),
        };
    }
    rig.finish();
    verdict
}

pub fn lists_of_whole_blocks(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let lists = [&[64][..], &[64, 4096], &[8192, 64, 128, 69_632], &[64; 4]];
    for sizes in &lists[..rig.rounds(lists.len())] {
        check_lists(&rig, sizes).unwrap();
    }
    rig.finish();
    Ok(())
}

pub fn random_ranges_move_nothing_more(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let (channel, grain) = (rig.channel(), rig.grain());
    let mut random = fastrand::Rng::with_seed(7);
    let size = rig.size();
    rig.clear(0, size);
    let mut device = vec![0; size];
    for _ in 0..rig.rounds(300).max(2) {
        let most = if random.bool() { 3000 } else { 100_000.min(size) };
        let len = random.usize(1..most).next_multiple_of(grain as usize);
        let offset = random.u64(0..=(size - len) as u64) / grain * grain;
        let (start, behind) = (random.usize(0..70), random.usize(0..70));
        let at = offset as usize;
        if random.bool() {
            let data = numbered(start + len + behind, random.usize(..1000));
            let source = filled(&data);
            let outcome = carry_out(&channel, write(offset, &source, start, len));
            assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len));
            assert!(bytes(&source) == data, "the source");
            device[at..at + len].copy_from_slice(&data[start..start + len]);
        } else {
            let target = region(start + len + behind, 0xee);
            let outcome = carry_out(&channel, read(offset, &target, start, len));
            assert_eq!((outcome.status, outcome.bytes), (Status::Complete, len));
            let seen = bytes(&target);
            assert!(seen[start..start + len] == device[at..at + len], "{len} bytes at {offset}");
            assert!(seen[..start].iter().chain(&seen[start + len..]).all(|byte| *byte == 0xee), "guard bytes");
            assert_eq!(target.in_flight(), 0);
        }
    }
    assert!(rig.get(0, size) == device, "the whole device");
    rig.finish();
    Ok(())
}

pub fn memory_at_any_address(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let (at, len) = (rig.block() as u64, 3 * rig.block());
    for start in [63, 0, 1, 64, 511, 4095, 4096, 4097].into_iter().take(rig.rounds(8)) {
        let data = numbered(start + len, start);
        let (source, target) = (filled(&data), region(start + len, 0xee));
        let channel = rig.channel();
        assert_eq!(carry_out(&channel, write(at, &source, start, len)).bytes, len);
        assert_eq!(carry_out(&channel, read(at, &target, start, len)).bytes, len);
        let seen = bytes(&target);
        assert!(seen[start..] == data[start..] && seen[..start].iter().all(|byte| *byte == 0xee), "from {start} on");
    }
    rig.finish();
    Ok(())
}

pub fn requests_past_the_end_are_refused(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let (channel, memory, size) = (rig.channel(), region(128, 0), rig.limits().size);
    let too_far = [size - 64, size, size + 64, u64::MAX - 63, u64::MAX / 128 * 128];
    for offset in too_far {
        for op in [read(offset, &memory, 0, 128), write(offset, &memory, 0, 128)] {
            let refused = channel.submit(Request::new(op), true);
            assert!(matches!(refused, Err(Error::Argument(_))), "{offset:#x}: {refused:?}");
        }
    }
    assert_eq!(memory.in_flight(), 0);
    rig.finish();
    Ok(())
}

pub fn requests_of_nothing_complete(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let (channel, memory) = (rig.channel(), region(64, 0xee));
    let outcome = carry_out(&channel, read(0, &memory, 0, 0));
    assert_eq!((outcome.status, outcome.bytes), (Status::Complete, 0));
    let outcome = wait(&channel, &channel.submit(Request::list(vec![]), true).unwrap());
    assert_eq!((outcome.status, outcome.bytes), (Status::Complete, 0));
    assert!(is_untouched(&memory));
    rig.finish();
    Ok(())
}

/// Descriptors that software wrote by itself, for a device that fetches them by bus address.
pub fn descriptors_in_memory(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    let Some(sim) = rig.sim.as_ref().filter(|_| rig.limits().copies) else {
        let list = region(4096, 0);
        let op = Op::List { first: 0, len: 64, ring: whole(&list) };
        assert!(matches!(channel.submit(Request::new(op), true), Err(Error::Unsupported(_))));
        return Err(Skip::Refused("Unsupported"));
    };
    let (memory, source) = (region(4096, 0), filled(&numbered(128, 5)));
    let mapping = sim.map_ring(whole(&memory)).unwrap();
    let buffer = sim.map_ring(whole(&source)).unwrap();
    let (first, from) = (mapping.segments()[0].0, buffer.segments()[0].0);
    let mut ring = Ring::new(Memory::new(&memory, 0, 4).unwrap()).unwrap();
    for index in 0..2 {
        let flags = if index == 0 { flags::TO_DEVICE | flags::CHAIN } else { flags::TO_DEVICE };
        let (source, destination) = (from + 64 * index, 512 * index);
        let next = first + Descriptor::SIZE as u64;
        ring.add(Descriptor { source, destination, length: 64, flags, next, status: 0 }).unwrap();
    }
    let outcome = carry_out(&channel, Op::List { first, len: 128, ring: Span::new(&memory, 0, 160).unwrap() });
    assert_eq!((outcome.status, outcome.bytes), (Status::Complete, 128));
    let seen = rig.get(0, 576);
    for index in 0..2 {
        let (slot, descriptor) = ring.pop().unwrap();
        assert_eq!((slot, Status::from_code(descriptor.status)), (index, Status::Complete));
        assert_eq!(seen[512 * index as usize..][..64], numbered(128, 5)[64 * index as usize..][..64]);
    }
    drop((mapping, buffer));
    rig.finish();
    Ok(())
}

pub fn flushes(bench: &dyn Bench) -> Verdict {
    let rig = bench.open();
    let channel = rig.channel();
    for data_only in [true, false] {
        match channel.submit(Request::new(Op::Flush { data_only }), true) {
            Ok(ticket) => assert_eq!(wait(&channel, &ticket).status, Status::Complete),
            Err(Error::Unsupported(_)) => return Err(Skip::Refused("Unsupported")),
            Err(error) => panic!("{error}"),
        }
    }
    rig.finish();
    Ok(())
}
