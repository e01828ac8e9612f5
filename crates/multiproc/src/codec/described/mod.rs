//! The self-describing encoding, for types that inspect the data to decide what they are, or that leave out
//! fields.
//!
//! Each value begins with its [`Kind`], and fields and variants have names, so `de::Reader` can serve a type
//! that does not say what it expects. The encoding says that it is human readable, as serde's own buffer
//! does, through which `untagged`, `tag` and `flatten` read.
//!
//! All its functions are cold: they are compiled for size and inlined into no others, so a program that never
//! runs them does not load them.
//!
//! Without names, the same bytes record what a type has asked serde for. By two such records [`search`]
//! decides whether a type needs this encoding.

pub(super) mod de;
pub(super) mod input;
mod probe;
pub(super) mod search;
pub(super) mod ser;

use std::hash::{DefaultHasher, Hasher};

use self::search::ErasedValue;
use super::Error;

/// The first byte of each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    Unit,
    /// The content of a unit variant.
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
    /// Followed by a length and the bytes, as the next two.
    Str,
    Bytes,
    /// Of a field or variant.
    Name,
    /// Followed by the number of elements, as the next four.
    Seq,
    Map,
    Tuple,
    /// The content of a variant with unnamed fields.
    Content,
    /// A struct with the names of its fields.
    Fields,
    /// Followed by its index, its name, and its content.
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

    /// The number of bytes that follow, without text.
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

/// Each kind, and the bytes that follow it, of bytes that this process has encoded.
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

/// Whether the bytes `sent` decode to the value that was encoded: encoded again, it is `expected`, or differs
/// only in parts that its type ignores (`skip_deserializing`).
pub(crate) fn survives_round_trip(
    subject: &dyn ErasedValue,
    sent: &[u8],
    expected: &[u8],
) -> Result<bool, Error> {
    let (again, _) = round_trip(subject, sent)?;
    let taken = |bytes| round_trip(subject, bytes).map(|(_, taken)| taken);
    Ok(equal_unordered(expected, &again) || equal_unordered(&taken(expected)?, &taken(&again)?))
}

/// Decodes a value and encodes it again. Returns that, and the bytes without what its type has ignored.
fn round_trip(subject: &dyn ErasedValue, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut input = input::Input::new(bytes);
    let mut again = Vec::new();
    subject.round_trip(&mut input, ser::Describer::new(&mut again))??;
    Ok((again, input.taken()))
}

/// Whether two encodings are equal apart from the order of elements and entries, which a hash map changes.
fn equal_unordered(one: &[u8], other: &[u8]) -> bool {
    let hash = |bytes| hash_value(&mut tokens(bytes));
    one == other || one.len() == other.len() && hash(one).is_some_and(|one| Some(one) == hash(other))
}

/// A hash of the next value, which ignores the order of elements and entries. An entry is one unit: a name with
/// another entry's value is another value.
fn hash_value<'a>(tokens: &mut impl Iterator<Item = (Kind, &'a [u8])>) -> Option<u64> {
    let (kind, token) = tokens.next()?;
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(kind as u8);
    hasher.write(token);
    let count = token.first_chunk().map_or(0, |count| u64::from_ne_bytes(*count));
    let (units, values) = match kind {
        Kind::Some => (1, 1),
        Kind::Variant => (1, 2), // its name and its content
        Kind::Tuple | Kind::Content => (1, count),
        Kind::Seq => (count, 1),
        Kind::Map | Kind::Fields => (count, 2),
        _ => (0, 0),
    };
    let mut sum = 0_u64;
    for _ in 0..units {
        let mut unit = DefaultHasher::new();
        for _ in 0..values {
            unit.write_u64(hash_value(tokens)?);
        }
        sum = sum.wrapping_add(unit.finish());
    }
    hasher.write_u64(sum);
    Some(hasher.finish())
}
