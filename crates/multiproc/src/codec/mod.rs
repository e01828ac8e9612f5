//! The encoding of values: what [serde](https://serde.rs) sees of a value, one thing behind the other.
//!
//! Both sides run the same program on the same machine, so nothing is written that both know: no names, no
//! types. A number is its own bytes, in the machine's order; `bool` is one byte, `char` and the number of an
//! enum's variant are a `u32`, an `Option` is one byte and what is inside. Text, bytes, sequences and maps
//! begin with their length, a `u64`. The fields of a struct and the elements of a tuple follow one another.
//! The highest byte of a variant's number says how many fields without names it has: one can be left out, and
//! nothing else would show it.
//!
//! That fits a type only if it reads what it writes, in the same order; attributes of serde's make types that
//! do not. [`finding`] tells them from the others, and [`described`] is the encoding that fits them.
//!
//! Bytes that are no value are an error, whatever they are: nothing here panics, reads beyond the end, or
//! allocates what the bytes that are there do not justify. Therefore **each element of a sequence takes up at
//! least one byte**, so that an announced length can be held against the bytes that are left, before anything
//! else is done; an element that has none of its own (`()`) gets one. And a value is at most [`DEPTH`] levels
//! deep, so that the stack suffices.

#[cfg(test)]
mod attribute_tests;
mod de;
mod described;
mod known;
pub(crate) mod raw;
mod ser;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Serialize, de as serde_de, ser as serde_ser};

/// How deep a value may be: how many structs, tuples, sequences, maps, options and variants inside one
/// another.
///
/// Unoptimised code takes 1.3 KiB of stack for a level of a small type; so even a thread with an eighth of
/// the usual stack has room for the deepest value.
pub(crate) const DEPTH: u8 = 128;

/// Appends a value to `out`. On an error, part of it may be there.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    value.serialize(ser::Encoder::new(out))
}

/// Reads a value from the front of `bytes`; gives the bytes behind it, too.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Error> {
    let mut input = de::Input::new(bytes);
    let value = T::deserialize(de::Decoder::new(&mut input))?;
    Ok((value, input.rest()))
}

/// As [`encode`], in the self-describing encoding.
pub(crate) fn describe(value: &dyn Subject, out: &mut Vec<u8>) -> Result<(), Error> {
    value.describe(described::ser::Describer::new(out))
}

/// As [`decode`], of what [`describe`] has written.
pub(crate) fn decode_described<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Error> {
    let mut input = described::de::Input::new(bytes);
    let value = described::de::read(&mut input)?;
    Ok((value, bytes.get(input.position()..).unwrap_or_default()))
}

pub(crate) use described::arrives;
pub(crate) use described::search::{Finding, Subject};
pub(crate) use known::{finding, fits, is_trying_out};

/// How many bits of a variant's number say which it is. The others say how many fields without names it has.
const VARIANT_BITS: u32 = 24;

/// How many fields without names there are, as far as that goes into a byte: enough to see that one is
/// missing.
#[inline]
#[allow(clippy::cast_possible_truncation)] // meant
const fn count_of_fields(length: usize) -> u8 {
    length as u8
}

/// Why a value could not be encoded or decoded: a user's own words, or ours.
///
/// One pointer, so that a `Result` of it is returned in registers and its test is that of a pointer.
#[derive(Debug)]
pub(crate) struct Error(Box<Why>);

#[derive(Debug)]
enum Why {
    Text(Box<str>),
    /// A field is not encoded, and would be missed.
    LeftOut(&'static str),
    TooDeep,
}

impl Error {
    #[cold]
    pub(crate) fn new(why: impl fmt::Display) -> Self {
        Self(Box::new(Why::Text(why.to_string().into())))
    }

    #[cold]
    fn left_out(field: &'static str) -> Self {
        Self(Box::new(Why::LeftOut(field)))
    }

    /// Whether the value lacks a field, which [`describe`] permits.
    pub(crate) fn is_left_out(&self) -> bool {
        matches!(*self.0, Why::LeftOut(_))
    }

    fn is_too_deep(&self) -> bool {
        matches!(*self.0, Why::TooDeep)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Why::Text(text) => f.write_str(text),
            Why::LeftOut(field) => write!(
                f,
                "its field `{field}` is left out by `skip_serializing_if`, but an encoding without names needs \
                 every field"
            ),
            Why::TooDeep => write!(f, "it is more than {DEPTH} levels deep"),
        }
    }
}

impl std::error::Error for Error {}

impl serde_ser::Error for Error {
    #[cold]
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::new(why)
    }
}

impl serde_de::Error for Error {
    #[cold]
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::new(why)
    }
}

/// How many levels there may be below a place in a value.
#[derive(Clone, Copy)]
struct Levels(u8);

impl Levels {
    const ALL: Self = Self(DEPTH);

    #[inline]
    fn down(self) -> Result<Self, Error> {
        match self.0.checked_sub(1) {
            Some(left) => Ok(Self(left)),
            None => Err(Self::none_left()),
        }
    }

    #[cold]
    fn none_left() -> Error {
        Error(Box::new(Why::TooDeep))
    }
}
