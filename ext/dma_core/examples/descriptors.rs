//! Descriptors of 64 bytes per second through a channel of the simulated machine, in batches: what the core does without Ruby.
//! Prints a line for each batch size given: the size and the rate. Used by benchmark/transfer.rb.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dma_core::channel::{Channel, Request};
use dma_core::engine::sim::{Device, DeviceOptions, Machine, MachineOptions};
use dma_core::memory::{Layout, Lock, Region, Span};
use dma_core::sys;
use dma_core::transfer::Op;

const BLOCK: usize = 64;
const TIME: Duration = Duration::from_millis(300);

fn main() -> dma_core::Result<()> {
    let machine = Machine::new(MachineOptions::default())?;
    let device = Device::new(&machine, DeviceOptions::default())?;
    let region = Region::allocate(Layout::new(BLOCK), Lock::Never)?;
    let depth = device.options().ring_size - 1;
    let mut channel = Channel::of_device(device, 0, depth)?;
    for batch in std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok()) {
        let (started, mut done) = (Instant::now(), 0);
        while started.elapsed() < TIME {
            run(&mut channel, &region, batch)?;
            done += batch;
        }
        println!("{batch} {:.0}", done as f64 / started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Enqueues a batch, rings the doorbell once, and reaps until all of it has ended.
fn run(channel: &mut Channel, region: &Arc<Region>, batch: u64) -> dma_core::Result<()> {
    for _ in 0..batch {
        channel.enqueue(Request::new(Op::Write { offset: 0, span: Span::new(region, 0, BLOCK)? }))?;
    }
    channel.kick();
    let (mut left, mut idle) = (batch as usize, Instant::now());
    while left > 0 {
        let ended = channel.progress()?.len();
        left -= ended;
        if ended > 0 {
            idle = Instant::now();
        } else if idle.elapsed() > Duration::from_micros(20) {
            sys::wait_readable(channel.event(), Duration::from_secs(1));
        }
    }
    Ok(())
}
