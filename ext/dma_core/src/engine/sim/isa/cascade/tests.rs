//! Ports, addresses and the cascade of the AT.

use super::super::chip::command;
use super::*;

/// Programs a channel through its ports, and has it requested.
fn program(pair: &mut Pair, channel: u16, bits: u8, (page, address): (u8, u16), transfers: u32) {
    let ports = Ports::of(channel);
    pair.write(ports.mask, 4 | ports.number);
    pair.write(ports.clear_flip_flop, 0);
    pair.write(ports.mode, bits | ports.number);
    for (at, value) in [(ports.address, address), (ports.count, (transfers - 1) as u16)] {
        value.to_le_bytes().into_iter().for_each(|byte| pair.write(at, byte));
    }
    pair.write(ports.page, page);
    pair.write(ports.mask, ports.number);
    pair.set_request(channel, true);
}

fn programmed(channel: u16, bits: u8, place: (u8, u16)) -> Pair {
    let mut pair = Pair::new();
    program(&mut pair, channel, bits, place, 1000);
    pair
}

/// The bus address of the next transfer.
fn address(grant: &Grant) -> u64 {
    grant.address(grant.service.walk)
}

/// Whom the bus is granted to, for how many transfers there were.
fn order(pair: &mut Pair, transfers: usize) -> Vec<u16> {
    let mut next = || {
        let grant = pair.grant().unwrap();
        pair.advance(&grant, 1);
        grant.channel
    };
    (0..transfers).map(|_| next()).collect()
}

#[test]
fn ports_are_where_they_are_in_the_at() {
    let words = |channel| {
        let Ports { address, count, page, .. } = Ports::of(channel);
        [address, count, page]
    };
    assert_eq!([0, 1, 2, 3].map(words), [[0, 1, 0x87], [2, 3, 0x83], [4, 5, 0x81], [6, 7, 0x82]]);
    assert_eq!([5, 6, 7].map(words), [[0xc4, 0xc6, 0x8b], [0xc8, 0xca, 0x89], [0xcc, 0xce, 0x8a]]);
    let Ports { mask, mode, clear_flip_flop, number, .. } = Ports::of(6);
    assert_eq!((mask, mode, clear_flip_flop, number), (0xd4, 0xd6, 0xd8, 2));
    let Ports { mask, mode, clear_flip_flop, number, .. } = Ports::of(1);
    assert_eq!((mask, mode, clear_flip_flop, number), (0x0a, 0x0b, 0x0c, 1));
}

#[test]
fn registers_of_both_controllers_and_of_all_pages_are_apart() {
    let mut pair = Pair::new();
    let pages = 0x80..=0x8f;
    pages.clone().for_each(|at| pair.write(at, at as u8));
    assert!(pages.clone().all(|at| pair.read(at) == Some(at as u8)));
    for at in [0, 0xc0] {
        pair.write(at, 0x11 + at as u8);
        pair.write(at, 0x22);
    }
    assert_eq!([0, 0xc0, 0, 0xc1].map(|at| pair.read(at)), [Some(0x11), Some(0xd1), Some(0x22), Some(0x22)]);
    assert_eq!([0x10, 0x7f, 0x90, 0xbf, 0xe0].map(|at| pair.read(at)), [None; 5]);
    pair.write(0x10, 1);
}

#[test]
fn addresses_are_24_bits_of_bytes_or_of_words() {
    for (channel, width, expected) in [(3, 1, 0x35_8001), (5, 2, 0x35_0002), (7, 2, 0x35_0002)] {
        let grant = programmed(channel, mode::DEMAND, (0x35, 0x8001)).grant().unwrap();
        assert_eq!((grant.channel, grant.width), (channel, width));
        assert_eq!(address(&grant), expected, "channel {channel}");
    }
    assert_eq!(address(&programmed(6, mode::DEMAND, (0xff, 0xffff)).grant().unwrap()), 0xff_fffe);
}

#[test]
fn the_page_does_not_count() {
    for (channel, first) in [(1, 0x35_0000), (5, 0x34_0000)] {
        for bits in [0, mode::DECREMENT] {
            let (from, behind) = if bits == 0 { (0xffff, 0) } else { (0, page_size(channel)) };
            let mut pair = programmed(channel, mode::BLOCK | bits, (0x35, from));
            let grant = pair.grant().unwrap();
            pair.advance(&grant, 1);
            let (width, next) = (grant.width, address(&pair.grant().unwrap()));
            assert_eq!(next, first + if bits == 0 { behind } else { behind - width });
        }
    }
}

