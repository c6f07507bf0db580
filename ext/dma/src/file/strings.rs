//! Strings that a file's bytes go to and come from: copied, since their memory is neither aligned nor ours.

use dma_core::channel::Request;
use dma_core::engine::Cache;
use dma_core::file::{File as CoreFile, OPERATION};
use dma_core::memory::Span;
use dma_core::sys;
use dma_core::transfer::{Direction, Op};
use magnus::rb_sys::{protect, AsRawId, AsRawValue, FromRawValue};
use magnus::typed_data::Obj;
use magnus::value::{IntoId, LazyId};
use magnus::{prelude::*, Error, Fixnum, RString, Ruby, TryConvert, Value};

use super::crowd::Crowd;
use super::{check, File};
use crate::buffer::{append, append_with, reserve};
use crate::error::{argument, held, OrRaise};

/// Bytes of a String that are copied to aligned memory, or from the page cache, at a time.
const STAGE: usize = 4 << 20;
/// Up to how many bytes the GVL is kept while they are copied: giving it away takes as long.
const AT_ONCE: usize = 64 << 10;

/// From how many bytes on asking the page cache for them costs less than copying them twice.
const STRAIGHT: usize = 16 << 10;

/// Instance variables: see `keep` of lib/dma/file/reading.rb.
static AHEAD: LazyId = LazyId::new("@ahead");
static CURSOR: LazyId = LazyId::new("@cursor");
static NEXT: LazyId = LazyId::new("@next");
static OVERWRITTEN: LazyId = LazyId::new("@overwritten");
static LOCK: LazyId = LazyId::new("@lock");

/// Appends up to `len` bytes from `offset` of the file to `out`; in one request to the kernel, if `whole`.
pub fn native_read_string(
    ruby: &Ruby,
    this: &File,
    out: RString,
    offset: u64,
    len: u64,
    whole: bool,
) -> Result<usize, Error> {
    let file = this.open(ruby)?;
    make_room(ruby, &file, out, offset, len)?;
    read_string(ruby, this, &file, out, (offset, len), whole)
}

fn read_string(
    ruby: &Ruby,
    this: &File,
    file: &CoreFile,
    out: RString,
    (offset, len): (u64, u64),
    whole: bool,
) -> Result<usize, Error> {
    if len == 0 {
        return Ok(0);
    }
    let found = read_cached(ruby, file, out, offset, len)?;
    read_rest(ruby, this, file, out, (offset, len), found, whole)
}

/// What is left of a read, of which so much was `done` from the page cache; how much that is with it.
fn read_rest(
    ruby: &Ruby,
    this: &File,
    file: &CoreFile,
    out: RString,
    (offset, len): (u64, u64),
    (done, cache): (usize, Cache),
    whole: bool,
) -> Result<usize, Error> {
    let (offset, len) = (offset + done as u64, len - done as u64);
    if len == 0 || file.handle().is_behind(offset) {
        return Ok(done);
    }
    let small = len <= OPERATION as u64 && offset <= i64::MAX as u64 - 2 * OPERATION as u64;
    let rest = match small {
        true => read_small(ruby, this, file, out, (offset, len as usize), (whole, cache))?,
        false => read_large(ruby, this, out, (offset, len), whole)?,
    };
    Ok(done + rest)
}

/// The same for the position, which goes through the file: `offset` is mostly where the last call ended.
pub fn native_read_on(
    ruby: &Ruby,
    this: &File,
    out: RString,
    offset: u64,
    len: u64,
    whole: bool,
) -> Result<usize, Error> {
    let file = this.open(ruby)?;
    make_room(ruby, &file, out, offset, len)?;
    let mut done = this.ahead.read(ruby, this, &file, out, (offset, len))?;
    if done == 0 || !whole {
        done += read_string(ruby, this, &file, out, (offset + done as u64, len - done as u64), whole)?;
    }
    this.ahead.note(offset, done);
    Ok(done)
}

