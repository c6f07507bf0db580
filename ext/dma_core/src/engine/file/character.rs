//! Character devices whose read(2) and write(2) are DMA, as those of Xilinx's XDMA driver: it pins the caller's pages, and the device
//! moves the bytes. The file offset is the device address; what streams ignores it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path as FilePath, PathBuf};

use nix::errno::Errno;

use super::{Direct, Handle};
use crate::engine::Limits;
use crate::error::{Error, Result};
use crate::sys;
use crate::transfer::Direction;

/// One read(2) brings one packet of a stream, and what one write(2) takes becomes one: to cut a transfer in parts, or to have two
/// under way at a time, would mix packets up. The driver cuts it by itself, and its engine does one after the other anyway.
/// These drivers have no fsync(2): a write is over when the bytes are in the device.
const LIMITS: Limits = Limits { max_len: sys::MAX_RW as u64, serial: true, flushes: false, ..Limits::ANY };

/// What a character device has for its two directions.
#[derive(Debug)]
pub(super) struct Sides {
    /// The descriptor that is read, where it is another than the one that is written.
    pub(super) reads: Option<OwnedFd>,
    /// The direction that it has not, and why.
    pub(super) missing: Option<(Direction, String)>,
}

/// What the device behind `fd` takes.
///
/// # Errors
/// [`Error::Unsupported`] where its driver knows no offsets, as those of terminals, and with [`Direct::Never`].
pub(super) fn limits(path: &FilePath, fd: BorrowedFd<'_>, direct: Direct) -> Result<Limits> {
    let shown = path.display();
    if direct == Direct::Never {
        return Err(Error::Unsupported(format!(
            "{shown} is a character device: no page cache lies before it to go through; leave direct: out"
        )));
    }
    if !sys::takes_offsets(fd) {
        let errno = Errno::ESPIPE.desc();
        return Err(Error::Unsupported(format!(
            "{shown} has no addresses: its driver takes neither pread(2) nor pwrite(2) ({errno}), as that of a terminal; use an IO"
        )));
    }
    Ok(LIMITS)
}

/// Opens a device for all that it can do: both halves of a pair, or else what its permissions allow.
///
/// # Errors
/// See [`Handle::open`]; only the half that is named must be there.
pub(super) fn open(path: &FilePath, direct: Direct) -> Result<Handle> {
    match other_half(path) {
        Some((direction, other)) => open_pair(path, direction, &other, direct),
        None => open_alone(path, direct),
    }
}

/// The XDMA driver makes a device for each direction of a channel: `xdma0_h2c_0` takes from the host what goes to the card, and
/// `xdma0_c2h_0` gives back what comes from there. Which of them `path` is, and the other's path.
fn other_half(path: &FilePath) -> Option<(Direction, PathBuf)> {
    let (name, digits) = path.file_name()?.to_str()?.rsplit_once('_')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let other = |prefix: &str, suffix: &str| path.with_file_name(format!("{prefix}{suffix}_{digits}"));
    match (name.strip_suffix("_h2c"), name.strip_suffix("_c2h")) {
        (Some(prefix), _) => Some((Direction::ToDevice, other(prefix, "_c2h"))),
        (_, Some(prefix)) => Some((Direction::FromDevice, other(prefix, "_h2c"))),
        _ => None,
    }
}

/// Each half is opened once, for its own direction only: of a stream that is read the driver allows no second descriptor.
fn open_pair(path: &FilePath, direction: Direction, other: &FilePath, direct: Direct) -> Result<Handle> {
    let opposite = match direction {
        Direction::ToDevice => Direction::FromDevice,
        Direction::FromDevice => Direction::ToDevice,
    };
    let own = open_half(path, direction, direct)?;
    match open_half(other, opposite, direct) {
        Ok(half) => {
            let (reader, writer) = if direction == Direction::FromDevice { (own, half) } else { (half, own) };
            let sides = Sides { reads: Some(reader.buffered), missing: None };
            Ok(Handle { sides: Some(sides), ..writer })
        }
        Err(why) => {
            let missing = refusal(path, opposite, &format!("which is the other direction's half of a pair: {why}"));
            Ok(Handle { sides: Some(Sides { reads: None, missing: Some((opposite, missing)) }), ..own })
        }
    }
}

/// Of a stream the driver ends a read where a packet ends only for who has opened it with O_TRUNC (`char_sgdma_open` in its
/// cdev_sgdma.c), which wants the permission to write. A file in the place of a device must not be cut by that.
fn open_half(path: &FilePath, direction: Direction, direct: Direct) -> Result<Handle> {
    let shown = path.display();
    match sys::is_character_device(path) {
        Ok(true) => {}
        Ok(false) => return Err(Error::Unsupported(format!("{shown} is no character device"))),
        Err(errno) => return Err(Error::os(errno, format!("cannot open {shown}"))),
    }
    let choices: &[i32] = match direction {
        Direction::ToDevice => &[libc::O_WRONLY],
        Direction::FromDevice => &[libc::O_RDONLY | libc::O_TRUNC, libc::O_RDONLY],
    };
    Ok(Handle::open_allowed(path, choices, direct)?.0)
}

fn open_alone(path: &FilePath, direct: Direct) -> Result<Handle> {
    let (handle, flags) = Handle::open_allowed(path, &[libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY], direct)?;
    let missing = match flags {
        libc::O_RDONLY => Some(Direction::ToDevice),
        libc::O_WRONLY => Some(Direction::FromDevice),
        _ => None,
    };
    let missing = missing.map(|direction| (direction, refusal(path, direction, "which its permissions do not allow")));
    Ok(Handle { sides: Some(Sides { reads: None, missing }), ..handle })
}

fn refusal(path: &FilePath, direction: Direction, why: &str) -> String {
    let verb = if direction == Direction::ToDevice { "write to" } else { "read from" };
    format!("cannot {verb} {}, {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(path: &str) -> Option<(Direction, String)> {
        let (direction, other) = other_half(FilePath::new(path))?;
        Some((direction, other.to_str().unwrap().to_owned()))
    }

    #[test]
    fn the_halves_of_a_pair_name_each_other_and_no_other_name_is_one() {
        assert_eq!(half("/dev/xdma0_h2c_1"), Some((Direction::ToDevice, "/dev/xdma0_c2h_1".into())));
        assert_eq!(half("/dev/xdma12_c2h_10"), Some((Direction::FromDevice, "/dev/xdma12_h2c_10".into())));
        assert_eq!(half("/a_h2c_0/x_h2c_c2h_3"), Some((Direction::FromDevice, "/a_h2c_0/x_h2c_h2c_3".into())));
        for path in
            ["/dev/zero", "/dev/xdma0_user", "/dev/xdma0_h2c_", "/dev/xdma0_h2c_0x", "/dev/xdma0_h2c", "/", "/dev/_0"]
        {
            assert_eq!(half(path), None, "{path}");
        }
    }
}
