use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::memory::{Layout, Lock, Region};

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Both];

impl Space {
    /// Maps memory in one piece, as a descriptor ring has to be; its memory must not be mapped already, unless it is so. Without an
    /// IOMMU the piece passes no multiple of `boundary`, where there is one; if it is longer it begins in the first page of one.
    fn map_contiguous(
        &mut self,
        span: Span,
        access: Access,
        address_bits: u32,
        boundary: Option<u64>,
    ) -> Result<(u64, u64)> {
        let row = Some(boundary.map_or(Row::DESCRIPTORS, |boundary| Row::within(boundary, true)));
        let placed = self.map_as(span, access, address_bits, Want { row, bounces: false, is_pinned: true })?;
        Ok((placed.id, placed.pieces[0].0))
    }
}

fn region(size: usize) -> Arc<Region> {
    Region::allocate(Layout::new(size), Lock::Never).unwrap()
}

fn span(region: &Arc<Region>, offset: usize, len: usize) -> Span {
    Span::new(region, offset, len).unwrap()
}

/// A mapping as the tests remember it.
struct Known {
    id: u64,
    host: u64,
    access: Access,
    pieces: Vec<(u64, u64)>,
}

impl Known {
    /// The host address of a bus address in it.
    fn host(&self, address: u64) -> Option<u64> {
        let mut host = self.host;
        for &(bus, len) in &self.pieces {
            if (bus..bus + len).contains(&address) {
                return Some(host + address - bus);
            }
            host += len;
        }
        None
    }
}

/// What one byte translates to, as `known` has it.
fn expected(known: &[Known], iommu: bool, address: u64, access: Access) -> Result<u64, Status> {
    let allowed = known.iter().filter(|one| !iommu || one.access.allows(access));
    allowed.filter_map(|one| one.host(address)).next().ok_or(match access {
        _ if iommu => Status::IommuFault { address, access },
        Access::Write => Status::BusWriteError,
        Access::Read | Access::Both => Status::BusReadError,
    })
}

