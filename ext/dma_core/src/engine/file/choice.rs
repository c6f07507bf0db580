//! Which engine serves a file.

use std::env;
use std::sync::Arc;

use super::threads::Threads;
use super::uring::{self, Uring};
use super::Handle;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// What carries the operations of a file out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// io_uring where the kernel lets this process have it, threads otherwise; or what `DMA_FILE_ENGINE` says.
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Worker threads.
    Threads,
}

impl Choice {
    /// The choice of this name: `auto`, `uring` or `threads`.
    pub fn named(name: &str) -> Option<Choice> {
        Some(match name {
            "auto" => Choice::Auto,
            "uring" => Choice::Uring,
            "threads" => Choice::Threads,
            _ => return None,
        })
    }

    /// What the environment asks for, where the program leaves it open.
    fn of_environment() -> Result<Choice> {
        let name = env::var_os("DMA_FILE_ENGINE").filter(|name| !name.is_empty());
        let Some(name) = name else { return Ok(Choice::Auto) };
        name.to_str().and_then(Choice::named).ok_or_else(|| {
            Error::Argument(format!("the environment's DMA_FILE_ENGINE is {name:?}, none of auto, uring, threads"))
        })
    }
}

/// The engine that is chosen for `handle`. A character device is served by threads: its driver would keep io_uring's workers for as
/// long as the device takes.
///
/// # Errors
/// [`Error::Unsupported`] where io_uring is asked for and cannot be had; [`Error::Argument`] for a `DMA_FILE_ENGINE` that names no
/// engine.
pub fn serve(handle: Arc<Handle>, choice: Choice) -> Result<Arc<dyn Engine>> {
    let wanted = if choice == Choice::Auto { Choice::of_environment()? } else { choice };
    let refusal = match handle.is_character() {
        true => Err("a character device is served by threads".to_owned()),
        false => uring::available(),
    };
    match (wanted, refusal) {
        (Choice::Auto | Choice::Uring, Ok(())) => Ok(Arc::new(Uring::new(handle, wanted == Choice::Auto))),
        // The environment is for all files, whatever they are.
        (Choice::Uring, Err(why)) if choice == Choice::Uring || !handle.is_character() => Err(Error::Unsupported(
            format!("io_uring cannot be used: {why}; leave the engine open (:auto), or use :threads"),
        )),
        _ => Ok(Arc::new(Threads::new(handle))),
    }
}
