//! The engine contract: every case on every engine. What a case says of an engine is compared with `table.txt`; with
//! DMA_WRITE_TABLE=1 the table is written anew. With DMA_GUEST set it is run on the devices of a virtual machine instead, whose
//! table is `guest_table.txt`.
//!
//! Cases that need a program, a device or a right that is not there are left out, and say so; under CI they fail.

mod cases;
mod engines;
mod guest;
mod order;
mod rig;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use engines::{is_guest, Bench, Skip, Verdict};
use rig::{BUDGET, SPENT};

const TABLE: &str = include_str!("table.txt");
const GUEST_TABLE: &str = include_str!("guest_table.txt");

/// Held by whoever uses a guest's devices: each can be open once.
static DEVICES: Mutex<()> = Mutex::new(());

/// A case's own part of the table: a line for each engine.
fn section(name: &str) -> Vec<&'static str> {
    let table = if is_guest() { GUEST_TABLE } else { TABLE };
    let mut lines = table.lines().skip_while(|line| *line != name);
    assert!(lines.next().is_some() || writes(), "the table has no {name}; write it with DMA_WRITE_TABLE=1");
    lines.take_while(|line| line.starts_with(' ')).map(str::trim).collect()
}

fn writes() -> bool {
    env::var_os("DMA_WRITE_TABLE").is_some()
}

/// Runs a case on all engines and compares what became of it with the table.
fn run(name: &str, case: fn(&dyn Bench) -> Verdict) {
    // A case that failed has closed its device all the same.
    let _alone = is_guest().then(|| DEVICES.lock().unwrap_or_else(PoisonError::into_inner));
    let (expected, mut found) = (section(name), Vec::new());
    for (position, bench) in engines::all().iter().enumerate() {
        let engine = bench.name();
        let said = match case(bench.as_ref()) {
            Ok(()) => format!("{engine}: ran"),
            Err(Skip::Missing(what)) if env::var_os("CI").is_none() && !writes() => {
                eprintln!("{name} on {engine} is left out: this computer lacks {what}");
                expected.get(position).copied().unwrap_or_default().to_owned()
            }
            Err(skip) => format!("{engine}: {skip}"),
        };
        found.push(said);
    }
    // Whichever case is the last one to end sees the sum of all.
    let spent = SPENT.load(Relaxed);
    assert!(spent <= BUDGET, "{spent} operations of a slow device, {BUDGET} are allowed: each takes 100 ms");
    if writes() {
        write(name, &found);
    } else {
        assert_eq!(found, expected, "{name}: the table says something else; DMA_WRITE_TABLE=1 writes it anew");
    }
}

/// Puts a case's part into the table. Run with one test at a time.
fn write(name: &str, lines: &[String]) {
    let table = if is_guest() { "guest_table.txt" } else { "table.txt" };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract").join(table);
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in fs::read_to_string(&path).unwrap().lines() {
        if line.starts_with(' ') {
            sections.entry(last.clone()).or_default().push_str(&format!("{line}\n"));
        } else {
            last = line.to_owned();
        }
    }
    sections.insert(name.into(), lines.iter().map(|line| format!("  {line}\n")).collect());
    sections.retain(|name, _| CASES.contains(&name.as_str()));
    let table: String = sections.iter().map(|(name, lines)| format!("{name}\n{lines}")).collect();
    fs::write(path, table).unwrap();
}

macro_rules! contract {
    ($($module:ident: $($name:ident)*;)*) => {
        const CASES: &[&str] = &[$($(stringify!($name)),*),*];
        $($(#[test]
        fn $name() {
            run(stringify!($name), cases::$module::$name);
        })*)*
    };
}

contract! {
    bytes: bytes_go_to_the_device bytes_come_from_the_device bytes_move_within_the_device
        overlapping_copies_are_as_if_held_in_between lists_of_odd_sizes lists_of_whole_blocks
        random_ranges_move_nothing_more memory_at_any_address requests_past_the_end_are_refused
        requests_of_nothing_complete descriptors_in_memory flushes;
    order: a_fence_ends_after_all_before_it conflicting_transfers_keep_their_order
        a_failure_anywhere_in_a_burst a_fence_does_not_look_back a_failure_in_a_list;
    room: a_full_ring_refuses_and_recovers a_list_takes_as_many_elements_as_the_device
        the_ring_wraps_in_the_midst_of_bursts what_was_enqueued_waits_for_the_doorbell;
    life: a_closed_channel_refuses_and_opens_again reset_ends_what_was_not_begun reset_ends_what_is_under_way
        a_cancel_before_the_beginning_moves_nothing a_cancel_after_the_end_changes_nothing
        many_threads_share_a_channel transfers_without_interrupts_end reset_ends_transfers_without_interrupts;
    waits: a_transfer_that_hangs_is_cancelled a_transfer_that_hangs_times_out what_waits_behind_a_hang_ends_too
        a_cancel_wakes_who_waits a_close_wakes_all_who_wait an_end_found_by_another_wakes_who_waits
        a_closed_channel_that_hangs_counts_what_it_gave_up reset_under_load;
}

#[test]
fn the_tables_have_every_case_and_no_other() {
    let mut cases = CASES.to_vec();
    cases.sort_unstable();
    for table in [TABLE, GUEST_TABLE] {
        let listed: Vec<_> = table.lines().filter(|line| !line.starts_with(' ')).collect();
        assert!(listed == cases || writes(), "a table lists {listed:?}, the cases are {cases:?}");
    }
}
