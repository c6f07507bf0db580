//! Reading ahead behind `read`, once it goes through the file in order.

use std::sync::{Arc, Mutex};

use dma_core::engine::Cache;
use dma_core::file::{Chunk, File as CoreFile, Regions, Step};
use dma_core::memory::{Region, Span};
use magnus::{Error, RString, Ruby};

use super::File;
use crate::buffer::append;
use crate::error::{held, OrRaise};
use crate::gvl;
use crate::lock;
use crate::stream::Active;

/// Bytes read in order before more than was asked for is read: a header or a record is no beginning of the whole file.
const IN_ORDER: u64 = 256 << 10;
/// How many operations of how many bytes are under way.
const DEPTH: usize = 8;
const CHUNK: usize = 512 << 10;
/// Reads from this size on keep the disk busy by themselves.
const LARGE: u64 = (DEPTH * CHUNK) as u64;
/// What is copied from the page cache at a time: it stays in the processor's cache until it is copied again.
const CACHED: usize = 256 << 10;
/// Reads of more bytes than a small one asks for (FILL of lib/dma/file/reading.rb) take theirs straight from there, which costs less than
/// copying them twice.
const SMALL: u64 = 64 << 10;

/// How a file is being read at its position, and what of it has come or is on its way.
#[derive(Default)]
pub struct Ahead(Mutex<State>);

/// No Ruby code runs under its lock: what is running is taken out while somebody uses it.
#[derive(Default)]
struct State {
    /// Where the last read ended, and how many bytes before were read in order.
    next: u64,
    in_order: u64,
    running: Option<Running>,
    /// No byte from here on has come or is on its way.
    until: u64,
    /// How often what was read ahead was dropped.
    drops: u64,
}

struct Running {
    way: Way,
    /// What comes next, and how many bytes of it have been passed on.
    chunk: Option<(Chunk, usize)>,
    /// The offset behind the chunk.
    next: u64,
}

/// Where chunks come from.
enum Way {
    Disk(Box<Active>),
    PageCache(Regions),
}

impl Ahead {
    /// Where `len` bytes from `offset` on lie, if all of them have come.
    pub fn find(&self, offset: u64, len: usize) -> Option<(Arc<Region>, usize)> {
        let state = lock(&self.0);
        let running = state.running.as_ref().filter(|_| state.next == offset)?;
        let (chunk, used) = running.chunk.as_ref()?;
        (chunk.len - used >= len).then(|| (Arc::clone(&chunk.region), chunk.skip + used))
    }

    /// Whether nothing is read ahead.
    pub fn is_idle(&self) -> bool {
        lock(&self.0).running.is_none()
    }

    /// Notes that so many bytes which were found were taken.
    pub fn took(&self, len: usize) {
        let mut state = lock(&self.0);
        state.next += len as u64;
        state.in_order += len as u64;
        let chunk = state.running.as_mut().and_then(|running| running.chunk.as_mut());
        chunk.into_iter().for_each(|(_, used)| *used += len);
    }

    /// Appends up to `len` bytes from `offset` on that were read ahead, or are from now on. None where the file is not read in order,
    /// and where its bytes cannot be read, which is then whoever's to find out who reads just them.
    pub fn read(
        &self,
        ruby: &Ruby,
        this: &File,
        file: &CoreFile,
        out: RString,
        (offset, len): (u64, u64),
    ) -> Result<usize, Error> {
        let mut state = lock(&self.0);
        let goes_on = state.next == offset;
        let in_order = goes_on && state.in_order >= IN_ORDER && len < LARGE;
        let (running, drops) = (state.running.take(), state.drops);
        // Who knows how far it will come by the time it is back.
        state.until = if in_order || running.is_some() { u64::MAX } else { 0 };
        drop(state);
        let running = match running {
            Some(running) if goes_on => Some(running),
            Some(elsewhere) => {
                elsewhere.end(this);
                None
            }
            None if in_order => Running::begin(ruby, this, file, (offset, len))?,
            None => None,
        };
        let Some(mut running) = running else {
            lock(&self.0).until = 0;
            return Ok(0);
        };
        let read = running.append_to(ruby, file, out, len);
        let _held = read.as_ref().err().and_then(held);
        let mut state = lock(&self.0);
        if matches!(read, Ok((_, true))) && state.drops == drops {
            state.until = running.until();
            state.running = Some(running);
        } else {
            state.until = 0;
            drop(state);
            running.end(this);
        }
        read.map(|(done, _)| done)
    }

