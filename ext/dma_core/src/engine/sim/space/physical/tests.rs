use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::memory::testing::{bytes, region};
use crate::memory::{Layout, Lock, Region};

const FRAMES: u64 = 64;
const RAM: u64 = FRAMES * PAGE;
/// Pages of the program's memory.
const PAGES: u64 = 12;
const STREAMING: Want = Want { row: None, bounces: true, is_pinned: true };
const COHERENT: Want = Want { bounces: false, ..STREAMING };

fn physical(seed: u64, fragmentation: f64) -> Physical {
    Physical::new(seed, Some(Ram::new(RAM, fragmentation, seed).unwrap()))
}

/// A mapping as the model remembers it.
#[derive(Debug)]
struct Known {
    id: u64,
    /// Where it is in the program's memory.
    from: u64,
    to: u64,
    is_pinned: bool,
}

/// Memory as it should be: what devices find in physical memory where no mapping is, and what the program has.
struct Model {
    physical: Physical,
    memory: Arc<Region>,
    ram: Vec<u8>,
    expected: Vec<u8>,
    known: Vec<Known>,
    last_id: u64,
}

impl Model {
    fn new(seed: u64, fragmentation: f64) -> Model {
        Model {
            physical: physical(seed, fragmentation),
            memory: Region::allocate(Layout::new((PAGES * PAGE) as usize), Lock::Never).unwrap(),
            ram: vec![0; RAM as usize],
            expected: vec![0; (PAGES * PAGE) as usize],
            known: Vec::new(),
            last_id: 0,
        }
    }

    fn host(&self, offset: u64) -> u64 {
        self.memory.address() as u64 + offset
    }

    /// The frame of a page of the program's memory.
    fn frame(&self, page: u64) -> Option<u64> {
        self.physical.numbers.get(&self.host(page * PAGE)).copied()
    }

    /// Which byte of the program's memory a device finds at an address, if the page there is `page`.
    fn mapped(&self, page: Option<u64>, address: u64) -> Option<u64> {
        let offset = page? * PAGE + address % PAGE;
        self.known.iter().any(|known| (known.from..known.to).contains(&offset)).then_some(offset)
    }

    /// What a mapping's frames have when they are left.
    fn leave(&mut self, from: u64, to: u64) {
        for offset in from..to {
            let frame = self.frame(offset / PAGE).unwrap();
            self.ram[(frame * PAGE + offset % PAGE) as usize] = self.expected[offset as usize];
        }
    }

    fn map(&mut self, from: u64, len: u64, limit: u64, want: &Want) -> Result<(), TestCaseError> {
        let (to, id) = ((from + len).min(PAGES * PAGE), self.last_id + 1);
        let Ok(placed) = self.physical.map(id, self.host(from), to - from, limit, want) else { return Ok(()) };
        self.last_id = id;
        prop_assert_eq!(placed.pieces.iter().map(|piece| piece.1).sum::<u64>(), to - from);
        prop_assert!(placed.pieces.iter().all(|(address, len)| address + len <= limit.min(FRAMES) * PAGE));
        prop_assert!(want.row.is_none() || placed.pieces.len() == 1, "in one piece");
        prop_assert!(want.bounces || placed.slots.is_empty());
        let mut offset = from;
        for (mut address, mut len) in placed.pieces {
            while len > 0 {
                let part = len.min(PAGE - offset % PAGE);
                let frame = self.frame(offset / PAGE).unwrap();
                let slot = placed.slots.iter().find(|slot| slot.skip == offset - from);
                prop_assert_eq!(address % PAGE, offset % PAGE);
                match slot {
                    None => prop_assert_eq!(address / PAGE, frame),
                    Some(slot) => prop_assert!(slot.address == address && slot.len == part && frame >= limit),
                }
                (address, len, offset) = (address + part, len - part, offset + part);
            }
        }
        self.known.push(Known { id, from, to, is_pinned: want.is_pinned });
        Ok(())
    }

    fn unmap(&mut self, index: usize) {
        let Known { id, from, to, .. } = self.known.swap_remove(index);
        self.leave(from, to);
        self.physical.unmap(id, self.host(from), to - from);
    }

