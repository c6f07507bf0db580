//! What a program does by the ports alone.

use super::*;
use crate::engine::sim::isa::card::{control, status, BLOCK, PORTS};
use crate::engine::sim::isa::cascade::Ports;
use crate::engine::sim::isa::chip::{command, mode};

impl Bench {
    fn out(&self, port: u16, value: u8) {
        self.ports.write(port.into(), 1, value.into());
    }

    fn card(&self, channel: u16, register: u64) -> u32 {
        self.ports.read(PORTS + BLOCK * u64::from(channel) + register, 4) as u32
    }

    /// The textbook's sequence: a channel moves so many transfers at a bus address.
    fn program(&self, channel: u16, bits: u8, address: u64, transfers: u64) {
        let ports = Ports::of(channel);
        let place = if channel < 4 { address } else { address >> 1 };
        self.out(ports.mask, 4 | ports.number);
        self.out(ports.clear_flip_flop, 0);
        self.out(ports.mode, bits | ports.number);
        for (port, value) in [(ports.address, place), (ports.count, transfers - 1)] {
            self.out(port, value as u8);
            self.out(port, (value >> 8) as u8);
        }
        self.out(ports.page, (address >> 16) as u8);
        self.out(ports.mask, ports.number);
    }

    /// The card of a channel asks.
    fn ask(&self, channel: u16, bits: u32, address: u64, count: u64) {
        let at = PORTS + BLOCK * u64::from(channel);
        for (register, value) in [(0, address), (4, count), (8, (control::START | bits).into())] {
            self.ports.write(at + register, 4, value);
        }
    }

    fn count(&self, channel: u16) -> u16 {
        let ports = Ports::of(channel);
        self.out(ports.clear_flip_flop, 0);
        u16::from_le_bytes([0, 1].map(|_| self.ports.read(ports.count.into(), 1) as u8))
    }

    /// Lets everything happen.
    fn run(&self) -> u64 {
        self.machine.run_until_idle()
    }
}

const READ: u8 = mode::FROM_MEMORY;
const WRITE: u8 = mode::TO_MEMORY;
const DONE: u32 = status::DONE | status::TERMINAL_COUNT;

#[test]
fn a_block_goes_where_it_was_programmed_and_nothing_beside_it_changes() {
    for (channel, width) in [(1, 1), (3, 1), (6, 2)] {
        let bench = Bench::new(Clock::Manual);
        bench.put(0, &numbered(4096));
        let memory = region(8192, 0xee);
        let mapping = bench.map(&memory);
        bench.program(channel, mode::BLOCK | WRITE, mapping.segments()[0].0 + 1000, 2000 / width);
        bench.ask(channel, control::FROM_DEVICE, 100, 2000);
        bench.run();
        let mut expected = vec![0xee; 8192];
        expected[1000..3000].copy_from_slice(&numbered(4096)[100..2100]);
        assert!(bytes(&memory) == expected, "channel {channel}");
        assert_eq!((bench.card(channel, 12), bench.card(channel, 0), bench.card(channel, 4)), (DONE, 2100, 0));
        assert_eq!(bench.count(channel), 0xffff);
    }
}

#[test]
fn downwards_the_first_byte_goes_to_the_highest_address() {
    for (channel, width) in [(1, 1), (5, 2)] {
        let bench = Bench::new(Clock::Manual);
        bench.put(0, &numbered(600));
        let memory = region(4096, 0xee);
        let mapping = bench.map(&memory);
        let last = mapping.segments()[0].0 + 1600 - width;
        bench.program(channel, mode::BLOCK | WRITE | mode::DECREMENT, last, 600 / width);
        bench.ask(channel, control::FROM_DEVICE, 0, 600);
        bench.run();
        let mut expected = vec![0xee; 4096];
        let units = numbered(600);
        let units: Vec<u8> = units.chunks(width as usize).rev().flatten().copied().collect();
        expected[1000..1600].copy_from_slice(&units);
        assert!(bytes(&memory) == expected, "channel {channel}");
    }
}

