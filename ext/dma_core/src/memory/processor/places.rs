//! The memory that goes through a processor, and its lines.

use std::collections::BTreeMap;
use std::iter;

use super::LINE;
use crate::error::{Error, Result};

/// Part of memory at a multiple of [`LINE`], cut where the memory that it belongs to ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub address: usize,
    pub len: usize,
}

impl Line {
    /// Its bytes in memory.
    pub(super) fn load(self) -> [u8; LINE] {
        let mut bytes = [0; LINE];
        // SAFETY: lines are those of places, whose memory stays until it is detached, and are no longer than LINE.
        unsafe { (self.address as *const u8).copy_to(bytes.as_mut_ptr(), self.len) };
        bytes
    }

    /// Writes those bytes to memory that have their bit in `mask`.
    pub(super) fn store(self, bytes: &[u8; LINE], mask: u64) {
        let to = self.address as *mut u8;
        // SAFETY: as for load.
        unsafe {
            if mask == u64::MAX {
                return to.copy_from(bytes.as_ptr(), self.len);
            }
            bytes[..self.len]
                .iter()
                .enumerate()
                .filter(|(n, _)| mask >> n & 1 == 1)
                .for_each(|(n, byte)| *to.add(n) = *byte);
        }
    }
}

/// The memory of a region.
#[derive(Debug, Default)]
pub(super) struct Place {
    len: usize,
    /// How many mappings use it.
    pub attached: usize,
    /// Address and length of what is not to be cached.
    pub uncached: Vec<(usize, usize)>,
}

impl Place {
    fn caches(&self, line: Line) -> bool {
        let touches =
            |&(address, len): &(usize, usize)| address < line.address + line.len && line.address < address + len;
        !self.uncached.iter().any(touches)
    }
}

/// Places by their address; none overlaps another.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<usize, Place>);

/// Part of a range: in a line, or of memory that is no place.
#[derive(Debug)]
pub(super) struct Piece {
    pub line: Option<Line>,
    pub cached: bool,
    pub at: usize,
    pub len: usize,
}

impl Places {
    /// The place with this address and length, a new one if there is none.
    pub(super) fn add(&mut self, (address, len): (usize, usize)) -> &mut Place {
        self.0.entry(address).or_insert_with(|| Place { len, ..Place::default() })
    }

    pub(super) fn get(&mut self, address: usize) -> Option<&mut Place> {
        self.0.get_mut(&address)
    }

    pub(super) fn remove(&mut self, address: usize) {
        self.0.remove(&address);
    }

    /// Refuses what shares bytes with a place, and is another.
    pub(super) fn check(&self, (address, len): (usize, usize)) -> Result<()> {
        let before = self.0.range(..address.saturating_add(len)).next_back().map(|(start, place)| (*start, place.len));
        match before {
            Some((start, size)) if (start, size) != (address, len) && start + size > address => {
                Err(Error::Busy(format!(
                    "{len} bytes at {address:#x} overlap memory that is mapped by way of another buffer, {size} bytes at {start:#x}; use \
                     the one buffer for both"
                )))
            }
            _ => Ok(()),
        }
    }

    /// What a range consists of.
    pub(super) fn pieces(&self, address: usize, len: usize) -> impl Iterator<Item = Piece> + '_ {
        let (mut at, end) = (address, address + len);
        iter::from_fn(move || {
            if at == end {
                return None;
            }
            let here = self.0.range(..=at).next_back().filter(|(start, place)| at - **start < place.len);
            let piece = match here {
                None => {
                    let next = self.0.range(at..end).next().map_or(end, |(start, _)| *start);
                    Piece { line: None, cached: false, at, len: next - at }
                }
                Some((start, place)) => {
                    let first = at & !(LINE - 1);
                    let (low, high) = (first.max(*start), first.saturating_add(LINE).min(start + place.len));
                    let line = Line { address: low, len: high - low };
                    Piece { line: Some(line), cached: place.caches(line), at, len: high.min(end) - at }
                }
            };
            at += piece.len;
            Some(piece)
        })
    }

    /// The lines that a range touches.
    pub(super) fn lines(&self, address: usize, len: usize) -> impl Iterator<Item = Line> + '_ {
        self.pieces(address, len).filter_map(|piece| piece.line)
    }
}
