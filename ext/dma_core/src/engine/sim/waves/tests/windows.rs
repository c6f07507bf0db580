//! Parts of the lines, from a cycle to another.

use super::*;

#[test]
fn a_window_begins_with_what_was_there_before() {
    let record = stolen();
    let whole = draw(&record, &Timing::PCI);
    let part = Waves::new(&record, &Timing::PCI, 5..26).unwrap();
    assert_eq!(*wave(&part, "bus", "owner"), Changes::Text(vec![(5, "CPU".into()), (23, "dev0.ch0".into())]));
    for name in ["FRAME#", "IRDY#", "TRDY#", "DEVSEL#"] {
        assert_eq!(levels(&part, "bus", name), levels(&whole, "bus", name)[5..26], "{name}");
    }
    assert!(texts(&part, "bus", "AD").ends_with("A 0x1004 ."));
    let nothing = Waves::new(&Record::default(), &Timing::PCI, 0..0).unwrap();
    assert_eq!(*wave(&nothing, "bus", "owner"), Changes::Text(vec![(0, String::new())]));
}

#[test]
fn who_gets_the_bus_behind_the_window_is_seen_to_wait_for_it() {
    let waits = Event { asked: 2, ..event(1, What::Fetch, (6, 11), (0x200, 8)) };
    let record = record(vec![event(0, What::ToDevice, (0, 6), (0x1000, 12)), waits]);
    let part = Waves::new(&record, &Timing::PCI, 1..5).unwrap();
    assert_eq!(levels(&part, "dev1", "REQ#"), "-___");
    assert_eq!(texts(&part, "dev1", "ch0"), ". waits | |");
    let later = Waves::new(&record, &Timing::PCI, 7..9).unwrap();
    assert_eq!(levels(&later, "dev1", "REQ#"), "--");
    assert_eq!(texts(&later, "dev1", "ch0"), "fetch 8 B at 0x200 |");
}

#[test]
fn a_cpu_by_itself_is_shown_in_parts_but_not_for_ever() {
    let cpu = Run { master: None, begin: 3, len: 8, period: 16, count: 1 << 40 };
    let record = Record { events: vec![], runs: vec![cpu] };
    assert_eq!(record.cycles(), 3..(1 << 44) - 5);
    let refused = Waves::new(&record, &Timing::IDEAL, record.cycles()).unwrap_err().to_string();
    assert!(refused.contains("from cycle 3 to 17592186044411, more than 1048576"), "{refused}");
    let part = Waves::new(&record, &Timing::IDEAL, 1603..1635).unwrap();
    assert_eq!(texts(&part, "bus", "owner"), ["CPU | | | | | | | . . . . . . . ."; 2].join(" "));
}

/// So many words that are stolen between accesses of the CPU, which never computes.
fn shared(words: u64) -> Record {
    let (word, line) = (Timing::PCI.cycles(4), Timing::PCI.cycles(LINE));
    let (period, end) = (word + line, words * (word + line));
    let own = Run { master: Some((0, 0)), begin: 0, len: word, period, count: words };
    let cpu = Run { master: None, begin: word, len: line, period, count: words };
    Record { events: vec![event(0, What::ToDevice, (0, end), (0x1000, words * 4))], runs: vec![own, cpu] }
}

#[test]
fn a_window_costs_what_is_in_it_however_long_the_transfer_around_it() {
    let (words, period) = (1 << 29, Timing::PCI.cycles(4) + Timing::PCI.cycles(LINE));
    let (long, short) = (shared(words), draw(&shared(8), &Timing::PCI));
    let begin = words / 2 * period;
    let part = Waves::new(&long, &Timing::PCI, begin + 2 * period..begin + 3 * period).unwrap();
    for name in ["FRAME#", "IRDY#", "TRDY#", "DEVSEL#"] {
        let wanted = &levels(&short, "bus", name)[2 * period as usize..3 * period as usize];
        assert_eq!(levels(&part, "bus", name), wanted, "{name}");
    }
    assert!(texts(&part, "bus", "AD").starts_with(&format!(". A {:#x} . D1 . A . D1", 0x1000 + (words / 2 + 2) * 4)));
    assert!(texts(&part, "dev0", "ch0").ends_with("| waits | | | | | | | | | | | | | | | | | |"));
}

#[test]
fn only_what_changes_within_the_window_counts() {
    let words = |word: u64| event(0, What::ToDevice, (4 * word, 4 * word + 4), (0x1000, 4));
    let record = record((0..(1 << 20) + 9).map(words).collect());
    assert!(Waves::new(&record, &Timing::PCI, record.cycles()).is_err());
    for begin in [0, 4 << 18, 4 << 20] {
        let part = Waves::new(&record, &Timing::PCI, begin..begin + 8).unwrap();
        assert_eq!(levels(&part, "bus", "FRAME#"), "-_---_--");
    }
}

proptest! {
    #[test]
    fn a_window_shows_what_the_whole_shows_there(
        timing in a_bus(),
        list in prop::collection::vec((1_u64..100, 0_u64..20, any::<bool>()), 1..6),
        ends in (0_u64..400, 0_u64..60),
    ) {
        let record = record(works(&timing, &list));
        let whole = draw(&record, &timing);
        let cycles = ends.0.min(whole.cycles.end)..(ends.0 + ends.1).min(whole.cycles.end);
        let part = Waves::new(&record, &timing, cycles.clone()).unwrap();
        for wave in &part.list {
            let all = whole.list.iter().find(|other| (&other.scope, &other.name) == (&wave.scope, &wave.name)).unwrap();
            prop_assert_eq!(&wave.changes, &all.changes.within(&cycles), "{}", &wave.name);
        }
    }

    #[test]
    fn a_window_into_words_that_are_stolen_shows_what_the_whole_shows_there(
        words in 1_u64..40, ends in (0_u64..1000, 0_u64..60), waits in any::<bool>(),
    ) {
        let mut record = shared(words);
        if waits {
            record.events.push(Event { asked: 2, ..event(1, What::Fetch, (words * 23, words * 23 + 5), (0x200, 8)) });
            record.runs.push(Run::once(Some((1, 0)), words * 23, words * 23 + 5));
        }
        let whole = draw(&record, &Timing::PCI);
        let cycles = ends.0.min(whole.cycles.end)..(ends.0 + ends.1).min(whole.cycles.end);
        let part = Waves::new(&record, &Timing::PCI, cycles.clone()).unwrap();
        for wave in &part.list {
            let all = whole.list.iter().find(|other| (&other.scope, &other.name) == (&wave.scope, &wave.name)).unwrap();
            prop_assert_eq!(&wave.changes, &all.changes.within(&cycles), "{}", &wave.name);
        }
    }
}
