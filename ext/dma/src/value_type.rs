//! The value types of IO::Buffer: small letters little-endian, capital letters big-endian.

use magnus::{prelude::*, Error, Ruby, Symbol, TryConvert, Value};

use crate::error::{argument, exception};

/// A type by its name, such as `:u32`.
#[derive(Clone, Copy)]
pub struct ValueType {
    kind: Kind,
    size: usize,
    big: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Unsigned,
    Signed,
    Float,
}

const NAMES: &str = ":U8 :S8 :u16 :U16 :s16 :S16 :u32 :U32 :s32 :S32 :u64 :U64 :s64 :S64 :f32 :F32 :f64 :F64";

impl ValueType {
    /// `:U8`.
    pub const BYTE: ValueType = ValueType { kind: Kind::Unsigned, size: 1, big: true };

    /// Bytes of one value.
    pub fn size(self) -> usize {
        self.size
    }

    /// The value in `bytes`, of which the first `size` count.
    pub fn decode(self, ruby: &Ruby, mut bytes: [u8; 8]) -> Value {
        if self.big {
            bytes[..self.size].reverse();
        }
        let word = u64::from_le_bytes(bytes);
        match (self.kind, self.size) {
            (Kind::Unsigned, _) => ruby.integer_from_u64(word).as_value(),
            (Kind::Signed, size) => {
                let shift = 64 - 8 * size as u32;
                ruby.integer_from_i64(((word << shift) as i64) >> shift).as_value()
            }
            (Kind::Float, 4) => ruby.float_from_f64(f64::from(f32::from_bits(word as u32))).as_value(),
            (Kind::Float, _) => ruby.float_from_f64(f64::from_bits(word)).as_value(),
        }
    }

    /// The bytes of `value`, of which the first `size` count.
    pub fn encode(self, ruby: &Ruby, value: Value) -> Result<[u8; 8], Error> {
        let bits = 8 * self.size as u32;
        let outside = |min: &str| {
            let message = format!(
                "{value} is outside {min}..{}",
                if min == "0" { u64::MAX >> (64 - bits) } else { i64::MAX as u64 >> (64 - bits) }
            );
            exception(ruby.exception_range_error(), message)
        };
        let word = match self.kind {
            Kind::Unsigned => {
                let n = u64::try_convert(value)
                    .map_err(|error| if is_range(ruby, &error) { outside("0") } else { error })?;
                if bits < 64 && n >> bits != 0 {
                    return Err(outside("0"));
                }
                n
            }
            Kind::Signed => {
                let min = (i64::MIN >> (64 - bits)).to_string();
                let n = i64::try_convert(value)
                    .map_err(|error| if is_range(ruby, &error) { outside(&min) } else { error })?;
                if n >> (bits - 1) != 0 && n >> (bits - 1) != -1 {
                    return Err(outside(&min));
                }
                n as u64
            }
            Kind::Float if self.size == 4 => u64::from((f64::try_convert(value)? as f32).to_bits()),
            Kind::Float => f64::try_convert(value)?.to_bits(),
        };
        let mut bytes = word.to_le_bytes();
        if self.big {
            bytes[..self.size].reverse();
        }
        Ok(bytes)
    }
}

fn is_range(ruby: &Ruby, error: &Error) -> bool {
    error.is_kind_of(ruby.exception_range_error())
}

impl TryConvert for ValueType {
    fn try_convert(value: Value) -> Result<Self, Error> {
        let ruby = Ruby::get_with(value);
        let unknown = || argument(&ruby, format!("{value:?} is no value type; the types are {NAMES}"));
        let symbol = Symbol::from_value(value).ok_or_else(unknown)?;
        let name = symbol.name()?;
        let (letter, bits) = name.split_at_checked(1).ok_or_else(unknown)?;
        let size = match bits {
            "8" => 1,
            "16" => 2,
            "32" => 4,
            "64" => 8,
            _ => return Err(unknown()),
        };
        let kind = match (letter, size) {
            ("U", _) | ("u", 2..) => Kind::Unsigned,
            ("S", _) | ("s", 2..) => Kind::Signed,
            ("F" | "f", 4..) => Kind::Float,
            _ => return Err(unknown()),
        };
        Ok(ValueType { kind, size, big: letter.chars().all(char::is_uppercase) })
    }
}
