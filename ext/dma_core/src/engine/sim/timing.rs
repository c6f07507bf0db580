//! What a bus is like: how wide, how fast, and what each of its transactions costs beside the bytes.

use crate::error::{Error, Result};

/// A bus, in cycles of its clock.
///
/// A transaction brings up to `payload` bytes; longer ones begin anew. It takes `setup` cycles, and `beat` cycles for each
/// `width` bytes of payload and `overhead`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Bytes of a beat: the width of the bus.
    pub width: u64,
    /// Cycles per second.
    pub frequency: u64,
    /// Cycles of a beat.
    pub beat: u64,
    /// Cycles of a transaction before its first beat and after its last.
    pub setup: u64,
    /// The most bytes of a transaction.
    pub payload: u64,
    /// Bytes that go with each transaction and are no payload.
    pub overhead: u64,
    /// Cycles more of a transaction at an address that has more than 32 bits.
    pub dual: u64,
    /// Cycles more that the CPU waits for what it reads from a device.
    pub read: u64,
    /// Each device has a link of its own, and only memory is everybody's.
    pub links: bool,
}

/// Nanoseconds.
const SECOND: u128 = 1_000_000_000;

/// Bytes of a small packet: a line of the cache.
const PACKET: u64 = 64;

/// Presets and their names in Ruby.
const PRESETS: [(&str, Timing); 4] =
    [("ideal", Timing::IDEAL), ("isa", Timing::ISA), ("pci", Timing::PCI), ("pcie", Timing::PCIE)];

impl Timing {
    /// Eight bytes a nanosecond and nothing else: cycles that are easy to count.
    pub const IDEAL: Timing = Timing {
        width: 8,
        frequency: 1_000_000_000,
        beat: 1,
        setup: 0,
        payload: u64::MAX,
        overhead: 0,
        dual: 0,
        read: 0,
        links: false,
    };

    /// ISA, 16 bits at 8 MHz: a memory cycle of a 16-bit device is three clocks, one of them a wait state (IEEE P996, "standard
    /// 16-bit memory cycle").
    pub const ISA: Timing = Timing { width: 2, frequency: 8_000_000, beat: 3, payload: 2, ..Timing::IDEAL };

    /// PCI, 32 bits at 33 MHz. Beside the data phases there are the address phase, one clock until a target of medium speed
    /// answers with DEVSEL#, and an idle clock (PCI Local Bus Specification 2.2, 3.2.1 and 3.6.1). Who has the bus gives it up when
    /// the latency timer has run out, of which 32 clocks are the usual value: 29 data phases. An address of more than 32 bits takes
    /// two address phases (3.9, dual address cycle), a read a turnaround before its data (3.3.1).
    pub const PCI: Timing =
        Timing { width: 4, frequency: 33_333_333, setup: 3, payload: 116, dual: 1, read: 1, ..Timing::IDEAL };

    /// PCI Express 3.0, 16 lanes: 8 GT/s in blocks of 130 bits for 128, a byte of each lane a cycle. A packet (TLP) of up to 256
    /// bytes has 4 bytes of framing, 16 of header with 64-bit addresses, and 4 of LCRC (PCI Express Base Specification 3.0, 2.2 and
    /// 4.2.2). A read is there and back over it: some 500 ns, of which the host takes the most (Neugebauer et al., Understanding PCIe
    /// performance for end host networking, SIGCOMM 2018, figure 5).
    pub const PCIE: Timing = Timing {
        width: 16,
        frequency: 984_615_384,
        payload: 256,
        overhead: 24,
        read: 492,
        links: true,
        ..Timing::IDEAL
    };

    /// The preset with this name in Ruby.
    pub fn from_name(name: &str) -> Option<Timing> {
        PRESETS.iter().find(|(other, _)| *other == name).map(|(_, timing)| *timing)
    }

