//! The self-describing encoding: for types that look at the data to find out what they are, or that leave
//! fields out.
//!
//! Each value begins with its [`Kind`], fields and variants have their names, and so `de::Reader` can give
//! what is there to a type that does not say what it expects. That is what serde calls human readable, and
//! this encoding says that it is: serde's own buffer, through which `untagged`, `tag` and `flatten` read,
//! says so too.
//!
//! Its functions are marked as cold, which keeps them out of what a program that does not need them has in
//! memory: they are compiled for size, and not into others that such a program runs.
//!
//! Without names, the same bytes are a record of what serde was asked for. By two such records [`learn`]
//! finds out whether a type needs this encoding.

pub(super) mod de;
mod learn;
pub(super) mod search;
pub(super) mod ser;

use std::hash::{DefaultHasher, Hasher};

use self::search::Subject;
use super::Error;

/// What stands in front of each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    Unit,
    /// In place of the content of a variant that has none.
    Nothing,
    None,
    Some,
    Bool,
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
    Char,
    /// Followed by a length and so many bytes, as the next two.
    Str,
    Bytes,
    /// Of a field or variant.
    Name,
    /// Followed by the number of elements, as the next four.
    Seq,
    Map,
    Tuple,
    /// The content of a variant that has fields without names.
    Content,
    /// A struct with the names of its fields.
    Fields,
    /// Followed by its number, its name, and its content.
    Variant,
}

impl Kind {
    const ALL: [Self; 27] = {
        #[allow(clippy::enum_glob_use)]
        use Kind::*;
        [
            Unit, Nothing, None, Some, Bool, U8, U16, U32, U64, U128, I8, I16, I32, I64, I128, F32, F64,
            Char, Str, Bytes, Name, Seq, Map, Tuple, Content, Fields, Variant,
        ]
    };

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// How many bytes follow, not counting text.
    fn size(self) -> usize {
        match self {
            Self::Unit | Self::Nothing | Self::None | Self::Some => 0,
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 | Self::Char | Self::Variant => 4,
            Self::U128 | Self::I128 => 16,
            _ => 8,
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Str | Self::Bytes | Self::Name)
    }
}

/// The kinds and what follows each, of bytes that were encoded here.
fn tokens(mut bytes: &[u8]) -> impl Iterator<Item = (Kind, &[u8])> {
    std::iter::from_fn(move || {
        let (&kind, rest) = bytes.split_first()?;
        let kind = Kind::of(kind)?;
        let mut size = kind.size();
        if kind.is_text() {
            size += usize::try_from(u64::from_ne_bytes(*rest.first_chunk()?)).ok()?;
        }
        let (token, rest) = rest.split_at_checked(size)?;
        bytes = rest;
        Some((kind, token))
    })
}

/// Whether the value that these bytes are, once it has arrived, is the one that was sent: encoded once more,
/// it is the same, or differs only in what its type does not take (`skip_deserializing`).
pub(crate) fn arrives(subject: &dyn Subject, sent: &[u8]) -> Result<bool, Error> {
    let (again, taken) = pass(subject, sent)?;
    Ok(are_alike(sent, &again) || are_alike(&taken, &pass(subject, &again)?.1))
}

/// A value that was read and written again; and what its type has taken of what was there.
fn pass(subject: &dyn Subject, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut input = de::Input::new(bytes);
    let mut again = Vec::new();
    subject.pass(&mut input, ser::Describer::new(&mut again))??;
    Ok((again, input.taken()))
}

/// Whether two values are the same, apart from the order of what is in them: a hash map's is another each
/// time.
fn are_alike(one: &[u8], other: &[u8]) -> bool {
    let sum = |bytes| {
        tokens(bytes).fold(0_u64, |sum, (kind, token)| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(kind as u8);
            hasher.write(token);
            sum.wrapping_add(hasher.finish())
        })
    };
    one == other || one.len() == other.len() && sum(one) == sum(other)
}
