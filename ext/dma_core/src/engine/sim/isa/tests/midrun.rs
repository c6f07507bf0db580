//! What becomes of a run of transfers that somebody looks into, or asks for the bus in.

use super::*;
use crate::engine::sim::handler::InterruptCost;
use crate::engine::sim::isa::cascade::Ports;

/// Cycles of `len` transfers of a run, beside the two for its S1.
const fn run(len: u64) -> u64 {
    6 * len
}

impl Bench {
    fn begin(&self, channel: u16, data: &[u8]) -> (Arc<Shared>, Arc<crate::channel::Ticket>) {
        let shared = self.device.channel(channel).unwrap();
        let place = u64::from(channel) * 1000;
        let ticket = shared.submit(request(Direction::ToDevice, place, &filled(data)), true).unwrap();
        (shared, ticket)
    }

    fn mask(&self, channel: u16, on: bool) {
        let ports = Ports::of(channel);
        self.ports.write(ports.mask.into(), 1, (ports.number | if on { 4 } else { 0 }).into());
    }

    /// Reads COUNT of a channel's controller.
    fn left(&self, channel: u16) -> u64 {
        let ports = Ports::of(channel);
        self.ports.write(ports.clear_flip_flop.into(), 1, 0);
        [0, 8].into_iter().map(|shift| self.ports.read(ports.count.into(), 1) << shift).sum::<u64>() + 1
    }

    fn master(&self) -> crate::engine::sim::arbiter::MasterStats {
        self.machine.stats().masters[0].1
    }
}

fn events(machine: &Machine) -> Vec<(u16, What, u64, u64)> {
    let of = |event: &crate::engine::sim::trace::Event| (event.channel, event.what, event.len, event.cycle);
    machine.take_trace().events.iter().map(of).filter(|(_, _, len, _)| *len > 0).collect()
}

#[test]
fn a_run_under_way_is_not_thrown_away_when_a_higher_priority_asks() {
    let bench = Bench::new(Clock::Manual);
    bench.begin(3, &numbered(200));
    bench.machine.step(600);
    bench.begin(1, &numbered(4));
    bench.machine.run_until_idle();
    assert_eq!(bench.machine.cycles(), 2 + run(200) + 2 + run(4));
    let Costs { terminal_counts, .. } = bench.costs();
    assert_eq!((terminal_counts, bench.sim.totals(3).1, bench.sim.totals(1).1), (2, 200, 4));
    // The second asked while the first had the bus, and the two are one master.
    let stats = bench.master();
    assert_eq!((stats.grants, stats.cycles, stats.waited), (2, bench.machine.cycles(), 0));
    assert_eq!((bench.get(3000, 200), bench.get(1000, 4)), (numbered(200), numbered(4)));
}

#[test]
fn a_demand_keeps_the_bus_from_its_first_transfer_on_and_a_single_transfer_for_that() {
    for (mode, first) in [(Mode::Burst, 200), (Mode::CycleStealing, 1)] {
        let bench = Bench::new(Clock::Manual);
        bench.sim.set_mode(3, mode).unwrap();
        bench.machine.start_trace().unwrap();
        bench.begin(3, &[7; 200]);
        bench.machine.step(1);
        bench.begin(1, &[8; 4]);
        bench.machine.run_until_idle();
        let seen = events(&bench.machine);
        let before: u64 = seen.iter().take_while(|event| event.0 == 3).map(|event| event.2).sum();
        assert_eq!(before, first, "{mode:?}");
        let len = |channel| seen.iter().filter(|event| event.0 == channel).map(|event| event.2).sum::<u64>();
        assert_eq!((len(3), len(1)), (200, 4));
    }
}

#[test]
fn the_count_is_that_of_now_and_who_reads_it_costs_no_cycle_and_no_grant() {
    let bench = Bench::new(Clock::Manual);
    bench.begin(3, &numbered(200));
    for cycle in 1..=run(200) + 1 {
        bench.machine.step(1);
        assert_eq!(bench.left(3), 200 - cycle.saturating_sub(2) / 6, "after {cycle}");
    }
    bench.machine.run_until_idle();
    assert_eq!(bench.machine.cycles(), 2 + run(200));
    let stats = bench.master();
    assert_eq!((stats.grants, stats.cycles, stats.waited), (1, 2 + run(200), 0));
    assert_eq!(bench.get(3000, 200), numbered(200));
}

