//! The [serde](https://serde.rs) formats: a compact one, and a self-describing one for types that need it.
//!
//! The compact encoding is not self-describing (as bincode's). Both sides run the same program on the same
//! machine, so it holds no names and no types. A number is its own bytes in native order; `bool` is one byte;
//! `char` and the index of a variant are a `u32`; an `Option` is one byte and the content. Text, bytes,
//! sequences and maps begin with their length, a `u64`. The fields of a struct and the elements of a tuple
//! follow one another. The highest byte of a variant's index is its number of unnamed fields: a type can
//! leave one out, and nothing else shows that.
//!
//! It fits a type whose `Deserialize` reads what its `Serialize` writes, in the same order. Some of serde's
//! attributes make types that differ. [`encoding_choice`] detects them, and [`described`] is the encoding for
//! them.
//!
//! Invalid bytes are an error: decoding does not panic, read beyond the end, or allocate more than the bytes
//! justify. For that, **each element of a sequence takes up at least one byte**, so that a length can be
//! checked against the bytes that are left; an element without bytes (`()`) gets one. And a value is at most
//! [`DEPTH`] levels deep, so that it does not overflow the stack.

#[cfg(test)]
mod attribute_tests;
mod de;
mod described;
mod encoding_cache;
mod error;
pub(crate) mod raw;
mod ser;
#[cfg(test)]
mod tests;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;

/// The most levels of a value: structs, tuples, sequences, maps, options and variants inside one another.
///
/// A level of a small type takes 1.3 KiB of stack in unoptimised code, so the deepest value fits on an eighth
/// of the usual stack.
pub(crate) const DEPTH: u8 = 128;

/// Appends a value to `out`. On an error, `out` may hold a part of it.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    value.serialize(ser::Encoder::new(out))
}

/// Decodes a value at the front of `bytes`, and also returns the bytes after it.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Error> {
    let mut input = de::Input::new(bytes);
    let value = T::deserialize(de::Decoder::new(&mut input))?;
    Ok((value, input.rest()))
}

/// As [`encode`], in the self-describing encoding.
pub(crate) fn describe(value: &dyn ErasedValue, out: &mut Vec<u8>) -> Result<(), Error> {
    value.describe(described::ser::Describer::new(out))
}

/// As [`decode`], for a value of [`describe`].
pub(crate) fn decode_described<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Error> {
    let mut input = described::input::Input::new(bytes);
    let value = described::de::read(&mut input)?;
    Ok((value, bytes.get(input.position()..).unwrap_or_default()))
}

pub(crate) use self::error::Error;
pub(crate) use described::search::{EncodingChoice, ErasedValue};
pub(crate) use described::survives_round_trip;
pub(crate) use encoding_cache::{encoding_choice, fits, is_probing};

/// A name of a type, field or variant, as serde passes it.
type Str = &'static str;

/// The bits of a variant's index. The bits above hold its number of unnamed fields.
const VARIANT_BITS: u32 = 24;

/// The number of unnamed fields modulo 256, which suffices to see that one is missing.
#[inline]
#[allow(clippy::cast_possible_truncation)] // on purpose
const fn count_of_fields(length: usize) -> u8 {
    length as u8
}

/// The number of levels that may follow inside a part of a value.
#[derive(Clone, Copy)]
struct Levels(u8);

impl Levels {
    const ALL: Self = Self(DEPTH);

    #[inline]
    fn down(self) -> Result<Self, Error> {
        match self.0.checked_sub(1) {
            Some(left) => Ok(Self(left)),
            None => Err(Error::too_deep()),
        }
    }
}
