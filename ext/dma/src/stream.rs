//! `DMA::File::Stream`: chunks read ahead, behind `each_chunk`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dma_core::file::{Step, Stream as CoreStream};
use dma_core::sys;
use magnus::typed_data::Obj;
use magnus::value::{InnerValue, Opaque};
use magnus::{
    gc, method, prelude::*, DataTypeFunctions, Error, RArray, RClass, RModule, RString, Ruby, TryConvert, TypedData,
    Value,
};

use crate::buffer::{append, Buffer};
use crate::error::{busy, OrRaise};
use crate::file::File;
use crate::gvl;
use crate::port::{Event, Port};

#[derive(TypedData)]
#[magnus(class = "DMA::File::Stream", free_immediately, mark)]
pub struct Stream {
    state: Mutex<State>,
    /// Marked here, for while a stream is taken out to wait, the heap is the only place it is in.
    event: Event,
    file: Opaque<Value>,
}

/// No Ruby code runs under its lock: the stream is taken out while it waits.
enum State {
    Open(Box<Active>),
    Busy,
    Closed,
}

/// A stream under way, and what its completions are waited for on.
pub struct Active {
    stream: CoreStream,
    event: Event,
}

impl Active {
    /// Reads ahead through the channel of `port`.
    pub fn new(
        port: Port,
        start: impl FnOnce(dma_core::file::Reader) -> Result<CoreStream, dma_core::Error>,
    ) -> Result<Active, dma_core::Error> {
        let (reader, event) = port.split();
        Ok(Active { stream: start(reader)?, event })
    }

    /// The next chunk, waiting for it.
    fn next(&mut self, ruby: &Ruby) -> Result<Option<dma_core::file::Chunk>, Error> {
        loop {
            match self.stream.advance().or_raise(ruby)? {
                Step::Chunk(chunk) => return Ok(Some(chunk)),
                Step::End => return Ok(None),
                Step::Wait => {
                    self.event.wait(ruby, None)?;
                }
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

    /// The port for the next use.
    pub fn into_port(self) -> Port {
        Port::with(self.stream.into_reader(), self.event)
    }
}

impl DataTypeFunctions for Stream {
    fn mark(&self, marker: &gc::Marker) {
        marker.mark(self.file);
        marker.mark(self.event.io());
    }
}

impl Stream {
    /// A stream of `file`, which gets the port back.
    pub fn new(active: Active, file: Obj<File>) -> Stream {
        let event = active.event;
        Stream { state: Mutex::new(State::Open(Box::new(active))), event, file: file.as_value().into() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next chunk as `[buffer, offset]`, or nil at the end.
fn native_next(ruby: &Ruby, this: &Stream) -> Result<Option<RArray>, Error> {
    let taken = std::mem::replace(&mut *this.state(), State::Busy);
    let mut active = match taken {
        State::Open(active) => active,
        State::Closed => {
            *this.state() = State::Closed;
            return Ok(None);
        }
        State::Busy => return Err(busy(ruby, "another thread waits for this stream's next chunk")),
    };
    let result = active.next(ruby);
    *this.state() = State::Open(active);
    let Some(chunk) = result? else { return Ok(None) };
    let buffer = Buffer::over(Arc::clone(&chunk.region), chunk.skip, chunk.len, sys::page_size());
    let pair = ruby.ary_new_capa(2);
    pair.push(buffer)?;
    pair.push(chunk.offset)?;
    Ok(Some(pair))
}

/// Ends the stream. What was read ahead and is still under way is given up.
fn native_close(ruby: &Ruby, this: &Stream) {
    let taken = std::mem::replace(&mut *this.state(), State::Closed);
    if let State::Open(active) = taken {
        let file = this.file.get_inner_with(ruby);
        if let Ok(file) = <&File>::try_convert(file) {
            file.give_back(active.into_port(), true);
        }
    }
}

/// Defines the class.
pub fn init(ruby: &Ruby, dma: RModule) -> Result<(), Error> {
    let file: RClass = dma.const_get("File")?;
    let class = file.define_class("Stream", ruby.class_object())?;
    class.undef_default_alloc_func();
    class.define_method("next", method!(native_next, 0))?;
    class.define_method("close", method!(native_close, 0))?;
    // Looked up, once and for all, while its name can still be: it is nobody's business outside of File.
    Stream::class(ruby);
    let _: Value = file.funcall("private_constant", ("Stream",))?;
    Ok(())
}