    fn migrate(&mut self, most: usize) -> Result<(), TestCaseError> {
        let before: Vec<Option<u64>> = (0..PAGES).map(|page| self.frame(page)).collect();
        let uses =
            |page: u64| self.known.iter().filter(move |one| one.from < (page + 1) * PAGE && one.to > page * PAGE);
        let is_free = |page: &u64| uses(*page).count() > 0 && uses(*page).all(|known| !known.is_pinned);
        let movable = (0..PAGES).filter(is_free).count();
        // The pages that stay, leave nothing: what is left is written where it was before anything moves, and not seen where it stays.
        let ranges: Vec<(u64, u64)> = self.known.iter().map(|known| (known.from, known.to)).collect();
        ranges.into_iter().for_each(|(from, to)| self.leave(from, to));
        let moved = self.physical.migrate(most);
        let changed = (0..PAGES).filter(|page| self.frame(*page) != before[*page as usize]);
        prop_assert_eq!(changed.count(), moved);
        prop_assert!(moved <= movable.min(most));
        let old: Vec<u64> = before.into_iter().flatten().collect();
        let fresh = (0..PAGES).filter_map(|page| self.frame(page)).filter(|frame| !old.contains(frame)).count();
        prop_assert_eq!(fresh, moved, "nobody moves to where another was");
        Ok(())
    }

