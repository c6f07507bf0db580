//! Whatever several channels read and write at once, every byte is one that was written last as the rules of order have it.

use proptest::prelude::*;

use super::disk::{initial, Inside, SIZE};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Submit { channel: usize, direction: Direction, offset: usize, len: usize, skip: usize },
    Progress(usize),
    End { channel: usize, nth: usize, how: usize, at: usize },
    Cancel { channel: usize, nth: usize },
    Full { channel: usize, full: bool },
}

/// A request and what became of it. Times are numbers of steps.
#[derive(Debug)]
struct Entry {
    channel: usize,
    id: u64,
    direction: Direction,
    offset: usize,
    len: usize,
    skip: usize,
    memory: Arc<Region>,
    /// What it writes.
    byte: u8,
    begun: usize,
    /// Time, bytes and status.
    ended: Option<(usize, usize, Status)>,
}

#[derive(Debug)]
struct History {
    disk: Arc<Disk>,
    channels: Vec<Channel>,
    entries: Vec<Entry>,
    ordered: bool,
    now: usize,
}

const CHANNELS: usize = 3;
/// Around what is read and written.
const GUARD: u8 = 0;

impl Entry {
    fn covers(&self, at: usize) -> bool {
        self.ended.is_some_and(|(_, bytes, _)| (self.offset..self.offset + bytes).contains(&at))
    }
}

