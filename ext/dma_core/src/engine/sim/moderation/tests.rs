use proptest::prelude::*;

use super::*;

/// A bus of which a cycle is a nanosecond.
const TIMING: Timing = Timing::IDEAL;

/// Cycles in which completions come on a channel, and cycle and completions of each interrupt for them.
fn run(coalesce: Coalesce, completions: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let (mut channel, mut told) = (Moderation::new(coalesce, &TIMING), Vec::new());
    for now in completions {
        tell(&mut channel, now.saturating_sub(1), &mut told);
        channel.add(now);
        tell(&mut channel, now, &mut told);
    }
    tell(&mut channel, u64::MAX, &mut told);
    told
}

/// Sends the interrupt that is due by `now`.
fn tell(channel: &mut Moderation, now: u64, told: &mut Vec<(u64, u64)>) {
    if let Some(due) = channel.due().filter(|due| *due <= now) {
        told.push((due, channel.take(due)));
    }
}

fn fixed(count: u64, time: u64) -> Coalesce {
    Coalesce::Fixed { count, time }
}

#[test]
fn none_tells_of_each_at_once() {
    assert_eq!(run(Coalesce::NONE, [5, 6, 6, 900]), [(5, 1), (6, 1), (6, 1), (900, 1)]);
}

#[test]
fn a_count_tells_with_the_last_and_a_time_of_what_is_left() {
    assert_eq!(run(fixed(3, 1000), [10, 20, 30, 40, 50, 60, 70]), [(30, 3), (60, 3), (1070, 1)]);
}

#[test]
fn a_time_runs_from_the_first_that_nobody_was_told_of() {
    assert_eq!(run(fixed(u64::MAX, 100), [10, 60, 110, 111, 500]), [(110, 3), (211, 1), (600, 1)]);
    assert_eq!(run(fixed(2, 100), [10, 200, 210]), [(110, 1), (210, 2)], "a timer of what was told of does not count");
}

#[test]
fn adaptive_tells_a_trickle_at_once() {
    let trickle = (1..50).map(|n| n * 20_000);
    assert_eq!(run(Coalesce::Adaptive, trickle.clone()), trickle.map(|now| (now, 1)).collect::<Vec<_>>());
}

#[test]
fn adaptive_tells_of_a_burst_in_ever_larger_parts_and_of_the_next_trickle_at_once() {
    // A completion each microsecond.
    let told = run(Coalesce::Adaptive, (1..=400).map(|n| n * 1000));
    let counts: Vec<u64> = told.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts[..3], [1, 14, 50], "the first at once, then for as long as each class takes");
    assert!(counts[3..counts.len() - 1].iter().all(|count| *count == 64), "no more than a ring may lack: {counts:?}");
    // Two that are far apart bring it down to the fastest class.
    let mut channel = Moderation::new(Coalesce::Adaptive, &TIMING);
    for _ in 0..3 {
        (0..20).for_each(|now| channel.add(now));
        channel.take(20);
    }
    channel.add(21);
    assert_eq!(channel.due(), Some(20 + GAPS[2]));
    for now in [1_000_000, 2_000_000] {
        channel.take(now);
    }
    channel.add(2_000_001);
    assert_eq!(channel.due(), Some(2_000_000 + GAPS[0]));
}

#[test]
fn another_rule_tells_no_later_than_the_one_before() {
    for (next, due) in [(fixed(100, 50), 60), (fixed(100, 5000), 101), (fixed(2, 5000), 10), (Coalesce::Adaptive, 10)] {
        let mut channel = Moderation::new(fixed(100, 100), &TIMING);
        channel.add(1);
        channel.add(2);
        channel.change(next, &TIMING, 10);
        assert_eq!((channel.due(), channel.take(due)), (Some(due), 2), "{next:?}");
    }
}

#[test]
fn what_is_forgotten_is_not_told_of() {
    let mut channel = Moderation::new(fixed(2, 100), &TIMING);
    channel.add(1);
    channel.clear();
    assert_eq!(channel.due(), None);
    channel.add(50);
    assert_eq!(channel.due(), Some(150));
}

#[test]
fn times_are_whole_cycles_of_the_bus_and_never_none() {
    let mut channel = Moderation::new(fixed(9, 1), &Timing::ISA);
    channel.add(7);
    assert_eq!(channel.due(), Some(8));
    channel.take(8);
    channel.add(u64::MAX);
    assert_eq!(channel.due(), Some(u64::MAX), "the end of time is no overflow");
}

#[test]
fn what_cannot_be_is_refused() {
    assert!(fixed(0, 1).check().is_err() && fixed(1, LONGEST + 1).check().is_err());
    PRESETS.iter().for_each(|(name, preset)| assert!(preset.check().is_ok(), "{name}"));
}

fn any_policy() -> impl Strategy<Value = Coalesce> {
    prop_oneof![
        Just(Coalesce::Adaptive),
        prop::sample::select(PRESETS.map(|(_, preset)| preset).to_vec()),
        (1u64..20, 0u64..10_000).prop_map(|(count, time)| fixed(count, time)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_completion_is_told_of_once_and_none_later_than_its_bound(
        coalesce in any_policy(), pauses in prop::collection::vec(0u64..30_000, 1..200),
    ) {
        let completions: Vec<u64> = pauses.iter().scan(0, |now, pause| { *now += pause; Some(*now) }).collect();
        let told = run(coalesce, completions.iter().copied());
        let (most, bound) = match coalesce {
            Coalesce::Fixed { count, time } => (count, time),
            Coalesce::Adaptive => (64, GAPS[2]),
        };
        prop_assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), completions.len() as u64);
        let mut waiting = completions.into_iter();
        for (now, count) in told {
            prop_assert!((1..=most).contains(&count));
            for completion in waiting.by_ref().take(count as usize) {
                prop_assert!(completion <= now && now <= completion + bound, "{} told in {}", completion, now);
            }
        }
    }
}
