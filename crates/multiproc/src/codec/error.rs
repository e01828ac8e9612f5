//! The reason why a value could not be encoded or decoded.

use std::fmt;
use std::string::FromUtf8Error;

use serde_core::{de, ser};

use super::DEPTH;

/// A user's message, or one of the library's.
///
/// One pointer, so that a `Result` of it is returned in registers and is tested by one comparison.
#[derive(Debug)]
pub(crate) struct Error(Box<Why>);

#[derive(Debug)]
enum Why {
    Text(Box<str>),
    /// A field is not encoded, and the decoder would miss it.
    LeftOut(&'static str),
    TooDeep,
}

impl Error {
    #[cold]
    pub(crate) fn new(why: impl fmt::Display) -> Self {
        Self(Box::new(Why::Text(why.to_string().into())))
    }

    #[cold]
    pub(super) fn left_out(field: &'static str) -> Self {
        Self(Box::new(Why::LeftOut(field)))
    }

    #[cold]
    pub(super) fn too_deep() -> Self {
        Self(Box::new(Why::TooDeep))
    }

    /// Whether the value lacks a field, which only the [self-describing encoding](super::describe) permits.
    pub(crate) fn is_left_out(&self) -> bool {
        matches!(*self.0, Why::LeftOut(_))
    }

    pub(super) fn is_too_deep(&self) -> bool {
        matches!(*self.0, Why::TooDeep)
    }
}

// The decoders' errors are made out of line and of numbers only, so that the position of a decoder can stay
// in a register.

#[cold]
#[inline(never)]
pub(super) fn short(at: usize, length: u64, left: usize) -> Error {
    Error::new(format_args!("{length} bytes or more expected at byte {at}, {left} left"))
}

#[cold]
#[inline(never)]
pub(super) fn unexpected(at: usize, expected: &str, found: u32) -> Error {
    Error::new(format_args!("{expected} expected at byte {at}, {found:#x} found"))
}

#[cold]
#[inline(never)]
pub(super) fn surplus(at: usize, left: usize) -> Error {
    Error::new(format_args!("an end expected at byte {at}, {left} more elements announced"))
}

#[cold]
#[inline(never)]
pub(super) fn missing_fields(at: usize, length: usize, count: u8) -> Error {
    Error::new(format_args!(
        "{length} fields expected at byte {at}, {count} found (`skip_serializing_if` in a tuple variant?)"
    ))
}

#[cold]
#[inline(never)]
pub(super) fn not_text(end: usize, error: &FromUtf8Error) -> Error {
    let (bytes, valid) = (error.as_bytes(), error.utf8_error().valid_up_to());
    let found = bytes.get(valid).copied().unwrap_or_default();
    unexpected(end - bytes.len() + valid, "UTF-8", found.into())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Why::Text(text) => f.write_str(text),
            Why::LeftOut(field) => write!(
                f,
                "its field `{field}` is left out by `skip_serializing_if`, but an encoding without names \
                 needs every field"
            ),
            Why::TooDeep => write!(f, "it is more than {DEPTH} levels deep"),
        }
    }
}

impl std::error::Error for Error {}

impl ser::Error for Error {
    #[cold]
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::new(why)
    }
}

impl de::Error for Error {
    #[cold]
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::new(why)
    }
}
