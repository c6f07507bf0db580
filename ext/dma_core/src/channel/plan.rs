//! Which operation comes next for a request: a rule of numbers only.

use crate::engine::Limits;
use crate::transfer::Direction;

/// The next piece of a request: how many of its bytes, and whether through a bounce buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Bytes of the request that this piece moves.
    pub take: usize,
    /// The aligned operation around them, where they do not make one themselves.
    pub bounce: Option<Bounce>,
}

/// An operation through a bounce buffer: it begins `skip` bytes before the piece and is `len` bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounce {
    pub skip: usize,
    pub len: usize,
}

impl Piece {
    pub(super) fn straight(take: usize) -> Piece {
        Piece { take, bounce: None }
    }

    pub(super) fn bounced(take: usize, skip: usize, len: usize) -> Piece {
        Piece { take, bounce: Some(Bounce { skip, len }) }
    }
}

/// The first piece of `len` bytes at device address `offset` and memory `address`.
///
/// Reads are brought into the shape that `limits` wants: whole blocks straight into place, partial ones through a bounce buffer.
/// Where memory and device address never meet on a boundary, everything bounces. Writes keep their partial blocks apart, as
/// they are.
pub(super) fn plan(direction: Direction, offset: u64, address: usize, len: usize, limits: Limits) -> Piece {
    let granule = limits.granule as usize;
    let blocks_in = |len: usize| (len - len % granule).max(granule);
    let most = |len: u64| blocks_in(usize::try_from(len).unwrap_or(usize::MAX));
    let apart = most(limits.max_len);
    let together = most(limits.max_len.max(limits.max_long));
    // Bounce buffers begin at a boundary; other memory meets the next one sooner.
    let (apart, together) = match limits.boundary {
        0 => (apart, together),
        boundary => (apart.min(boundary), together.min(boundary - address % boundary)),
    };
    let skip = (offset % limits.granule) as usize;
    let to_boundary = if skip == 0 { 0 } else { granule - skip };
    let aligned = |forward: usize| (address + forward) % limits.memory == 0;
    let blocks = len - len % granule;
    match direction {
        _ if skip == 0 && blocks.min(together - together % granule) > 0 && aligned(0) => {
            Piece::straight(blocks.min(together - together % granule))
        }
        Direction::ToDevice if skip > 0 => Piece::straight(len.min(to_boundary)),
        Direction::ToDevice if blocks == 0 => Piece::straight(len),
        Direction::ToDevice => Piece::bounced(blocks.min(apart), 0, blocks.min(apart)),
        Direction::FromDevice if skip > 0 && (len <= to_boundary || aligned(to_boundary)) => {
            Piece::bounced(len.min(to_boundary), skip, granule)
        }
        Direction::FromDevice if skip == 0 && aligned(0) => Piece::bounced(len.min(granule), 0, granule),
        Direction::FromDevice => {
            let cover = (skip + len).next_multiple_of(granule).min(apart);
            Piece::bounced(len.min(cover - skip), skip, cover)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn power(max: u32) -> impl Strategy<Value = usize> {
        (0..=max).prop_map(|n| 1usize << n)
    }

    /// Whether no multiple of `boundary` lies inside.
    fn inside(address: usize, len: usize, boundary: usize) -> bool {
        boundary == 0 || address / boundary == (address + len - 1) / boundary
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_read_is_aligned_and_covers_the_range_once_in_order(
            granule in power(12), memory in power(12), offset in 0u64..100_000, address in 4096usize..100_000,
            len in 1usize..200_000, max_len in 1u64..50_000, boundary in prop::option::of(12u32..16),
        ) {
            let boundary = boundary.map_or(0, |n| 1 << n);
            let limits = Limits { granule: granule as u64, memory, max_len, boundary, ..Limits::ANY };
            let most = max_len as usize;
            let mut done = 0;
            while done < len {
                let at = offset + done as u64;
                let piece = plan(Direction::FromDevice, at, address + done, len - done, limits);
                prop_assert!(piece.take > 0 && piece.take <= len - done);
                let (start, size) = match piece.bounce {
                    Some(Bounce { skip, len }) => {
                        prop_assert!(skip + piece.take <= len);
                        (at - skip as u64, len)
                    }
                    None => {
                        prop_assert_eq!((address + done) % memory, 0);
                        prop_assert!(inside(address + done, piece.take, boundary));
                        (at, piece.take)
                    }
                };
                prop_assert_eq!(start % limits.granule, 0);
                prop_assert_eq!(size % granule, 0);
                prop_assert!(size <= most.max(granule));
                done += piece.take;
            }
        }

        #[test]
        fn every_write_is_whole_blocks_or_stays_inside_one(
            granule in power(12), memory in power(12), offset in 0u64..100_000, address in 4096usize..100_000,
            len in 1usize..200_000, max_len in 1u64..50_000, max_long in 0u64..100_000,
            boundary in prop::option::of(12u32..16),
        ) {
            let boundary = boundary.map_or(0, |n| 1 << n);
            let limits = Limits { granule: granule as u64, memory, max_len, max_long, boundary, ..Limits::ANY };
            let mut done = 0;
            while done < len {
                let at = offset + done as u64;
                let piece = plan(Direction::ToDevice, at, address + done, len - done, limits);
                prop_assert!(piece.take > 0 && piece.take <= len - done);
                let whole = at % limits.granule == 0 && piece.take % granule == 0;
                let within = at / limits.granule == (at + piece.take as u64 - 1) / limits.granule;
                prop_assert!(whole || within);
                prop_assert!(piece.take as u64 <= max_len.max(max_long).max(limits.granule));
                match piece.bounce {
                    Some(bounce) => {
                        prop_assert_eq!(bounce, Bounce { skip: 0, len: piece.take });
                        prop_assert!(piece.take as u64 <= max_len.max(limits.granule));
                    }
                    None if whole => {
                        prop_assert_eq!((address + done) % memory, 0);
                        prop_assert!(inside(address + done, piece.take, boundary));
                    }
                    None => {}
                }
                done += piece.take;
            }
        }
    }

    #[test]
    fn aligned_reads_make_one_straight_piece_per_operation() {
        let limits = Limits { granule: 512, memory: 512, max_len: 1 << 20, ..Limits::ANY };
        let piece = plan(Direction::FromDevice, 1024, 8192, 5 << 20, limits);
        assert_eq!(piece, Piece::straight(1 << 20));
        assert_eq!(plan(Direction::FromDevice, 0, 4096, 513, limits), Piece::straight(512));
        assert_eq!(plan(Direction::FromDevice, 512, 4608, 1, limits), Piece::bounced(1, 0, 512));
    }

    #[test]
    fn what_is_not_bounced_may_be_longer() {
        let limits = Limits { granule: 512, memory: 512, max_len: 1 << 20, max_long: 4 << 20, ..Limits::ANY };
        assert_eq!(plan(Direction::ToDevice, 0, 4096, 9 << 20, limits), Piece::straight(4 << 20));
        assert_eq!(plan(Direction::ToDevice, 0, 4097, 9 << 20, limits), Piece::bounced(1 << 20, 0, 1 << 20));
        assert_eq!(plan(Direction::FromDevice, 0, 4096, 9 << 20, limits), Piece::straight(4 << 20));
        assert_eq!(plan(Direction::FromDevice, 0, 4097, 9 << 20, limits), Piece::bounced(1 << 20, 0, 1 << 20));
    }
}