#[test]
fn the_first_controller_has_the_bus_through_channel_4_only() {
    let mut pair = programmed(2, mode::SINGLE, (0, 0));
    assert!(pair.grant().is_some(), "as the BIOS leaves it");
    pair.write(0xd4, 4);
    assert!(pair.grant().is_none(), "masked");
    pair.write(0xd4, 0);
    assert!(pair.grant().is_some());
    pair.write(0xda, 0);
    assert!(pair.grant().is_none(), "a master clear masks it");
    pair.write(0xd6, mode::CASCADE);
    pair.write(0xdc, 0);
    assert!(pair.grant().is_some());
}

#[test]
fn bytes_come_before_words_and_either_keeps_the_bus_for_its_block() {
    let mut pair = programmed(5, mode::SINGLE, (0, 0));
    program(&mut pair, 7, mode::SINGLE, (0, 0), 1000);
    assert_eq!(order(&mut pair, 2), [5, 5]);
    program(&mut pair, 3, mode::SINGLE, (0, 0), 1);
    program(&mut pair, 1, mode::SINGLE, (0, 0), 1);
    assert_eq!(order(&mut pair, 3), [1, 3, 5], "channel 4 is the first of the second controller");
    program(&mut pair, 7, mode::BLOCK, (0, 0), 3);
    pair.set_request(5, false);
    assert_eq!(order(&mut pair, 1), [7]);
    program(&mut pair, 0, mode::BLOCK, (0, 0), 2);
    pair.set_request(5, true);
    assert_eq!(order(&mut pair, 5), [7, 7, 0, 0, 5]);
}

#[test]
fn where_priority_rotates_the_first_controller_has_one_turn_among_the_channels_of_the_second() {
    let mut pair = Pair::new();
    [2, 3, 5, 6].into_iter().for_each(|channel| program(&mut pair, channel, mode::SINGLE, (0, 0), 1000));
    pair.write(0xd0, command::ROTATING);
    assert_eq!(order(&mut pair, 6), [2, 5, 6, 2, 5, 6]);
    pair.write(0x08, command::ROTATING);
    assert_eq!(order(&mut pair, 6), [3, 5, 6, 2, 5, 6]);
}

#[test]
fn a_demand_that_ends_gives_the_bus_to_the_other_controller() {
    let mut pair = programmed(1, mode::DEMAND, (0, 0));
    program(&mut pair, 5, mode::DEMAND, (0, 0), 1000);
    assert_eq!(order(&mut pair, 2), [1, 1]);
    assert!(pair.is_active());
    pair.set_request(1, false);
    assert!(!pair.is_active());
    assert_eq!(order(&mut pair, 1), [5]);
    pair.set_request(1, true);
    assert_eq!(order(&mut pair, 2), [5, 5]);
    pair.end(5);
    assert_eq!(order(&mut pair, 1), [1]);
}

#[test]
fn memory_to_memory_has_a_page_for_each_half_and_bytes_only() {
    let mut pair = Pair::new();
    pair.write(0x08, command::MEMORY_TO_MEMORY);
    program(&mut pair, 0, mode::BLOCK, (0x12, 0x3456), 2);
    program(&mut pair, 1, mode::BLOCK, (0x65, 0x4321), 2);
    pair.write(0x09, 4);
    let grant = pair.grant().unwrap();
    let Transfer::MemoryToMemory { to, .. } = grant.service.transfer else { panic!("{grant:?}") };
    assert_eq!((address(&grant), grant.target(to), grant.cycles()), (0x12_3456, 0x65_4321, (0, 16)));
    assert!(pair.advance(&grant, 2));
    pair.write(0xd0, command::MEMORY_TO_MEMORY);
    program(&mut pair, 4, mode::BLOCK, (0, 0), 2);
    pair.write(0xd2, 4);
    assert!(pair.grant().is_none());
}

#[test]
fn a_transfer_takes_three_clocks_and_one_for_a_new_latch_or_two_where_timing_is_compressed() {
    let mut pair = programmed(5, mode::SINGLE, (0, 0));
    assert_eq!(pair.grant().unwrap().cycles(), (2, 6));
    pair.write(0xd0, command::COMPRESSED);
    assert_eq!(pair.grant().unwrap().cycles(), (2, 4));
}

#[test]
fn a_card_that_would_have_to_be_a_master_gets_no_bus() {
    assert!(programmed(2, mode::CASCADE, (0, 0)).grant().is_none());
    assert!(programmed(6, mode::CASCADE, (0, 0)).grant().is_none());
}
