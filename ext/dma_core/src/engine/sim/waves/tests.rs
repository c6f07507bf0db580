mod windows;

use proptest::prelude::*;

use super::*;
use crate::engine::sim::cpu::LINE;
use crate::transfer::Status;

const STATUS: What = What::Status(Status::Complete);

/// A transaction of channel 0 of a device, which had the bus at once.
fn event(device: u32, what: What, (begin, cycle): (u64, u64), (address, len): (u64, u64)) -> Event {
    Event { asked: begin, begin, cycle, waits: 0, device, channel: 0, what, address, len }
}

/// Who had the bus for each event.
fn record(events: Vec<Event>) -> Record {
    let runs = events
        .iter()
        .filter(|event| event.moves())
        .map(|event| Run::once(Some((event.device, event.channel)), event.begin, event.cycle))
        .collect();
    Record { events, runs }
}

fn draw(record: &Record, timing: &Timing) -> Waves {
    Waves::new(record, timing, record.cycles()).unwrap()
}

fn wave<'a>(waves: &'a Waves, scope: &str, name: &str) -> &'a Changes {
    let found = waves.list.iter().find(|wave| wave.scope == scope && wave.name == name);
    &found.unwrap_or_else(|| panic!("no {scope}.{name}")).changes
}

/// A character for each cycle: `_` is low.
fn levels(waves: &Waves, scope: &str, name: &str) -> String {
    let Changes::Level(changes) = wave(waves, scope, name) else { panic!("{name}") };
    let at = |cycle: u64| changes.iter().rev().find(|(since, _)| *since <= cycle).unwrap().1;
    waves.cycles.clone().map(|cycle| if at(cycle) { '-' } else { '_' }).collect()
}

/// What is on a line in each cycle; `.` is nothing, and `|` goes on.
fn texts(waves: &Waves, scope: &str, name: &str) -> String {
    let Changes::Text(changes) = wave(waves, scope, name) else { panic!("{name}") };
    let at = |cycle: u64| match changes.iter().rev().find(|(since, _)| *since <= cycle).unwrap() {
        (_, text) if text.is_empty() => ".",
        (since, text) if *since == cycle || cycle == waves.cycles.start => text,
        _ => "|",
    };
    waves.cycles.clone().map(at).collect::<Vec<_>>().join(" ")
}

/// The lines of a table, each with its name at the front.
fn check(waves: &Waves, table: &str) {
    for line in table.trim().lines() {
        let (name, wanted) = line.trim().split_once(' ').unwrap();
        let (scope, name) = name.split_once('.').unwrap_or(("bus", name));
        assert_eq!(levels(waves, scope, name), wanted.trim(), "{name}");
    }
}

#[test]
fn a_read_has_a_turnaround_cycle_and_then_a_data_phase_a_clock() {
    // Figure 3-5 without its wait states, and the idle clock before it.
    let waves = draw(&record(vec![event(0, What::ToDevice, (10, 16), (0x1000, 12))]), &Timing::PCI);
    check(
        &waves,
        "FRAME#     -____-
         IRDY#      --____
         TRDY#      ---___
         DEVSEL#    ---___
         dev0.REQ#  _-----
         dev0.GNT#  _____-",
    );
    assert_eq!(texts(&waves, "bus", "AD"), ". A 0x1000 . D1 D2 D3");
    assert_eq!(texts(&waves, "bus", "owner"), "dev0.ch0 | | | | |");
    assert_eq!(texts(&waves, "dev0", "ch0"), "to_device 12 B at 0x1000 | | | | |");
}

#[test]
fn a_write_drives_its_data_from_the_first_clock_on() {
    // Figure 3-6 likewise; then one of a single data phase, in which FRAME# is low for a clock.
    let events = vec![event(0, What::FromDevice, (0, 5), (0x40, 8)), event(0, STATUS, (5, 9), (0x80, 4))];
    let waves = draw(&record(events), &Timing::PCI);
    check(
        &waves,
        "FRAME#     -___--_--
         IRDY#      --___--__
         TRDY#      ---__---_
         DEVSEL#    ---__---_
         dev0.REQ#  _----_---
         dev0.GNT#  ____-___-",
    );
    assert_eq!(texts(&waves, "bus", "AD"), ". A 0x40 D1 | D2 . A 0x80 D1 |");
    assert_eq!(texts(&waves, "dev0", "ch0"), "from_device 8 B at 0x40 | | | | status complete | | |");
}