/// The next `len` bytes, where all of them were read ahead, or lie in the page cache and are not many, and nobody else is at the position
/// now: most calls of a program that reads little at a time, in one step of which no other thread sees a half. Otherwise nil.
pub fn native_take(ruby: &Ruby, this: Obj<File>, len: Value, out: Value) -> Result<Option<RString>, Error> {
    let len = Fixnum::from_value(len).and_then(|len| len.to_usize().ok()).filter(|len| *len > 0);
    let (Some(len), Some(out), Some(file)) = (len, given(out), this.readable()) else { return Ok(None) };
    let overwritten = || ivar(ruby, this, &OVERWRITTEN).to_bool();
    // SAFETY: a Mutex, which this only looks at.
    let busy = || unsafe { Value::from_raw(rb_sys::rb_mutex_locked_p(ivar(ruby, this, &LOCK).as_raw())) }.to_bool();
    let (ahead, cursor) =
        (RString::from_value(ivar(ruby, this, &AHEAD)), usize::try_convert(ivar(ruby, this, &CURSOR)));
    let (Some(ahead), Ok(cursor), false) = (ahead, cursor, overwritten() || busy()) else {
        return Ok(None);
    };
    if ahead.len() > cursor {
        if ahead.len() - cursor < len {
            return Ok(None);
        }
        let out = empty_or_new(ruby, &this, out, len)?;
        // SAFETY: there are as many bytes; the String is alive, and nobody changes it under the GVL.
        let cat =
            || unsafe { rb_sys::rb_str_cat(out.as_raw(), rb_sys::RSTRING_PTR(ahead.as_raw()).add(cursor), len as _) };
        protect(cat)?;
        this.ivar_set(*CURSOR, cursor + len)?;
        return Ok(Some(out));
    }
    let next = u64::try_convert(ivar(ruby, this, &NEXT))?;
    let found = this.ahead.find(next, len);
    if found.is_none() && !((STRAIGHT..=AT_ONCE).contains(&len) && this.ahead.is_idle()) {
        return Ok(None);
    }
    let out = empty_or_new(ruby, &this, out, len)?;
    if let Some((region, skip)) = found {
        append(out, &region, skip, len)?;
        this.ahead.took(len);
    } else if read_cached(ruby, &file, out, next, len as u64)?.0 == len {
        this.ahead.note(next, len);
    } else {
        return Ok(None);
    }
    this.ivar_set(*NEXT, next + len as u64)?;
    Ok(Some(out))
}

/// A little at `offset`, if there is any: most calls of a program that reads here and there.
pub fn native_pread(ruby: &Ruby, this: &File, len: Value, offset: Value, out: Value) -> Result<Option<RString>, Error> {
    let number = |value| Fixnum::from_value(value).and_then(|number| number.to_u64().ok());
    let len = number(len).filter(|len| (1..=AT_ONCE as u64).contains(len));
    let (Some(len), Some(offset)) = (len, number(offset)) else { return Ok(None) };
    let (Some(out), Some(file)) = (given(out), this.readable()) else { return Ok(None) };
    let out = empty_or_new(ruby, this, out, len as usize)?;
    let found = read_cached(ruby, &file, out, offset, len)?;
    let done = read_rest(ruby, this, &file, out, (offset, len), found, false)?;
    Ok((done > 0).then_some(out))
}

/// The String to be filled, or none, if it is either: what is to become one runs Ruby code meanwhile.
fn given(out: Value) -> Option<Option<RString>> {
    if out.is_nil() {
        Some(None)
    } else {
        RString::from_value(out).map(Some)
    }
}

fn empty_or_new(ruby: &Ruby, this: &File, out: Option<RString>, len: usize) -> Result<RString, Error> {
    match out {
        Some(out) => native_empty(this, out).map(|()| out),
        None => Ok(ruby.str_buf_new(len)),
    }
}

/// Makes room for what is read, at once, where that is much; as far as the file says how much it has.
fn make_room(ruby: &Ruby, file: &CoreFile, out: RString, offset: u64, len: u64) -> Result<(), Error> {
    if len <= AT_ONCE as u64 {
        return Ok(());
    }
    reserve(out, file.size().or_raise(ruby)?.saturating_sub(offset).min(len) as usize)
}

fn ivar(ruby: &Ruby, this: Obj<File>, name: &LazyId) -> Value {
    // SAFETY: reading a variable of a live object raises nothing.
    unsafe { Value::from_raw(rb_sys::rb_ivar_get(this.as_raw(), (**name).into_id_with(ruby).as_raw())) }
}

/// What lies in the page cache, straight from there to the String: how many bytes, and where the rest is to be read from.
fn read_cached(ruby: &Ruby, file: &CoreFile, out: RString, offset: u64, len: u64) -> Result<(usize, Cache), Error> {
    let handle = file.handle();
    let len = if len > OPERATION as u64 { len.min(file.size().or_raise(ruby)?.saturating_sub(offset)) } else { len };
    let cache = handle.expect(offset, len);
    if cache != Cache::Through {
        return Ok((0, cache));
    }
    let (len, mut done) = (len as usize, 0);
    while done < len {
        let (at, piece) = (offset + done as u64, (len - done).min(STAGE));
        // SAFETY: `append_with` gives as many bytes as it is asked for.
        let read = |address: *mut u8| unsafe { handle.read_cached(address, piece, at) };
        let n = append_with(ruby, out, piece, piece > AT_ONCE, read)?;
        done += n;
        if n < piece {
            break;
        }
    }
    // Some of it may have gone since.
    Ok((done, Cache::Ask))
}

