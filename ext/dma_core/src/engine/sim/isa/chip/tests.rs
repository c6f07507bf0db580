//! What each register of the data sheet does.

use proptest::prelude::*;

use super::*;

/// Programs a channel as a driver does: mode, address, count less one, unmasked.
fn program(chip: &mut Chip, channel: u8, bits: u8, address: u16, transfers: u32) {
    chip.write(port::MASK, 4 | channel);
    chip.write(port::CLEAR_FLIP_FLOP, 0);
    chip.write(port::MODE, bits | channel);
    for (at, value) in [(2 * channel, address), (2 * channel + 1, (transfers - 1) as u16)] {
        value.to_le_bytes().into_iter().for_each(|byte| chip.write(at.into(), byte));
    }
    chip.write(port::MASK, channel);
}

fn programmed(bits: u8, address: u16, transfers: u32) -> Chip {
    let mut chip = Chip::new();
    program(&mut chip, 2, bits, address, transfers);
    chip.set_request(2, true);
    chip
}

fn read16(chip: &mut Chip, at: u16) -> u16 {
    chip.write(port::CLEAR_FLIP_FLOP, 0);
    u16::from_le_bytes([chip.read(at), chip.read(at)])
}

fn served(chip: &Chip) -> Option<usize> {
    chip.service().map(|service| service.channel)
}

#[test]
fn the_flip_flop_says_which_byte_of_a_register_comes_next() {
    let mut chip = Chip::new();
    chip.write(0, 0x34);
    chip.write(0, 0x12);
    assert_eq!([chip.read(0), chip.read(0)], [0x34, 0x12]);
    // One for all registers: the low byte of one, then the high one of another.
    chip.write(0, 0x78);
    chip.write(1, 0x56);
    assert_eq!((read16(&mut chip, 0), read16(&mut chip, 1)), (0x1278, 0x5600));
    chip.write(0, 0);
    chip.write(port::CLEAR_FLIP_FLOP, 0xff);
    assert_eq!(chip.read(1), 0, "the low byte, after it was cleared");
    chip.write(port::MASTER_CLEAR, 0);
    assert_eq!(chip.read(1), 0, "the low byte, after a master clear");
}

#[test]
fn base_and_current_registers_are_written_together_and_the_current_ones_are_read() {
    let mut chip = programmed(mode::SINGLE | mode::AUTOINITIALIZE, 0x1000, 2);
    chip.advance(1);
    assert_eq!((read16(&mut chip, 4), read16(&mut chip, 5)), (0x1001, 0));
    assert!(chip.advance(1));
    assert_eq!((read16(&mut chip, 4), read16(&mut chip, 5)), (0x1000, 1));
}

#[test]
fn a_count_of_zero_is_one_transfer_and_wraps_to_ffff() {
    let mut chip = programmed(mode::SINGLE, 7, 1);
    assert_eq!(chip.service().unwrap().left, 1);
    assert!(chip.advance(1));
    assert_eq!((read16(&mut chip, 4), read16(&mut chip, 5)), (8, 0xffff));
}

#[test]
fn a_block_is_one_transfer_more_than_its_count_and_needs_its_request_at_the_beginning_only() {
    let mut chip = programmed(mode::BLOCK, 0, 0x10000);
    assert_eq!(chip.service().unwrap().left, 0x10000);
    let mut transfers = 0;
    while let Some(service) = chip.service() {
        let run = service.run();
        transfers += run;
        chip.advance(run);
        chip.set_request(2, false);
    }
    assert_eq!(transfers, 0x10000);
}

#[test]
fn demand_ends_with_the_request_and_goes_on_where_it_was() {
    let mut chip = programmed(mode::DEMAND, 0, 100);
    chip.advance(10);
    assert!(chip.is_active());
    chip.set_request(2, false);
    assert!(!chip.is_active() && chip.service().is_none());
    chip.set_request(2, true);
    assert_eq!(chip.service().map(|service| (service.walk.address, service.left)), Some((10, 90)));
}

#[test]
fn single_gives_the_bus_back_after_each_transfer() {
    let mut chip = programmed(mode::SINGLE, 0, 100);
    program(&mut chip, 0, mode::SINGLE, 0, 100);
    assert_eq!(chip.service().unwrap().run(), 1);
    chip.advance(1);
    chip.set_request(0, true);
    assert_eq!((chip.is_active(), served(&chip)), (false, Some(0)), "one of higher priority comes between");
}

#[test]
fn a_terminal_count_masks_the_channel_unless_it_is_autoinitialized() {
    for bits in [mode::SINGLE, mode::SINGLE | mode::AUTOINITIALIZE] {
        let mut chip = programmed(bits, 0x50, 1);
        assert!(chip.advance(1));
        assert_eq!(chip.service().is_some(), bits & mode::AUTOINITIALIZE != 0);
        chip.write(port::MASK, 2);
        assert!(chip.service().is_some(), "unmasked again it goes on");
    }
}