    /// Its name, if it is a preset.
    pub fn name(&self) -> Option<&'static str> {
        PRESETS.iter().find(|(_, preset)| preset == self).map(|(name, _)| *name)
    }

    /// Every preset's name.
    pub fn names() -> Vec<&'static str> {
        PRESETS.iter().map(|(name, _)| *name).collect()
    }

    pub(super) fn check(&self) -> Result<()> {
        let Timing { width, frequency, beat, setup, payload, overhead, dual, read, .. } = *self;
        let limits = [
            ("width", width, 1, 4096),
            ("frequency", frequency, 1, 1_000_000_000_000),
            ("beat", beat, 1, 4096),
            ("setup", setup, 0, 1 << 20),
            ("payload", payload, 1, u64::MAX),
            ("overhead", overhead, 0, 4096),
            ("dual", dual, 0, 1 << 20),
            ("read", read, 0, 1 << 20),
        ];
        match limits.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
            Some((name, value, least, most)) => {
                Err(Error::Argument(format!("{name}: {value} of a bus is not in {least}..{most}")))
            }
            None => Ok(()),
        }
    }

    /// Cycles for `len` bytes, one transaction behind the other.
    pub fn cycles(&self, len: u64) -> u64 {
        // Most are one, and a division is a part of what they cost the machine.
        let transactions = if len <= self.payload { len.min(1) } else { len.div_ceil(self.payload) };
        let bytes = len + transactions * self.overhead;
        transactions * self.setup + bytes.div_ceil(self.width) * self.beat
    }

    /// Whether the address goes over the lines of the data, before them.
    pub(super) fn has_address_phases(&self) -> bool {
        self.setup > 0 && self.overhead == 0 && !self.links
    }

    /// Its transactions at an address.
    pub(super) fn at(&self, address: u64) -> Timing {
        let dual = if address >> 32 > 0 { self.dual } else { 0 };
        Timing { setup: self.setup + dual, ..*self }
    }

    /// How many bytes whole transactions bring in so many cycles; those of a unit, where there is not the time for even that.
    pub(super) fn fit(&self, cycles: u64) -> u64 {
        let one = |cycles: u64| {
            let beats = cycles.saturating_sub(self.setup) / self.beat;
            beats.saturating_mul(self.width).saturating_sub(self.overhead)
        };
        if one(cycles) < self.payload {
            return one(cycles).max(self.unit());
        }
        let full = self.cycles(self.payload);
        (cycles / full).saturating_mul(self.payload).saturating_add(one(cycles % full))
    }

    /// At least `len` bytes, cut where that costs nothing, whether they go in one or in units; unless transactions are larger than
    /// `most`, which one burst each is then.
    pub(super) fn whole(&self, len: u64, most: u64) -> u64 {
        if self.payload > most {
            return len.next_multiple_of(common(self.width, self.unit()));
        }
        let packet = self.payload + self.overhead;
        let packets = common(packet, self.width) / packet;
        len.next_multiple_of(common(packets * self.payload, self.unit()))
    }

    /// What a channel that gives the bus away in between moves at a time: a word, or a small packet where bytes go in packets.
    pub(super) fn unit(&self) -> u64 {
        match self.overhead {
            0 => self.width.min(self.payload),
            _ => self.payload.min(PACKET),
        }
    }

    /// When `cycles` are over, in nanoseconds.
    pub fn nanoseconds(&self, cycles: u64) -> u64 {
        clamp(u128::from(cycles) * SECOND / u128::from(self.frequency))
    }

    /// The first cycle that ends at `nanoseconds` or later: whoever waits until then sees the time come.
    pub(super) fn cycle_at(&self, nanoseconds: u64) -> u64 {
        clamp((u128::from(nanoseconds) * u128::from(self.frequency)).div_ceil(SECOND))
    }
}

/// The least multiple of both.
fn common(one: u64, other: u64) -> u64 {
    (1..=other).map(|count| count * one).find(|multiple| multiple % other == 0).unwrap_or(one)
}