#[test]
fn what_was_transferred_before_a_channel_is_masked_is_and_the_rest_goes_on_where_it_was() {
    let bench = Bench::new(Clock::Manual);
    bench.begin(3, &numbered(200));
    bench.machine.step(2 + run(50) + 3);
    bench.mask(3, true);
    assert_eq!((bench.machine.run_until_idle(), bench.sim.totals(3).1, bench.left(3)), (0, 50, 150));
    bench.machine.step(1000);
    let stats = bench.master();
    assert_eq!((stats.cycles, stats.waited), (2 + run(50), 0));
    bench.mask(3, false);
    assert_eq!((bench.machine.run_until_idle(), bench.sim.totals(3).1), (2 + run(150), 200));
    assert_eq!(bench.get(3000, 200), numbered(200));
}

#[test]
fn looking_into_a_run_changes_nothing_beside_a_cpu_and_a_slow_memory() {
    for (timing, memory_bandwidth, cpu_load) in
        [(Timing::ISA, None, 0.5), (Timing::ISA, Some(700_000), 0.0), (Timing::PCIE, Some(70_000_000), 0.3)]
    {
        let seen = [false, true].map(|looks| {
            let options = MachineOptions {
                clock: Clock::Manual,
                timing,
                memory_bandwidth,
                cpu_load,
                ..MachineOptions::default()
            };
            let machine = Machine::new(options).unwrap();
            let sim = Device::new(&machine, DeviceOptions { memory: MEMORY, ..DeviceOptions::isa() }).unwrap();
            let device = device::Device::of_sim(&sim, "isa");
            let ports = sim.registers(Bank::Bar(0)).unwrap();
            let channel = device.channel(3).unwrap();
            let ticket = channel.submit(request(Direction::ToDevice, 0, &region(700, 7)), true).unwrap();
            for _ in 0..12_000 {
                machine.step(1);
                if looks {
                    ports.read(0, 1);
                }
            }
            assert_eq!(channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap().bytes, 700);
            let stats = machine.stats();
            (stats.cycles, stats.dma_cycles, stats.cpu, stats.masters)
        });
        assert_eq!(seen[0], seen[1], "{timing:?}");
    }
}

#[test]
fn a_fault_that_was_met_by_now_ends_the_run() {
    let bench = Bench::new(Clock::Manual);
    bench.inject(Kind::BusError, Trigger::Address(3050));
    let (channel, ticket) = bench.begin(3, &numbered(200));
    bench.machine.step(2 + run(100));
    bench.left(3);
    let outcome = channel.wait_plain(&ticket, Some(GRACE), GRACE).unwrap();
    assert_eq!((outcome.status, outcome.bytes), (Status::BusReadError, 50));
    bench.put(0, &numbered(64));
    assert_eq!(bench.get(0, 64), numbered(64));
}

#[test]
fn what_a_handler_begins_does_not_take_the_run_of_another_channel_over() {
    let interrupt_cost = InterruptCost { entry: 10_000, ..InterruptCost::default() };
    let options =
        MachineOptions { clock: Clock::Manual, timing: Timing::ISA, interrupt_cost, ..MachineOptions::default() };
    let machine = Machine::new(options).unwrap();
    let sim = Device::new(&machine, DeviceOptions { memory: MEMORY, ..DeviceOptions::isa() }).unwrap();
    let device = device::Device::of_sim(&sim, "isa");
    machine.start_trace().unwrap();
    let [one, three] = [1, 3].map(|channel| device.channel(channel).unwrap());
    let lens = [(&one, 4), (&one, 30), (&three, 200)];
    for (channel, len) in lens {
        channel.submit(request(Direction::ToDevice, 0, &region(len, 7)), true).unwrap();
    }
    machine.run_until_idle();
    let seen: Vec<_> = events(&machine).into_iter().map(|(channel, what, len, _)| (channel, what, len)).collect();
    // The runs that a handler comes in are in two parts.
    assert_eq!(seen.iter().map(|event| event.0).collect::<Vec<_>>(), [1, 3, 3, 1, 1]);
    assert_eq!((sim.totals(1).1, sim.totals(3).1), (34, 200));
    assert_eq!(machine.stats().dma_cycles, 2 + run(4) + 2 + run(200) + 2 + run(30));
}