    /// A device's burst of `len` bytes; it ends where there is no memory.
    fn access(&mut self, address: u64, len: u64, write: Option<u8>) -> Result<(), TestCaseError> {
        let mut at = address;
        while at < address + len {
            let Some((host, run, id)) = self.physical.translate(at) else {
                prop_assert!(at >= RAM, "all of physical memory can be reached");
                return Ok(());
            };
            prop_assert!(run > 0 && at < RAM);
            let run = run.min(address + len - at);
            let page = (0..PAGES).find(|page| self.frame(*page) == Some(at / PAGE));
            for step in 0..run {
                let (place, mapped) = ((host + step) as *mut u8, self.mapped(page, at + step));
                let expected = match mapped {
                    Some(offset) => &mut self.expected[offset as usize],
                    None => &mut self.ram[(at + step) as usize],
                };
                // SAFETY: physical memory says that a byte is there, of the region or of its own.
                unsafe {
                    if place.read() != *expected || mapped.is_none() != (id == OWN) {
                        prop_assert_eq!(
                            (place.read(), id == OWN),
                            (*expected, mapped.is_none()),
                            "at {:#x}",
                            at + step
                        );
                    }
                    if let Some(byte) = write {
                        place.write(byte);
                        *expected = byte;
                    }
                }
            }
            at += run;
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Map { from: u64, len: u64, limit: u64, want: Want },
    Unmap(usize),
    Migrate(usize),
    Device { address: u64, len: u64, write: Option<u8> },
    Cpu { from: u64, len: u64, byte: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let limit = prop::sample::select(vec![8, 16, 30, 64, EVERYWHERE]);
    let row = prop::sample::select(vec![
        None,
        None,
        Some(Row::ASKED),
        Some(Row::DESCRIPTORS),
        Some(Row::within(8 * PAGE, true)),
    ]);
    let want = (row, any::<bool>(), any::<bool>()).prop_map(|(row, bounces, is_pinned)| Want {
        row,
        bounces: bounces && row.is_none(),
        is_pinned,
    });
    prop_oneof![
        4 => (0..PAGES * PAGE, 1..3 * PAGE, limit, want)
            .prop_map(|(from, len, limit, want)| Step::Map { from, len, limit, want }),
        2 => any::<usize>().prop_map(Step::Unmap),
        2 => (0..6usize).prop_map(Step::Migrate),
        6 => (0..RAM + 2 * PAGE, 1..2 * PAGE, any::<Option<u8>>())
            .prop_map(|(address, len, write)| Step::Device { address, len, write }),
        2 => (0..PAGES * PAGE, 1..2 * PAGE, any::<u8>()).prop_map(|(from, len, byte)| Step::Cpu { from, len, byte }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn devices_find_what_is_mapped_or_memory_of_the_machines_own_and_nothing_of_the_process(
        (seed, fragmentation) in (any::<u64>(), prop::sample::select(vec![0.0, 0.3, 0.8])),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut model = Model::new(seed, fragmentation);
        for step in steps {
            match step {
                Step::Map { from, len, limit, want } => model.map(from, len, limit, &want)?,
                Step::Unmap(index) if !model.known.is_empty() => model.unmap(index % model.known.len()),
                Step::Unmap(_) => {}
                Step::Migrate(most) => model.migrate(most)?,
                Step::Device { address, len, write } => model.access(address, len, write)?,
                Step::Cpu { from, len, byte } => {
                    let len = len.min(PAGES * PAGE - from);
                    model.memory.fill(from as usize, len as usize, byte).unwrap();
                    model.expected[from as usize..(from + len) as usize].fill(byte);
                }
            }
            let mut frames: Vec<u64> = model.physical.numbers.values().copied().collect();
            frames.sort_unstable();
            prop_assert!(frames.windows(2).all(|two| two[0] != two[1]), "each page has a frame of its own");
        }
        prop_assert_eq!(bytes(&model.memory), model.expected.clone());
        model.access(0, RAM, None)?;
        while !model.known.is_empty() {
            model.unmap(0);
        }
        model.access(0, RAM, None)?;
        prop_assert!(model.physical.is_empty());
        let (all, free) = model.physical.ram().unwrap().slots(EVERYWHERE);
        prop_assert_eq!(all, free);
    }
}

/// The pieces of a mapping of pages of `memory`.
fn map(physical: &mut Physical, id: u64, memory: &Region, pages: Range<u64>, want: &Want) -> Vec<(u64, u64)> {
    let (host, len) = (memory.address() as u64 + pages.start * PAGE, (pages.end - pages.start) * PAGE);
    physical.map(id, host, len, EVERYWHERE, want).unwrap().pieces
}

#[test]
fn what_was_freed_is_given_out_first_and_in_the_same_order() {
    let (mut physical, memory) = (physical(3, 0.0), region(12 * PAGE as usize, 0));
    let host = memory.address() as u64;
    let (one, two) = (map(&mut physical, 1, &memory, 0..3, &COHERENT), map(&mut physical, 2, &memory, 3..5, &COHERENT));
    physical.unmap(1, host, 3 * PAGE);
    physical.unmap(2, host + 3 * PAGE, 2 * PAGE);
    let again = map(&mut physical, 3, &memory, 6..11, &COHERENT);
    assert_eq!(again, [two, one].concat());
}

#[test]
fn pages_come_from_all_of_it_but_the_zone_whatever_the_device_reaches() {
    let memory = region(40 * PAGE as usize, 0);
    for limit in [16, 17, 40, EVERYWHERE] {
        let mut physical = physical(5, 0.0);
        let placed = physical.map(1, memory.address() as u64, 10 * PAGE, limit, &STREAMING).unwrap();
        let frames: Vec<u64> = physical.numbers.values().copied().collect();
        assert!(frames.iter().all(|frame| (16..FRAMES).contains(frame)), "{frames:?}");
        assert_eq!(placed.slots.len(), frames.iter().filter(|frame| **frame >= limit).count());
        assert!(placed.slots.iter().all(|slot| slot.address < limit.min(16) * PAGE));
    }
}

#[test]
fn who_bounces_nothing_is_placed_in_reach_or_refused() {
    let memory = region(40 * PAGE as usize, 0);
    let host = memory.address() as u64;
    let mut physical = physical(5, 0.0);
    for (id, limit, low) in [(1, 16, 1), (2, 20, 16)] {
        let pieces = physical.map(id, host + 4 * id * PAGE, 4 * PAGE, limit, &COHERENT).unwrap().pieces;
        assert!(
            pieces.iter().all(|(address, len)| *address >= low * PAGE && address + len <= limit * PAGE),
            "{pieces:?}"
        );
    }
    let refusal = physical.map(3, host, PAGE, 20, &COHERENT).unwrap_err();
    assert!(refusal.contains("no page of physical memory in reach is free for the last 1 of its 1 pages"), "{refusal}");
    map(&mut physical, 4, &memory, 20..40, &STREAMING);
    let far = (20..40).map(|page| host + page * PAGE).find(|page| !physical.reaches(*page, PAGE, 20)).unwrap();
    assert_eq!(physical.map(5, far, PAGE, 20, &COHERENT).unwrap_err(), OUT_OF_REACH);
}

#[test]
fn without_slots_left_nothing_is_bounced_until_a_mapping_ends() {
    let (mut physical, memory) = (physical(5, 0.0), region(16 * PAGE as usize, 0));
    let host = memory.address() as u64;
    physical.map(1, host, 10 * PAGE, 16, &STREAMING).unwrap();
    let refusal = physical.map(2, host + 10 * PAGE, 6 * PAGE, 16, &STREAMING).unwrap_err();
    assert!(
        refusal
            .contains("of the 61440 bytes of bounce buffers for them, at the beginning of ram:, only 20480 are free"),
        "{refusal}"
    );
    assert_eq!(physical.ram().unwrap().slots(16), (15 * PAGE, 5 * PAGE), "nothing is kept of what was refused");
    physical.unmap(1, host, 10 * PAGE);
    assert_eq!(physical.map(2, host + 10 * PAGE, 6 * PAGE, 16, &STREAMING).unwrap().slots.len(), 6);
}

#[test]
fn a_row_that_is_not_there_is_refused_with_the_largest_that_is() {
    let memory = region(48 * PAGE as usize, 0);
    let mut physical = physical(1, 0.6);
    let spare: Vec<bool> = (0..FRAMES).map(|number| physical.is_free(number)).collect();
    let longest = spare[16..].split(|spare| !spare).map(<[bool]>::len).max().unwrap() as u64;
    let row = Want { row: Some(Row::ASKED), ..COHERENT };
    let refusal = physical.map(1, memory.address() as u64, (longest + 1) * PAGE, EVERYWHERE, &row).unwrap_err();
    let (count, bytes) = (longest + 1, longest * PAGE);
    let expected = format!("need {count} free pages of physical memory in a row, and the largest run in reach has {longest} pages ({bytes} bytes)");
    assert!(refusal.contains(&expected) && refusal.contains("leave contiguous: out"), "{refusal}");
    assert!(physical.is_empty());
    assert_eq!(map(&mut physical, 2, &memory, 0..longest, &row).len(), 1);
    let low = Want { row: Some(Row::DESCRIPTORS), ..COHERENT };
    assert_eq!(map(&mut physical, 3, &memory, longest..longest + 15, &low), [(PAGE, 15 * PAGE)]);
}

#[test]
fn others_occupy_the_part_that_was_asked_for_here_and_there() {
    for (fragmentation, low, high) in [(0.0, 0, 0), (0.25, 2900, 3250), (0.9, 10_900, 11_200), (1.0, 12_288, 12_288)] {
        let physical = Physical::new(7, Some(Ram::new(64 << 20, fragmentation, 7).unwrap()));
        let spare: Vec<bool> = (4096..16_384).map(|number| physical.is_free(number)).collect();
        let occupied = spare.iter().filter(|spare| !**spare).count();
        assert!((low..=high).contains(&occupied), "{fragmentation}: {occupied}");
        assert!((1..4096).all(|number| physical.is_free(number)), "the zone is kept free");
        let longest = spare.split(|spare| !spare).map(<[bool]>::len).max().unwrap();
        assert!(fragmentation != 0.25 || (15..80).contains(&longest), "{longest} in a row");
    }
}

#[test]
fn interrupt_messages_are_no_memory() {
    let (first, last) = (MESSAGES.start / PAGE, MESSAGES.end / PAGE);
    for mut physical in [Physical::new(1, None), Physical::new(1, Some(Ram::new(1 << 32, 0.0, 1).unwrap()))] {
        assert_eq!(physical.draw(first..last), None);
        assert_eq!((physical.draw(first - 1..last), physical.draw(first..last + 1)), (Some(first - 1), Some(last)));
        assert_eq!((physical.translate(MESSAGES.start), physical.translate(MESSAGES.end - 1)), (None, None));
    }
}