#[test]
fn memory_that_is_slow_holds_trdy_back() {
    let slow = Event { waits: 3, ..event(0, What::ToDevice, (0, 9), (0, 12)) };
    let waves = draw(&record(vec![slow]), &Timing::PCI);
    check(
        &waves,
        "FRAME#     -______--
         IRDY#      --_______
         TRDY#      ----_-_-_
         DEVSEL#    ---______",
    );
    assert_eq!(texts(&waves, "bus", "AD"), ". A 0x0 . D1 | D2 | D3 |");
    let long = Timing { beat: 3, ..Timing::PCI };
    let waves = draw(&record(vec![event(0, What::ToDevice, (0, 9), (0, 8))]), &long);
    assert_eq!(levels(&waves, "bus", "TRDY#"), "-----_--_");
}

#[test]
fn who_waits_holds_req_low_and_is_granted_the_bus_in_the_last_data_phase_before() {
    let waits = Event { asked: 2, ..event(1, What::Fetch, (6, 11), (0x200, 8)) };
    let again = Event { asked: 6, ..event(0, What::ToDevice, (11, 15), (0x100c, 4)) };
    let waves = draw(&record(vec![event(0, What::ToDevice, (0, 6), (0x1000, 12)), waits, again]), &Timing::PCI);
    check(
        &waves,
        "FRAME#     -____--___--_--
         dev0.REQ#  _-----______---
         dev0.GNT#  _____-----____-
         dev1.REQ#  --_____--------
         dev1.GNT#  -----_____-----",
    );
    assert_eq!(texts(&waves, "bus", "owner"), "dev0.ch0 | | | | | dev1.ch0 | | | | dev0.ch0 | | |");
    assert_eq!(texts(&waves, "dev1", "ch0"), ". . waits | | | fetch 8 B at 0x200 | | | | . . . .");
}

#[test]
fn more_than_a_payload_is_several_transactions_with_req_low_until_the_last() {
    let pci = Timing { payload: 8, ..Timing::PCI };
    let waves = draw(&record(vec![event(0, What::FromDevice, (0, 9), (0x1000, 12))]), &pci);
    check(
        &waves,
        "FRAME#     -___--_--
         dev0.REQ#  ______---
         dev0.GNT#  ________-",
    );
    assert_eq!(texts(&waves, "bus", "AD"), ". A 0x1000 D1 | D2 . A 0x1008 D1 |");
}

/// Two words that are stolen from a CPU: before and after an access of it.
fn stolen() -> Record {
    let event = event(0, What::ToDevice, (0, 27), (0x1000, 8));
    let runs = vec![Run::once(Some((0, 0)), 0, 4), Run::once(None, 4, 23), Run::once(Some((0, 0)), 23, 27)];
    Record { events: vec![event], runs }
}

#[test]
fn words_that_are_stolen_are_transactions_of_their_own_and_so_are_the_accesses_of_the_cpu() {
    let waves = draw(&stolen(), &Timing::PCI);
    check(
        &waves,
        "FRAME#     -_---_________________--_--
         dev0.REQ#  ________________________---
         dev0.GNT#  ___-------------------____-",
    );
    assert!(texts(&waves, "bus", "AD").starts_with(". A 0x1000 . D1 . A . D1 D2"));
    assert!(texts(&waves, "bus", "AD").ends_with("D16 . A 0x1004 . D1"));
    let work = texts(&waves, "dev0", "ch0");
    assert!(
        work.starts_with("to_device 8 B at 0x1000 | | | waits |") && work.ends_with("| to_device 8 B at 0x1000 | | |")
    );
    let owner = texts(&waves, "bus", "owner");
    assert!(owner.starts_with("dev0.ch0 | | | CPU |") && owner.ends_with("| dev0.ch0 | | |"));
}

