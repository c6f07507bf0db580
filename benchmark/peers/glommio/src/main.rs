//! Reads a file by glommio's DmaFile, which is O_DIRECT and io_uring, and looks at every byte.
//!
//! `sequential PATH SIZE CHUNK DEPTH` reads all of it in order, `random PATH LIST PART DEPTH` parts at the offsets that the file LIST
//! has, of 64 bits each. Prints bytes, seconds and CPU seconds, without the start of the program.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::rc::Rc;
use std::time::Instant;

use glommio::io::{DmaFile, DmaStreamReaderBuilder, ReadResult};
use glommio::{spawn_local, GlommioError, LocalExecutorBuilder, Placement};
use nix::sys::resource::{getrusage, UsageWho};

/// Memory that glommio has for reads in flight.
const IO_MEMORY: usize = 64 << 20;

type Result<T> = std::result::Result<T, GlommioError<()>>;

/// Looks for the one byte that is not in the file, and returns how many there are.
fn look(result: &ReadResult) -> u64 {
    assert!(memchr::memchr(0, result).is_none(), "read a zero byte that is not in the file");
    result.len() as u64
}

async fn sequential(path: String, size: u64, chunk: usize, depth: usize) -> Result<u64> {
    let file = DmaFile::open(&path).await?;
    let mut reader =
        DmaStreamReaderBuilder::new(file).with_end_pos(size).with_buffer_size(chunk).with_read_ahead(depth).build();
    let mut bytes = 0;
    while bytes < size {
        bytes += look(&reader.get_buffer_aligned(chunk as u64).await?);
    }
    reader.close().await?;
    Ok(bytes)
}

async fn random(path: String, offsets: Vec<u64>, part: usize, depth: usize) -> Result<u64> {
    let file = Rc::new(DmaFile::open(&path).await?);
    let queue = Rc::new(RefCell::new(offsets.into_iter()));
    let readers: Vec<_> = (0..depth)
        .map(|_| {
            let (file, queue) = (file.clone(), queue.clone());
            spawn_local(async move {
                let mut bytes = 0;
                loop {
                    let Some(offset) = queue.borrow_mut().next() else { return Ok::<u64, GlommioError<()>>(bytes) };
                    bytes += look(&file.read_at_aligned(offset, part).await?);
                }
            })
        })
        .collect();
    let mut bytes = 0;
    for reader in readers {
        bytes += reader.await?;
    }
    file.close_rc().await?;
    Ok(bytes)
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage(RUSAGE_SELF) does not fail");
    [usage.user_time(), usage.system_time()].iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum()
}

/// The numbers that a file has.
fn offsets(list: &str) -> Vec<u64> {
    let bytes = fs::read(list).expect("the list of offsets can be read");
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect()
}

async fn run(arguments: Vec<String>) -> Result<()> {
    let number = |n: usize| arguments[n].parse::<u64>().expect("a number");
    let path = arguments[1].clone();
    let (chunk, depth) = (number(3) as usize, number(4) as usize);
    let offsets = if arguments[0] == "random" { offsets(&arguments[2]) } else { Vec::new() };
    let (start, before) = (Instant::now(), cpu());
    let bytes = match arguments[0].as_str() {
        "sequential" => sequential(path, number(2), chunk, depth).await?,
        _ => random(path, offsets, chunk, depth).await?,
    };
    println!("{bytes} {} {}", start.elapsed().as_secs_f64(), cpu() - before);
    Ok(())
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY)
        .spawn(|| run(arguments))
        .and_then(|executor| executor.join());
    if let Err(error) = done.map(|result| result.expect("the file can be read")) {
        panic!("{error}");
    }
}
