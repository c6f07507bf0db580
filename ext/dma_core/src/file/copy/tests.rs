//! Copies on whatever file system the temporary directory is.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect()
}

fn scratch(bytes: &[u8]) -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, bytes).unwrap();
    (dir, from, to)
}

fn finish(copy: &mut Copy) -> Result<u64> {
    loop {
        match copy.advance()? {
            Progress::Done(bytes) => return Ok(bytes),
            Progress::Again => {}
            Progress::Wait => assert!(sys::wait_readable(copy.event(), Duration::from_secs(60)), "nobody woke us"),
        }
    }
}

/// A copy that does not share bytes, whatever the file system.
fn by(way: Way, from: &Path, to: &Path, direct: Direct) -> Copy {
    let (source, _) = open(from, libc::O_RDONLY, 0, direct).unwrap();
    let (destination, _) = open(to, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o600, direct).unwrap();
    let size = source.size().unwrap();
    Copy::begin(source, destination, size, way).unwrap()
}

#[test]
fn copies_of_any_length_are_equal_by_every_way() {
    for len in [0, 1, 511, 4096, 4097, OPERATION - 1, OPERATION, OPERATION + 1, 20 * OPERATION + 12_345] {
        let data = numbered(len);
        let (_dir, from, to) = scratch(&data);
        fs::write(&to, numbered(30_000)).unwrap();
        for direct in [Direct::Auto, Direct::Never] {
            for way in [Way::Memory, Way::Remote] {
                assert_eq!(finish(&mut by(way, &from, &to, direct)), Ok(len as u64), "{way:?}");
                assert!(fs::read(&to).unwrap() == data, "{len} bytes, {way:?}, {direct:?}");
            }
            assert_eq!(finish(&mut Copy::new(&from, &to, direct).unwrap()), Ok(len as u64));
            assert!(fs::read(&to).unwrap() == data);
        }
    }
}

#[test]
fn holes_stay_holes_wherever_they_are() {
    let (_dir, from, to) = scratch(&[]);
    let file = fs::OpenOptions::new().write(true).open(&from).unwrap();
    file.set_len(64 << 20).unwrap();
    for offset in [3 << 20, 9 << 20, (9 << 20) + 8192, 40 << 20] {
        file.write_all_at(&numbered(5000), offset).unwrap();
    }
    for size in [64 << 20, (40 << 20) + 5000, 50 << 20] {
        file.set_len(size).unwrap();
        assert_eq!(finish(&mut by(Way::Memory, &from, &to, Direct::Auto)), Ok(size));
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap(), "{size} bytes");
        let (before, after) = (fs::metadata(&from).unwrap().blocks(), fs::metadata(&to).unwrap().blocks());
        assert!(after <= before, "{after} blocks of {before}");
    }
}

#[test]
fn a_source_that_shrinks_or_grows_is_copied_as_far_as_it_is() {
    let data = numbered(30 * OPERATION);
    for (size, expected) in [(5 * OPERATION + 77, None), (0, None), (31 * OPERATION + 5, Some(31 * OPERATION + 5))] {
        let (_dir, from, to) = scratch(&data);
        let mut copy = by(Way::Memory, &from, &to, Direct::Auto);
        copy.read_ahead().unwrap();
        let file = fs::OpenOptions::new().write(true).open(&from).unwrap();
        file.set_len(size as u64).unwrap();
        let bytes = finish(&mut copy).unwrap() as usize;
        let written = fs::read(&to).unwrap();
        assert_eq!(written.len(), bytes);
        // What was read before the file was cut was there; nothing behind it is made up.
        assert!(expected.map_or(bytes <= PIECES * OPERATION, |expected| bytes == expected), "{bytes} of {size}");
        let there = bytes.min(data.len());
        assert!(written[..there] == data[..there] && written[there..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_hole_in_front_of_a_source_that_was_cut_is_not_copied() {
    let (_dir, from, to) = scratch(&numbered(OPERATION));
    let file = fs::OpenOptions::new().write(true).open(&from).unwrap();
    file.write_all_at(b"end", 64 << 20).unwrap();
    let mut copy = by(Way::Memory, &from, &to, Direct::Never);
    copy.next = OPERATION as u64;
    assert!(copy.find_data().unwrap() && copy.next > 60 << 20, "the hole is passed over");
    file.set_len(2 << 20).unwrap();
    assert_eq!(finish(&mut copy), Ok(2 << 20));
    assert_eq!(fs::metadata(&to).unwrap().len(), 2 << 20);
}

#[test]
fn a_copy_that_is_given_up_leaves_what_is_safe() {
    let data = numbered(40 * OPERATION);
    let (_dir, from, to) = scratch(&data);
    let mut copy = by(Way::Memory, &from, &to, Direct::Auto);
    while copy.next < 20 * OPERATION as u64 {
        match copy.advance().unwrap() {
            Progress::Again => {}
            Progress::Wait => assert!(sys::wait_readable(copy.event(), Duration::from_secs(60))),
            Progress::Done(bytes) => panic!("{bytes} bytes were copied before it could be given up"),
        }
    }
    assert!(copy.quiesce(Duration::from_secs(60)));
    copy.cut().unwrap();
    let written = fs::read(&to).unwrap();
    assert!(!written.is_empty() && written.len() < data.len() && written == data[..written.len()]);
}

#[test]
fn the_first_place_that_fails_is_told_and_cut_at() {
    let data = numbered(3 * OPERATION);
    let (_dir, from, to) = scratch(&data);
    let mut copy = by(Way::Memory, &from, &to, Direct::Never);
    let error = |at: u64| Error::Argument(format!("at {at}"));
    [2 * OPERATION as u64, 70_000, 80_000].into_iter().for_each(|at| copy.fail(at, error(at)));
    copy.next = 2_500_000;
    assert_eq!(finish(&mut copy), Err(error(70_000)));
    assert_eq!(fs::metadata(&to).unwrap().len(), 70_000);
}