#[test]
fn interrupts_are_marks_and_a_channel_that_hangs_does_so_until_it_does_something_else() {
    let mark = |what, cycle| event(0, what, (cycle, cycle), (0, 0));
    let events = vec![
        event(0, What::Fetch, (0, 5), (0, 40)),
        mark(What::Hang, 5),
        event(0, STATUS, (7, 8), (0, 4)),
        mark(What::Interrupt, 8),
        mark(What::LostInterrupt, 8),
        mark(What::TerminalCount, 7),
    ];
    let waves = draw(&record(events), &Timing::IDEAL);
    assert_eq!(texts(&waves, "dev0", "ch0"), "fetch 40 B at 0x0 | | | | hangs | status complete");
    assert_eq!(*wave(&waves, "dev0", "ch0_irq"), Changes::Mark(vec![8]));
    assert_eq!(*wave(&waves, "dev0", "ch0_irq_lost"), Changes::Mark(vec![8]));
    let names: Vec<&str> = waves.list.iter().map(|wave| wave.name.as_str()).collect();
    assert_eq!(names, ["owner", "ch0", "ch0_irq", "ch0_irq_lost", "ch0_tc"]);
}

#[test]
fn the_cpu_shows_whose_interrupt_it_handles() {
    let handler = event(0, What::Handler, (4, 7), (0, 0));
    let waves = draw(&record(vec![event(0, What::Fetch, (0, 2), (0, 16)), handler]), &Timing::IDEAL);
    assert_eq!(texts(&waves, "cpu", "handler"), ". . . . dev0.ch0 | |");
    assert_eq!(texts(&waves, "bus", "owner"), "dev0.ch0 | . . . . .");
}

#[test]
fn an_address_of_more_than_32_bits_takes_two_address_phases() {
    let high = event(0, What::FromDevice, (0, 6), (0x1_0000_2000, 8));
    let waves = draw(&record(vec![high]), &Timing::PCI);
    check(
        &waves,
        "FRAME#     -____-
         IRDY#      ---___
         TRDY#      ----__",
    );
    assert_eq!(texts(&waves, "bus", "AD"), ". A 0x2000 A 0x1 D1 | D2");
}

#[test]
fn devices_that_have_links_show_who_has_each() {
    let events = vec![event(0, What::Fetch, (0, 4), (0, 40)), event(1, What::Fetch, (1, 5), (64, 40))];
    let waves = draw(&record(events), &Timing::PCIE);
    assert_eq!(texts(&waves, "dev0", "link"), "ch0 | | | .");
    assert_eq!(texts(&waves, "dev1", "link"), ". ch0 | | |");
}

#[test]
fn the_dump_holds_every_change_at_its_time() {
    let mut record = stolen();
    record.events.push(event(0, What::Interrupt, (27, 27), (0, 0)));
    for (timing, unit, nanoseconds) in
        [(Timing::PCI, vcd::TimescaleUnit::PS, 30), (Timing::ISA, vcd::TimescaleUnit::NS, 125)]
    {
        let waves = draw(&record, &timing);
        let dump = waves.to_vcd(&timing);
        let mut parser = vcd::Parser::new(&dump[..]);
        let header = parser.parse_header().unwrap();
        assert_eq!(header.timescale, Some((1, unit)));
        let ids: BTreeMap<vcd::IdCode, usize> = waves
            .list
            .iter()
            .enumerate()
            .map(|(index, wave)| (header.find_var(&["machine", &wave.scope, &wave.name]).unwrap().code, index))
            .collect();
        assert_eq!(ids.len(), waves.list.len());
        let mut found: Vec<Changes> = waves.list.iter().map(|wave| empty(&wave.changes)).collect();
        let mut cycle = 0;
        for command in parser {
            match command.unwrap() {
                vcd::Command::Timestamp(time) => {
                    let nanosecond = unit.divisor() / 1_000_000_000;
                    cycle = (time + nanosecond) / (nanoseconds * nanosecond);
                }
                vcd::Command::ChangeScalar(id, value) => match &mut found[ids[&id]] {
                    Changes::Level(levels) => levels.push((cycle, value == vcd::Value::V1)),
                    Changes::Mark(marks) => marks.push(cycle),
                    Changes::Text(_) => panic!("a text is no level"),
                },
                vcd::Command::ChangeString(id, text) => match &mut found[ids[&id]] {
                    Changes::Text(texts) => {
                        texts.push((cycle, if text == "idle" { String::new() } else { text.replace('_', " ") }));
                    }
                    _ => panic!("a level is no text"),
                },
                command => panic!("{command:?}"),
            }
        }
        assert_eq!(cycle, 27);
        for (wave, found) in waves.list.iter().zip(found) {
            assert_eq!(found, spaced(&wave.changes), "{}", wave.name);
        }
    }
}