    /// Notes that bytes from `offset` on were read at the position.
    pub fn note(&self, offset: u64, len: usize) {
        let mut state = lock(&self.0);
        let before = if state.next == offset { state.in_order } else { 0 };
        state.in_order = before + len as u64;
        state.next = offset + len as u64;
    }

    /// Drops what was read ahead, and gives up what is on its way.
    pub fn drop(&self, this: &File) {
        let mut state = lock(&self.0);
        let before = std::mem::take(&mut *state);
        state.drops = before.drops + 1;
        drop(state);
        if let Some(running) = before.running {
            running.end(this);
        }
    }

    /// No byte from here on has come or is on its way.
    pub fn until(&self) -> u64 {
        lock(&self.0).until
    }
}

impl Running {
    /// From `offset` on, if reads of `len` bytes are the faster for it.
    fn begin(ruby: &Ruby, this: &File, file: &CoreFile, (offset, len): (u64, u64)) -> Result<Option<Running>, Error> {
        let handle = file.handle();
        if len > SMALL && handle.expect(offset, len) == Cache::Through {
            return Ok(None);
        }
        let rest = file.size().or_raise(ruby)?.saturating_sub(offset);
        if handle.is_character() || rest <= CHUNK as u64 {
            return Ok(None);
        }
        let way = match handle.survey(offset, rest.min(LARGE)) {
            Cache::Through => {
                let mut regions = this.regions();
                regions.reserve(1, CACHED).or_raise(ruby)?;
                Way::PageCache(regions)
            }
            _ => Way::Disk(Box::new(this.active(ruby, (offset, u64::MAX), CHUNK, DEPTH, false)?)),
        };
        Ok(Some(Running { way, chunk: None, next: offset }))
    }

    /// Appends up to `len` bytes; how many, and whether there may be more.
    fn append_to(&mut self, ruby: &Ruby, file: &CoreFile, out: RString, len: u64) -> Result<(usize, bool), Error> {
        let mut done = 0;
        while (done as u64) < len {
            let Some((chunk, used)) = self.chunk(ruby, file)? else { return Ok((done, false)) };
            let n = (chunk.len - used).min((len - done as u64) as usize);
            append(out, &chunk.region, chunk.skip + used, n)?;
            done += n;
            if used + n < chunk.len {
                self.chunk = Some((chunk, used + n));
            }
        }
        Ok((done, true))
    }

    /// The chunk that comes next, waiting for it.
    fn chunk(&mut self, ruby: &Ruby, file: &CoreFile) -> Result<Option<(Chunk, usize)>, Error> {
        if self.chunk.is_some() {
            return Ok(self.chunk.take());
        }
        let chunk = match &mut self.way {
            Way::PageCache(regions) => from_page_cache(ruby, file, regions, self.next)?,
            Way::Disk(active) => loop {
                match active.advance() {
                    Ok(Step::Chunk(chunk)) => break Some(chunk),
                    Ok(Step::Wait(tickets)) => active.wait(ruby, &tickets)?,
                    Ok(Step::End) | Err(_) => break None,
                }
            },
        };
        self.next += chunk.as_ref().map_or(0, |chunk| chunk.len as u64);
        Ok(chunk.map(|chunk| (chunk, 0)))
    }

    fn until(&self) -> u64 {
        match &self.way {
            Way::Disk(active) => active.until(),
            Way::PageCache(_) => self.next,
        }
    }

    fn end(self, this: &File) {
        drop(self.chunk);
        this.give_back(match self.way {
            Way::Disk(active) => active.end(),
            Way::PageCache(regions) => regions,
        });
    }
}

/// A chunk of what lies in the page cache.
fn from_page_cache(ruby: &Ruby, file: &CoreFile, regions: &Regions, offset: u64) -> Result<Option<Chunk>, Error> {
    let handle = file.handle();
    if handle.survey(offset, CACHED as u64) != Cache::Through {
        return Ok(None);
    }
    let region = regions.region(CACHED).or_raise(ruby)?;
    let span = Span::new(&region, 0, CACHED).or_raise(ruby)?;
    // SAFETY: the span has as many bytes, and is nobody else's.
    let len = gvl::without(ruby, || unsafe { handle.read_cached(span.address(), span.len(), offset) })?;
    Ok((len > 0).then_some(Chunk { region, skip: 0, len, offset }))
}