impl History {
    fn new(granule: usize, ordered: bool) -> History {
        let disk = Disk::new(granule);
        let engine = || Arc::<Disk>::clone(&disk);
        let channels = (0..CHANNELS).map(|index| match ordered {
            true => Channel::of_device(engine(), index as u16, 4).unwrap(),
            false => Channel::new(engine(), 2).unwrap(),
        });
        let channels = channels.collect();
        History { disk, channels, entries: Vec::new(), ordered, now: 0 }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::Submit { channel, direction, offset, len, skip } => {
                self.submit(channel, direction, offset, len.min(SIZE - offset), skip);
            }
            Step::Progress(channel) => self.progress(channel),
            Step::End { channel, nth, how, at } => self.end(channel, nth, how, at),
            Step::Cancel { channel, nth } => {
                let pending: Vec<u64> = self.channels[channel].pending().collect();
                if !pending.is_empty() {
                    self.channels[channel].cancel(pending[nth % pending.len()], Status::TimedOut);
                }
            }
            Step::Full { channel, full } => self.disk.inside().lines[channel].full = full,
        }
    }

    fn submit(&mut self, channel: usize, direction: Direction, offset: usize, len: usize, skip: usize) {
        let byte = self.entries.len() as u8 + 1;
        let memory = region(skip + len + 8, GUARD);
        if direction == Direction::ToDevice {
            memory.fill(skip, len, byte).unwrap();
        }
        let op = direction.op(offset as u64, Span::new(&memory, skip, len).unwrap());
        match self.channels[channel].submit(Request::new(op)) {
            Ok(id) => {
                let begun = self.now;
                let entry = Entry { channel, id, direction, offset, len, skip, memory, byte, begun, ended: None };
                self.entries.push(entry);
            }
            Err(Error::RingFull(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn progress(&mut self, channel: usize) {
        for outcome in self.channels[channel].progress().unwrap() {
            let this = |entry: &&mut Entry| (entry.channel, entry.id) == (channel, outcome.id);
            let entry = self.entries.iter_mut().find(this).unwrap();
            let end = (self.now, outcome.bytes, outcome.status);
            assert_eq!(entry.ended.replace(end), None, "it ended twice");
            assert!(outcome.bytes == entry.len || outcome.status.is_failure(), "{entry:?}");
        }
    }

    fn end(&self, channel: usize, nth: usize, how: usize, at: usize) {
        let mut inside = self.disk.inside();
        let Inside { bytes, lines, .. } = &mut *inside;
        let line = &mut lines[channel];
        let Some((tag, op)) = line.pushed.get(nth % line.pushed.len().max(1)) else { return };
        let some = 1 + at % op.len() as usize;
        let how = match how {
            0 => End::Fail(some - 1),
            1 => End::Cut(some),
            2..5 if line.cancelled.contains(tag) => End::Abort,
            _ => End::Complete,
        };
        line.end(bytes, nth, how);
    }

    /// Lets everything end, while only those channels are looked at whose events say that there is something to do.
    fn run_out(&mut self) {
        self.disk.inside().lines.iter_mut().for_each(|line| line.full = false);
        (0..2 * CHANNELS).for_each(|turn| self.progress(turn % CHANNELS));
        while !self.channels.iter().all(Channel::is_idle) {
            self.now += 1;
            let ended = (0..CHANNELS).any(|channel| self.disk.end(channel, self.now, End::Complete));
            let ready: Vec<_> = (0..CHANNELS).filter(|channel| readable(&self.channels[*channel])).collect();
            assert!(ended || !ready.is_empty(), "somebody waits for ever");
            ready.into_iter().for_each(|channel| self.progress(channel));
        }
    }

    /// Whether the effect of `a` must come before that of `b`, where both use one byte.
    fn before(&self, a: &Entry, b: &Entry) -> bool {
        if self.ordered && a.channel == b.channel {
            return a.id < b.id;
        }
        a.ended.is_some_and(|(ended, ..)| ended < b.begun)
    }

    /// Whether `byte` may be at `at` for `reader`, or for one who looks when all is over.
    fn explains(&self, reader: Option<&Entry>, at: usize, byte: u8) -> bool {
        let over = |write: &Entry| reader.is_none_or(|reader| self.before(write, reader));
        let writes: Vec<_> =
            self.entries.iter().filter(|entry| entry.direction == Direction::ToDevice && entry.covers(at)).collect();
        if byte == initial(at) {
            return !writes.iter().any(|write| over(write));
        }
        writes.iter().any(|write| {
            let too_late = reader.is_some_and(|reader| self.before(reader, write));
            write.byte == byte && !too_late && !writes.iter().any(|later| self.before(write, later) && over(later))
        })
    }

    fn check(&self) {
        assert!(self.disk.edges.is_free());
        let found = self.disk.inside().bytes.clone();
        (0..SIZE).for_each(|at| assert!(self.explains(None, at, found[at]), "{:#x} at {at} of the disk", found[at]));
        for entry in &self.entries {
            let (memory, range) = (bytes(&entry.memory), entry.skip..entry.skip + entry.len);
            let outside = memory.iter().enumerate().filter(|(at, _)| !range.contains(at));
            assert!(outside.into_iter().all(|(_, byte)| *byte == GUARD), "bytes around {entry:?}");
            if entry.direction == Direction::ToDevice {
                assert!(memory[range].iter().all(|byte| *byte == entry.byte), "the source of {entry:?}");
            } else {
                let (_, moved, _) = entry.ended.unwrap();
                for (n, byte) in memory[range][..moved].iter().enumerate() {
                    assert!(self.explains(Some(entry), entry.offset + n, *byte), "{byte:#x} at {n} of {entry:?}");
                }
            }
            assert_eq!(entry.memory.in_flight(), 0);
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let direction = prop_oneof![3 => Just(Direction::ToDevice), 1 => Just(Direction::FromDevice)];
    let len = prop_oneof![3 => 1usize..200, 1 => 200usize..2500];
    let step = prop_oneof![
        4 => (0..CHANNELS, direction, 0..SIZE, len, 0usize..9)
            .prop_map(|(channel, direction, offset, len, skip)| Step::Submit { channel, direction, offset, len, skip }),
        4 => (0..CHANNELS).prop_map(Step::Progress),
        6 => (0..CHANNELS, any::<usize>(), 0usize..20, any::<usize>())
            .prop_map(|(channel, nth, how, at)| Step::End { channel, nth, how, at }),
        1 => (0..CHANNELS, any::<usize>()).prop_map(|(channel, nth)| Step::Cancel { channel, nth }),
        1 => (0..CHANNELS, any::<bool>()).prop_map(|(channel, full)| Step::Full { channel, full }),
    ];
    prop::collection::vec(step, 0..120)
}

#[test]
fn a_read_given_up_while_several_parts_are_left_that_ended_short_ends_before_the_first_of_them() {
    let mut history = History::new(16, true);
    let cut = || Step::End { channel: 0, nth: 0, how: 1, at: 15 };
    let read = Step::Submit { channel: 0, direction: Direction::FromDevice, offset: 0, len: 96, skip: 0 };
    let steps = [read, Step::Progress(0), Step::Full { channel: 0, full: true }, cut(), Step::Progress(0), cut()];
    steps.iter().for_each(|step| history.step(step));
    [Step::Progress(0), Step::Cancel { channel: 0, nth: 0 }].iter().for_each(|step| history.step(step));
    history.run_out();
    history.check();
    assert_eq!(history.entries[0].ended.map(|(_, bytes, status)| (bytes, status)), Some((16, Status::TimedOut)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_read_or_left_is_one_that_may_have_been_written_last(
        steps in steps(), granule in 4u32..13, ordered in any::<bool>(),
    ) {
        let mut history = History::new(1 << granule, ordered);
        steps.iter().for_each(|step| history.step(step));
        history.run_out();
        history.check();
    }
}