fn clamp(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Millions of bytes per second, for transactions of `len` bytes.
    fn rate(timing: Timing, len: u64) -> f64 {
        let seconds = timing.cycles(len) as f64 / timing.frequency as f64;
        len as f64 / seconds / 1e6
    }

    #[test]
    fn presets_are_as_fast_as_their_buses() {
        let (isa, pci, pcie) = (Timing::ISA, Timing::PCI, Timing::PCIE);
        let near = |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 0.002, "{value}, not {wanted}");
        near(rate(isa, 1 << 20), 8.0 / 3.0 * 2.0);
        // One data phase costs four clocks, a full transaction 32 clocks for 29.
        near(rate(pci, 4), 33.333 * 4.0 / 4.0);
        near(rate(pci, 116), 33.333 * 4.0 * 29.0 / 32.0);
        // 15.75 GB/s go over 16 lanes; packets take a part of it.
        near(pcie.width as f64 * pcie.frequency as f64 / 1e6, 15_753.8);
        near(rate(pcie, 1 << 20), 15_753.8 * 256.0 / 280.0);
        near(rate(Timing { payload: 64, ..pcie }, 1 << 20), 15_753.8 * 64.0 / 88.0);
    }

    #[test]
    fn bursts_are_cut_where_it_costs_nothing() {
        let odd = Timing { width: 12, payload: 35, overhead: 5, beat: 2, setup: 7, frequency: 1, ..Timing::IDEAL };
        for timing in PRESETS.map(|(_, timing)| timing).into_iter().chain([odd, Timing { width: 4096, ..odd }]) {
            for len in [256, 64 << 10] {
                let burst = timing.whole(len, 64 << 10);
                assert!(burst >= len);
                assert_eq!(3 * timing.cycles(burst) + timing.cycles(100), timing.cycles(3 * burst + 100), "{timing:?}");
            }
        }
        assert_eq!(Timing::IDEAL.whole(256, 64 << 10), 256);
    }

    #[test]
    fn what_fits_into_cycles_takes_no_more_and_much_more_does_not_fit() {
        let odd = Timing { width: 12, payload: 35, overhead: 5, beat: 2, setup: 7, ..Timing::IDEAL };
        for timing in PRESETS.map(|(_, timing)| timing).into_iter().chain([odd]) {
            for cycles in timing.cycles(timing.unit())..600 {
                let len = timing.fit(cycles);
                assert!(timing.cycles(len) <= cycles, "{timing:?}: {len} bytes in {cycles}");
                // A beat may be shared by two transactions.
                let more = len + (len.div_ceil(timing.payload) + 2) * timing.width;
                assert!(timing.cycles(more) > cycles, "{timing:?}: {more} bytes in {cycles} as well");
            }
            assert_eq!(timing.fit(0), timing.unit());
        }
    }

    #[test]
    fn an_address_of_more_than_32_bits_costs_pci_a_clock() {
        let cycles = [0xffff_ffff, 1 << 32].map(|address| Timing::PCI.at(address).cycles(116));
        assert_eq!(cycles, [32, 33]);
        assert_eq!(Timing::PCIE.at(1 << 40), Timing::PCIE);
    }

    #[test]
    fn the_ideal_bus_counts_words_of_eight_bytes() {
        let cycles = [0, 1, 8, 9, 40, 4096].map(|len| Timing::IDEAL.cycles(len));
        assert_eq!(cycles, [0, 1, 1, 2, 5, 512]);
    }

    #[test]
    fn whoever_waits_until_a_time_sees_it_come_and_no_cycle_more() {
        for (name, timing) in PRESETS {
            for time in [0, 1, 7, 124, 125, 126, 1_000_003, u64::MAX / 2_000] {
                let cycle = timing.cycle_at(time);
                assert!(timing.nanoseconds(cycle) >= time, "{name} {time}");
                assert!(cycle == 0 || timing.nanoseconds(cycle - 1) < time, "{name} {time}");
            }
        }
        assert_eq!(Timing::ISA.nanoseconds(8_000_000), 1_000_000_000);
        assert_eq!(Timing::PCI.cycle_at(3_000_000_000), 99_999_999);
    }
}