#[test]
fn it_wraps_at_the_end_of_its_page() {
    for (channel, page) in [(2, 1 << 16), (7, 1 << 17)] {
        let bench = Bench::new(Clock::Manual);
        let memory = region(1 << 18, 0xee);
        let mapping = bench.map(&memory);
        let base = mapping.segments()[0].0.next_multiple_of(page);
        let start = (base - mapping.segments()[0].0) as usize;
        bench.put(0, &numbered(512));
        bench.program(channel, mode::DEMAND | WRITE, base + page - 256, if channel < 4 { 512 } else { 256 });
        bench.ask(channel, control::FROM_DEVICE, 0, 512);
        bench.run();
        let mut expected = vec![0xee; 1 << 18];
        expected[start + page as usize - 256..start + page as usize].copy_from_slice(&numbered(512)[..256]);
        expected[start..start + 256].copy_from_slice(&numbered(512)[256..]);
        assert!(bytes(&memory) == expected, "channel {channel}");
    }
}

#[test]
fn a_terminal_count_stops_the_card_and_the_status_tells_it_once() {
    let bench = Bench::new(Clock::Manual);
    let memory = region(4096, 7);
    let mapping = bench.map(&memory);
    bench.program(1, mode::SINGLE | READ, mapping.segments()[0].0, 100);
    bench.ask(1, control::TO_DEVICE, 0, 300);
    bench.run();
    assert_eq!((bench.card(1, 12), bench.card(1, 4)), (DONE, 200));
    assert_eq!([0, 1].map(|_| bench.ports.read(8, 1) & 0xf), [2, 0]);
    let seen = bench.get(0, 200);
    assert_eq!((&seen[..100], &seen[100..]), (&[7; 100][..], &[0; 100][..]));
}

#[test]
fn an_autoinitialized_channel_begins_anew_as_long_as_the_card_asks() {
    let bench = Bench::new(Clock::Manual);
    let memory = filled(&numbered(100));
    let mapping = bench.map(&memory);
    bench.program(3, mode::SINGLE | READ | mode::AUTOINITIALIZE, mapping.segments()[0].0, 100);
    bench.ask(3, control::TO_DEVICE | control::THROUGH, 1000, 350);
    bench.run();
    assert_eq!((bench.card(3, 12), bench.count(3), bench.costs().terminal_counts), (DONE, 49, 3));
    let expected: Vec<u8> = numbered(100).into_iter().cycle().take(350).collect();
    assert_eq!(bench.get(1000, 350), expected);
}

#[test]
fn a_card_that_asks_for_less_than_the_count_ends_a_demand_and_may_pull_eop() {
    for (bits, left, reached) in [(0, 79, 0), (control::EOP, 79, 2)] {
        let bench = Bench::new(Clock::Manual);
        let memory = region(4096, 7);
        let mapping = bench.map(&memory);
        bench.program(1, mode::DEMAND | READ, mapping.segments()[0].0, 100);
        bench.ask(1, control::TO_DEVICE | bits, 0, 20);
        bench.run();
        assert_eq!((bench.count(1), bench.ports.read(8, 1) & 0xf), (left, reached));
        bench.ask(1, control::TO_DEVICE, 20, 10);
        bench.run();
        assert_eq!(bench.count(1), if reached > 0 { left } else { left - 10 }, "EOP has masked it");
    }
}

#[test]
fn a_block_goes_on_past_what_the_card_asked_for() {
    let bench = Bench::new(Clock::Manual);
    let memory = region(4096, 0xee);
    let mapping = bench.map(&memory);
    bench.program(1, mode::BLOCK | WRITE, mapping.segments()[0].0, 100);
    bench.ask(1, control::FROM_DEVICE, 0, 20);
    bench.run();
    let seen = bytes(&memory);
    assert_eq!((&seen[..20], &seen[20..100], seen[100]), (&[0; 20][..], &[0xff; 80][..], 0xee));
}

#[test]
fn a_verify_counts_and_moves_nothing() {
    let bench = Bench::new(Clock::Manual);
    let memory = region(4096, 0xee);
    let mapping = bench.map(&memory);
    bench.program(1, mode::DEMAND, mapping.segments()[0].0, 100);
    bench.ask(1, 0, 0, 100);
    assert_eq!(bench.run(), 2 * (1 + 300));
    assert_eq!((bench.card(1, 12), bench.count(1)), (DONE, 0xffff));
    assert!(bytes(&memory).iter().all(|byte| *byte == 0xee));
}