/// Compares a run of `len` bytes with the model: its ends, many bytes between, and the one behind it.
fn check(space: &mut Space, known: &[Known], address: u64, len: u64, access: Access) -> Result<(), TestCaseError> {
    let iommu = matches!(space.kind, Kind::Iommu(_));
    let first = expected(known, iommu, address, access);
    match space.translate(address, len, access) {
        Err(status) => prop_assert_eq!(Err(status), first),
        Ok((host, run, _)) => {
            prop_assert!(run > 0 && run <= len);
            for byte in (0..run).step_by(101).chain([run - 1]) {
                prop_assert_eq!(expected(known, iommu, address + byte, access), Ok(host as u64 + byte));
            }
            if run < len && iommu {
                prop_assert!(expected(known, iommu, address + run, access).is_err());
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_bytes_that_are_mapped_are_reached_and_no_others(
        seed in prop::option::of(any::<u64>()),
        steps in prop::collection::vec(
            (0usize..30_000, 1usize..12_000, 0usize..3, prop::sample::select(vec![17, 18, 40]), any::<bool>()), 1..40),
        probes in prop::collection::vec((0u64..70 * 4096, 0u64..20_000), 20),
    ) {
        let memory = region(42_000);
        let mut space = seed.map_or_else(Space::iommu, Space::physical);
        let mut known: Vec<Known> = Vec::new();
        for (offset, len, access, bits, unmap) in steps {
            let access = ACCESSES[access];
            if unmap && !known.is_empty() {
                let gone = known.swap_remove(offset % known.len());
                space.unmap(gone.id);
                check(&mut space, &known, gone.pieces[0].0, 100, gone.access)?;
            } else if let Ok((id, pieces)) = space.map(span(&memory, offset, len), access, bits) {
                let host = (memory.address() + offset) as u64;
                prop_assert_eq!(pieces.iter().map(|piece| piece.1).sum::<u64>(), len as u64);
                prop_assert_eq!(pieces[0].0 % 4096, host % 4096);
                prop_assert!(pieces.iter().all(|&(bus, len)| bus >= 4096 && bus + len <= 1 << bits));
                prop_assert!(pieces.windows(2).all(|two| two[0].0 + two[0].1 != two[1].0), "neighbours are merged");
                known.push(Known { id, host, access, pieces });
            }
            prop_assert_eq!(space.mappings(), known.len());
            prop_assert_eq!(memory.in_flight(), known.len());
        }
        for (access, (address, len)) in ACCESSES.into_iter().cycle().zip(probes) {
            check(&mut space, &known, address, len + 1, access)?;
        }
        for (address, len) in known.iter().flat_map(|one| &one.pieces) {
            for (address, access) in [address - 1, *address, address + len / 2, address + len - 1, address + len]
                .into_iter().flat_map(|address| ACCESSES.map(|access| (address, access))) {
                check(&mut space, &known, address, *len, access)?;
            }
        }
        if seed.is_none() {
            let mut all: Vec<(u64, u64)> = known.iter().flat_map(|one| one.pieces.clone()).collect();
            all.sort_unstable();
            let apart = |two: &[(u64, u64)]| (two[0].0 + two[0].1).div_ceil(4096) < two[1].0 / 4096;
            prop_assert!(all.windows(2).all(apart), "a page lies between any two mappings");
        }
        known.iter().for_each(|one| drop(space.unmap(one.id)));
        prop_assert_eq!((space.mappings(), memory.in_flight()), (0, 0));
        match &space.kind {
            Kind::Iommu(iommu) => prop_assert!(iommu.is_empty()),
            Kind::Physical(physical) => prop_assert!(physical.is_empty()),
        }
    }
}

#[test]
fn a_space_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Space>();
}

#[test]
fn a_page_behind_each_mapping_is_not_mapped() {
    let memory = region(4 * 4096);
    let mut space = Space::iommu();
    let (_, one) = space.map(span(&memory, 0, 8192), Access::Both, 32).unwrap();
    let (_, two) = space.map(span(&memory, 8192, 4096), Access::Both, 32).unwrap();
    assert_eq!((one, two), (vec![(0x1000, 8192)], vec![(0x4000, 4096)]));
}

#[test]
fn an_unmapped_address_faults_and_comes_back_only_after_all_others() {
    let memory = region(4096);
    let mut space = Space::iommu();
    let mut seen = HashSet::new();
    // 2**20 bytes are 256 pages, 255 without the one at 0: room for 127 with their guard pages.
    for _ in 0..127 {
        let (id, pieces) = space.map(span(&memory, 8, 64), Access::Read, 20).unwrap();
        let address = pieces[0].0;
        assert!(seen.insert(address));
        assert_eq!(space.translate(address, 64, Access::Read).unwrap().1, 64);
        space.unmap(id);
        let fault = Status::IommuFault { address, access: Access::Read };
        assert_eq!(space.translate(address, 64, Access::Read), Err(fault));
        space.unmap(id);
    }
    let (_, pieces) = space.map(span(&memory, 8, 64), Access::Read, 20).unwrap();
    assert_eq!(pieces, [(0x1008, 64)]);
}

#[test]
fn exhaustion_is_an_error_that_says_what_was_asked_and_ends_with_an_unmap() {
    for (mut space, room) in [(Space::iommu(), 7), (Space::physical(1), 15)] {
        let memory = region(16 * 4096);
        let map = |space: &mut Space, page: usize| space.map(span(&memory, page * 4096, 4096), Access::Both, 16);
        let ids: Vec<u64> = (0..room).map(|page| map(&mut space, page).unwrap().0).collect();
        let Err(Error::Os { errno: Errno::ENOSPC, context }) = map(&mut space, 15) else { panic!("there was room") };
        assert!(context.starts_with("cannot map 4096 bytes for a device with 16 address bits: "), "{context}");
        assert_eq!((space.mappings(), memory.in_flight()), (room, room));
        space.unmap(ids[3]);
        assert!(map(&mut space, 15).is_ok());
        assert!(map(&mut space, 3).is_err());
    }
}

#[test]
fn a_mapping_that_does_not_fit_leaves_nothing_behind() {
    let memory = region(16 * 4096);
    for mut space in [Space::iommu(), Space::physical(1)] {
        for bits in [0, 12, 16] {
            assert!(space.map(span(&memory, 0, 16 * 4096), Access::Both, bits).is_err());
        }
        assert_eq!(memory.in_flight(), 0);
        assert!((0..16).all(|page| space.translate(page * 4096, 1, Access::Read).is_err()));
        assert!(space.map(span(&memory, 0, 14 * 4096), Access::Both, 16).is_ok());
    }
}

#[test]
fn no_address_or_length_overflows() {
    let memory = region(100);
    for mut space in [Space::iommu(), Space::physical(1)] {
        let (_, pieces) = space.map(span(&memory, 0, 100), Access::Both, u32::MAX).unwrap();
        assert_eq!(space.translate(pieces[0].0 + 10, u64::MAX, Access::Read).unwrap().1, 90);
        assert!(space.translate(u64::MAX, u64::MAX, Access::Read).is_err());
        assert!(matches!(space.map(span(&memory, 50, 0), Access::Both, 32), Err(Error::Argument(_))));
    }
}

#[test]
fn physical_pages_are_scattered_as_the_seed_says() {
    let memory = region(1 << 20);
    let pieces = |seed| Space::physical(seed).map(span(&memory, 0, 1 << 20), Access::Both, 32).unwrap().1;
    assert!(pieces(7).len() > 200);
    assert!(pieces(7).iter().any(|piece| piece.0 > 1 << 31));
    assert_eq!(pieces(7), pieces(7));
    assert_ne!(pieces(7), pieces(8));
}

#[test]
fn no_page_is_where_writes_are_interrupts() {
    let region = region(1 << 24);
    for seed in 0..8 {
        let mut space = Space::physical(seed);
        let (_, pieces) = space.map(span(&region, 0, 1 << 24), Access::Both, 32).unwrap();
        assert!(pieces.iter().all(|(address, _)| !MESSAGES.contains(address)), "{seed}");
    }
}

#[test]
fn mappings_of_one_page_share_its_frame_until_the_last_ends() {
    let memory = region(4096);
    let mut space = Space::physical(7);
    let (one, first) = space.map(span(&memory, 0, 100), Access::Read, 32).unwrap();
    let (two, second) = space.map(span(&memory, 50, 100), Access::Write, 32).unwrap();
    assert_eq!(first[0].0 + 50, second[0].0);
    assert_eq!(space.translate(first[0].0 + 60, 1000, Access::Read).unwrap().1, 90);
    space.unmap(one);
    assert_eq!(space.translate(first[0].0, 1, Access::Write), Err(Status::BusWriteError));
    assert_eq!(space.translate(second[0].0, 1000, Access::Read).unwrap().1, 100);
    space.unmap(two);
    assert_eq!(space.translate(second[0].0, 1, Access::Read), Err(Status::BusReadError));
}

#[test]
fn a_page_at_home_past_the_reach_of_a_device_is_refused_to_it() {
    let memory = region(4096);
    let mut space = Space::physical(7);
    let (id, pieces) = space.map(span(&memory, 0, 10), Access::Both, 48).unwrap();
    assert!(pieces[0].0 >= 1 << 32);
    let refusal = space.map(span(&memory, 20, 10), Access::Both, 32).unwrap_err().to_string();
    assert!(refusal.contains("a device with more address bits uses the same memory"), "{refusal}");
    space.unmap(id);
    assert!(space.map(span(&memory, 20, 10), Access::Both, 32).is_ok());
}

#[test]
fn one_piece_passes_no_boundary_and_a_longer_one_begins_at_one() {
    const BOUNDARY: u64 = 1 << 16;
    let memory = region(40 * 4096);
    for seed in 0..50 {
        let mut space = Space::physical(seed);
        let mut map = |page: usize, pages: usize| {
            let span = span(&memory, page * 4096, pages * 4096);
            space.map_contiguous(span, Access::Both, 24, Some(BOUNDARY)).unwrap().1
        };
        let (short, long) = (map(0, 9), map(9, 20));
        assert_eq!(short / BOUNDARY, (short + 9 * 4096 - 1) / BOUNDARY);
        assert_eq!((long % BOUNDARY, long + 20 * 4096 <= 1 << 24), (0, true));
        assert_eq!(map(2, 5), short + 2 * 4096, "what is in one piece already stays where it is");
    }
}

#[test]
fn what_is_mapped_in_pieces_is_not_mapped_in_one() {
    let memory = region(4 * 4096);
    let mut space = Space::physical(1);
    let (id, _) = space.map(span(&memory, 0, 4 * 4096), Access::Both, 24).unwrap();
    let refusal = space.map_contiguous(span(&memory, 0, 8192), Access::Both, 24, None).unwrap_err().to_string();
    assert!(refusal.contains("mapped already, in pieces"), "{refusal}");
    space.unmap(id);
    assert!(space.map_contiguous(span(&memory, 0, 8192), Access::Both, 24, None).is_ok());
    assert!(space.map_contiguous(span(&memory, 4096, 8192), Access::Both, 24, None).is_err(), "the half of it");
}

#[test]
fn only_what_a_device_reaches_all_of_is_mapped_again() {
    let memory = region(4 * 4096);
    let mut space = Space::physical(3);
    let again = |space: &mut Space, page: usize, bits| {
        space.map_again(&span(&memory, page * 4096, 8192), Access::Read, bits).map(|(_, pieces)| pieces)
    };
    assert_eq!(again(&mut space, 0, 24), None);
    let (_, address) = space.map_contiguous(span(&memory, 0, 2 * 4096 + 10), Access::Both, 24, None).unwrap();
    assert_eq!(again(&mut space, 0, 24), Some(vec![(address, 8192)]));
    assert!(again(&mut space, 1, 24).is_some(), "by the page");
    assert_eq!((again(&mut space, 2, 24), again(&mut space, 0, 12)), (None, None));
    let mut iommu = Space::iommu();
    iommu.map(span(&memory, 0, 8192), Access::Both, 24).unwrap();
    assert_eq!(again(&mut iommu, 0, 24), None);
}