#[test]
fn masks_keep_devices_out_one_by_one_all_at_once_and_after_a_reset() {
    let mut chip = Chip::new();
    (0..4).for_each(|channel| chip.set_request(channel, true));
    let masked = |chip: &Chip| (0..4).filter(|channel| !chip.wants(*channel)).collect::<Vec<_>>();
    assert_eq!(masked(&chip), [0, 1, 2, 3]);
    chip.write(port::CLEAR_MASKS, 0);
    assert_eq!(masked(&chip), []);
    chip.write(port::MASK, 4 | 2);
    assert_eq!(masked(&chip), [2]);
    chip.write(port::ALL_MASKS, 0b1001);
    assert_eq!(masked(&chip), [0, 3]);
    chip.write(port::MASK, 3);
    assert_eq!(masked(&chip), [0]);
    chip.write(port::MASTER_CLEAR, 0);
    assert_eq!(masked(&chip), [0, 1, 2, 3]);
}

#[test]
fn reading_the_status_clears_terminal_counts_and_leaves_requests() {
    let mut chip = programmed(mode::SINGLE, 0, 1);
    chip.set_request(0, true);
    assert_eq!(chip.read(port::COMMAND), 0b0101_0000, "requests are seen, masked or not");
    chip.advance(1);
    assert_eq!(chip.read(port::COMMAND), 0b0101_0100);
    assert_eq!(chip.read(port::COMMAND), 0b0101_0000);
    chip.end(3);
    chip.write(port::MASTER_CLEAR, 0);
    assert_eq!(chip.read(port::COMMAND), 0b0101_0000);
}

#[test]
fn a_request_of_software_is_for_blocks_only_is_not_masked_and_ends_with_them() {
    let mut chip = Chip::new();
    program(&mut chip, 1, mode::SINGLE, 0, 4);
    chip.write(port::REQUEST, 4 | 1);
    assert_eq!(served(&chip), None);
    chip.write(port::MODE, mode::BLOCK | 1);
    chip.write(port::ALL_MASKS, 0xf);
    assert_eq!(served(&chip), Some(1));
    chip.write(port::REQUEST, 1);
    assert_eq!(served(&chip), None);
    chip.write(port::REQUEST, 4 | 1);
    assert!(chip.advance(4));
    assert_eq!(served(&chip), None);
}

#[test]
fn modes_are_of_a_channel_each() {
    let mut chip = programmed(mode::BLOCK | mode::TO_MEMORY | mode::DECREMENT, 0x300, 2);
    let service = chip.service().unwrap();
    let walk = Walk { address: 0x300, down: true };
    assert_eq!(service, Service { channel: 2, pace: Pace::Block, transfer: Transfer::ToMemory, walk, left: 2 });
    for (bits, transfer) in [(mode::FROM_MEMORY, Transfer::FromMemory), (0, Transfer::Verify), (0x0c, Transfer::Verify)]
    {
        chip.write(port::MODE, bits | 2);
        chip.write(port::MODE, mode::CASCADE | 3);
        assert_eq!(chip.service().map(|service| (service.pace, service.transfer)), Some((Pace::Demand, transfer)));
    }
}

#[test]
fn addresses_go_up_or_down_and_wrap() {
    for (bits, from, to) in [(0, 0xffff, 1), (mode::DECREMENT, 1, 0xffff)] {
        let mut chip = programmed(mode::DEMAND | bits, from, 100);
        chip.advance(2);
        assert_eq!(read16(&mut chip, 4), to);
    }
}

#[test]
fn of_several_the_lowest_number_comes_first_or_the_one_served_last_comes_last() {
    for (bits, order) in [(0, [0, 0, 0, 0, 0]), (command::ROTATING, [0, 1, 2, 3, 0])] {
        let mut chip = Chip::new();
        for channel in 0..4 {
            program(&mut chip, channel, mode::SINGLE, 0, 1000);
            chip.set_request(channel.into(), true);
        }
        chip.write(port::COMMAND, bits);
        let mut next = || {
            let channel = served(&chip).unwrap();
            chip.advance(1);
            channel
        };
        assert_eq!([(); 5].map(|()| next()), order);
    }
}

#[test]
fn a_service_is_not_interrupted_by_a_higher_priority() {
    for bits in [mode::BLOCK, mode::DEMAND] {
        let mut chip = programmed(bits, 0, 1000);
        program(&mut chip, 0, mode::BLOCK, 0, 10);
        chip.advance(10);
        chip.set_request(0, true);
        assert_eq!(served(&chip), Some(2));
        chip.advance(990);
        assert_eq!(served(&chip), Some(0));
    }
}

#[test]
fn a_controller_that_is_disabled_serves_nobody() {
    let mut chip = programmed(mode::BLOCK, 0, 10);
    chip.advance(1);
    chip.write(port::COMMAND, command::DISABLE);
    assert_eq!(served(&chip), None);
    chip.write(port::COMMAND, 0);
    assert_eq!(served(&chip), Some(2));
}

#[test]
fn a_request_is_low_where_the_command_says_so() {
    let mut chip = programmed(mode::DEMAND, 0, 10);
    chip.write(port::COMMAND, command::DREQ_LOW);
    assert_eq!((served(&chip), chip.read(port::COMMAND)), (None, 0b1011_0000));
    chip.set_request(2, false);
    assert_eq!(served(&chip), Some(2));
}