#[test]
fn memory_to_memory_copies_fills_and_leaves_the_last_byte() {
    let bench = Bench::new(Clock::Manual);
    let memory = filled(&numbered(4096));
    let mapping = bench.map(&memory);
    let base = mapping.segments()[0].0;
    bench.out(8, command::MEMORY_TO_MEMORY);
    bench.program(0, mode::BLOCK | READ, base, 300);
    bench.program(1, mode::BLOCK | WRITE, base + 2000, 300);
    bench.out(9, 4);
    assert_eq!(bench.run(), 2 * 8 * 300);
    let mut expected = numbered(4096);
    expected.copy_within(..300, 2000);
    assert!(bytes(&memory) == expected);
    assert_eq!(bench.ports.read(0xd, 1), u64::from(expected[299]));
    bench.out(8, command::MEMORY_TO_MEMORY | command::ADDRESS_HOLD);
    bench.program(0, mode::BLOCK | READ, base + 5, 1);
    bench.program(1, mode::BLOCK | WRITE | mode::DECREMENT, base + 3999, 1000);
    bench.out(9, 4);
    bench.run();
    expected[3000..4000].fill(numbered(4096)[5]);
    assert!(bytes(&memory) == expected);
    // Where they overlap, each byte is one that was written just before.
    bench.out(8, command::MEMORY_TO_MEMORY);
    bench.program(0, mode::BLOCK | READ, base, 100);
    bench.program(1, mode::BLOCK | WRITE, base + 1, 100);
    bench.out(9, 4);
    bench.run();
    expected[1..101].fill(numbered(4096)[0]);
    assert!(bytes(&memory) == expected);
}

#[test]
fn compressed_timing_takes_two_clocks_of_three() {
    let bench = Bench::new(Clock::Manual);
    let memory = region(4096, 0xee);
    let mapping = bench.map(&memory);
    bench.out(8, command::COMPRESSED);
    for (bits, clocks) in [(mode::DEMAND, 1 + 2 * 200), (mode::SINGLE, 3 * 200)] {
        bench.program(1, bits | READ, mapping.segments()[0].0, 200);
        bench.ask(1, control::TO_DEVICE, 0, 200);
        assert_eq!(bench.run(), 2 * clocks);
    }
}

#[test]
fn without_the_cascade_nothing_of_the_first_controller_moves() {
    let bench = Bench::new(Clock::Manual);
    let memory = region(4096, 7);
    let mapping = bench.map(&memory);
    bench.out(0xd4, 4);
    bench.program(1, mode::BLOCK | READ, mapping.segments()[0].0, 100);
    bench.ask(1, control::TO_DEVICE, 0, 100);
    assert_eq!((bench.run(), bench.card(1, 12)), (0, status::BUSY));
    bench.out(0xd4, 0);
    bench.run();
    assert_eq!(bench.card(1, 12), DONE);
}

#[test]
fn what_is_not_mapped_fails_with_what_was_moved_before() {
    for (bits, control, why) in
        [(READ, control::TO_DEVICE, Status::BusReadError), (WRITE, control::FROM_DEVICE, Status::BusWriteError)]
    {
        let bench = Bench::new(Clock::Manual);
        let memory = region(4096, 7);
        let mapping = bench.map(&memory);
        bench.program(1, mode::BLOCK | bits, mapping.segments()[0].0 + 4000, 200);
        bench.ask(1, control, 0, 200);
        bench.machine.step(10_000);
        assert_eq!(bench.card(1, 12), status::ERROR | why.code() << 8);
        assert_eq!(bench.card(1, 0), 96);
    }
}

#[test]
fn a_controller_that_goes_the_other_way_than_the_card_moves_nothing() {
    let bench = Bench::new(Clock::Manual);
    let memory = region(4096, 7);
    let mapping = bench.map(&memory);
    bench.program(1, mode::DEMAND | READ, mapping.segments()[0].0, 100);
    bench.ask(1, control::FROM_DEVICE, 0, 100);
    bench.run();
    assert_eq!((bench.card(1, 12), bench.count(1)), (status::ERROR | Status::DescriptorError.code() << 8, 99));
}

#[test]
fn the_card_of_a_driver_is_its_own_and_no_port_answers_without_a_link() {
    let bench = Bench::new(Clock::Manual);
    drop(bench.device.channel(1).unwrap());
    bench.ask(1, control::TO_DEVICE, 0, 100);
    assert_eq!((bench.card(1, 12), bench.card(1, 4)), (0, 0));
    bench.inject(Kind::LinkDown, Trigger::Descriptor(0));
    assert_eq!(bench.carry_out(0, Direction::ToDevice, 0, &region(64, 1)).status, Status::LinkDown);
    assert_eq!((bench.ports.read(0x80, 1), bench.ports.read(0x80, 8)), (0xff, u64::MAX));
    bench.out(0x80, 5);
    assert_eq!(bench.device.reset(GRACE), Ok(true));
    assert_eq!(bench.ports.read(0x80, 1), 0);
}
