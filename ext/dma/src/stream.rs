//! `DMA::File::Stream`: chunks under way, behind `each_chunk` and `read_many`; and what appends them to a String.

use std::sync::{Arc, Mutex, MutexGuard};

use dma_core::channel::Ticket;
use dma_core::file::{Chunk, Many, Regions, Step, Stream as CoreStream};
use dma_core::transfer::Status;
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Opaque};
use magnus::{
    gc, method, prelude::*, DataTypeFunctions, Error, RClass, RModule, RString, Ruby, TryConvert, TypedData, Value,
};

use crate::buffer::{alignment_of, append, Buffer};
use crate::error::{busy, OrRaise};
use crate::file::{Crowd, File};
use crate::gvl;
use crate::lock;

#[derive(TypedData)]
#[magnus(class = "DMA::File::Stream", free_immediately, mark)]
pub struct Stream {
    state: Mutex<State>,
    /// Marked here, for while a stream is taken out to wait, it is nowhere else that the GC looks.
    /// Gone with `close`, lest it keep the file open.
    crowd: Mutex<Option<Arc<Crowd>>>,
    file: Opaque<Value>,
}

/// No Ruby code runs under its lock: the stream is taken out while it waits.
enum State {
    Open(Box<Active>),
    Busy,
    Closed,
}

/// Where the chunks come from.
pub enum Source {
    /// One behind the other.
    InOrder(CoreStream),
    /// As they are there.
    AnyOrder(Many),
}

/// A stream under way, and with whom it waits.
pub struct Active {
    source: Source,
    crowd: Arc<Crowd>,
}

impl Active {
    /// Chunks of `source`, which reads through the channel of `crowd`.
    pub fn new(source: Source, crowd: Arc<Crowd>) -> Active {
        Active { source, crowd }
    }

    /// Goes on as far as that is possible without waiting.
    pub fn advance(&mut self) -> Result<Step, dma_core::Error> {
        match &mut self.source {
            Source::InOrder(stream) => stream.advance(),
            Source::AnyOrder(many) => many.advance(),
        }
    }

    /// No byte from here on has come or is on its way, if they come in order.
    pub fn until(&self) -> u64 {
        match &self.source {
            Source::InOrder(stream) => stream.until(),
            Source::AnyOrder(_) => u64::MAX,
        }
    }

    /// Waits until one of the transfers has ended that it wants to go on.
    pub fn wait(&self, ruby: &Ruby, tickets: &[Arc<Ticket>]) -> Result<(), Error> {
        self.crowd.wait(ruby, tickets)
    }

    /// The next chunk, waiting for it.
    fn next(&mut self, ruby: &Ruby) -> Result<Option<Chunk>, Error> {
        loop {
            match self.advance().or_raise(ruby)? {
                Step::Chunk(chunk) => return Ok(Some(chunk)),
                Step::End => return Ok(None),
                Step::Wait(tickets) => self.wait(ruby, &tickets)?,
            }
        }
    }

    /// Appends everything to `out`.
    pub fn append_to(&mut self, ruby: &Ruby, out: RString) -> Result<usize, Error> {
        let mut total = 0;
        while let Some(chunk) = self.next(ruby)? {
            append(out, &chunk.region, chunk.skip, chunk.len)?;
            total += chunk.len;
            // Where the chunks come as fast as they are copied nothing else would let other threads run, or interrupt this one.
            gvl::pass()?;
        }
        Ok(total)
    }

    /// Gives up what is under way. The memory, for the next who reads ahead.
    pub fn end(self) -> Regions {
        let pending = match &self.source {
            Source::InOrder(stream) => stream.pending(),
            Source::AnyOrder(many) => many.pending(),
        };
        if !pending.is_empty() {
            self.crowd.line.give_up(&pending, Status::Aborted);
        }
        match self.source {
            Source::InOrder(stream) => stream.into_regions(),
            Source::AnyOrder(many) => many.into_regions(),
        }
    }
}

impl DataTypeFunctions for Stream {
    fn mark(&self, marker: &gc::Marker) {
        marker.mark(self.file);
        lock(&self.crowd).iter().for_each(|crowd| crowd.mark(marker));
    }
}

impl Stream {
    /// A stream of `file`, which gets the memory back.
    pub fn new(active: Active, file: Obj<File>) -> Stream {
        let crowd = Mutex::new(Some(Arc::clone(&active.crowd)));
        Stream { state: Mutex::new(State::Open(Box::new(active))), crowd, file: file.as_value().into() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The next chunk, waiting for it; none at the end.
    fn next(&self, ruby: &Ruby) -> Result<Option<Chunk>, Error> {
        let taken = std::mem::replace(&mut *self.state(), State::Busy);
        let mut active = match taken {
            State::Open(active) => active,
            State::Closed => {
                *self.state() = State::Closed;
                return Ok(None);
            }
            State::Busy => return Err(busy(ruby, "another thread waits for this stream's next chunk")),
        };
        let result = active.next(ruby);
        *self.state() = State::Open(active);
        result
    }
}

/// Passes each chunk to the block, as a buffer that ends with it unless it is retained, and its offset.
fn each(ruby: &Ruby, this: Obj<Stream>) -> Result<(), Error> {
    let file = Obj::<File>::try_convert(this.file.get_inner_with(ruby))?;
    while let Some(Chunk { region, skip, len, offset }) = this.next(ruby)? {
        let align = alignment_of(region.address());
        let buffer = ruby.obj_wrap(Buffer::over(region, skip, len, align));
        let yielded = ruby.yield_values::<_, Value>((buffer, offset));
        let released = buffer.release(ruby);
        yielded?;
        released?;
        // The block may have closed it.
        file.open(ruby)?;
    }
    Ok(())
}

/// Ends the stream. What is still under way is given up.
fn native_close(ruby: &Ruby, this: &Stream) {
    let taken = std::mem::replace(&mut *this.state(), State::Closed);
    drop(lock(&this.crowd).take());
    if let State::Open(active) = taken {
        let file = this.file.get_inner_with(ruby);
        let regions = active.end();
        if let Ok(file) = <&File>::try_convert(file) {
            file.give_back(regions);
        }
    }
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let file: RClass = dma.const_get("File")?;
    let class = file.define_class("Stream", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.define_method("each", method!(each, 0))?;
    class.define_method("close", method!(native_close, 0))?;
    // Looked up, once and for all, while its name can still be: it is nobody's business outside of File.
    Stream::class(ruby);
    let _: Value = file.funcall("private_constant", ("Stream",))?;
    Ok(())
}