/// Reads ahead of what is copied.
fn read_large(ruby: &Ruby, this: &File, out: RString, (offset, len): (u64, u64), whole: bool) -> Result<usize, Error> {
    let len = if whole { len.min(sys::MAX_RW as u64 / 2) } else { len };
    let chunk = if whole { len as usize } else { OPERATION };
    let mut active = this.active(ruby, (offset, len), chunk, this.depth as usize, whole)?;
    let result = active.append_to(ruby, out);
    let _held = result.as_ref().err().and_then(held);
    this.give_back(active.end());
    result
}

/// Reads what one operation brings: with the blocks around it, so that it is aligned.
fn read_small(
    ruby: &Ruby,
    this: &File,
    file: &CoreFile,
    out: RString,
    (offset, len): (u64, usize),
    (whole, cache): (bool, Cache),
) -> Result<usize, Error> {
    let granule = file.limits().granule;
    let skip = (offset % granule) as usize;
    let cover = (skip + len).next_multiple_of(granule as usize);
    let region = this.crowd(ruby, file)?.line.stage(cover).or_raise(ruby)?;
    let op = Op::Read { offset: offset - skip as u64, span: Span::new(&region, 0, cover).or_raise(ruby)? };
    let request = Request { whole, cache, ..Request::new(op) };
    let outcome = this.carry_out(ruby, file, request, || {})?;
    let got = outcome.bytes.saturating_sub(skip).min(len);
    append(out, &region, skip, got)?;
    let error = outcome.errno().filter(|_| got < len);
    check(ruby, file, Direction::FromDevice, offset, (got, len), error).map(|()| got)
}

/// Writes a String, through aligned memory, at most [`STAGE`] bytes of it at a time; or what one request to the kernel takes.
pub fn native_write_string(
    ruby: &Ruby,
    this: &File,
    string: RString,
    offset: u64,
    whole: bool,
) -> Result<usize, Error> {
    let file = this.open(ruby)?;
    let granule = file.limits().granule;
    let total = string.len();
    let mut done = 0;
    loop {
        let at = offset.saturating_add(done as u64);
        let skip = (at % granule) as usize;
        let len = (total - done).min(if whole { total } else { STAGE - skip });
        if len == 0 {
            return Ok(done);
        }
        let span = stage(ruby, &*this.crowd(ruby, &file)?, string, done, (skip, len))?;
        let request = Request { whole, ..Request::new(Op::Write { offset: at, span }) };
        let outcome = this.carry_out(ruby, &file, request, || {})?;
        done += outcome.bytes;
        check(ruby, &file, Direction::ToDevice, offset, (done, total), outcome.errno())?;
        if whole {
            return Ok(done);
        }
    }
}

/// Copies `len` bytes of the String from `from` on to memory that is as far from a boundary as the file offset is: `skip` bytes.
fn stage(ruby: &Ruby, crowd: &Crowd, string: RString, from: usize, (skip, len): (usize, usize)) -> Result<Span, Error> {
    let region = crowd.line.stage(skip + len).or_raise(ruby)?;
    // SAFETY: no Ruby code runs while the slice is used.
    let bytes = unsafe { string.as_slice() };
    let bytes = bytes.get(from..from + len).ok_or_else(|| argument(ruby, "the String changed while it was written"))?;
    // SAFETY: the slice has `len` bytes.
    unsafe { region.write(skip, bytes.as_ptr(), len) }.or_raise(ruby)?;
    Span::new(&region, skip, len).or_raise(ruby)
}

/// Makes a String empty that is to be filled: it keeps its memory, unlike with String#clear.
pub fn native_empty(_this: &File, out: RString) -> Result<(), Error> {
    protect(|| {
        // SAFETY: a String, which raises here if it is frozen or locked.
        unsafe {
            rb_sys::rb_str_modify(out.as_raw());
            rb_sys::rb_str_set_len(out.as_raw(), 0);
        }
        rb_sys::Qnil as rb_sys::VALUE
    })
    .map(drop)
}