#[test]
fn memory_to_memory_is_begun_by_software_goes_by_the_count_of_channel_1_and_ends_both() {
    let mut chip = Chip::new();
    chip.write(port::COMMAND, command::MEMORY_TO_MEMORY | command::COMPRESSED);
    program(&mut chip, 0, mode::BLOCK | mode::FROM_MEMORY, 0x100, 1);
    program(&mut chip, 1, mode::BLOCK | mode::TO_MEMORY, 0x2ff, 300);
    chip.set_request(0, true);
    chip.set_request(1, true);
    assert_eq!(served(&chip), None, "no device begins it");
    chip.write(port::REQUEST, 4);
    let service = chip.service().unwrap();
    let to = Walk { address: 0x2ff, down: false };
    assert_eq!(service.transfer, Transfer::MemoryToMemory { to, holds: false });
    assert_eq!((service.walk.address, service.left, chip.is_compressed()), (0x100, 300, false));
    assert!(!chip.advance(256));
    chip.hold(0x5a);
    assert!(chip.advance(44));
    assert_eq!((served(&chip), chip.read(port::COMMAND) & 0xf), (None, 0b0010));
    assert_eq!((read16(&mut chip, 0), read16(&mut chip, 2), read16(&mut chip, 3)), (0x22c, 0x42b, 0xffff));
    assert_eq!(chip.read(port::MASTER_CLEAR), 0x5a);
    chip.write(port::MASTER_CLEAR, 0);
    assert_eq!(chip.read(port::MASTER_CLEAR), 0);
}

#[test]
fn the_address_of_channel_0_is_held_where_the_command_says_so() {
    let mut chip = Chip::new();
    chip.write(port::COMMAND, command::MEMORY_TO_MEMORY | command::ADDRESS_HOLD);
    program(&mut chip, 0, mode::BLOCK, 0x100, 10);
    program(&mut chip, 1, mode::BLOCK | mode::DECREMENT, 0x200, 10);
    chip.write(port::REQUEST, 4);
    chip.advance(10);
    assert_eq!((read16(&mut chip, 0), read16(&mut chip, 2)), (0x100, 0x1f6));
}

#[test]
fn both_channels_of_memory_to_memory_are_autoinitialized() {
    let mut chip = Chip::new();
    chip.write(port::COMMAND, command::MEMORY_TO_MEMORY);
    program(&mut chip, 0, mode::BLOCK | mode::AUTOINITIALIZE, 0x100, 4);
    program(&mut chip, 1, mode::BLOCK | mode::AUTOINITIALIZE, 0x200, 8);
    for left in [4, 4] {
        chip.write(port::REQUEST, 4);
        assert_eq!(chip.service().unwrap().left, left);
        chip.advance(left);
        assert_eq!(read16(&mut chip, 0), 0x100);
    }
    assert_eq!((read16(&mut chip, 2), read16(&mut chip, 3)), (0x200, 7));
}

#[test]
fn an_eop_from_outside_ends_a_service_as_a_terminal_count_does() {
    let mut chip = programmed(mode::BLOCK, 0, 100);
    chip.advance(10);
    chip.end(2);
    assert_eq!((served(&chip), chip.read(port::COMMAND) & 0xf), (None, 0b0100));
    assert_eq!((read16(&mut chip, 4), read16(&mut chip, 5)), (10, 89), "it stopped where it was");
}

#[test]
fn a_cascade_counts_nothing() {
    let mut chip = programmed(mode::CASCADE, 0x10, 1);
    assert_eq!(chip.service().unwrap().pace, Pace::Cascade);
    assert!(!chip.advance(1000));
    assert_eq!((read16(&mut chip, 4), read16(&mut chip, 5)), (0x10, 0));
}

#[test]
fn ports_without_a_register_read_as_nothing_and_take_nothing() {
    let mut chip = programmed(mode::DEMAND, 0, 10);
    let before = format!("{chip:?}");
    assert_eq!([9, 0xa, 0xb, 0xc, 0xe, 0xf].map(|at| chip.read(at)), [FLOATING; 6]);
    chip.write(0x10, 0xff);
    assert_eq!(format!("{chip:?}"), before);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The runs of a block visit each address once, in order, and within a run A8 to A15 do not change.
    #[test]
    fn runs_make_up_the_block(address: u16, transfers in 1u32..=0x10000, down: bool) {
        let mut chip = programmed(mode::BLOCK | if down { mode::DECREMENT } else { 0 }, address, transfers);
        let mut made = 0;
        while let Some(service) = chip.service() {
            let run = service.run();
            let steps = |count: u32| if down { address.wrapping_sub(count as u16) } else { address.wrapping_add(count as u16) };
            prop_assert_eq!(service.walk.address, steps(made));
            prop_assert_eq!(steps(made) >> 8, steps(made + run - 1) >> 8);
            prop_assert!((1..=LATCH).contains(&run));
            made += run;
            prop_assert_eq!(chip.advance(run), made == transfers);
        }
        prop_assert_eq!(made, transfers);
    }
}