fn empty(changes: &Changes) -> Changes {
    match changes {
        Changes::Level(_) => Changes::Level(Vec::new()),
        Changes::Text(_) => Changes::Text(Vec::new()),
        Changes::Mark(_) => Changes::Mark(Vec::new()),
    }
}

fn spaced(changes: &Changes) -> Changes {
    match changes {
        Changes::Text(texts) => {
            Changes::Text(texts.iter().map(|(cycle, text)| (*cycle, text.replace('_', " "))).collect())
        }
        changes => changes.clone(),
    }
}

prop_compose! {
    fn a_bus()(width in 1_u64..17, beat in 1_u64..4, setup in 1_u64..6, payload in 1_u64..200) -> Timing {
        Timing { width, beat, setup, payload, ..Timing::PCI }
    }
}

/// Events of two devices in turn, of lengths and wait states, that read or write; each is asked for a while before.
fn works(timing: &Timing, works: &[(u64, u64, bool)]) -> Vec<Event> {
    let (mut now, mut before) = (0, 0);
    let event = |(index, (len, waits, reads)): (usize, &(u64, u64, bool))| {
        let what = if *reads { What::ToDevice } else { What::FromDevice };
        let begin = now;
        now += timing.cycles(*len) + waits;
        let asked = begin.saturating_sub(*waits).max(std::mem::replace(&mut before, begin));
        Event { waits: *waits, asked, ..event(index as u32 % 2, what, (begin, now), (0, *len)) }
    };
    works.iter().enumerate().map(event).collect()
}

proptest! {
    #[test]
    fn as_many_cycles_are_drawn_as_are_charged(
        timing in a_bus(),
        list in prop::collection::vec((1_u64..300, 0_u64..40, any::<bool>()), 1..6),
    ) {
        let events = works(&timing, &list);
        let now = events[events.len() - 1].cycle;
        let waves = draw(&record(events), &timing);
        let asserted = |name| levels(&waves, "bus", name).matches('_').count() as u64;
        let transactions: u64 = list.iter().map(|(len, ..)| len.div_ceil(timing.payload)).sum();
        let phases: u64 = list.iter().map(|(len, ..)| len.div_ceil(timing.width)).sum();
        prop_assert_eq!(asserted("TRDY#"), phases);
        // The rest of a transaction's setup is its idle clock and its address phase.
        prop_assert_eq!(asserted("IRDY#") + transactions * timing.setup.min(2), now);
        prop_assert_eq!(waves.cycles, 0..now);
    }

    #[test]
    fn stolen_words_are_a_transaction_each_however_slow_memory_is(
        words in 1_u64..20, accesses in 1_u64..5, slow in 0_u64..10,
    ) {
        let (word, line) = (Timing::PCI.cycles(4) + slow, Timing::PCI.cycles(LINE));
        let period = words * word + line;
        let end = accesses * period + words * word;
        let own = Run { master: Some((0, 0)), begin: 0, len: words * word, period, count: accesses + 1 };
        let cpu = Run { master: None, begin: words * word, len: line, period, count: accesses };
        let all = words * (accesses + 1);
        let event = event(0, What::ToDevice, (0, end), (0x1000, all * 4));
        let waves = draw(&Record { events: vec![event], runs: vec![own, cpu] }, &Timing::PCI);
        let asserted = |name| levels(&waves, "bus", name).matches('_').count() as u64;
        prop_assert_eq!(asserted("TRDY#"), all + accesses * LINE / 4);
        let ad = texts(&waves, "bus", "AD");
        prop_assert_eq!(ad.matches('A').count() as u64, all + accesses);
        for word in 0..all {
            let address = format!("A {:#x} ", 0x1000 + word * 4);
            prop_assert!(ad.contains(&address));
        }
    }
}
